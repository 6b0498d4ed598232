"""wand distill's output, decided before anything is read or trained."""

from pathlib import Path

import pytest

from wand_export.commands.distill import distill
from wand_export.errors import InputError
from wand_export.host.output import alone

CONFIG = 'family = "tiny"\nteacher = "teacher"\ndata = "data"\nwindow = 8\nsteps = 1\n'


def test_one_run_at_a_time_has_the_checkpoint_and_its_state(tmp_path: Path) -> None:
    (tmp_path / "distill.toml").write_text(CONFIG)
    with alone(tmp_path / "checkpoint"), pytest.raises(InputError, match="another run is writing it"):
        distill(str(tmp_path / "distill.toml"))


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_a_checkpoint_is_not_replaced(tmp_path: Path, kind: str) -> None:
    (tmp_path / "distill.toml").write_text(CONFIG)
    out = tmp_path / "out"
    out.mkdir() if kind == "folder" else out.symlink_to("gone")
    with pytest.raises(InputError, match="already exists"):
        distill(tmp_path / "distill.toml", str(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["distill.toml", "out"]
