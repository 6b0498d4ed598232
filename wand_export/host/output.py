"""Where results go: what a path may be is decided before the work, and what lies there afterwards is whole."""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wand_export.errors import InputError

_ANOTHER_FILE, _ANOTHER_FOLDER = "name another file", "remove it, or choose another output"


def file_to_write(path: Path | str, reads: Iterable[Path] = ()) -> Path:
    """The file that an output path stands for: links are followed, so that what they point to is replaced.

    reads: files that the work reads. Raises InputError if the path is a folder, a device, a link to nothing, one of
    `reads` or of the standard streams, or if its folder does not exist or cannot be written.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise InputError(path, "is a link to nothing", f"remove it, or {_ANOTHER_FILE}")
    if path.exists():
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(path, "exists and is not a file", _ANOTHER_FILE)
        if any(other.exists() and os.path.samestat(found, other.stat()) for other in reads):
            raise InputError(path, "is read by this very command", _ANOTHER_FILE)
        if any(os.path.samestat(found, stream) for stream in _standard_streams()):
            raise InputError(path, "is a standard stream of this command", _ANOTHER_FILE)
    real = Path(os.path.realpath(path))
    if not real.parent.is_dir():
        raise InputError(path.parent, "no such folder", "create it first")
    _check_writable(real.parent)
    return real


def files_to_write(paths: Sequence[Path | None], reads: Iterable[Path] = ()) -> None:
    """Raise InputError unless every one of these output files, None for none, can be written and is one of its own."""
    reads, taken = list(reads), set[Path]()
    for path in paths:
        if path is None:
            continue
        real = file_to_write(path, reads)
        if real in taken:
            raise InputError(path, "is the place of two results", "name a file for each")
        taken.add(real)


def folder_to_write(path: Path | str) -> Path:
    """The folder that an output path stands for, which must not exist yet; missing parents are no error.

    Raises InputError if it exists, even as a link to nothing, or could not be made.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise InputError(path, "already exists", _ANOTHER_FOLDER)
    real = Path(os.path.realpath(path))
    _check_folder(next(folder for folder in real.parents if folder.exists()))
    return real


def folder_to_fill(path: Path | str, files: Iterable[str], reads: Iterable[Path] = ()) -> None:
    """Raise InputError unless these files can be written to a folder, which may exist, and are none of `reads`."""
    path, reads = Path(path), list(reads)
    if not os.path.lexists(path):
        folder_to_write(path)
        return
    _check_folder(path)
    for name in files:
        file_to_write(path / name, reads)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside file_to_write(path), renamed to it at the end, removed on failure."""
    real = file_to_write(path)
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, real)
    except OSError as error:
        if error.filename is None:  # as of a write to an open file
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def alone(path: Path | str) -> Iterator[Path]:
    """Keep other runs from writing folder_to_write(path) meanwhile; yields it, its parents made.

    The lock is a file beside it, of which a crash lets go. Raises InputError if another run has it.
    """
    import fcntl  # Windows has none, and speaking there needs none

    output = folder_to_write(path)
    made = [folder for folder in output.parents if not folder.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    place = output.with_name(f".{output.name}.lock")
    with place.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path) from None
        if not place.exists() or not os.path.samestat(os.fstat(lock.fileno()), place.stat()):
            raise _taken(path)  # its owner ended, and removed it, after we had opened it
        try:
            yield folder_to_write(path)
        except BaseException:
            place.unlink()
            with suppress(OSError):  # the first that is not empty
                for folder in made:
                    folder.rmdir()
            raise
        place.unlink()


@contextmanager
def whole(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes it at the end, or vanishes on an error: only within alone().

    One that a killed run left behind is removed first.
    """
    folder = output.with_name(f".{output.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _taken(path: Path | str) -> InputError:
    return InputError(path, "another run is writing it", "wait for that, or choose another output")


def _standard_streams() -> Iterator[os.stat_result]:
    for descriptor in range(3):
        with suppress(OSError):  # closed
            yield os.fstat(descriptor)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(folder, "is not a folder", "name another place")
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(folder, "cannot be written", "choose another folder")
