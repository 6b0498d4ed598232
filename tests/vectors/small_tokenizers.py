"""Tokenizers of a few merges, of every kind that a bundle can carry."""

from typing import Any

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Judge

from wand_export.graph.text.compiler import BYTES, SPLITS

MARK = "▁"
MERGES = [(b"t", b"h"), (b"h", b"e"), (b"l", b"l"), (b"he", b"ll"), (b" ", b"t"), (b" t", b"he"), (b"\r", b"\n"),
          (b"1", b"2"), (b"\xcc", b"\x81"), (b"\xe4", b"\xb8"), (b" ", b" "), (b"'", b"s")]  # fmt: skip
PATTERNS = {name: pattern for pattern, name in SPLITS.items()}


def byte_level(split: str, prefix: bool = False, **options: Any) -> Judge:
    """A byte-level BPE with this split: "none", "gpt2", "qwen2" or "llama3"."""
    letters = {byte: letter for letter, byte in BYTES.items()}
    merges = [("".join(letters[b] for b in left), "".join(letters[b] for b in right)) for left, right in MERGES]
    vocabulary = {piece: i for i, piece in enumerate([*BYTES, *map("".join, merges)])}
    for piece in options.pop("whole", []):
        vocabulary[piece] = len(vocabulary)
    judge = Judge(models.BPE(vocabulary, merges, **options))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split == "gpt2")
    if split in PATTERNS:
        cut = pre_tokenizers.Split(Regex(PATTERNS[split]), "isolated")
        judge.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    else:
        judge.pre_tokenizer = level
    return judge


def characterwise(scheme: str | None = "always", split: bool = True, **options: Any) -> Judge:
    """A BPE over characters, its words told apart by U+2581 unless scheme is None."""
    symbols = [*map(chr, range(33, 127)), MARK, *"éèñü中文가각̣́ß½ⅷ"]
    vocabulary = {symbol: i for i, symbol in enumerate(["<unk>", *symbols])}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), (MARK, "t"), (f"{MARK}t", "he"), (MARK, MARK), ("e", "́")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    if options.get("byte_fallback"):
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    judge = Judge(models.BPE(vocabulary, merges, **options))
    if scheme:
        judge.pre_tokenizer = pre_tokenizers.Metaspace(MARK, prepend_scheme=scheme, split=split)
    return judge


def normalized(judge: Judge, *steps: normalizers.Normalizer) -> Judge:
    judge.normalizer = normalizers.Sequence(list(steps)) if len(steps) > 1 else steps[0]
    return judge


def with_tokens(judge: Judge) -> Judge:
    """Added tokens with every flag, overlapping ones, and two that are one in their normal form."""
    for i in range(16):
        flags = {"lstrip": bool(i & 1), "rstrip": bool(i & 2), "single_word": bool(i & 4), "normalized": bool(i & 8)}
        judge.add_tokens([AddedToken(f"<t{i}>", **flags), AddedToken(f"wo\u00e9{i}x", **flags)])
    judge.add_tokens([AddedToken("<a", normalized=False), AddedToken("<a>b", normalized=False), AddedToken("ab")])
    judge.add_special_tokens([AddedToken("\u00c5ng", normalized=True), AddedToken("[laughter]", special=True)])
    return judge


TOKENS = [*(f"<t{i}>" for i in range(16)), "wo\u00e98x", "woe\u030110x", "<a>b", "ab", "A\u030ang", "[laughter]", "<a>"]
