"""A SentencePiece model as a tokenizer of `tokenizers`, and as tables that read text as SentencePiece itself does.

The two differ: `tokenizers` finds control pieces in text, strips all white space instead of U+0020, and applies the
model's normalizer to groups of characters, where it may lose marks.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from wand_export.graph.text.compare import Judge
from wand_export.graph.text.compiler import SPACE_MARK, TRIM, Compiled, Reading, compile_spec

SUFFIX = ".model"
BPE = 2
"""model_type of a SentencePiece model."""


def read_model(file: Path) -> tokenizers.Tokenizer:
    """A SentencePiece model as `tokenizers` has it. Raises ValueError for another kind than BPE."""
    from transformers.convert_slow_tokenizer import generate_merges

    proto = _proto(file)
    trainer, pieces = proto.trainer_spec, [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
    if trainer.model_type != BPE:
        raise ValueError(f"SentencePiece model type {trainer.model_type} is not BPE ({BPE}): no host knows it")
    merges = generate_merges(vocabulary, dict(pieces))
    unknown = pieces[trainer.unk_id][0]
    model = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback)
    tokenizer = tokenizers.Tokenizer(model)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    spaces = [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.Precompiled(charsmap)] if charsmap else []), *spaces])
    scheme = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE_MARK, prepend_scheme=scheme, split=True)
    controls = [piece.piece for piece in proto.pieces if piece.type in (piece.CONTROL, piece.USER_DEFINED)]
    tokenizer.add_special_tokens(controls)
    return tokenizer


def compile_model(file: Path, tokenizer: tokenizers.Tokenizer, reading: Reading | None = None) -> Compiled:
    """Compile a model that read_model() read, with the tokens that were added to it since.

    User-defined pieces are symbols that are never taken apart; control pieces are not found in text. Raises
    CheckpointError as compile_tokenizer() does.
    """
    proto = _proto(file)
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    for step in spec["normalizer"]["normalizers"]:
        if step["type"] == "Strip":
            step["type"] = TRIM
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] >= len(proto.pieces)]
    whole = frozenset(piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED)
    return compile_spec(file, spec, str, reading or Reading(), whole)


def judge_of(file: Path) -> Judge:
    """SentencePiece itself."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return lambda text: processor.encode(text)


def _proto(file: Path) -> Any:
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(file.read_bytes())
    return proto
