"""What an output path may be, who may write there, and what is left of a run that failed."""

import errno
import os
from pathlib import Path

import pytest

from wand_export.errors import InputError
from wand_export.host import output
from wand_export.host.output import (
    alone,
    file_to_write,
    files_to_write,
    folder_to_fill,
    folder_to_write,
    replacing,
    whole,
)


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    real, link = tmp_path / "inner" / "real.wav", tmp_path / "link.wav"
    real.write_text("old")
    link.symlink_to("inner/real.wav")
    with replacing(link) as part:
        assert part.parent == real.parent  # a rename is whole only within one file system
        part.write_text("new")
    assert link.is_symlink() and real.read_text() == "new" and left_in(real.parent) == ["real.wav"]


@pytest.mark.parametrize(
    "kind", ["folder", "link to nothing", "device", "pipe", "link to itself", "no folder", "below"]
)
def test_what_cannot_be_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "folder":
        place.mkdir()
    elif kind == "link to nothing":
        place.symlink_to("gone")
    elif kind == "device":
        place = Path(os.devnull)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link to itself":
        place.symlink_to("place")
    elif kind == "no folder":
        place = tmp_path / "gone" / "place"
    else:
        (tmp_path / "file").write_text("")
        place = tmp_path / "file" / "place"
    before = left_in(tmp_path)
    with pytest.raises((InputError, OSError)) as caught, replacing(place):
        pass
    assert isinstance(caught.value, InputError) or caught.value.errno == errno.ELOOP
    assert left_in(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.os, "access", lambda place, mode: False)  # root may write everywhere
    for check in (file_to_write, folder_to_write, lambda place: folder_to_fill(place, ["report.md"])):
        with pytest.raises(InputError, match="cannot be written"):
            check(tmp_path / "out")


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "other spelling"])
def test_what_is_read_is_not_overwritten(tmp_path: Path, way: str) -> None:
    text, place = tmp_path / "text.txt", tmp_path / "out.wav"
    text.write_text("words")
    if way == "link":
        place.symlink_to(text)
    elif way == "hard link":
        place.hardlink_to(text)
    else:
        place = text if way == "itself" else tmp_path / "." / ".." / tmp_path.name / "text.txt"
    with pytest.raises(InputError, match="read by this very command"):
        files_to_write([None, place], [tmp_path / "gone", text])
    assert text.read_text() == "words"


def test_a_standard_stream_is_not_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "redirected"
    place.write_text("")
    kept = os.dup(0)
    try:
        with place.open() as file:
            os.dup2(file.fileno(), 0)
        with pytest.raises(InputError, match="standard stream"):
            file_to_write(place)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert file_to_write(place) == place


def test_two_results_have_two_places(tmp_path: Path) -> None:
    (tmp_path / "link.npy").symlink_to("out.npy")
    (tmp_path / "out.npy").write_text("")
    files_to_write([tmp_path / "out.npy", None, tmp_path / "out.wav", None])
    for other in ("out.npy", "link.npy"):
        with pytest.raises(InputError, match="two results"):
            files_to_write([tmp_path / "out.npy", tmp_path / other])


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, replacing(tmp_path / "out.npy") as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "out.npy") and left_in(tmp_path) == []


def test_a_folder_to_fill(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "report.md").write_text("the bundle's own")
    folder_to_fill(bundle, ["report.md"])
    folder_to_fill(tmp_path / "new" / "folder", ["report.md"])
    (tmp_path / "link").symlink_to("bundle")
    (tmp_path / "dangling").symlink_to("gone")
    for place, words in [
        (bundle, "read by"),
        (tmp_path / "link", "read by"),
        (bundle / "report.md", "not a folder"),
        (bundle / "report.md" / "below", "not a folder"),
        (tmp_path / "dangling", "not a folder"),
    ]:
        with pytest.raises(InputError, match=words):
            folder_to_fill(place, ["report.md"], [bundle / "report.md"])
    assert left_in(tmp_path) == ["bundle", "dangling", "link"]


@pytest.mark.parametrize("kind", ["folder", "file", "link to nothing"])
def test_a_new_folder_replaces_nothing(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("")
    else:
        place.symlink_to("gone")
    with pytest.raises(InputError, match="already exists"), alone(place):
        pass
    assert left_in(tmp_path) == ["out"]


def test_one_run_at_a_time_and_the_first_finishes(tmp_path: Path) -> None:
    place = tmp_path / "new" / "out"
    with alone(place) as real, whole(real) as folder:
        (folder / "file").write_text("first")
        with pytest.raises(InputError, match="another run is writing it"), alone(place):
            pass
        assert (folder / "file").exists()
    assert left_in(place.parent) == ["out"] and left_in(place) == ["file"]


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text("")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("")
    with alone(tmp_path / "out") as real, whole(real) as folder:
        assert left_in(folder) == []
    assert left_in(tmp_path) == ["out"]


def test_a_run_that_ends_while_another_waits_at_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file that the second has opened is removed before it can lock it: it must not take that for its own."""
    import fcntl

    lock = fcntl.flock

    def late(file: object, how: int) -> None:
        (tmp_path / ".out.lock").unlink()
        lock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="another run"), alone(tmp_path / "out"):
        pass


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyboardInterrupt), alone(tmp_path / "kept" / "a" / "b" / "out") as real, whole(real) as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert left_in(tmp_path) == ["kept"] and left_in(tmp_path / "kept") == []
