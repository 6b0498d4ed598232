"""From a text and a voice to the rows that a decoder is prefilled with, by the manifest's prefix program alone."""

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
from wand_export.spec.recipe import PrefixPart, Text
from wand_export.spec.voice import LATENTS

TEXT_FOLDER, TOKENIZER_FILE = "text", "tokenizer.json"
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")

Floats = npt.NDArray[np.float32]

Inputs = Mapping[str, Sequence[int] | Floats]
"""The prefix program's inputs by name: latents as float32 [n, D], all others as token ids. An absent one is empty."""

Stretch = tuple[str, Sequence[int] | Floats]
"""Neighbouring rows of the prefix: the table and the ids in it, or LATENTS and the rows themselves."""


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
    """A text encoder over a tokenizer.json, in capital letters and without some characters where `text` says so."""

    tokenizer: tokenizers.Tokenizer
    text: Text

    @classmethod
    def load(cls, file: Path, text: Text) -> "Tokenizer":
        """Raises BundleError if the file is missing or no tokenizer."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)), text)
        except Exception as error:  # the library raises bare Exceptions
            raise BundleError(file, f"no tokenizer: {error}", "export the bundle again") from error

    def ids(self, text: str) -> list[int]:
        """Token ids, without the tokenizer's special ones: the prefix program names those that are wanted.

        Raises ValueError for a character that the family cannot say.
        """
        if self.text.unsupported and (found := re.search(self.text.unsupported, text)):
            raise ValueError(f"cannot say {found[0]!r} (character {found.start()})")
        if self.text.uppercase:
            text = text.upper()
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"its tokenizer cannot read {text[:60]!r}: {error}") from error
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
    return Tokenizer.load(folder / TOKENIZER_FILE, bundle.manifest.text)


def stretches(manifest: Manifest, inputs: Inputs) -> list[Stretch]:
    """The prefix in stretches: neighbours from one table are one, over which learned positions count.

    Raises InputError for an input that the prefix program does not take, an empty text, a missing or misfitting
    input, or a prefix beyond capacity.
    """
    known = {part.input for part in manifest.prefix if part.input is not None}
    for name in inputs:
        if name not in known:
            fix = f"it takes: {', '.join(sorted(known))}"
            raise InputError(manifest.family, f"no input {name!r} in its prefix", fix)
    if "text" in known and _length(inputs, "text") == 0:
        raise InputError(manifest.family, "a text without tokens", "give some text")
    found: list[Stretch] = []
    for part in manifest.prefix:
        if part.given is not None and _length(inputs, part.given) == 0:
            continue
        ids = part.ids if part.input is None else part_ids(manifest, part, inputs)
        if part.table is None:
            found.append((LATENTS, inputs[LATENTS]))
        elif ids and found and found[-1][0] == part.table:
            found[-1] = part.table, [*found[-1][1], *ids]
        elif ids:
            found.append((part.table, ids))
    if not found:
        raise InputError(manifest.family, "a prefix without rows", "choose a voice that brings the inputs it takes")
    tokens = sum(len(ids) for _, ids in found)
    capacity = manifest.kv_cache.prefix_capacity
    if tokens > capacity:
        fix = f"{capacity} fit; shorten the sentence, or export with --prefix {tokens}"
        raise InputError(manifest.family, f"a prefix of {tokens} tokens", fix)
    return found


def _length(inputs: Inputs, name: str) -> int:
    return len(inputs[name]) if name in inputs else 0


def part_ids(manifest: Manifest, part: PrefixPart, inputs: Inputs) -> list[int]:
    """The table's ids of a part that takes an input; latents have none. Raises InputError if the input does not fit."""
    assert part.input is not None
    count = _length(inputs, part.input)
    if part.length is not None and count != part.length:
        fix = f"choose a voice that has its {part.length}" if not count else f"it takes {part.length}"
        raise InputError(manifest.family, f"{count} {part.input}", fix)
    if part.table is None:
        shape = list(np.shape(inputs[part.input]))
        if shape[1:] != [manifest.model.hidden]:
            raise InputError(manifest.family, f"latents of shape {shape}", f"they are rows of {manifest.model.hidden}")
        return []
    ids = [int(i) for i in inputs[part.input]] if count else []
    below = part.codes or manifest.tables[part.table].rows - part.offset
    for i in ids:
        if not 0 <= i < below:
            raise InputError(manifest.family, f"{part.input} hold id {i}", f"they run from 0 to {below - 1}")
    return [i + part.offset for i in ids]


def prefix_rows(bundle: Bundle, inputs: Inputs) -> Floats:
    """The rows of the prefix, float32 [p, D].

    Raises InputError as stretches() does, and for ids or positions outside their tables.
    """
    return rows_of(bundle, stretches(bundle.manifest, inputs))


def rows_of(bundle: Bundle, prefix: Sequence[Stretch]) -> Floats:
    """The rows of stretches, float32 [p, D]; learned positions count from 0 in each. Raises InputError."""
    tables = bundle.manifest.tables
    rows = [
        np.asarray(ids, np.float32)
        if table == LATENTS
        else bundle.embed(table, ids, range(len(ids)) if tables[table].positions else None)
        for table, ids in prefix
    ]
    return np.concatenate(rows)


def first_position(manifest: Manifest, prefix: Sequence[Stretch]) -> int:
    """The learned position of the first generated token behind these stretches.

    It continues a prefix that ends in speech, less the positions that the family leaves out there.
    """
    table, ids = prefix[-1]
    return (len(ids) if table == manifest.speech_table else 0) + manifest.skipped_positions
