"""What `tokenizers` knows of Unicode, asked of itself one character at a time: classes, normal forms, replacements.

It mixes several versions of Unicode, and none of them is sure to be Python's. Asking takes seconds: the answers are
kept in the user's cache, by the version that gave them.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy
import tokenizers
from safetensors import SafetensorError
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

from wand_export.graph.text.arrays import CODE_POINTS, Arrays, points, replacement, runs, trie
from wand_export.host.normal import LETTER, NUMBER, SPACE, WORD

CACHE_FORMAT = 1
"""To be raised with every change of what is asked."""
BETWEEN = "\uffff"
"""A noncharacter that every normalizer leaves alone and no mark joins: many strings are normalized as one."""
LOWEST_MARK, HIGHEST_MARK = "\u0334", "\u0345"
"""Marks of the combining classes 1 and 240: every mark changes places with one of them."""
_DIGEST = 32


@cache
def tables_of(name: str) -> Arrays:
    """The tables "classes", "nfc", "nfkc", "lowercase" or "nmt", from the cache where it has them."""
    make: dict[str, Callable[[], Arrays]] = {
        "classes": _classes,
        "nfc": lambda: normal_form("nfc"),
        "nfkc": lambda: normal_form("nfkc"),
        "lowercase": lambda: replacement("lowercase", changes(normalizers.Lowercase())),
        "nmt": lambda: replacement("nmt", changes(normalizers.Nmt())),
    }
    file = _cache_folder() / f"tokenizers-{tokenizers.__version__}" / f"{name}.{CACHE_FORMAT}"
    return _kept(file) or _keep(file, make[name]())


def characters() -> list[str]:
    """Every character but BETWEEN: some 100 MB of them, so that nobody keeps them."""
    return [chr(point) for point in range(CODE_POINTS) if not (0xD800 <= point <= 0xDFFF or chr(point) == BETWEEN)]


def uppercase() -> Arrays:
    """Capital letters as Python writes them: a family's own code is Python."""
    return replacement("case", {c: c.upper() for c in characters() if c.upper() != c})


def changes(normalizer: normalizers.Normalizer) -> dict[str, str]:
    """What a normalizer makes of the characters that it changes."""
    asked = characters()
    return {old: new for old, new in zip(asked, _each(normalizer, asked), strict=True) if new != old}


def normal_form(name: str) -> Arrays:
    """The tables of NFC or NFKC: full decompositions, combining classes, pairs that compose."""
    decomposition = normalizers.NFKD() if name == "nfkc" else normalizers.NFD()
    return {
        **replacement("decompose", changes(decomposition)),
        **runs("order_from", "order_class", _combining_classes()),
        **trie("pairs", {points(pair): ord(composed) for pair, composed in _pairs().items()}),
    }


def _pairs() -> dict[str, str]:
    """Two characters -> the one that NFC makes of them."""
    full = changes(normalizers.NFD())
    composed = [c for c, again in zip(full, _each(normalizers.NFC(), list(full)), strict=True) if c == again]
    heads = _each(normalizers.NFC(), [full[c][:-1] for c in composed])
    return {head + full[c][-1]: c for c, head in zip(composed, heads, strict=True)}


def _combining_classes() -> np.ndarray:
    """The combining class of each code point, numbered from 1 in their order; 0 for what is no mark."""
    form = normalizers.NFD()
    decomposed = changes(form)
    plain = [character for character in characters() if character not in decomposed]
    behind_highest = _each(form, [HIGHEST_MARK + c for c in plain])
    before_lowest = _each(form, [c + LOWEST_MARK for c in plain])
    marks = [
        c
        for c, behind, before in zip(plain, behind_highest, before_lowest, strict=True)
        if behind == c + HIGHEST_MARK != HIGHEST_MARK + c or before == LOWEST_MARK + c != c + LOWEST_MARK
    ]
    levels: list[str] = []  # one mark of each class, from the lowest to the highest
    found = {}
    for mark in marks:
        found[mark] = next((level for level in levels if _same_class(form, level, mark)), mark)
        if found[mark] == mark:
            at = sum(form.normalize_str(mark + level)[0] == level for level in levels)
            levels.insert(at, mark)
    values = np.zeros(CODE_POINTS, np.uint8)
    for mark, level in found.items():
        values[ord(mark)] = levels.index(level) + 1
    return values


def _same_class(form: normalizers.Normalizer, one: str, other: str) -> bool:
    return form.normalize_str(one + other) == one + other and form.normalize_str(other + one) == other + one


def _each(normalizer: normalizers.Normalizer, strings: list[str]) -> list[str]:
    """Each string by itself in its normal form."""
    return normalizer.normalize_str(BETWEEN.join(strings)).split(BETWEEN)


def _classes() -> Arrays:
    bits = np.zeros(CODE_POINTS, np.uint8)
    for pattern, kind in (r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE):
        bits[_matching(pattern)] = kind
    bits[_word_characters()] |= WORD
    return runs("class_from", "class_bits", bits)


def _matching(pattern: str) -> list[int]:
    """The code points that a class of the library's regular expressions holds."""
    rest = set(normalizers.Replace(Regex(pattern), "").normalize_str("".join(characters())))
    return [ord(character) for character in characters() if character not in rest]


def _word_characters() -> list[int]:
    """The code points before which a token of a single word is not found: a class of its own."""
    judge = Tokenizer(models.BPE({"a": 0}, []))
    judge.add_tokens([AddedToken("|w|", single_word=True, normalized=False)])
    asked, found = characters(), list[int]()
    for i in range(0, len(asked), 4096):
        chunk = asked[i : i + 4096]
        text = "".join(f" {character}|w|" for character in chunk)
        alone = {start for start, _ in judge.encode(text).offsets}
        found += [ord(character) for n, character in enumerate(chunk) if 5 * n + 2 not in alone]
    return found


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wand-export"


def _kept(file: Path) -> Arrays | None:
    """The tables in a file that begins with the hash of the rest; None where there is none, or it is damaged."""
    try:
        data = file.read_bytes()
        if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
            return safetensors.numpy.load(data[_DIGEST:])
    except (OSError, SafetensorError):
        pass  # asked again
    return None


def _keep(file: Path, tables: Arrays) -> Arrays:
    data = safetensors.numpy.save(tables)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(hashlib.sha256(data).digest() + data)
        partial.replace(file)
    except OSError:
        pass  # a cache that cannot be written only costs time
    return tables
