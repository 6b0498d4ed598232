"""An export before anything is emitted: all that can be refused by then, and the manifest as far as it is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from wand_export import __version__
from wand_export.audio.bundled import Asked, open_asked
from wand_export.errors import CheckpointError, InputError, whole_number
from wand_export.graph.checkpoint import Checkpoint
from wand_export.graph.half import beyond_half, needs_half
from wand_export.graph.hub import name_of
from wand_export.graph.text.compiler import Compiled
from wand_export.graph.tokenizer import compile_text, load_tokenizer, resolved
from wand_export.graph.upstream import compare_with_transformers
from wand_export.host.prompt import (
    PrefixOverflow,
    TextEncoder,
    first_position,
    own_replacements,
    stretches,
    with_lexicon,
)
from wand_export.host.runtimes.onnx import whole_decoder
from wand_export.host.text import Frontend
from wand_export.host.voices import load_voice
from wand_export.layout import KV_FORMULA, Layout, kv_bytes
from wand_export.spec.audio import AudioDecoder, AudioGraph
from wand_export.spec.manifest import Audio, EmbeddingTable, Head, KVCache, Manifest, Model, Source
from wand_export.spec.recipe import Recipe
from wand_export.spec.schema import explain
from wand_export.spec.target import Target
from wand_export.spec.text import LEXICON_FILE, TEXT_FILE
from wand_export.spec.voice import LATENTS, VOICE_FILE, is_folder_name

AUDIO_FOLDER, AUDIO_RUNTIME = "audio", "onnx"
WHOLE, WHOLE_FILE = "whole", f"{AUDIO_FOLDER}/{AUDIO_RUNTIME}/decoder.onnx"
"""A family's own audio decoder comes as an ONNX file and speaks whole utterances."""
BEYOND_WRAP = 32
"""Parity at export runs this many steps past the window; wand verify with the checkpoint runs four windows."""


@dataclass(frozen=True)
class Draft:
    """What an export will be. manifest: without artifacts and files; text: the compiled tokenizer, None for a lexicon
    and where random weights lack one; lexicon: with the user's own words, None where there are none of these;
    replacements: the user's; voices: folder by name; audio_decoder, audio: what the user gave, if anything;
    warnings: what the user should know, to which emitting adds."""

    source: Checkpoint
    layout: Layout
    targets: list[Target]
    manifest: Manifest
    text: Compiled | None
    lexicon: dict[str, str] | None
    replacements: dict[str, str]
    voices: dict[str, Path]
    audio_decoder: Path | None
    audio: Asked | None
    warnings: list[str]


def draft_of(
    source: Checkpoint,
    targets: list[Target],
    window: int | None,
    prefix: int | None,
    voices: Sequence[Path],
    audio_decoder: Path | None,
    audio: Asked | None,
    lexicon: Path | None,
    replace: Path | None,
    report: Callable[[str], None],
) -> Draft:
    """Check everything that an export is given, down to rung 0 of the parity ladder. Raises InputError."""
    layout, warnings = _layout(source, window, prefix)
    tokenizer = load_tokenizer(source)
    if tokenizer is not None:
        report("compiling the tokenizer")
    text = tokenizer and compile_text(source, tokenizer)
    try:
        manifest = _manifest(source, resolved(source.recipe, tokenizer), layout, targets)
    except ValidationError as error:
        fix = "correct its recipe, or export with another --prefix or --window"
        raise InputError(source.recipe.family, explain(error), fix) from error
    manifest = _with_wide_tables(manifest, source, targets, warnings)
    if audio_decoder is not None:
        manifest = _with_decoder(manifest, audio_decoder, targets)
    if audio is not None:
        codec = open_asked(audio, source.recipe, targets, audio_decoder)
        told = manifest.audio.model_copy(update={"decoders": {"codec": codec.decoder}})
        manifest = manifest.model_copy(update={"audio": told})
    folders = _voices(manifest, voices)
    encoder, own = _encoder(source, manifest, text), None
    if lexicon is not None:
        encoder = with_lexicon(encoder, lexicon, manifest.family)
        own = encoder.lexicon
    replacements = {} if replace is None else own_replacements(encoder, replace)
    brought = {"voices": list(folders), "pieces": text and text.words, "replaces": bool(replacements)}
    manifest = manifest.model_copy(update=brought)
    _check_room(manifest, encoder, folders)
    report("comparing with transformers' own class")
    compare_with_transformers(source)
    return Draft(source, layout, targets, manifest, text, own, replacements, folders, audio_decoder, audio, warnings)


