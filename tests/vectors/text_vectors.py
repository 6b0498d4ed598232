"""text.json: tables of small tokenizers, cut down to the characters of the texts, and the ids of each text."""

import base64
import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save
from small_tokenizers import MARK, TOKENS, byte_level, characterwise, normalized, with_tokens
from tokenizers import Regex, normalizers

from wand_export.graph.text import strings
from wand_export.graph.text.arrays import CODE_POINTS, Arrays, replacement, runs, trie
from wand_export.graph.text.compiler import Reading, compile_tokenizer
from wand_export.host.pieces import Tokenizer, code_points

CJK = (0x4E00, 0x9FFF)
JUDGES = {
    "qwen2": lambda: with_tokens(normalized(byte_level("qwen2"), normalizers.NFC())),
    "llama3": lambda: with_tokens(byte_level("llama3", ignore_merges=True, whole=["Ġlaw", "ä¸Ń", "ĠĠĠ"])),
    "gpt2 behind a prefix": lambda: normalized(
        byte_level("gpt2", prefix=True), normalizers.NFKC(), normalizers.Lowercase()
    ),
    "capitals between U+2581": lambda: normalized(
        characterwise(unk_token="<unk>", fuse_unk=True), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")
    ),
    "llama2": lambda: with_tokens(
        normalized(
            characterwise(None, byte_fallback=True, unk_token="<unk>"),
            normalizers.Prepend(MARK),
            normalizers.Replace(" ", MARK),
        )
    ),
    "U+2581 at the beginning": lambda: with_tokens(normalized(characterwise("first"), normalizers.NFC())),
}  # fmt: skip
MARKUP = ["<t4>", "<a>b"]
CAPITALS = "capitals between U+2581"
REPLACED = ("case", "lowercase", "decompose", "replace")
HALVES = [[0x61, 0xD83D], [0xDE00, 0x20, 0x62], [0xDE00, 0xD83D], [0xD83D, 0xD83D, 0xDE00, 0x0301]]
"""UTF-16 units of texts with half a surrogate pair, which JSON itself cannot carry everywhere."""
LONG = [("the law, 'tis 12 ", 10_000), ("e\u0323\u0302\ud55c", 10_000), (" ", 10_000)]
"""Texts that are repeated up to so many code points."""


def text_vectors() -> dict[str, Any]:
    """Each case: words and tables (a safetensors file in base64), and [text, ids, [first, end) of what is unsayable].

    Of the long texts, [number of ids, SHA-256 of the ids in decimal with commas between].
    """
    given = [*strings.ODD, *strings.random_texts(40, TOKENS, seed=2)]
    cases = [case(name, given) for name in JUDGES]
    return {"schema": 1, "halves": HALVES, "long": LONG, "cases": cases}


def case(name: str, texts: list[str]) -> dict[str, Any]:
    """The tables of one tokenizer, which read all texts as `tokenizers` does."""
    judge = JUDGES[name]()
    capitals = name == CAPITALS
    compiled = compile_tokenizer(Path(name), judge, Reading(capitals, [CJK] if capitals else [], MARKUP))
    long = [(unit * count)[:count] for unit, count in LONG]
    halves = [of_units(units) for units in HALVES]
    data = save(cut_down(compiled.tables, {c for text in [*texts, *long, "\ufffd"] for c in code_points(text)}))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pieces.safetensors"
        file.write_bytes(data)
        tokenizer = Tokenizer.load(file, compiled.words)

    def ids(text: str) -> list[int]:
        found, whole = tokenizer.encode(text), "".join(map(chr, code_points(text)))
        wanted = judge.encode(whole.upper() if capitals else whole, add_special_tokens=False).ids
        assert found == wanted, f"{name}: {text!r}"
        return found

    def odd(text: str) -> list[tuple[int, int]]:
        return [(found.index, found.index + len(found.characters)) for found in tokenizer.unsayable(text)]

    return {
        "name": name,
        "words": compiled.words.model_dump(),
        "tables": base64.b64encode(data).decode(),
        "texts": [[text, ids(text), odd(text)] for text in texts],
        "halves": [ids(text) for text in halves],
        "long": [digest(ids(text)) for text in long],
    }


def digest(ids: list[int]) -> list[Any]:
    """How many ids there are, and their hash."""
    return [len(ids), hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()]


def of_units(units: list[int]) -> str:
    """A text from its UTF-16 units."""
    return b"".join(unit.to_bytes(2, "little") for unit in units).decode("utf-16-le", "surrogatepass")


def cut_down(tables: Arrays, points: set[int]) -> Arrays:
    """The tables without what concerns other characters: a few kilobytes in place of hundreds."""
    pairs = dict(keys(tables, "pairs")) if "pairs.start" in tables else {}
    replaced = {name: replacements(tables, name) for name in REPLACED if f"{name}.to" in tables}
    known, size = set(points), 0
    while len(known) > size:
        size = len(known)
        known |= {new for pair, new in pairs.items() if known.issuperset(pair)}
        for found in replaced.values():
            known |= {ord(c) for old, new in found.items() if known.issuperset(map(ord, old)) for c in new}
    out = {key: value for key, value in tables.items() if key.split(".")[0] not in {*replaced, "pairs"}}
    for name, found in replaced.items():
        out |= replacement(name, {old: new for old, new in found.items() if known.issuperset(map(ord, old))})
    if pairs:
        out |= trie("pairs", {pair: new for pair, new in pairs.items() if known.issuperset(pair)})
    for starts, numbers in ("class_from", "class_bits"), ("order_from", "order_class"):
        if starts in tables:
            values = np.zeros(CODE_POINTS, np.uint8)
            for point in known:
                values[point] = tables[numbers][np.searchsorted(tables[starts], point, "right") - 1]
            out |= runs(starts, numbers, values)
    return out


def replacements(tables: Arrays, name: str) -> dict[str, str]:
    """What each string of a table is replaced by."""
    to, to_from = tables[f"{name}.to"].tolist(), tables[f"{name}.to_from"].tolist()
    texts = ["".join(map(chr, to[low:high])) for low, high in pairwise(to_from)]
    return {"".join(map(chr, key)): texts[n] for key, n in keys(tables, name)}


def keys(tables: Arrays, name: str) -> Iterator[tuple[tuple[int, ...], int]]:
    """The keys of a trie, and what each stands for."""
    start, symbol, following, value = (
        tables[f"{name}.{part}"].tolist() for part in ("start", "symbol", "next", "value")
    )
    pending: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    while pending:
        node, key = pending.pop()
        if value[node] >= 0:
            yield key, value[node]
        pending += [(following[edge], (*key, symbol[edge])) for edge in range(start[node], start[node + 1])]
