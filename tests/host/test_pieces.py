"""The interpreter on small tables made by hand: each rule by itself, and tables that lie."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from wand_export.errors import BundleError
from wand_export.graph.text.arrays import Arrays, int32, points, replacement, runs, trie
from wand_export.host.normal import LETTER, MARK, NUMBER, SPACE, WORD
from wand_export.host.pieces import SINGLE_WORD, STEERS, STRIP_LEFT, STRIP_RIGHT, Tokenizer, code_points
from wand_export.host.words import words
from wand_export.spec.pieces import Pieces

WORDS: dict[str, Any] = {
    "split": "none", "prefix": "never", "alphabet": "characters", "model": "bpe", "unknown": None, "fuse_unknown": False
}  # fmt: skip
ID = {character: n for n, character in enumerate("abcdefghijklmnopqrstuvwxyzABC .é▁")}
ID |= {"ab": 100, "abc": 101, "bc": 102}
UNKNOWN = 110
SIZE = 120


def classes() -> Arrays:
    """ASCII, some letters beyond it, two spaces and an Arabic digit."""
    numbers = np.zeros(0x110000, np.uint8)
    for point in (*range(65, 91), *range(97, 123), 0xE9, 0x17F, 0x4E2D):
        numbers[point] = LETTER | WORD
    for point in (*range(48, 58), 0x661):
        numbers[point] = NUMBER | WORD
    numbers[[9, 10, 13, 32, 0x3000]] = SPACE
    return runs("class_from", "class_bits", numbers)


def merges(*pairs: tuple[str, str]) -> Arrays:
    """Merges in the order of their rank."""
    made = sorted((ID[a], ID[b], rank, ID[a + b]) for rank, (a, b) in enumerate(pairs))
    table = np.array(made, np.int32).reshape(-1, 4)
    counts = np.bincount(table[:, 0], minlength=SIZE)
    named = {f"merge_{part}": int32(table[:, n]) for n, part in enumerate(("right", "rank", "id"), start=1)}
    return {"merge_from": int32([0, *np.cumsum(counts)]), **named}


def plain(**more: np.ndarray) -> Arrays:
    """A vocabulary of characters and two merges that compete for the b."""
    symbols = {points(piece): i for piece, i in ID.items() if len(piece) == 1}
    return {**classes(), **trie("symbols", symbols), **merges(("b", "c"), ("a", "b"), ("a", "bc")), **more}


def added(name: str, tokens: dict[str, int]) -> Arrays:
    """Tokens by their flags, with ids from 50 on."""
    return {
        **trie(name, {points(token): n for n, token in enumerate(tokens)}),
        f"{name}.id": int32(range(50, 50 + len(tokens))),
        f"{name}.flags": np.array(list(tokens.values()), np.uint8),
    }


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    """tokenizer(tables, word=..., ...) -> Tokenizer, through a file."""

    def make(tables: Arrays, **changes: Any) -> Tokenizer:
        save_file(tables, tmp_path / "pieces.safetensors")
        return Tokenizer.load(tmp_path / "pieces.safetensors", Pieces.model_validate(WORDS | changes))

    return make


def ids(*pieces: str) -> list[int]:
    return [ID[piece] for piece in pieces]


def test_the_pair_of_the_lowest_rank_comes_first_then_the_leftmost(tokenizer: Any) -> None:
    read = tokenizer(plain())
    assert read.ids("abc") == ids("abc")
    assert read.ids("ab") == ids("ab")
    assert read.ids("abab") == ids("ab", "ab")
    assert read.ids("aabcb") == ids("a", "abc", "b")
    assert read.ids("") == []


def test_equal_pairs_are_joined_from_the_left(tokenizer: Any) -> None:
    ID["aa"] = 103
    assert tokenizer({**plain(), **merges(("a", "a"))}).ids("aaaaa") == ids("aa", "aa", "a")


def test_a_symbol_of_several_characters_is_not_taken_apart(tokenizer: Any) -> None:
    symbols = {points(piece): i for piece, i in ID.items() if len(piece) == 1} | {points("bcd"): 60}
    assert tokenizer({**plain(), **trie("symbols", symbols)}).ids("abcdbc") == [ID["a"], 60, ID["bc"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, ids("a", "b")),
        ({"unknown": UNKNOWN}, [ID["a"], UNKNOWN, UNKNOWN, ID["b"]]),
        ({"unknown": UNKNOWN, "fuse_unknown": True}, [ID["a"], UNKNOWN, ID["b"]]),
    ],
)
def test_unknown_characters(tokenizer: Any, words: dict[str, Any], expected: list[int]) -> None:
    merging = merges()
    assert tokenizer({**plain(), **merging}, **words).ids("a!?b") == expected


def test_unknown_characters_become_their_bytes(tokenizer: Any) -> None:
    read = tokenizer(plain(byte_ids=int32([b % SIZE for b in range(256)])), unknown=UNKNOWN)
    assert read.ids("ü!") == [0xC3 % SIZE, 0xBC % SIZE, 33]


def test_bytes_are_the_symbols_of_a_byte_level_model(tokenizer: Any) -> None:
    tables = {**plain(), **trie("symbols", {(byte,): byte % 60 for byte in range(256)}), **merges()}
    read = tokenizer(tables, alphabet="bytes")
    for text in ("aé", "中", "😀", "\ud83d"):
        expected = text.encode("utf-8", "replace") if text != "\ud83d" else "\ufffd".encode()
        assert read.encode(text) == [byte % 60 for byte in expected]


def test_whole_pieces_come_before_merges(tokenizer: Any) -> None:
    read = tokenizer({**plain(), **trie("pieces", {points("ab"): 70, points("abcd"): 71})})
    assert read.ids("ab") == [70] and read.ids("abcd") == [71] and read.ids("abc") == ids("abc")


def test_added_tokens_are_the_leftmost_longest(tokenizer: Any) -> None:
    read = tokenizer({**plain(), **added("added", {"<a": 0, "<a>b": 0, "a>": 0})})
    assert read.ids("x<a>b<a>") == [ID["x"], 51, 50]
    assert read.ids("<a>bc") == [51, ID["c"]]
    assert read.ids("a>") == [52]


def test_added_tokens_that_stand_alone_or_take_white_space_along(tokenizer: Any) -> None:
    flags = {"<l>": STRIP_LEFT, "<r>": STRIP_RIGHT, "<w>": SINGLE_WORD}
    read = tokenizer({**plain(), **added("added", flags)})
    assert read.ids("a \u3000<l> b") == [ID["a"], 50, *ids(" ", "b")]
    assert read.ids("a <r> \t b") == [*ids("a", " "), 51, ID["b"]]
    assert read.ids("<r>  <l>") == [51, 50]
    assert read.ids("a<w> .<w>.") == [*ids("a", "w", " ", "."), 52, ID["."]]


def test_added_tokens_behind_the_normal_form_and_before_it(tokenizer: Any) -> None:
    tables = {**plain(), **replacement("lowercase", {"A": "a", "B": "b"})}
    tables |= added("added", {"B": 0}) | {k: v for k, v in added("added_normal", {"ac": 0}).items()}
    read = tokenizer(tables, normalize=["lowercase"])
    assert read.ids("ABAc") == [ID["a"], 50, 50]
    assert read.ids("Ac") == [50]


def test_capital_letters_come_before_added_tokens(tokenizer: Any) -> None:
    tables = {**plain(), **replacement("case", {"a": "A", "b": "BB"}), **added("added", {"a": 0, "A": 0})}
    assert tokenizer(tables, case="upper").ids("ab") == [51, *ids("B", "B")]


def test_characters_that_are_refused(tokenizer: Any) -> None:
    read = tokenizer(plain(), refused=[(0x4E00, 0x9FFF), (0x21, 0x21)])
    assert read.ids("ab") == ids("ab") and read.encode("a\0中") == ids("a")
    for text in ("\na中!", "\na\0", "\na\ud83d"):
        with pytest.raises(ValueError, match=r"cannot say '.+' \(line 2, column 2\)"):
            read.ids(text)


def test_control_tokens_may_stand_in_a_template_but_not_in_a_text(tokenizer: Any) -> None:
    tables = {**plain(), **replacement("lowercase", {"X": "x", "É": "é"}), **replacement("case", {"b": "B", "ß": "SS"})}
    tables |= added("added", {"<B>": STEERS, "<b>": STEERS, "<m>": 0, "<r>": STEERS | STRIP_RIGHT})
    tables |= added("added_normal", {"<x>": STEERS})
    read = tokenizer(tables, normalize=["lowercase"], case="upper", refused=[(0x21, 0x21)])
    assert read.ids("<b>") == [50]

    def odd(text: str) -> list[str]:
        return [found.characters for found in read.unsayable(text)]

    assert odd("a<b>c<m>d!<r> e") == ["<b>", "!", "<r> "]
    assert odd("ßß<x>") == ["<x>"] and odd("aé<x>") == ["<x>"]
    assert odd("Xa<x>b<m>") == ["Xa<x>b"], "its normal form differs: where the token stood is not known"
    assert odd("<\0b>") == ["\0"] and odd("a <m>") == []


@pytest.mark.parametrize(
    ("prefix", "text", "expected"),
    [
        ("always", "a<t>b", [ID["▁"], ID["a"], 50, ID["▁"], ID["b"]]),
        ("first", "a<t>b", [ID["▁"], ID["a"], 50, ID["b"]]),
        ("first", "<t>b", [50, ID["b"]]),
        ("never", "a b", [ID["a"], ID["▁"], ID["b"]]),
        ("always", " a", [ID["▁"], ID["a"]]),
    ],
)
def test_prefix(tokenizer: Any, prefix: str, text: str, expected: list[int]) -> None:
    read = tokenizer({**plain(), **added("added", {"<t>": 0})}, prefix=prefix, split="metaspace")
    assert read.ids(text) == expected


def test_steps_of_the_normalizer(tokenizer: Any) -> None:
    tables = {**plain(), **replacement("replace", {" ": "▁"})}
    for steps, text, expected in [
        (["strip"], "\u3000\n a b\t", ids("a", " ", "b")),
        (["trim"], "  a b ", ids("a", " ", "b")),
        (["squeeze"], "  a   b ", ids(" ", "a", " ", "b", " ")),
        (["mark", "replace"], "a b", ids("▁", "a", "▁", "b")),
        (["mark"], "", []),
    ]:
        assert tokenizer(tables, normalize=steps).ids(text) == expected, steps


NFC = {
    **replacement("decompose", {"é": "e\u0301", "ệ": "e\u0323\u0302", "\u0344": "\u0308\u0301"}),
    **trie("pairs", {points("e\u0301"): 0xE9, points("e\u0323"): 0x1EB9, points("\u1eb9\u0302"): 0x1EC7}),
}


def orders() -> Arrays:
    order = np.zeros(0x110000, np.uint8)
    order[0x323], order[[0x301, 0x302, 0x308]] = 1, 2
    return runs("order_from", "order_class", order)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("é\u0323", "ẹ\u0301"),
        ("e\u0302\u0323", "ệ"),
        ("e\u0308\u0301", "e\u0308\u0301"),  # the mark between blocks
        ("\u0301e", "\u0301e"),
        ("\u0301\u0323", "\u0323\u0301"),
        ("\u0344", "\u0308\u0301"),
        ("xe\u0323\u0302e", "xệe"),
        ("abc", "abc"),
    ],
)
def test_normal_form(tokenizer: Any, text: str, expected: str) -> None:
    tables = {**plain(), **NFC, **orders(), **trie("symbols", {(c,): n for n, c in enumerate(CHARACTERS)}), **merges()}
    assert tokenizer(tables, normalize=["nfc"]).ids(text) == [CHARACTERS.index(ord(c)) for c in expected]


CHARACTERS = sorted(map(ord, "abcxeéẹệ\u0301\u0302\u0308\u0323"))
KINDS = {LETTER: "abcIistrevmldSTſK中é", NUMBER: "0123456789١", SPACE: " \n\r\t"}


def cut(text: str, split: Any) -> list[str]:
    kind = {character: kind for kind, characters in KINDS.items() for character in characters}
    found = words(code_points(text), [kind.get(character, 0) for character in text], split)
    return ["".join(map(chr, word)) for word in found]


@pytest.mark.parametrize(
    ("split", "text", "expected"),
    [
        ("gpt2", "it's a 123 test!! ", ["it", "'s", " a", " 123", " test", "!!", " "]),
        ("gpt2", "IT'S  a", ["IT", "'", "S", " ", " a"]),
        ("gpt2", "a \n b", ["a", " \n", " b"]),
        ("qwen2", "it'S 'lla 12", ["it", "'S", " '", "lla", " ", "1", "2"]),
        ("qwen2", "b'ſa-b\n\n c", ["b", "'ſ", "a", "-b", "\n\n", " c"]),
        ("qwen2", "b'Ke !?\r\n\n a  \n  \n  c", ["b", "'Ke", " !?\r\n\n", " a", "  \n  \n", " ", " c"]),
        ("qwen2", "\tab\u2019s", ["\tab", "\u2019s"]),
        ("llama3", "12345 ١2", ["123", "45", " ", "١2"]),
        ("metaspace", "\u2581a\u2581\u2581b", ["\u2581a", "\u2581", "\u2581b"]),
        ("none", "a b", ["a b"]),
        ("none", "", []),
    ],
)
def test_words(split: str, text: str, expected: list[str]) -> None:
    assert cut(text, split) == expected


def test_half_a_surrogate_pair_is_a_replacement_character() -> None:
    assert code_points("a\ud800\udc00\udfff😀") == [97, 0xFFFD, 0xFFFD, 0xFFFD, 0x1F600]
    assert ord("▁") == MARK


LYING = [
    ("symbols.start", lambda a: a + 1),
    ("symbols.start", lambda a: a[::-1].copy()),
    ("symbols.start", lambda a: a[:0]),
    ("symbols.next", lambda a: a + 1000),
    ("symbols.next", lambda a: a * 0),
    ("symbols.next", lambda a: -a),
    ("symbols.next", lambda a: a[:-1]),
    ("symbols.value", lambda a: a + SIZE),
    ("symbols.value", lambda a: a - 2),
    ("symbols.value", lambda a: a[:0]),
    ("symbols.value", lambda a: a.astype(np.int64)),
    ("symbols.symbol", lambda a: a.reshape(1, -1)),
    ("merge_from", lambda a: a + 1),
    ("merge_from", lambda a: a[:0]),
    ("merge_id", lambda a: a + SIZE),
    ("merge_id", lambda a: a - SIZE),
    ("merge_rank", lambda a: a - 5),
    ("merge_rank", lambda a: a[:-1]),
    ("merge_right", lambda a: a[:-1]),
    ("pieces.value", lambda a: a + SIZE),
    ("byte_ids", lambda a: a[:-1]),
    ("byte_ids", lambda a: a + SIZE),
    ("class_from", lambda a: a + 1),
    ("class_from", lambda a: a[::-1].copy()),
    ("class_bits", lambda a: a[:-1]),
    ("class_bits", lambda a: a.astype(np.int32)),
    ("added.id", lambda a: a - 100),
    ("added.id", lambda a: a[:-1]),
    ("added.flags", lambda a: a[:-1]),
    ("case.to", lambda a: a + 0x110000),
    ("case.to_from", lambda a: a[:-1]),
    ("case.to_from", lambda a: a[:0]),
    ("case.value", lambda a: a + 1),
]


@pytest.mark.parametrize(("name", "lie"), LYING)
def test_tables_that_lead_nowhere_are_refused(tokenizer: Any, name: str, lie: Any) -> None:
    tables = {
        **plain(byte_ids=int32(range(256)) % SIZE),
        **trie("pieces", {points("ab"): 70}),
        **added("added", {"<t>": 0, "<u>": 7}),
        **replacement("case", {"a": "A", "b": "BB"}),
    }
    assert tokenizer(tables, case="upper").ids("a <u>") == [ID["A"], 51]
    group = name.split(".")[0].split("_")[0]  # a tensor that is too short may be noticed at its neighbour
    with pytest.raises(BundleError, match=rf"pieces\.safetensors: tensor {group}"):
        tokenizer({**tables, name: lie(tables[name])}, case="upper")
    if name not in ("byte_ids", "added.id", "added.flags", "pieces.value"):
        with pytest.raises(BundleError, match=rf"tensor {name}: missing"):
            tokenizer({key: value for key, value in tables.items() if key != name}, case="upper")


def test_a_replacement_without_measure_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BundleError, match="a replacement of 65 characters"):
        tokenizer({**plain(), **replacement("case", {"a": "A" * 65})}, case="upper")


def test_an_unknown_id_outside_the_vocabulary_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BundleError, match="lacks the unknown id"):
        tokenizer(plain(), unknown=SIZE)


def test_unsorted_tables_are_harmless(tokenizer: Any) -> None:
    tables = plain()
    tables["symbols.symbol"] = tables["symbols.symbol"][::-1].copy()
    tables["merge_right"] = tables["merge_right"] + 10**9
    assert all(0 <= i < SIZE for i in tokenizer(tables, unknown=UNKNOWN).ids("abc é"))


def test_characters_that_no_text_has_are_harmless(tokenizer: Any) -> None:
    tables = {**plain(), **replacement("case", {"a": "A"}), "byte_ids": int32(range(256)) % SIZE}
    tables["case.to"] = int32([0xD800])
    assert tokenizer(tables, case="upper").ids("a") == [byte % SIZE for byte in (0xED, 0xA0, 0x80)]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    for name in ("bad", "missing"):
        with pytest.raises(BundleError, match=name):
            Tokenizer.load(tmp_path / name, Pieces.model_validate(WORDS))


@pytest.mark.parametrize(
    "change",
    [
        {"split": "cl100k"}, {"model": "unigram"}, {"normalize": ["nfd"]}, {"normalize": ["nfc", "nfc"]},
        {"normalize": ["nfc", "nfkc"]}, {"refused": [(5, 4)]}, {"refused": [(0, 0x110000)]}, {"unknown": -1},
        {"case": "lower"}, {"more": 1},
    ],
)  # fmt: skip
def test_words_outside_the_closed_list_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Pieces.model_validate(WORDS | change)


@pytest.mark.parametrize("text", ["a", "b c", "abc", "1", " ", "é"])
def test_time_is_linear_in_the_length(tokenizer: Any, text: str) -> None:
    """By counting lookups: no clock is steady enough."""
    tables = {**plain(), **NFC, **orders(), **merges(("a", "b"), ("b", "c"), ("a", "bc"))}
    counts = []
    for size in (1000, 2000):
        read = tokenizer(tables, normalize=["nfc"], split="llama3")
        counts.append(calls(lambda read=read, size=size: read.ids((text * size)[:size])))
    assert counts[1] < 2.2 * counts[0]


def calls(run: Any) -> int:
    """How many functions a call runs, all told."""
    import cProfile

    profile = cProfile.Profile()
    profile.runcall(run)
    return sum(entry.callcount for entry in profile.getstats())


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "text.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "pieces.safetensors"
    file.write_bytes(base64.b64decode(case["tables"]))
    tokenizer = Tokenizer.load(file, Pieces.model_validate(case["words"]))
    halves = [b"".join(u.to_bytes(2, "little") for u in units) for units in VECTORS["halves"]]
    for text, expected, odd in case["texts"]:
        assert tokenizer.encode(text) == expected, text
        assert [[found.index, found.index + len(found.characters)] for found in tokenizer.unsayable(text)] == odd, text
    for half, expected in zip(halves, case["halves"], strict=True):
        assert tokenizer.encode(half.decode("utf-16-le", "surrogatepass")) == expected
    for (unit, count), expected in zip(VECTORS["long"], case["long"], strict=True):
        found = tokenizer.encode((unit * count)[:count])
        assert [len(found), hashlib.sha256(",".join(map(str, found)).encode()).hexdigest()] == expected
