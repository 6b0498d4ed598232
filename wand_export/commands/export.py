"""wand export: a checkpoint to a verified bundle, written whole or not at all."""

import copy
import gc
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from wand_export import __version__, backends
from wand_export.audio.bundled import Asked, build_into, open_asked
from wand_export.errors import CheckpointError, InputError, ParityError, whole_number
from wand_export.graph import ladder
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint, random_checkpoint
from wand_export.graph.half import beyond_half, needs_half
from wand_export.graph.hub import located, name_of
from wand_export.graph.text.compiler import Compiled
from wand_export.graph.tokenizer import compile_text, load_tokenizer, resolved
from wand_export.graph.upstream import compare_with_transformers
from wand_export.graph.vocoder import describe, load_vocoder
from wand_export.host.bundle import (
    CHECKSUMS,
    EMBEDDINGS,
    MANIFEST,
    VOICES_FOLDER,
    Bundle,
    read_manifest,
    sha256_of,
    to_json,
)
from wand_export.host.output import alone, folder_to_write, whole
from wand_export.host.prompt import (
    PrefixOverflow,
    TextEncoder,
    first_position,
    load_text,
    stretches,
)
from wand_export.host.runtimes.onnx import whole_decoder
from wand_export.host.text import Frontend
from wand_export.host.voices import load_voice
from wand_export.layout import KV_FORMULA, Layout, kv_bytes
from wand_export.report import write_report
from wand_export.spec.audio import AudioDecoder, AudioGraph
from wand_export.spec.manifest import (
    Artifact,
    Audio,
    EmbeddingTable,
    Head,
    KVCache,
    Manifest,
    Model,
    Parity,
    Source,
)
from wand_export.spec.pieces import PIECES_FILE
from wand_export.spec.recipe import Recipe
from wand_export.spec.schema import explain
from wand_export.spec.selftest import SELFTEST_FILE, Stretch
from wand_export.spec.target import AudioThresholds, Target, load_target
from wand_export.spec.text import LEXICON_FILE, TEXT_FILE, TEXT_FOLDER
from wand_export.spec.voice import LATENTS, TENSORS_FILE, VOICE_FILE, is_folder_name

AUDIO_FOLDER, AUDIO_RUNTIME = "audio", "onnx"
WHOLE, WHOLE_FILE = "whole", f"{AUDIO_FOLDER}/{AUDIO_RUNTIME}/decoder.onnx"
"""A family's own audio decoder comes as an ONNX file and speaks whole utterances."""
TWIN_RUNTIME = "onnx"
"""The twin is what a user has today, beside our own: one runtime is enough for that."""
BEYOND_WRAP = 32
"""Parity at export runs this many steps past the window; wand verify with the checkpoint runs four windows."""
SELFTEST_STEPS = 48