def _layout(source: Checkpoint, window: int | None, prefix: int | None) -> tuple[Layout, list[str]]:
    """The layout, and what the user should know of it."""
    recipe, warnings = source.recipe, list(source.notes)
    if window is None and source.window is None and source.path is not None:
        raise InputError(source.path, "no wand.json gives its window", "give one with --window; nothing tuned it")
    chosen = whole_number("--window", source.window or recipe.window if window is None else window, 1)
    if source.path is not None and chosen != source.window:
        tuned = f"tuned for a window of {source.window}" if source.window else "never tuned for any window"
        warnings.append(f"This checkpoint was {tuned}: expect worse speech at a window of {chosen}.")
    asked = whole_number("--prefix", recipe.prefix_capacity if prefix is None else prefix, 1)
    layout = Layout.fitting(asked, chosen)
    if layout.prefix_capacity != asked:
        warnings.append(
            f"Prefix capacity {asked} was rounded up to {layout.prefix_capacity}: {layout.capacity} slots in all."
        )
    if recipe.licence.non_commercial:
        warnings.append(f"The weights are for non-commercial use only: {recipe.licence.weights}.")
    if recipe.text.expects is not None:
        warnings.append(f"Texts for it are {recipe.text.expects}.")
    return layout, warnings


def _manifest(source: Checkpoint, recipe: Recipe, layout: Layout, targets: list[Target]) -> Manifest:
    """What is known before anything is emitted. recipe: the source's, its strings resolved to ids."""
    backbone = source.backbone
    precise = any(target.precision.embeddings == "fp32" for target in targets)
    dtype: Literal["float32", "float16"] = "float32" if precise else "float16"
    learned = recipe.tables[recipe.speech_table].positions
    return Manifest(
        schema_version=2,
        wand_export=__version__,
        family=recipe.family,
        title=recipe.title,
        source=Source(
            checkpoint=name_of(source.path) if source.path else "random weights",
            sha256=source.sha256,
            random_weights=source.path is None,
            tuned_for_window=source.window == layout.window,
        ),
        licence=recipe.licence,
        model=Model(
            **backbone.model_dump(exclude={"norm_eps", "rope_theta", "rope_scaling"}),
            parameters=source.parameters,
            max_position=recipe.tables[learned].rows if learned else None,
        ),
        kv_cache=KVCache(
            prefix_capacity=layout.prefix_capacity,
            window=layout.window,
            capacity=layout.capacity,
            dtype="float32",
            bytes=kv_bytes(layout.capacity, backbone.layers, backbone.kv_heads, backbone.head_dim, 4),
            formula=KV_FORMULA,
        ),
        tables={
            name: EmbeddingTable(rows=table.rows, dtype=dtype, positions=table.positions)
            for name, table in recipe.tables.items()
        },
        speech_table=recipe.speech_table,
        head=Head(ranges=recipe.head.ranges),
        prefix=recipe.prefix,
        skipped_positions=recipe.skipped_positions,
        refused=recipe.refused,
        voices=[],
        stop=recipe.stop,
        sampler=recipe.sampler,
        text=recipe.text,
        audio=_audio(recipe),
        artifacts={},
        not_run=[],
        files={},
    )


def _with_wide_tables(draft: Manifest, source: Checkpoint, targets: list[Target], warnings: list[str]) -> Manifest:
    """The draft with each table in float32 that float16 would overflow. Reads every tensor.

    Raises CheckpointError for NaN and infinity, and for what a target that computes in float16 cannot hold.
    """
    if source.path is None:
        return draft
    half = next((target for target in targets if needs_half(target)), None)
    tables = dict(draft.tables)
    for table, tensor, row in beyond_half(source):
        found = f"row {row} of {tensor} lies beyond float16's largest number"
        if half is not None:
            raise CheckpointError(source.path, found, f"{half.name} computes in float16: choose another target")
        if table is not None and tables[table].dtype == "float16":
            tables[table] = tables[table].model_copy(update={"dtype": "float32"})
            warnings.append(f"Table {table} is kept in float32: {found}.")
    return draft.model_copy(update={"tables": tables})


def _voices(manifest: Manifest, folders: Sequence[Path]) -> dict[str, Path]:
    """The folders by name, each checked. Raises InputError."""
    found: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if not is_folder_name(name):
            fix = 'rename the folder: at most 100 characters, no slashes or <>:"|?*, no dot first or last'
            raise InputError(folder, f"{name!r} is no name for a voice", fix)
        if name in found:
            raise InputError(folder, f"a second voice {name!r}", "rename the folder")
        load_voice(folder, manifest)
        found[name] = folder
    return found


