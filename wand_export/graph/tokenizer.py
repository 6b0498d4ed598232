"""The tokenizer of a checkpoint as one tokenizer.json, and a recipe's strings as its ids."""

from pathlib import Path

import tokenizers

from wand_export.errors import CheckpointError, InputError
from wand_export.graph.checkpoint import Checkpoint
from wand_export.graph.text.sentence_piece import SUFFIX, read_model
from wand_export.host.prompt import TOKENIZER_FILE
from wand_export.spec.recipe import PrefixPart, Recipe
from wand_export.spec.schema import read_text


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
    if file.suffix == SUFFIX:
        return read_model(file)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(file.parent, local_files_only=True).backend_tokenizer


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
