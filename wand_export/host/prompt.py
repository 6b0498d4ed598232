"""From a text and a voice to the rows that a decoder is prefilled with, by the manifest's prefix program alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from wand_export.errors import BundleError, InputError
from wand_export.host.bundle import Bundle
from wand_export.host.sentences import CONTROL, Unsayable, located, sentences, trimmed
from wand_export.host.text import Frontend
from wand_export.spec.manifest import Manifest
from wand_export.spec.recipe import PrefixPart, Text
from wand_export.spec.voice import LATENTS

TEXT_FOLDER, TOKENIZER_FILE = "text", "tokenizer.json"

Floats = npt.NDArray[np.float32]

Inputs = Mapping[str, Sequence[int] | Floats]
"""The prefix program's inputs by name: latents as float32 [n, D], all others as token ids. An absent one is empty."""

Stretch = tuple[str, Sequence[int] | Floats]
"""Neighbouring rows of the prefix: the table and the ids in it, or LATENTS and the rows themselves."""


class PrefixOverflow(InputError):
    """A prefix of more tokens than fit. parts: of a text that makes it so long, at least so many are needed."""

    def __init__(self, family: str, tokens: int, capacity: int, wider: str) -> None:
        fix = f"{capacity} fit; shorten the text or the voice's prompt{wider}"
        super().__init__(family, f"a prefix of {tokens} tokens", fix)
        self.tokens, self.parts = tokens, -(-tokens // capacity)


class TextEncoder(Protocol):
    """How a voice reads text."""

    def ids(self, text: str) -> list[int]:
        """Token ids of a sentence. Raises ValueError if it cannot be said."""
        ...

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text, none of them empty."""
        ...

    def unsayable(self, text: str) -> list[Unsayable]:
        """What of a text cannot be said, in order."""
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

        Control tokens by their strings are read as such, for a template may hold them. Raises ValueError for a
        character that the family cannot say.
        """
        if odd := located(text, self._odd(text)):
            raise ValueError(f"cannot say {odd[0]}")
        if self.text.uppercase:
            text = text.upper()
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text of any script."""
        return sentences(text)

    def unsayable(self, text: str) -> list[Unsayable]:
        """Controls, characters that the family refuses, and strings that would be read as control tokens."""
        odd, controls = self._odd(text), self._controls
        if controls:
            shown = (" " if character in CONTROL else character for character in text)
            if self.text.uppercase:
                shown = (capital if len(capital := character.upper()) == 1 else character for character in shown)
            encoded = self.tokenizer.encode("".join(shown), add_special_tokens=False)
            odd += [span for i, span in zip(encoded.ids, encoded.offsets, strict=True) if i in controls]
        return located(text, sorted(odd))

    def _odd(self, text: str) -> list[tuple[int, int]]:
        odd = {(i, i + 1) for i, character in enumerate(text) if character in CONTROL}
        if self.text.unsupported:
            odd.update(found.span() for found in re.finditer(self.text.unsupported, text))
        return sorted(odd)

    @cached_property
    def _controls(self) -> frozenset[int]:
        """Ids of added tokens that steer the model, those left out that a text may hold: markup, and mere spaces."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        allowed = self.text.markup
        return frozenset(i for i, token in added if len(trimmed(token.content)) > 1 and token.content not in allowed)


def load_text(bundle: Bundle) -> TextEncoder:
    """The text encoder of a bundle. Raises BundleError."""
    folder = bundle.path / TEXT_FOLDER
    if bundle.manifest.text.kind == "lexicon":
        return Frontend.load(folder)
    return Tokenizer.load(folder / TOKENIZER_FILE, bundle.manifest.text)


def stretches(manifest: Manifest, inputs: Inputs) -> list[Stretch]:
    """The prefix in stretches: neighbours from one table are one, over which learned positions count.

    Raises InputError for an input that the prefix program does not take, an empty text, a missing or misfitting
    input, and PrefixOverflow for a prefix beyond capacity.
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
    tokens, capacity = sum(len(ids) for _, ids in found), manifest.kv_cache.prefix_capacity
    if tokens > capacity:
        raise PrefixOverflow(manifest.family, tokens, capacity, f", or export with --prefix {tokens}")
    for name, rows in found:
        positions = None if name == LATENTS else manifest.tables[name].positions
        if positions is not None and len(rows) > manifest.tables[positions].rows:
            raise PrefixOverflow(manifest.family, len(rows), manifest.tables[positions].rows, ": these are learned")
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
