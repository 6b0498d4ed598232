"""The JSON of a bundle: what every reader takes alike, and nothing else."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from wand_export.errors import BundleError, InputError
from wand_export.spec.document import MAX_BYTES, MAX_DEPTH, load_json, read_document
from wand_export.spec.limits import Name, Real
from wand_export.spec.schema import Schema


class Record(Schema):
    version: Literal[1] = 1
    count: int = 0
    ratio: Real = 0.0
    pairs: list[tuple[int, int]] = Field([])
    name: Name = "x"


def read(folder: Path, text: str | bytes) -> Record:
    file = folder / "record.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(file, Record, "write it again", BundleError)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = Record(count=2**53, ratio=0.1, pairs=[(0, 1)], name="Zoë 2.0")
    assert read(tmp_path, record.model_dump_json()) == record
    assert read(tmp_path, '{"ratio": 3}').ratio == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"count": 1, "count": 2}', "key 'count' comes twice"),
        ('{"pairs": [{"a": 1, "a": 1}]}', "key 'a' comes twice"),
        ('{"ratio": NaN}', "NaN is not finite"),
        ('{"ratio": -Infinity}', "-Infinity is not finite"),
        ('{"ratio": 1e999}', "1e999 is not finite"),
        ('{"ratio": 1e300}', "ratio: Input should be less"),
        ('{"count": 9223372036854775808}', "more than 64 bits"),
        ('{"count": "1"}', "count: Input should be a valid integer"),
        ('{"count": true}', "count: Input should be a valid integer"),
        ('{"count": 1.0}', "count: Input should be a valid integer"),
        ('{"version": 2}', "version: Input should be 1"),
        ('{"pairs": [[1]]}', "pairs.0"),
        ('{"pairs": [[1, 2, 3]]}', "pairs.0"),
        ('{"unknown": 1}', "unknown: Extra"),
        ('{"a\\nb": 1}', r"a\\nb: Extra"),
        ('{"name": "../x"}', "name: "),
        ('{"name": ".."}', "name: "),
        ('{"name": ""}', "name: "),
        ('{"name": "a\\u0000"}', "name: "),
        ('{"name": "\\ud800"}', "Invalid JSON"),
        ("[]", "document: "),
        ("", "unreadable"),
        (b'{"name": "\xff"}', "unreadable"),
        ("{}{}", "unreadable"),
        ('{"x": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", f"deeper than {MAX_DEPTH}"),
        ("[" * 10**5, f"deeper than {MAX_DEPTH}"),
        ("{}" + " " * MAX_BYTES, f"more than {MAX_BYTES} bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_readers_differ_about_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words) as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value) and "write it again" in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("\ufeff{}", encoding="utf-8")
    assert load_json(tmp_path / "x.json", "", InputError) == {}


def test_the_deepest_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert load_json(tmp_path / "x.json", "", InputError)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: missing \(make it\)"):
        load_json(tmp_path / "none.json", "make it", InputError)
    with pytest.raises(InputError, match="unreadable"):
        load_json(tmp_path, "make it", InputError)
