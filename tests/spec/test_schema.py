"""How JSON and TOML files are read, whoever wrote them."""

import codecs
from pathlib import Path

import pytest

from wand_export.errors import InputError
from wand_export.spec.schema import read_json, read_text, read_toml, shipped
from wand_export.spec.target import Target


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_marks_and_line_ends_of_editors(tmp_path: Path, mark: bytes, newline: bytes) -> None:
    document = b'{\n"voice": "n\xc3\xa4me"\n}\n'.replace(b"\n", newline)
    (tmp_path / "a.json").write_bytes(mark + document)
    assert read_json(tmp_path / "a.json") == {"voice": "näme"}
    assert read_text(tmp_path / "a.json").startswith("{")
    target = (shipped("targets") / "onnx-fp32.toml").read_bytes()
    (tmp_path / "t.toml").write_bytes(mark + target.replace(b"\n", newline))
    assert read_toml(tmp_path / "t.toml", Target).name == "onnx-fp32"


@pytest.mark.parametrize(
    "text", ["{", "", '{"a": NaN}', '{"a": [-Infinity]}', "[" * 200_000, '"\\ud800" x', b"\xff\xfe"]
)
def test_what_is_not_json(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")


def test_a_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.toml"):
        read_toml(tmp_path / "t.toml", Target)
