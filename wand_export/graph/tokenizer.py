"""The tokenizer of a checkpoint as one tokenizer.json, and a recipe's strings as its ids."""

from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from wand_export.errors import CheckpointError, InputError
from wand_export.graph.checkpoint import Checkpoint
from wand_export.host.prompt import TOKENIZER_FILE
from wand_export.spec.recipe import PrefixPart, Recipe
from wand_export.spec.schema import read_text

UNIGRAM, BPE = 1, 2
"""model_type of a SentencePiece model."""


def load_tokenizer(source: Checkpoint) -> tokenizers.Tokenizer | None:
    """The tokenizer of a checkpoint; None where its recipe needs none, or random weights have none.

    Raises CheckpointError or InputError naming the file that is missing or no tokenizer, or an id that is not the
    one that the recipe relies on.
    """
    text = source.recipe.text
    if text.kind != "tokenizer":
        return None
    try:
        files = [source.find(name) for name in text.files]
    except InputError:
        if source.path is None:
            return None
        raise
    try:
        tokenizer = _read(files[0])
    except Exception as error:  # its readers raise bare Exceptions
        reason = f"no tokenizer: {error}".splitlines()[0]
        raise CheckpointError(files[0], reason, "give the family's own file") from error
    if text.added_tokens:
        tokenizer.add_special_tokens(text.added_tokens)
    for token, wanted in text.tokens.items():
        if (found := tokenizer.token_to_id(token)) != wanted:
            fix = f"is it of family {source.recipe.family}? else use another --recipe"
            raise CheckpointError(files[0], f"{token} has id {found}, not {wanted}", fix)
    return tokenizer


def _read(file: Path) -> tokenizers.Tokenizer:
    if file.name == TOKENIZER_FILE:
        return tokenizers.Tokenizer.from_str(read_text(file))
    if file.suffix == ".model":
        return _from_sentencepiece(file)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(file.parent, local_files_only=True).backend_tokenizer


def _from_sentencepiece(file: Path) -> tokenizers.Tokenizer:
    """A SentencePiece model, unigram or BPE, as the same tokenizer. Raises ValueError for another kind."""
    from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(file.read_bytes())
    trainer, pieces = proto.trainer_spec, [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
    if trainer.model_type == UNIGRAM:
        model: models.Model = models.Unigram(pieces, trainer.unk_id, trainer.byte_fallback)
    elif trainer.model_type == BPE:
        merges = generate_merges(vocabulary, dict(pieces))
        unknown = pieces[trainer.unk_id][0]
        model = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback)
    else:
        raise ValueError(f"SentencePiece model type {trainer.model_type} is neither unigram nor BPE")
    tokenizer = tokenizers.Tokenizer(model)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    spaces = [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.Precompiled(charsmap)] if charsmap else []), *spaces])
    scheme = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=True)
    controls = [piece.piece for piece in proto.pieces if piece.type in (piece.CONTROL, piece.USER_DEFINED)]
    tokenizer.add_special_tokens(controls)
    return tokenizer


def resolved(recipe: Recipe, tokenizer: tokenizers.Tokenizer | None) -> Recipe:
    """The recipe as a bundle holds it: with the ids of its literals and of its stop tokens, and one tokenizer.json.

    Without a tokenizer, which only random weights may lack, literals and stop tokens are left out.
    """

    def part(wanted: PrefixPart) -> PrefixPart:
        assert tokenizer is not None
        ids = tokenizer.encode(wanted.literal, add_special_tokens=False).ids
        return wanted.model_copy(update={"literal": None, "ids": ids})

    if tokenizer is None:
        prefix, stops = [wanted for wanted in recipe.prefix if wanted.literal is None], list[int]()
    else:
        prefix = [wanted if wanted.literal is None else part(wanted) for wanted in recipe.prefix]
        stops = [_id_of(recipe, tokenizer, token) for token in recipe.stop.tokens]
    stop = recipe.stop.model_copy(update={"ids": [*recipe.stop.ids, *stops], "tokens": []})
    text = recipe.text
    if text.kind == "tokenizer":
        text = text.model_copy(update={"files": [TOKENIZER_FILE], "added_tokens": [], "tokens": {}})
    return recipe.model_copy(update={"prefix": prefix, "stop": stop, "text": text})


def _id_of(recipe: Recipe, tokenizer: tokenizers.Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise InputError(recipe.family, f"its tokenizer has no {token}", "give the family's own tokenizer")
    return int(found)
