"""The tokenizer of a checkpoint as tables that hosts read, and a recipe's strings as its ids."""

import re
from itertools import pairwise
from pathlib import Path

import tokenizers

from wand_export.errors import CheckpointError, InputError
from wand_export.graph.checkpoint import Checkpoint
from wand_export.graph.text import strings
from wand_export.graph.text.arrays import CODE_POINTS
from wand_export.graph.text.characters import characters
from wand_export.graph.text.compare import Judge, compare
from wand_export.graph.text.compiler import Compiled, Reading, compile_tokenizer
from wand_export.graph.text.sentence_piece import SUFFIX, compile_model, judge_of, read_model
from wand_export.spec.pieces import PIECES_FILE
from wand_export.spec.recipe import PrefixPart, Recipe
from wand_export.spec.schema import read_text

TOKENIZER_FILE = "tokenizer.json"
COMPARED_PIECES, COMPARED_TEXTS, LONGEST_TEXT = 2000, 3000, 2000
"""How many of the vocabulary and of random texts tables are compared on, and the size of the longest."""


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


def compile_text(source: Checkpoint, tokenizer: tokenizers.Tokenizer) -> Compiled:
    """The tokenizer that load_tokenizer() gave, as a bundle holds it.

    Raises CheckpointError for what no host knows, and for a text of thousands that would be read otherwise.
    """
    text = source.recipe.text
    file = source.find(text.files[0])
    reading = Reading(text.uppercase, _ranges(text.unsupported), text.markup)
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if file.suffix == SUFFIX:
        compiled, judge = compile_model(file, tokenizer, reading), judge_of(file)
    else:
        compiled, judge = compile_tokenizer(file, tokenizer, reading), _judge(tokenizer)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = [
        text.sample,
        *strings.ODD,
        *strings.vocabulary_texts(list(tokenizer.get_vocab()), COMPARED_PIECES),
        *strings.random_texts(COMPARED_TEXTS, added),
        *strings.long_texts(LONGEST_TEXT),
    ]
    compare(file, compiled.tokenizer(), lambda t: judge(t.upper() if text.uppercase else t), texts)
    return compiled


def _judge(tokenizer: tokenizers.Tokenizer) -> Judge:
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _ranges(pattern: str | None) -> list[tuple[int, int]]:
    """The [first, last] code points that a regular expression of single characters matches."""
    if pattern is None:
        return []
    points = [ord(character) for character in characters() if re.fullmatch(pattern, character)]
    starts = [point for before, point in pairwise([-2, *points]) if point > before + 1]
    ends = [point for point, behind in pairwise([*points, CODE_POINTS + 1]) if behind > point + 1]
    return list(zip(starts, ends, strict=True))


def _read(file: Path) -> tokenizers.Tokenizer:
    if file.name == TOKENIZER_FILE:
        return tokenizers.Tokenizer.from_str(read_text(file))
    if file.suffix == SUFFIX:
        return read_model(file)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(file.parent, local_files_only=True).backend_tokenizer


def resolved(recipe: Recipe, tokenizer: tokenizers.Tokenizer | None) -> Recipe:
    """The recipe as a bundle holds it: with the ids of its literals and of its stop tokens.

    What it tells its tokenizer is in the tables and in the manifest's `pieces`. Without a tokenizer, which
    only random weights may lack, literals and stop tokens are left out.
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
        said = {"added_tokens": [], "tokens": {}, "uppercase": False, "unsupported": None, "markup": []}
        text = text.model_copy(update={"files": [PIECES_FILE], **said})
    return recipe.model_copy(update={"prefix": prefix, "stop": stop, "text": text})


def _id_of(recipe: Recipe, tokenizer: tokenizers.Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise InputError(recipe.family, f"its tokenizer has no {token}", "give the family's own tokenizer")
    return int(found)
