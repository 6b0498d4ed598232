"""wand export: a checkpoint to a verified bundle, written whole or not at all."""

import copy
import gc
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wand_export import backends
from wand_export.audio.bundled import Asked, build_into
from wand_export.errors import InputError, ParityError, whole_number
from wand_export.graph import ladder
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint, random_checkpoint
from wand_export.graph.draft import (
    AUDIO_FOLDER,
    AUDIO_RUNTIME,
    BEYOND_WRAP,
    WHOLE,
    WHOLE_FILE,
    Draft,
    draft_of,
    sample_inputs,
)
from wand_export.graph.hub import located
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
from wand_export.host.prompt import TextEncoder, load_text, stretches
from wand_export.host.replace import to_tsv
from wand_export.report import write_report
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import (
    Artifact,
    Manifest,
    Parity,
)
from wand_export.spec.pieces import PIECES_FILE
from wand_export.spec.selftest import SELFTEST_FILE, Stretch
from wand_export.spec.target import AudioThresholds, Target, load_target
from wand_export.spec.text import LEXICON_FILE, REPLACE_FILE, TEXT_FOLDER
from wand_export.spec.voice import TENSORS_FILE, VOICE_FILE

TWIN_RUNTIME = "onnx"
"""The twin is what a user has today, beside our own: one runtime is enough for that."""
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
    lexicon: Path | str | None = None,
    replace: Path | str | None = None,
    with_twin: bool = False,
    dry_run: bool = False,
    allow_low_parity: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Export a checkpoint, or random weights of a recipe's true size, to a bundle at `output`.

    checkpoint: a folder, or org/name[@revision] on the Hugging Face hub. targets: names or paths, or one of them.
    voices: folders of named presets, the first being the default; audio_decoder: an ONNX file that fits the recipe's
    [audio.graph]; audio: the checkpoint of the recipe's codec, to be made to stream; lexicon, replace: files of a
    user's own words, to be carried; see models/README.md for all of these. report(stage) is called as each stage
    begins. Returns the manifest as a dict, with the key "warnings"; with dry_run nothing is emitted. Raises InputError
    (CheckpointError) for what it refuses, ParityError for an artifact below its target's thresholds.
    """
    wanted = _targets([targets] if isinstance(targets, Path | str) else targets)
    folders = [Path(voice) for voice in ([voices] if isinstance(voices, Path | str) else voices)]
    decoder_file, own_lexicon, own_replace = (
        None if path is None else Path(path) for path in (audio_decoder, lexicon, replace)
    )
    with ExitStack() as stack:
        place = folder_to_write(output) if dry_run else stack.enter_context(alone(output))
        report("reading the checkpoint")
        source = _source(checkpoint, recipe, random_weights, layers)
        draft = draft_of(source, wanted, window, prefix, folders, decoder_file, audio, own_lexicon, own_replace, report)
        manifest = draft.manifest
        if not dry_run:
            folder = stack.enter_context(whole(place))
            manifest = _fill(folder, draft, with_twin, allow_low_parity, report)
    return {**manifest.model_dump(mode="json"), "warnings": draft.warnings}


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


def _fill(
    folder: Path, draft: Draft, with_twin: bool, allow_low_parity: bool, report: Callable[[str], None]
) -> Manifest:
    source, manifest, targets, warnings = draft.source, draft.manifest, draft.targets, draft.warnings
    report("writing the embedding tables")
    dtypes = {name: getattr(torch, table.dtype) for name, table in manifest.tables.items()}
    save_file({name: source.table(name).to(dtype) for name, dtype in dtypes.items()}, folder / EMBEDDINGS)
    speakable = _write_text(folder / TEXT_FOLDER, draft)
    for name, voice in draft.voices.items():
        (folder / VOICES_FOLDER / name).mkdir(parents=True)
        for file in (VOICE_FILE, TENSORS_FILE):
            if (voice / file).exists():
                shutil.copyfile(voice / file, folder / VOICES_FOLDER / name / file)
    decoders, chosen = manifest.audio.decoders, dict[str, str]()
    if source.recipe.audio.vocoder is not None:
        decoders = _emit_audio(folder, source, targets, report)
        chosen = {target.name: target.audio.precision for target in targets}
    elif draft.audio_decoder is not None:
        (folder / WHOLE_FILE).parent.mkdir(parents=True)
        shutil.copyfile(draft.audio_decoder, folder / WHOLE_FILE)
        chosen = {target.name: WHOLE for target in targets if target.runtime == AUDIO_RUNTIME}
    elif draft.audio is not None:
        decoders = build_into(folder, draft.audio, source.recipe, targets, allow_low_parity, warnings, report)
        chosen = {target.name: target.audio.precision for target in targets if target.runtime == AUDIO_RUNTIME}
    audio = manifest.audio.model_copy(update={"decoders": decoders})
    artifacts: dict[str, Artifact] = {}
    for target in targets:
        report(f"{target.name}: emitting")
        (folder / target.name).mkdir()
        twin = with_twin and target.runtime == TWIN_RUNTIME
        emitted = backends.of(target.runtime).emit(source.decoder(), draft.layout, target, folder / target.name, twin)
        gc.collect()  # exported programs hold the weights in cycles
        artifacts[target.name] = _artifact(folder, target, emitted, chosen.get(target.name))
    manifest = manifest.model_copy(update={"audio": audio, "artifacts": artifacts})
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


def _write_text(folder: Path, draft: Draft) -> bool:
    """Write the text frontend's files; random weights may lack a tokenizer, then the bundle takes ids only."""
    folder.mkdir()
    if draft.replacements:
        (folder / REPLACE_FILE).write_text(to_tsv(draft.replacements), encoding="utf-8", newline="\n")
    recipe = draft.source.recipe
    if recipe.text.kind == "tokenizer":
        if draft.text is not None:
            draft.text.save(folder / PIECES_FILE)
        return draft.text is not None
    for name in recipe.text.files:
        file = draft.source.find(name)
        shutil.copyfile(file, folder / file.name)
    if draft.lexicon is not None:
        (folder / LEXICON_FILE).write_text(to_tsv(draft.lexicon), encoding="utf-8", newline="\n")
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
    encoder = load_text(bundle) if speakable else None
    expectation = ladder.expect(bundle, source, sample_prefix(bundle, encoder), steps)
    parities: dict[str, Parity] = {}
    for target in targets:
        report(f"{target.name}: comparing with the reference")
        parities[target.name] = ladder.hold(bundle, source, expectation, target.name)
    exact = {target.name: target.parity.greedy_equal for target in targets}
    test = ladder.selftest_of(expectation, parities, exact.__getitem__, min(SELFTEST_STEPS, steps), encoder)
    (folder / SELFTEST_FILE).write_text(test.model_dump_json() + "\n", encoding="utf-8")
    artifacts = {
        name: artifact.model_copy(update={"parity": parities[name]}) for name, artifact in manifest.artifacts.items()
    }
    return manifest.model_copy(update={"artifacts": artifacts})


def sample_prefix(bundle: Bundle, encoder: TextEncoder | None) -> list[Stretch]:
    """The prefix that parity is measured on: the recipe's sample sentence, or seeded ids where no text can be read.

    Inputs that the prefix requires of a voice are seeded ids; latents, which are no ids, are left out.
    """
    manifest = bundle.manifest
    inputs = sample_inputs(manifest, encoder)
    manifest = manifest.model_copy(update={"prefix": [part for part in manifest.prefix if part.table is not None]})
    return [Stretch(table=table, ids=list(ids)) for table, ids in stretches(manifest, inputs)]


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
