"""The committed vector files are what make.py writes."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
MADE: dict[str, str] = runpy.run_path(str(FOLDER / "make.py"))["vectors"]()


@pytest.mark.parametrize("name", MADE)
def test_committed_file_is_what_make_writes(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == MADE[name], "run tests/vectors/make.py"
