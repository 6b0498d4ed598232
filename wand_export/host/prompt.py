"""From a text to the rows that a decoder is prefilled with, by the manifest's prefix program alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from wand_export.errors import BundleError, InputError
from wand_export.host.bundle import Bundle
from wand_export.host.text import Frontend
from wand_export.spec.manifest import Manifest

TEXT_FOLDER = "text"
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")

Inputs = Mapping[str, Sequence[int]]
"""Token ids of the prefix program's inputs: "text", "prompt_text", "prompt_tokens". An absent one is empty."""


class TextEncoder(Protocol):
    """How a voice reads text."""

    def ids(self, text: str) -> list[int]:
        """Token ids of a sentence. Raises ValueError if it cannot be said."""
        ...

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text, none of them empty."""
        ...


@dataclass(frozen=True)
class Tokenizer:
    """A text encoder over a tokenizer.json."""

    tokenizer: tokenizers.Tokenizer

    @classmethod
    def load(cls, file: Path) -> "Tokenizer":
        """Raises BundleError if the file is missing or no tokenizer."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises bare Exceptions
            raise BundleError(file, f"no tokenizer: {error}", "export the bundle again") from error

    def ids(self, text: str) -> list[int]:
        """Token ids, without the tokenizer's special ones: the prefix program names those that are wanted."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def sentences(self, text: str) -> list[str]:
        """Split text behind . ! ? that a space follows, behind their Chinese forms, and at line ends."""
        pieces = (piece.strip() for piece in _SENTENCE_ENDS.split(text))
        return [piece for piece in pieces if piece]


def load_text(bundle: Bundle) -> TextEncoder:
    """The text encoder of a bundle. Raises BundleError."""
    folder = bundle.path / TEXT_FOLDER
    if bundle.manifest.text.kind == "lexicon":
        return Frontend.load(folder)
    return Tokenizer.load(folder / "tokenizer.json")


def stretches(manifest: Manifest, inputs: Inputs) -> list[tuple[str, list[int]]]:
    """The prefix as (table, ids): neighbours from one table are one stretch, over which learned positions count.

    Raises InputError for an input that the prefix program does not take, an empty text, or a prefix beyond capacity.
    """
    known = {part.input for part in manifest.prefix if part.input is not None}
    for name in inputs:
        if name not in known:
            raise InputError(
                manifest.family, f"no input {name!r} in its prefix", f"it takes: {', '.join(sorted(known))}"
            )
    if "text" in known and not inputs.get("text"):
        raise InputError(manifest.family, "a text without tokens", "give some text")
    found: list[tuple[str, list[int]]] = []
    for part in manifest.prefix:
        ids = part.ids if part.input is None else inputs.get(part.input)
        if not ids:
            continue
        if not found or found[-1][0] != part.table:
            found.append((part.table, []))
        found[-1][1].extend(ids)
    tokens = sum(len(ids) for _, ids in found)
    capacity = manifest.kv_cache.prefix_capacity
    if tokens > capacity:
        fix = f"{capacity} fit; shorten the sentence, or export with --prefix {tokens}"
        raise InputError(manifest.family, f"a prefix of {tokens} tokens", fix)
    return found


def prefix_rows(bundle: Bundle, inputs: Inputs) -> npt.NDArray[np.float32]:
    """The rows of the prefix, float32 [p, D].

    Raises InputError as stretches() does, and for ids or positions outside their tables.
    """
    return rows_of(bundle, stretches(bundle.manifest, inputs))


def rows_of(bundle: Bundle, prefix: Sequence[tuple[str, Sequence[int]]]) -> npt.NDArray[np.float32]:
    """The rows of stretches, float32 [p, D]; learned positions count from 0 in each. Raises InputError."""
    tables = bundle.manifest.tables
    rows = [bundle.embed(table, ids, range(len(ids)) if tables[table].positions else None) for table, ids in prefix]
    return np.concatenate(rows)


def first_position(manifest: Manifest, inputs: Inputs) -> int:
    """The learned position of the first generated token: it continues a prefix that ends in speech."""
    table, ids = stretches(manifest, inputs)[-1]
    return len(ids) if table == manifest.speech_table else 0
