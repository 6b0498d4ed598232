"""Tokenizers of every kind that a bundle can carry, compiled and held to `tokenizers` and SentencePiece; all others
are refused by name."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Judge

from tests.models.published import write_qwen_tokenizer, write_sentencepiece
from tests.vectors.small_tokenizers import (
    MARK,
    PATTERNS,
    TOKENS,
    byte_level,
    characterwise,
    normalized,
    with_tokens,
)
from wand_export.errors import CheckpointError
from wand_export.graph.text import characters, strings
from wand_export.graph.text.arrays import points, replacement, trie
from wand_export.graph.text.compare import compare
from wand_export.graph.text.compiler import Compiled, Reading, compile_tokenizer
from wand_export.graph.text.sentence_piece import compile_model, judge_of, read_model
from wand_export.host.pieces import Tokenizer
from wand_export.spec.pieces import Pieces

FILE = Path("tokenizer.json")

KINDS: dict[str, Callable[[], Judge]] = {
    "gpt2": lambda: byte_level("gpt2"),
    "gpt2, prefix": lambda: byte_level("gpt2", prefix=True),
    "bytes, no split": lambda: byte_level("none"),
    "qwen2": lambda: with_tokens(normalized(byte_level("qwen2"), normalizers.NFC())),
    "llama3": lambda: with_tokens(byte_level("llama3", ignore_merges=True, whole=["Ġlaw", "中", "ĠĠĠ"])),
    "nfkc, lowercase": lambda: with_tokens(
        normalized(byte_level("qwen2"), normalizers.NFKC(), normalizers.Lowercase())
    ),
    "nmt": lambda: normalized(byte_level("gpt2"), normalizers.Nmt(), normalizers.NFC()),
    "metaspace": lambda: with_tokens(characterwise(unk_token="<unk>", fuse_unk=True)),
    "metaspace, unfused": lambda: characterwise(unk_token="<unk>"),
    "metaspace, dropped": lambda: normalized(characterwise("never"), normalizers.Strip()),
    "metaspace, first": lambda: with_tokens(normalized(characterwise("first", byte_fallback=True), normalizers.NFC())),
    "mark": lambda: with_tokens(characterwise("always", split=False, byte_fallback=True, unk_token="<unk>")),
    "llama2": lambda: with_tokens(normalized(
        characterwise(None, byte_fallback=True, unk_token="<unk>", fuse_unk=True),
        normalizers.Prepend(MARK), normalizers.Replace(" ", MARK),
    )),
    "squeeze": lambda: normalized(characterwise(unk_token="<unk>"), normalizers.Replace(Regex(" {2,}"), " ")),
}  # fmt: skip


def loaded(folder: Path, compiled: Compiled) -> Tokenizer:
    save_file(compiled.tables, folder / "pieces.safetensors")
    return Tokenizer.load(folder / "pieces.safetensors", compiled.words)


def texts(vocabulary: Iterable[str], tokens: list[str], count: int = 1500) -> list[str]:
    given = strings.vocabulary_texts(list(vocabulary), 400)
    long = [text[:300] for text in strings.long_texts(300)]
    return [*strings.ODD, *given, *strings.random_texts(count, tokens), *long]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_as_tokenizers_does(kind: str, tmp_path: Path) -> None:
    judge = KINDS[kind]()
    tokenizer = loaded(tmp_path, compile_tokenizer(FILE, judge))
    given = texts(judge.get_vocab(), TOKENS)
    assert compare(FILE, tokenizer, lambda t: judge.encode(t, add_special_tokens=False).ids, given) == len(given)


@pytest.mark.parametrize("kind", ["qwen2", "metaspace"])
def test_capital_letters_are_pythons(kind: str, tmp_path: Path) -> None:
    judge = KINDS[kind]()
    tokenizer = loaded(tmp_path, compile_tokenizer(FILE, judge, Reading(capitals=True)))
    given = [
        *texts(judge.get_vocab(), TOKENS, 500),
        *("".join(map(chr, range(p, p + 64))) for p in range(0, 0x3000, 64)),
    ]
    compare(FILE, tokenizer, lambda t: judge.encode(t.upper(), add_special_tokens=False).ids, given)


def test_code_points_of_all_planes_read_as_tokenizers_does(tmp_path: Path) -> None:
    """Each with a letter, a mark, a digit, a space and an added token near it."""
    judge = normalized(with_tokens(byte_level("qwen2")), normalizers.NFC())
    tokenizer = loaded(tmp_path, compile_tokenizer(FILE, judge))
    every = [chr(p) for p in (*range(0xA0, 0xD800, 13), *range(0xE000, 0x20000, 17), *range(0x20000, 0x110000, 4099))]
    given = [f"x{c}{c}y {c}1 {c}\n{c}\u0301<t4>{c}" for c in every]
    compare(FILE, tokenizer, lambda t: judge.encode(t, add_special_tokens=False).ids, given)


@pytest.mark.parametrize(
    "options",
    [{}, {"byte_fallback": True}, {"user_defined_symbols": ["[LAUGH]", "<B>", "T-H"]}, {"add_dummy_prefix": False}],
    ids=str,
)  # fmt: skip
def test_a_sentencepiece_model_reads_as_sentencepiece_does(options: dict[str, Any], tmp_path: Path) -> None:
    """With marks behind letters, white space that is no U+0020 and control pieces, where `tokenizers` differs."""
    file = tmp_path / "bpe.model"
    write_sentencepiece(file, "bpe", vocab_size=320 if "byte_fallback" in options else 70, **options)
    tokenizer = read_model(file)
    compiled = compile_model(file, tokenizer, Reading(capitals=True))
    judge = judge_of(file)
    given = texts(tokenizer.get_vocab(), ["[laugh]", "<b>", "t-h", "<s>", "</s>", "<unk>"])
    compare(file, loaded(tmp_path, compiled), lambda text: judge(text.upper()), given)
    own = [text for text in ("\u3042\u3099", "\t a", "</s>") if judge(text) != tokenizer.encode(text).ids]
    assert own, "`tokenizers` does the same: then one judge is enough"


def test_a_sentencepiece_model_that_writes_marks_itself_is_refused_by_its_text(tmp_path: Path) -> None:
    file = tmp_path / "bpe.model"
    write_sentencepiece(file, "bpe", vocab_size=70, remove_extra_whitespaces=False)
    tokenizer = loaded(tmp_path, compile_model(file, read_model(file)))
    with pytest.raises(CheckpointError, match=r"bpe\.model: '   ' compiles to other ids: "):
        compare(file, tokenizer, judge_of(file), ["HALL", "   "])


def test_a_difference_shows_the_text_and_the_ids(tmp_path: Path) -> None:
    judge = byte_level("gpt2")
    compiled = compile_tokenizer(FILE, judge)
    other = loaded(tmp_path, Compiled(compiled.tables, compiled.words.model_copy(update={"split": "none"})))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: \"''s\" compiles to other ids: \[.+\], not \[.+\] "):
        compare(FILE, other, lambda t: judge.encode(t).ids, ["the law", "''s"])


def test_a_piece_that_merges_do_not_make_is_kept(tmp_path: Path) -> None:
    compiled = compile_tokenizer(FILE, KINDS["llama3"]())
    assert np.count_nonzero(compiled.tables["pieces.value"] >= 0) == 3
    assert "pieces.start" not in compile_tokenizer(FILE, byte_level("llama3")).tables


LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
REFUSED: dict[str, Callable[[], Any]] = {
    "model WordPiece": lambda: Judge(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")),
    "model WordLevel": lambda: Judge(models.WordLevel({"a": 0}, unk_token="a")),
    "model Unigram": lambda: Judge(models.Unigram([("a", 0.0)], 0, False)),
    "dropout 0.1": lambda: characterwise(dropout=0.1),
    "continuing_subword_prefix ##": lambda: Judge(models.BPE({"a": 0}, [], continuing_subword_prefix="##")),
    "end_of_word_suffix </w>": lambda: Judge(models.BPE({"a": 0}, [], end_of_word_suffix="</w>")),
    "normalizer NFD": lambda: normalized(characterwise(), normalizers.NFD()),
    "normalizer NFKD": lambda: normalized(characterwise(), normalizers.NFKD()),
    "normalizer StripAccents": lambda: normalized(characterwise(), normalizers.StripAccents()),
    "normalizer BertNormalizer": lambda: normalized(characterwise(), normalizers.BertNormalizer()),
    "normalizer Strip": lambda: normalized(characterwise(), normalizers.Strip(right=False)),
    "normalizer Prepend": lambda: normalized(characterwise(), normalizers.Prepend("x")),
    "normalizer ByteLevel": lambda: normalized(byte_level("gpt2"), normalizers.ByteLevel()),
    r"normalizer Replace .*\[a-z\]": lambda: normalized(characterwise(), normalizers.Replace(Regex("[a-z]"), "x")),
    "normalizer Replace .*xxx": lambda: normalized(characterwise(), normalizers.Replace("a", "x" * 65)),
    "a second normalizer Lowercase": lambda: normalized(
        characterwise(), normalizers.Lowercase(), normalizers.NFC(), normalizers.Lowercase()
    ),
    "a second normalizer NFKC": lambda: normalized(characterwise(), normalizers.NFC(), normalizers.NFKC()),
    "pre-tokenizer Digits": lambda: pre_tokenizers.Digits(),
    "pre-tokenizer Punctuation": lambda: pre_tokenizers.Punctuation(),
    "pre-tokenizer Bert": lambda: pre_tokenizers.BertPreTokenizer(),
    "pre-tokenizer Whitespace": lambda: pre_tokenizers.Whitespace(),
    "pre-tokenizer WhitespaceSplit": lambda: pre_tokenizers.WhitespaceSplit(),
    "pre-tokenizer UnicodeScripts": lambda: pre_tokenizers.UnicodeScripts(),
    "pre-tokenizer CharDelimiterSplit": lambda: pre_tokenizers.CharDelimiterSplit("-"),
    "pre-tokenizer Metaspace": lambda: pre_tokenizers.Metaspace("_"),
    "pre-tokenizer Split": lambda: pre_tokenizers.Split(" ", "merged_with_previous"),
    "pre-tokenizer Split .* and ByteLevel": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERNS["qwen2"]), "merged_with_next"), LEVEL]
    ),
    r"pre-tokenizer Split .*p\{M\}": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(O200K), "isolated"), LEVEL]
    ),
    "pre-tokenizer Split .*…。": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(BLOOM), "isolated"), LEVEL]
    ),
    "pre-tokenizer Digits .* and ByteLevel": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(True), LEVEL]),
    "pre-tokenizer Split .*add_prefix_space\": true": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERNS["llama3"]), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    ),
    "prepend_scheme first behind strip": lambda: normalized(characterwise("first"), normalizers.Strip()),
    "a byte-level vocabulary of 1 bytes": lambda: (lambda judge: setattr(judge, "pre_tokenizer", LEVEL) or judge)(
        Judge(models.BPE({"a": 0}, []))
    ),
    "a byte fallback of 1 bytes": lambda: Judge(models.BPE({"<0x00>": 0}, [], byte_fallback=True)),
    "added token ' ', which its normalizer empties": lambda: (
        lambda judge: (judge.add_tokens([AddedToken(" ", normalized=True)]), judge)[1]
    )(normalized(characterwise(), normalizers.Strip())),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_host_knows_is_refused_by_name(name: str) -> None:
    made = REFUSED[name]()
    if not isinstance(made, Judge):
        judge = characterwise(None)
        judge.pre_tokenizer, made = made, judge
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {name}.*no host knows it"):
        compile_tokenizer(FILE, made)


def test_a_trie_finds_all_of_its_keys_and_shares_their_ends(tmp_path: Path) -> None:
    keys = {points(key): n % 3 for n, key in enumerate(["", "a", "abc", "abd", "xbc", "xbd", "é", "ab" * 2000])}
    tables = trie("t", keys)
    assert len(tables["t.value"]) < 4010
    found, start = {}, tables["t.start"]
    pending = [(0, ())]
    while pending:
        node, key = pending.pop()
        if tables["t.value"][node] >= 0:
            found[key] = tables["t.value"][node]
        edges = range(start[node], start[node + 1])
        assert all(tables["t.next"][edge] > node for edge in edges)
        assert sorted(tables["t.symbol"][list(edges)]) == list(tables["t.symbol"][list(edges)])
        pending += [(tables["t.next"][edge], (*key, tables["t.symbol"][edge])) for edge in edges]
    assert found == keys
    assert {key: len(value) for key, value in trie("none", {}).items()} == {
        "none.start": 2, "none.symbol": 0, "none.next": 0, "none.value": 1
    }  # fmt: skip


def test_equal_replacements_are_stored_once() -> None:
    assert replacement("r", {"a": "xy", "b": "xy", "c": ""})["r.to"].tolist() == [ord("x"), ord("y")]


def test_the_judge_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(characters, "changes", lambda normalizer: asked.append(1) or {"A": "a"})
    fresh = characters.tables_of.__wrapped__
    first = fresh("lowercase")
    assert len(asked) == 1 and first["lowercase.to"].tolist() == [97]
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    again = fresh("lowercase")
    assert len(asked) == 1 and again.keys() == first.keys()
    for damage in (b"", b"\0" * 10, file.read_bytes()[:-1], bytes(32) + file.read_bytes()[32:]):
        file.write_bytes(damage)
        assert fresh("lowercase")["lowercase.to"].tolist() == [97]
    assert len(asked) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # no folder
    assert fresh("lowercase")["lowercase.to"].tolist() == [97]


def test_an_export_never_asks_for_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("wand_export.graph.text.compiler.tables_of", lambda name: asked.append(name) or {})
    compile_tokenizer(FILE, byte_level("llama3"))
    assert asked == ["classes"]


def test_qwens_files_are_compiled(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_qwen_tokenizer(tmp_path)
    judge = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    compiled = compile_tokenizer(FILE, judge, Reading(refused=[(0x4E00, 0x9FFF)]))
    assert compiled.words == Pieces(
        refused=[(0x4E00, 0x9FFF)], normalize=["nfc"], split="qwen2", prefix="never", alphabet="bytes", model="bpe",
        unknown=None, fuse_unknown=False,
    )  # fmt: skip
    tokenizer = loaded(tmp_path, compiled)
    assert tokenizer.ids("hel<|im_end|>") == judge.encode("hel<|im_end|>", add_special_tokens=False).ids
