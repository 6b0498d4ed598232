"""Words that are replaced before a text is cut into sentences: what counts as one, and files of them."""

from pathlib import Path

import pytest

from wand_export.errors import BundleError, InputError
from wand_export.host.replace import read_table, replaced, to_tsv
from wand_export.host.sentences import lowered

TABLE = {
    "sql": "sequel",
    "new": "old",
    "new york": "the big apple",
    "york": "new",
    "can": "tin",
    "rock 'n' roll": "music",
    "c++": "c plus plus",
    ".net": "dot net",
    "&": "and",
    "3": "three",
    "café": "coffee house",
    "straße": "road",
    "行": "hang",
    "銀行": "bank",
    "ไทย": "thai",
    "می": "mi",
    "привет": "hello",
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SQL, sql; Sql!", "sequel, sequel; sequel!"),
        ("MySQL sqlite sql2 sql", "MySQL sqlite sql2 sequel"),
        ("\"SQL\" (sql) “SQL” ‘sql’ 'sql'", "\"sequel\" (sequel) “sequel” ‘sequel’ 'sequel'"),
        ("«SQL» *sql* _sql_ …sql… 「sql」", "«sequel» *sequel* _sequel_ …sequel… 「sequel」"),
        ("sql-like, non-sql, a/sql", "sequel-like, non-sequel, a/sequel"),
        ("New York, new Yorker, york", "the big apple, old Yorker, new"),
        ("new\nyork new  york", "old\nnew old  new"),
        ("new new york york", "old the big apple new"),
        ("I can, can't, can’t, cans, 'can'", "I tin, can't, can’t, cans, 'tin'"),
        ("Rock 'n' roll, rock'n'roll", "music, rock'n'roll"),
        ("C++, C++x, c+", "c plus plus, C++x, c+"),
        ("Use .NET; ASP.NET", "Use dot net; ASP.NET"),
        ("R&D & I", "R&D and I"),
        ("3, 3.14, 1,3, 9:3, 33, 3.", "three, 3.14, 1,3, 9:3, 33, three."),
        ("café CAFé CAFÉ cafés cafe cafe\u0301", "coffee house coffee house CAFÉ cafés cafe cafe\u0301"),
        ("Straße STRASSE", "road STRASSE"),
        ("銀行に行く。行", "bankにhangく。hang"),
        ("ภาษาไทยดี ไทย\u0e49", "ภาษาthaiดี ไทย\u0e49"),
        ("می می\u200cخواهم خواهم\u200cمی", "mi می\u200cخواهم خواهم\u200cمی"),
        ("привет Привет приветы", "hello Привет приветы"),
        ("sql\u200bsql\ufeffsql\u3000sql", "sequel\u200bsequel\ufeffsequel\u3000sequel"),
        ("", ""),
        ("ne", "ne"),
    ],
)  # fmt: skip
def test_whole_words_longest_first(text: str, said: str) -> None:
    assert replaced(text, TABLE) == said


@pytest.mark.parametrize("text", ["SQL", " new york", "a\r\nb\u2028"])
def test_without_words_a_text_stays_as_it_is(text: str) -> None:
    assert replaced(text, {}) == text


def test_what_was_put_in_is_not_looked_at_again() -> None:
    assert replaced("a b a b", {"a": "b", "b": "a"}) == "b a b a"
    assert replaced("a b", {"a": "a b", "a b a b": "never"}) == "a b b"


def entry(old: str, new: str) -> tuple[str, str]:
    if new == "unsayable":
        raise ValueError("cannot say it")
    return lowered(old), new


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file(tmp_path: Path, newline: str, mark: str) -> None:
    lines = ["# a comment\twith a tab", "", "SQL\tsequel", " \t ", " New York \t the # city ", "é\u2028\tb"]
    file = tmp_path / "words.tsv"
    for end in ("", newline):
        file.write_bytes((mark + newline.join(lines) + end).encode())
        table = read_table(file, entry)
        assert table == {"sql": "sequel", "new york": "the # city", "é": "b"}
    file.write_text(to_tsv(table), encoding="utf-8")
    assert read_table(file, entry) == table


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", b"#", b"# a\tb\r\n"])
def test_a_file_without_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words.tsv").write_bytes(content)
    assert read_table(tmp_path / "words.tsv", entry) == {}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no tab", "line 4: no tab"),
        ("a\tb\tc", "line 4: more than one tab"),
        ("a\tb\t", "line 4: more than one tab"),
        ("\tb", "line 4: nothing before the tab"),
        (" \tb", "line 4: nothing before the tab"),
        ("a\t", "line 4: nothing behind the tab"),
        ("a\t \u200b", "line 4: nothing behind the tab"),
        ("FIRST\tagain", "line 4: 'first' comes twice"),
        ("a\tunsayable", "line 4: cannot say it"),
        ("a" * 257 + "\tb", "line 4: more than 256 characters"),
        ("a\t" + "b" * 257, "line 4: more than 256 characters"),
        (b"\xff\tb", "line 4 is not UTF-8"),
        (b"a\t\xed\xa0\x80", "line 4 is not UTF-8"),
    ],
)
def test_a_line_that_is_refused_is_named(tmp_path: Path, line: str | bytes, why: str) -> None:
    file = tmp_path / "words.tsv"
    file.write_bytes(b"# words\r\n\r\nfirst\t1st\n" + (line.encode() if isinstance(line, str) else line) + b"\nz\tz\n")
    for kind in (InputError, BundleError):
        with pytest.raises(kind) as raised:
            read_table(file, entry, kind=kind)
        assert str(raised.value).startswith(f"{file}: {why}") and type(raised.value) is kind


def test_a_file_that_is_missing_or_endless(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"words\.tsv: No such file"):
        read_table(tmp_path / "words.tsv", entry)
    with pytest.raises(InputError, match="directory"):
        read_table(tmp_path, entry)
    with pytest.raises(InputError, match="more than 16777216 bytes"):
        read_table(Path("/dev/zero"), entry)
