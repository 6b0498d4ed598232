"""Cutting a text into the words that a tokenizer's model reads one by one: each rule gives the end of a word.

text: code points; kinds: the kind of each (LETTER, NUMBER, SPACE, 0 for all others); at: where the word begins.
"""

from collections.abc import Iterator

from wand_export.host.normal import LETTER, MARK, NUMBER, SPACE
from wand_export.spec.pieces import Split

LF, CR, BLANK, APOSTROPHE = 10, 13, 32, 39
LONG_S = 0x17F
"""The only letter beyond ASCII that is an s, t, m, d, r, v or l in capitals."""
_ENDINGS = tuple(tuple(map(ord, ending)) for ending in ("s", "t", "m", "d", "re", "ve", "ll"))


def words(text: list[int], kinds: list[int], split: Split) -> Iterator[list[int]]:
    """The words of a text, which together are the text."""
    at = 0
    while at < len(text):
        if split == "metaspace":
            end = _metaspace(text, at)
        elif split == "gpt2":
            end = _gpt2(text, kinds, at)
        elif split == "qwen2":
            end = _tiktoken(text, kinds, at, 1)
        elif split == "llama3":
            end = _tiktoken(text, kinds, at, 3)
        else:
            end = len(text)
        yield text[at:end]
        at = end


def _metaspace(text: list[int], at: int) -> int:
    end = at + 1
    while end < len(text) and text[end] != MARK:
        end += 1
    return end


def _gpt2(text: list[int], kinds: list[int], at: int) -> int:
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    end = _contraction(text, at, fold=False)
    if end > at:
        return end
    start = at + 1 if text[at] == BLANK and at + 1 < len(text) else at
    return _spaces(kinds, at) if kinds[start] == SPACE else _run(kinds, start)


def _tiktoken(text: list[int], kinds: list[int], at: int, digits: int) -> int:
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
    \s+(?!\S)|\s+"""
    end = _contraction(text, at, fold=True)
    if end > at:
        return end
    if kinds[at] == LETTER:
        return _run(kinds, at)
    if kinds[at] == NUMBER:
        return at + _run(kinds[at : at + digits], 0)
    following = kinds[at + 1] if at + 1 < len(text) else SPACE
    if following == LETTER and text[at] not in (CR, LF):
        return _run(kinds, at + 1)
    start = at + 1 if text[at] == BLANK and following == 0 else at
    if kinds[start] == 0:
        end = _run(kinds, start)
        while end < len(text) and text[end] in (CR, LF):
            end += 1
        return end
    end = _run(kinds, at)
    while end > at and text[end - 1] not in (CR, LF):
        end -= 1
    return end if end > at else _spaces(kinds, at)


def _contraction(text: list[int], at: int, fold: bool) -> int:
    """The end of 's 't 'm 'd 're 've 'll, in capitals too where `fold`; `at` where there is none."""
    if text[at] != APOSTROPHE:
        return at
    letters = tuple(_lower(point) if fold else point for point in text[at + 1 : at + 3])
    for ending in _ENDINGS:
        if letters[: len(ending)] == ending:
            return at + 1 + len(ending)
    return at


def _lower(point: int) -> int:
    if point == LONG_S:
        return ord("s")
    return point + 32 if 65 <= point <= 90 else point


def _run(kinds: list[int], at: int) -> int:
    """The end of the run of one kind that begins here."""
    end = at + 1
    while end < len(kinds) and kinds[end] == kinds[at]:
        end += 1
    return end


def _spaces(kinds: list[int], at: int) -> int:
    """The end of a run of spaces, less its last one if there are several and text follows."""
    end = _run(kinds, at)
    return end - 1 if end < len(kinds) and end - at > 1 else end
