"""Holding compiled tables, as they lie on disk, to the library that the tokenizer was made for."""

from collections.abc import Callable, Iterable
from pathlib import Path

from wand_export.errors import CheckpointError
from wand_export.host.pieces import Tokenizer

Judge = Callable[[str], list[int]]
"""A text to its ids, as the family's own code has them."""


def compare(file: Path, tokenizer: Tokenizer, judge: Judge, texts: Iterable[str]) -> int:
    """How many texts have the same ids by both. Raises CheckpointError showing the first text that has not.

    file: what the tokenizer was compiled from.
    """
    count = 0
    for text in texts:
        found, wanted = tokenizer.encode(text), judge(text)
        if found != wanted:
            at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), 0)
            ids = f"{found[at : at + 8]}, not {wanted[at : at + 8]}"
            raise CheckpointError(file, f"{text[:80]!r} compiles to other ids: {ids}", "report it with the file")
        count += 1
    return count
