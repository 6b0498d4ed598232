"""From a text and a voice to the rows that a decoder is prefilled with, by the manifest's prefix program alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wand_export.errors import BundleError, InputError
from wand_export.host.bundle import MANIFEST, Bundle
from wand_export.host.pieces import Tokenizer
from wand_export.host.replace import read_table, replaced
from wand_export.host.sentences import Unsayable, lowered
from wand_export.host.text import Frontend
from wand_export.spec.manifest import Manifest
from wand_export.spec.pieces import PIECES_FILE
from wand_export.spec.recipe import PrefixPart
from wand_export.spec.text import REPLACE_FILE, TEXT_FOLDER
from wand_export.spec.voice import LATENTS

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


def load_text(bundle: Bundle) -> TextEncoder:
    """The text encoder of a bundle. Raises BundleError."""
    folder = bundle.path / TEXT_FOLDER
    if bundle.manifest.text.kind == "lexicon":
        return Frontend.load(folder)
    if bundle.manifest.pieces is None:
        raise BundleError(bundle.path / MANIFEST, "pieces: there are none", "export with the family's tokenizer")
    return Tokenizer.load(folder / PIECES_FILE, bundle.manifest.pieces)


@dataclass(frozen=True)
class Reader:
    """How a bundle reads texts: its encoder, and the words that are replaced before that."""

    encoder: TextEncoder
    replacements: Mapping[str, str]

    def replaced(self, text: str) -> str:
        """What the encoder is to read. Not to be called again with what it gave: words are replaced once."""
        return replaced(text, self.replacements)


def load_reader(bundle: Bundle, lexicon: Path | None = None, replace: Path | None = None) -> Reader:
    """The reader of a bundle, a user's own words before its own.

    Raises BundleError, and InputError as with_lexicon() and own_replacements() do.
    """
    encoder, replacements = load_text(bundle), dict[str, str]()
    if bundle.manifest.replaces:
        file = bundle.path / TEXT_FOLDER / REPLACE_FILE
        replacements = read_table(file, lambda old, new: (lowered(old), new), "export the bundle again", BundleError)
    if lexicon is not None:
        encoder = with_lexicon(encoder, lexicon, bundle.manifest.family)
    if replace is not None:
        replacements |= own_replacements(encoder, replace)
    return Reader(encoder, replacements)


def with_lexicon(encoder: TextEncoder | None, file: Path, family: str) -> Frontend:
    """The encoder with a user's own words. Raises InputError where it has no lexicon, and for a line."""
    if not isinstance(encoder, Frontend):
        raise InputError(file, f"{family} reads text by a tokenizer, not by phonemes", "write it out with --replace")
    return encoder.with_lexicon(file)


def own_replacements(encoder: TextEncoder | None, file: Path) -> dict[str, str]:
    """A user's own replacements, each of which the encoder, if any, can say. Raises InputError."""

    def entry(old: str, new: str) -> tuple[str, str]:
        if encoder is not None:
            if odd := encoder.unsayable(new):
                raise ValueError(f"cannot say {odd[0].characters!r} in {new!r}")
            for sentence in encoder.sentences(new):
                encoder.ids(sentence)
        return lowered(old), new

    return read_table(file, entry)


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
    if not found:
        raise InputError(manifest.family, "a prefix without rows", "choose a voice that brings the inputs it takes")
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