def export(
    checkpoint: Path | str | None,
    output: Path | str,
    targets: Sequence[Path | str] | Path | str,
    *,
    recipe: str | None = None,
    window: int | None = None,
    prefix: int | None = None,
    random_weights: bool = False,
    layers: int | None = None,
    voices: Sequence[Path | str] | Path | str = (),
    audio_decoder: Path | str | None = None,
    audio: Asked | None = None,
    with_twin: bool = False,
    dry_run: bool = False,
    allow_low_parity: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Export a checkpoint, or random weights of a recipe's true size, to a bundle at `output`.

    checkpoint: a folder, or org/name[@revision] on the Hugging Face hub. targets: names or paths, or one of them.
    voices: folders of named presets, the first being the default; audio_decoder: an ONNX file that fits the recipe's
    [audio.graph]; audio: the checkpoint of the recipe's codec, to be made to stream; see models/README.md for all
    three. report(stage) is called as each stage begins. Returns the manifest as a dict, with the key "warnings"; with
    dry_run nothing is emitted. Raises InputError (CheckpointError) for what it refuses, ParityError for an artifact
    below its target's thresholds.
    """
    wanted = _targets([targets] if isinstance(targets, Path | str) else targets)
    folders = [Path(voice) for voice in ([voices] if isinstance(voices, Path | str) else voices)]
    decoder_file = None if audio_decoder is None else Path(audio_decoder)
    with ExitStack() as stack:
        place = folder_to_write(output) if dry_run else stack.enter_context(alone(output))
        report("reading the checkpoint")
        source = _source(checkpoint, recipe, random_weights, layers)
        layout, warnings = _layout(source, window, prefix)
        tokenizer = load_tokenizer(source)
        if tokenizer is not None:
            report("compiling the tokenizer")
        text = tokenizer and compile_text(source, tokenizer)
        try:
            draft = _manifest(source, resolved(source.recipe, tokenizer), layout, wanted)
        except ValidationError as error:
            fix = "correct its recipe, or export with another --prefix or --window"
            raise InputError(source.recipe.family, explain(error), fix) from error
        draft = _with_wide_tables(draft, source, wanted, warnings)
        if decoder_file is not None:
            draft = _with_decoder(draft, decoder_file, wanted)
        if audio is not None:
            codec = open_asked(audio, source.recipe, wanted, decoder_file)
            told = draft.audio.model_copy(update={"decoders": {"codec": codec.decoder}})
            draft = draft.model_copy(update={"audio": told})
        extras = Extras(text, _voices(draft, folders), decoder_file, audio)
        draft = draft.model_copy(update={"voices": list(extras.voices), "pieces": text and text.words})
        _check_room(draft, _encoder(source, draft, text), extras.voices)
        report("comparing with transformers' own class")
        compare_with_transformers(source)
        if dry_run:
            return {**draft.model_dump(mode="json"), "warnings": warnings}
        folder = stack.enter_context(whole(place))
        manifest = _fill(folder, source, layout, draft, wanted, extras, with_twin, allow_low_parity, warnings, report)
    return {**manifest.model_dump(mode="json"), "warnings": warnings}


def _targets(names: Sequence[Path | str]) -> list[Target]:
    """The targets, each with a folder of its own in the bundle. Raises InputError."""
    found = {name: load_target(name) for name in dict.fromkeys(map(str, names))}
    if not found:
        raise InputError("--target", "no target given", "name at least one")
    taken = {AUDIO_FOLDER, TEXT_FOLDER, VOICES_FOLDER}
    for name, target in found.items():
        if target.name in taken:
            raise InputError(name, f"the name {target.name!r} is taken", "name the target otherwise in its file")
        taken.add(target.name)
    return list(found.values())


@dataclass(frozen=True)
class Extras:
    """What a bundle carries beside the decoder. voices: folder by name."""

    text: Compiled | None
    voices: dict[str, Path]
    audio_decoder: Path | None
    audio: Asked | None


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
    inputs: dict[str, Any] = dict(_sample_inputs(manifest, encoder))
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


def _source(checkpoint: Path | str | None, recipe: str | None, random_weights: bool, layers: int | None) -> Checkpoint:
    if random_weights:
        if checkpoint is not None or recipe is None:
            raise InputError("--random-weights", "needs a recipe and no checkpoint", "give --recipe R alone")
        return random_checkpoint(recipe, layers if layers is None else whole_number("--layers", layers, 1))
    if checkpoint is None:
        raise InputError("CHECKPOINT", "missing", "give a checkpoint folder, or --recipe R --random-weights")
    if layers is not None:
        raise InputError("--layers", "cuts a real model short", "use it with --random-weights only")
    return open_checkpoint(located(checkpoint, recipe), recipe)


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


def _fill(
    folder: Path,
    source: Checkpoint,
    layout: Layout,
    draft: Manifest,
    targets: list[Target],
    extras: Extras,
    with_twin: bool,
    allow_low_parity: bool,
    warnings: list[str],
    report: Callable[[str], None],
) -> Manifest:
    report("writing the embedding tables")
    dtypes = {name: getattr(torch, table.dtype) for name, table in draft.tables.items()}
    save_file({name: source.table(name).to(dtype) for name, dtype in dtypes.items()}, folder / EMBEDDINGS)
    speakable = _copy_text(source, folder, extras.text)
    for name, voice in extras.voices.items():
        (folder / VOICES_FOLDER / name).mkdir(parents=True)
        for file in (VOICE_FILE, TENSORS_FILE):
            if (voice / file).exists():
                shutil.copyfile(voice / file, folder / VOICES_FOLDER / name / file)
    decoders, chosen = draft.audio.decoders, dict[str, str]()
    if source.recipe.audio.vocoder is not None:
        decoders = _emit_audio(folder, source, targets, report)
        chosen = {target.name: target.audio.precision for target in targets}
    elif extras.audio_decoder is not None:
        (folder / WHOLE_FILE).parent.mkdir(parents=True)
        shutil.copyfile(extras.audio_decoder, folder / WHOLE_FILE)
        chosen = {target.name: WHOLE for target in targets if target.runtime == AUDIO_RUNTIME}
    elif extras.audio is not None:
        decoders = build_into(folder, extras.audio, source.recipe, targets, allow_low_parity, warnings, report)
        chosen = {target.name: target.audio.precision for target in targets if target.runtime == AUDIO_RUNTIME}
    audio = draft.audio.model_copy(update={"decoders": decoders})
    artifacts: dict[str, Artifact] = {}
    for target in targets:
        report(f"{target.name}: emitting")
        (folder / target.name).mkdir()
        twin = with_twin and target.runtime == TWIN_RUNTIME
        emitted = backends.of(target.runtime).emit(source.decoder(), layout, target, folder / target.name, twin)
        gc.collect()  # exported programs hold the weights in cycles
        artifacts[target.name] = _artifact(folder, target, emitted, chosen.get(target.name))
    manifest = draft.model_copy(update={"audio": audio, "artifacts": artifacts})
    manifest = _verify(folder, source, manifest, targets, speakable, report)
    for target in targets:
        parity = manifest.artifacts[target.name].parity
        assert parity is not None
        if not parity.passed:
            # What rounding does to random weights says nothing of a model; that float32 is exact still does.
            meaningless = source.path is None and not target.parity.greedy_equal
            _below(target, parity, allow_low_parity or meaningless, warnings)
    report("writing the report")
    write_report(folder, manifest, warnings)
    return _seal(folder, manifest)


def _copy_text(source: Checkpoint, folder: Path, text: Compiled | None) -> bool:
    """Write the text frontend's files; random weights may lack a tokenizer, then the bundle takes ids only."""
    (folder / TEXT_FOLDER).mkdir()
    if source.recipe.text.kind == "tokenizer":
        if text is not None:
            text.save(folder / TEXT_FOLDER / PIECES_FILE)
        return text is not None
    for name in source.recipe.text.files:
        file = source.find(name)
        shutil.copyfile(file, folder / TEXT_FOLDER / file.name)
    return True


def _emit_audio(
    folder: Path, source: Checkpoint, targets: list[Target], report: Callable[[str], None]
) -> dict[str, AudioDecoder]:
    """Emit the checkpoint's vocoder once for each precision and runtime of the targets: decoders by precision."""
    assert source.recipe.audio.vocoder is not None
    vocoder = load_vocoder(source.find(source.recipe.audio.vocoder))
    decoders: dict[str, AudioDecoder] = {}
    for precision, runtime in dict.fromkeys((target.audio.precision, target.runtime) for target in targets):
        report(f"{runtime}: emitting the audio decoder, {precision}")
        place = f"{AUDIO_FOLDER}/{runtime}"
        (folder / place).mkdir(parents=True, exist_ok=True)
        decoder = decoders.get(precision) or describe(vocoder).model_copy(update={"precision": precision})
        emitted = backends.of(runtime).emit_audio(copy.deepcopy(vocoder), decoder, folder / place)
        graph = decoder.graphs[0]
        files = {**graph.files, runtime: [f"{place}/{name}" for name in emitted]}
        decoders[precision] = decoder.model_copy(update={"graphs": [graph.model_copy(update={"files": files})]})
        gc.collect()
    return decoders


def _artifact(folder: Path, target: Target, emitted: backends.Emitted, audio_decoder: str | None) -> Artifact:
    files = [f"{target.name}/{name}" for name in emitted.files]
    twin = emitted.twin and f"{target.name}/{emitted.twin}"
    return Artifact(
        runtime=target.runtime,
        delegate=target.delegate,
        max_position=target.max_position,
        minimum_os=target.minimum_os,
        compute_units=target.compute_units,
        precision=target.precision,
        files=files,
        audio_decoder=audio_decoder,
        twin=twin,
        bytes=sum((folder / name).stat().st_size for name in files if name != twin),
        step_bytes=emitted.step_bytes,
        prefill_chunk=target.prefill_chunk,
        emitted_by=emitted.emitted_by,
        oldest_runtime=emitted.oldest_runtime,
        thresholds=target.parity,
        audio_thresholds=AudioThresholds(**target.audio.model_dump(exclude={"precision"})),
        parity=None,
    )


def _verify(
    folder: Path,
    source: Checkpoint,
    manifest: Manifest,
    targets: list[Target],
    speakable: bool,
    report: Callable[[str], None],
) -> Manifest:
    """Hold each artifact, as it lies on disk, to the reference; write the self-test; return the manifest with both."""
    bundle = Bundle(folder, manifest)
    report("asking the reference")
    steps = manifest.kv_cache.window + BEYOND_WRAP
    expectation = ladder.expect(bundle, source, sample_prefix(bundle, speakable), steps)
    parities: dict[str, Parity] = {}
    for target in targets:
        report(f"{target.name}: comparing with the reference")
        parities[target.name] = ladder.hold(bundle, source, expectation, target.name)
    exact = {target.name: target.parity.greedy_equal for target in targets}
    test = ladder.selftest_of(expectation, parities, exact.__getitem__, min(SELFTEST_STEPS, steps))
    (folder / SELFTEST_FILE).write_text(test.model_dump_json() + "\n", encoding="utf-8")
    artifacts = {
        name: artifact.model_copy(update={"parity": parities[name]}) for name, artifact in manifest.artifacts.items()
    }
    return manifest.model_copy(update={"artifacts": artifacts})


def sample_prefix(bundle: Bundle, speakable: bool) -> list[Stretch]:
    """The prefix that parity is measured on: the recipe's sample sentence, or seeded ids where no text can be read.

    Inputs that the prefix requires of a voice are seeded ids; latents, which are no ids, are left out.
    """
    manifest = bundle.manifest
    inputs = _sample_inputs(manifest, load_text(bundle) if speakable else None)
    manifest = manifest.model_copy(update={"prefix": [part for part in manifest.prefix if part.table is not None]})
    return [Stretch(table=table, ids=list(ids)) for table, ids in stretches(manifest, inputs)]


def _sample_inputs(manifest: Manifest, encoder: TextEncoder | None) -> dict[str, list[int]]:
    random, inputs = Random(0), dict[str, list[int]]()
    for part in manifest.prefix:
        if part.table is not None and part.input is not None and (part.input == "text" or part.length):
            below = part.codes or manifest.tables[part.table].rows - part.offset
            count = part.length or min(24, manifest.kv_cache.prefix_capacity // 2)
            inputs[part.input] = random.choices(range(below), k=count)
    if encoder is not None:
        inputs["text"] = encoder.ids(manifest.text.sample)
    return inputs


def _below(target: Target, parity: Parity, allowed: bool, warnings: list[str]) -> None:
    floor = f"{target.parity.min_psnr_db} dB" + (" and equal greedy ids" if target.parity.greedy_equal else "")
    found = f"{parity.psnr_db:.1f} dB" + ("" if parity.greedy_equal else f", ids differ at {parity.first_divergence}")
    if parity.exact is not None and not ladder.is_exact(parity.exact):
        found = f"not the reference even in float32 arithmetic: {parity.exact.psnr_db} dB; {found}"
    if parity.audio is not None and not parity.audio.passed:
        audio, floor_db = parity.audio, target.audio.min_psnr_db
        told = f"{audio.psnr_db} dB (at least {floor_db}), log-mel {audio.log_mel_db} dB, clicks {audio.click_db} dB"
        found = f"its audio decoder is at {told}; {found}"
    if not isfinite(parity.max_abs_dlogit):
        raise ParityError(target.name, "its logits are not finite", "nothing was written; try a more precise target")
    if not allowed:
        raise ParityError(
            target.name, f"{found}, below its {floor}", "nothing was written; --allow-low-parity writes it"
        )
    warnings.append(f"{target.name} is below its threshold: {found}, not {floor}.")


def _seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the size of every file, and the checksums of all."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    for name in files:  # safetensors writes files that only their owner can read
        (folder / name).chmod(0o644)
    manifest = manifest.model_copy(update={"files": {name: (folder / name).stat().st_size for name in files}})
    (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in sorted([*files, MANIFEST])]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    return read_manifest(folder)  # as every host will
