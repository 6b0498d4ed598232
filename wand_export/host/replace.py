"""Words that a text has replaced before it is cut into sentences: a user's own, and those that a bundle carries.

A file of them is UTF-8: a word, a tab and what stands for it a line. Empty lines, and those that begin with #, say
nothing.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from pathlib import Path

from wand_export.errors import InputError
from wand_export.host.sentences import CLAUSE, DIGIT, DOT, JOINED, SILENT, lowered, trimmed
from wand_export.spec.document import MAX_BYTES

_LONGEST = 256
"""Characters on either side of a tab: a hostile table makes a text only so much longer."""
_FIX = "correct the line; see Your own words in models/README.md"
_APOSTROPHES = "'\u2019"
# Thai and Lao, Burmese, Khmer, Kana, Han.
_UNSPACED = (
    (0xE01, 0xEDF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3041, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x323AF),
)  # fmt: skip
"""Scripts that put no space between words: each of their characters may be the end of one."""


def replaced(text: str, table: Mapping[str, str]) -> str:
    """The text with each whole word of the table, whose words are lowered(), replaced, from left to right.

    At one place the longest word counts, A to Z match in either case, and what was put in is not looked at again.
    """
    sizes: dict[str, list[int]] = {}  # of the words that begin with a character, falling
    for size, first in sorted({(len(old), old[0]) for old in table}, reverse=True):
        sizes.setdefault(first, []).append(size)
    searched = lowered(text)
    found, at, kept = [], 0, 0
    while at < len(text):
        ends = [at + size for size in sizes.get(searched[at], ()) if at + size <= len(text)]
        end = next((end for end in ends if searched[at:end] in table and _whole(text, at, end)), at)
        if end > at:
            found += [text[kept:at], table[searched[at:end]]]
            kept = end
        at = max(end, at + 1)
    return "".join([*found, text[kept:]])


def _whole(text: str, first: int, end: int) -> bool:
    """Whether no word reaches over an edge of text[first:end]."""
    return _free(text, first, first - 1) and _free(text, end - 1, end)


def _free(text: str, inner: int, outer: int) -> bool:
    """Whether the neighbour text[outer] of text[inner], which is at an edge, is of no word that goes on over it."""
    if not 0 <= outer < len(text):
        return True
    if text[max(inner, outer)] in JOINED:
        return False
    return not _in_word(text, outer) or _is_unspaced(text[inner]) or _is_unspaced(text[outer])


def _in_word(text: str, at: int) -> bool:
    """Whether a character is of a word: so are apostrophes between letters, and points and colons between digits."""
    if text[at] not in SILENT or text[at] in JOINED:
        return True
    if not 0 < at < len(text) - 1:
        return False
    before, after = text[at - 1], text[at + 1]
    if text[at] in _APOSTROPHES:
        return before not in SILENT and after not in SILENT
    return (text[at] in DOT or text[at] in CLAUSE) and before in DIGIT and after in DIGIT


def _is_unspaced(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _UNSPACED)


def read_table(
    file: Path,
    entry: Callable[[str, str], tuple[str, str]],
    fix: str = _FIX,
    kind: type[InputError] = InputError,
) -> dict[str, str]:
    """What `entry` makes of the two sides of each line, in order; it raises ValueError for what is refused.

    Raises `kind` naming the file and the line, also where one entry comes twice, lacks a side, is too long or no UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise kind(file, error.strerror or "unreadable", "check the path") from error
    if len(data) > MAX_BYTES:
        raise kind(file, f"more than {MAX_BYTES} bytes", "give a shorter one")
    found: dict[str, str] = {}
    for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
            if text.startswith("#") or not trimmed(text):
                continue
            old, new = entry(*_sides(text))
            if old in found:
                raise ValueError(f"{old!r} comes twice")
        except UnicodeDecodeError as error:
            raise kind(file, f"line {number} is not UTF-8", "save it as UTF-8") from error
        except ValueError as error:
            raise kind(file, f"line {number}: {error}", fix) from error
        found[old] = new
    return found


def to_tsv(table: Mapping[str, str]) -> str:
    """The text of a file with these lines."""
    return "".join(f"{old}\t{new}\n" for old, new in table.items())


def _sides(line: str) -> tuple[str, str]:
    sides = [trimmed(side) for side in line.split("\t")]
    if len(sides) != 2:
        raise ValueError("no tab" if len(sides) == 1 else "more than one tab")
    if not all(sides):
        raise ValueError(f"nothing {'behind' if sides[0] else 'before'} the tab")
    if any(len(side) > _LONGEST for side in sides):
        raise ValueError(f"more than {_LONGEST} characters on one side of the tab")
    return sides[0], sides[1]