def _encoder(source: Checkpoint, manifest: Manifest, text: Compiled | None) -> TextEncoder | None:
    """What the bundle's own will be; None where random weights lack a tokenizer."""
    if manifest.text.kind == "lexicon":
        files = {Path(name).name: source.find(name) for name in manifest.text.files}
        return Frontend.read(files[TEXT_FILE], files[LEXICON_FILE])
    return None if text is None else text.tokenizer()


def _check_room(manifest: Manifest, encoder: TextEncoder | None, voices: dict[str, Path]) -> None:
    """The sample sentence fits the prefix, alone and with each voice; the window fits the learned positions.

    Raises InputError with the numbers.
    """
    inputs: dict[str, Any] = dict(sample_inputs(manifest, encoder))
    inputs |= {
        part.input: np.zeros((part.length or 0, manifest.model.hidden), np.float32)
        for part in manifest.prefix
        if part.input == LATENTS
    }
    capacity, window = manifest.kv_cache.prefix_capacity, manifest.kv_cache.window
    try:
        first = first_position(manifest, stretches(manifest, inputs))
    except PrefixOverflow as error:
        fix = f"the recipe's own parts and its sample sentence take {error.tokens}: give at least that"
        raise InputError("--prefix", f"{capacity} tokens", fix) from error
    positions = manifest.model.max_position
    if positions is not None and first + window + BEYOND_WRAP > positions:
        fix = f"the model learned {positions} positions: give at most {positions - first - BEYOND_WRAP}"
        raise InputError("--window", f"{window} tokens", fix)
    for name, folder in voices.items():
        place, voice = folder / VOICE_FILE, load_voice(folder, manifest)
        try:
            taken = voice.inputs(manifest, encoder, manifest.text.sample) if encoder else inputs | voice.codes
            stretches(manifest, taken)
        except PrefixOverflow as error:
            sample = len(inputs["text"])
            found = (
                f"voice {name!r} leaves {max(0, capacity - error.tokens + sample)} of {capacity} prefix tokens for text"
            )
            fix = f"make it from a shorter recording, or give --prefix {error.tokens}: a sentence takes some {sample}"
            raise InputError(place, found, fix) from error
        except InputError as error:
            raise InputError(place, error.value, error.fix) from error
        except ValueError as error:
            raise InputError(place, f"prompt_text: {error}", "change it") from error


def _audio(recipe: Recipe) -> Audio:
    """What a recipe says of audio; its own decoder for whole utterances is described even where no file of it comes."""
    told, decoders = recipe.audio, {}
    if told.graph is not None:
        names = [value.name for value in told.graph.inputs]
        graph = AudioGraph(name="decoder", inputs=names, outputs=["audio"], files={})
        decoders[WHOLE] = AudioDecoder(mode="whole", inputs=told.graph.inputs, graphs=[graph], samples="audio")
    return Audio(**told.model_dump(exclude={"vocoder", "graph", "codec", "codebook_ids"}), decoders=decoders)


def _with_decoder(manifest: Manifest, file: Path, targets: list[Target]) -> Manifest:
    """The manifest with the description of a family's own audio decoder, once it was checked. Raises InputError."""
    if WHOLE not in manifest.audio.decoders:
        raise InputError(file, f"recipe {manifest.family} takes no audio decoder", "leave --audio-decoder out")
    if not any(target.runtime == AUDIO_RUNTIME for target in targets):
        raise InputError(file, "no onnx target to carry it", "add an onnx target, or leave --audio-decoder out")
    decoder = whole_decoder(file, manifest.audio.decoders[WHOLE].inputs, WHOLE_FILE)
    audio = manifest.audio.model_copy(update={"decoders": {WHOLE: decoder}})
    return manifest.model_copy(update={"audio": audio})


def sample_inputs(manifest: Manifest, encoder: TextEncoder | None) -> dict[str, list[int]]:
    """Inputs for a prefix: the sample sentence where there is an encoder, seeded ids for all else but latents."""
    random, inputs = Random(0), dict[str, list[int]]()
    for part in manifest.prefix:
        if part.table is not None and part.input is not None and (part.input == "text" or part.length):
            below = part.codes or manifest.tables[part.table].rows - part.offset
            count = part.length or min(24, manifest.kv_cache.prefix_capacity // 2)
            inputs[part.input] = random.choices(range(below), k=count)
    if encoder is not None:
        inputs["text"] = encoder.ids(manifest.text.sample)
    return inputs
