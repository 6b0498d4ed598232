"""The parity ladder: what the reference says of a golden request, and how far each rung is from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wand_export.graph.checkpoint import Checkpoint
from wand_export.graph.hearing import CLICK_DB, Floats64, click_db, log_mel_db, seams
from wand_export.graph.quantize import round_as_half, round_reference
from wand_export.graph.reference import Reference
from wand_export.graph.steps import ScatterStep
from wand_export.graph.vocoder import Vocoder, describe, load_vocoder
from wand_export.host.bundle import Bundle
from wand_export.host.prompt import TextEncoder
from wand_export.host.selftest import (
    Comparison,
    compare,
    forced_rows,
    golden_text,
    play,
    play_audio,
    play_late,
    prefix_rows,
    psnr_db,
)
from wand_export.host.session import AudioSession, Floats, Session
from wand_export.layout import Layout
from wand_export.spec.audio import AudioChunk, AudioDecoder
from wand_export.spec.manifest import Audio, AudioParity, ComponentParity, Exact, Parity
from wand_export.spec.selftest import Expected, Golden, GoldenAudio, SelfTest, Stretch
from wand_export.spec.target import COMPONENTS, AudioThresholds, Precisions

LATE = 10_000
_LATE_STEPS = 1024
"""A late position is reached by feeding layers x window tokens, which flushes all that was in the cache: it is left
out where that takes more steps than this."""
_TOP = 8
_SAMPLES_APART = 101
GOLDEN_TEXTS = (
    "The cat sat on the mat, didn't it? It did.",
    "“Stop!” said Dr. Smith at 5 p.m. in the U.S. \"Why?\" asked Mrs. Jones ... 'So.'",
    "On 3/4/2024 he paid $1,250.50 for 2.5 kg: 3rd, 1990s, 10%, v2.0.",
    "  Two  words\tand\u00a0one\r\n\u3000line\u2028ends\u200b  ",
    "Ça va ? Привет! 你好。 👩\u200d👧 e\u0301 \x07",
)
"""Ordinary words; quotes and abbreviations; figures; odd spaces; other scripts, an emoji, and what no voice can say."""
FLOAT32_PSNR_DB = 70.0
"""What a float32 rung must reach against the reference."""


@dataclass(frozen=True)
class AudioExpectation:
    """Audio codes, the seed of the noise, and the samples that the vocoder in PyTorch makes of them."""

    codes: list[int]
    seed: int
    samples: Floats


@dataclass(frozen=True)
class Expectation:
    """A golden request and the reference's logits for it.

    forced: the greedy tokens of the static decoder [n]; logits [1 + n, V]; late: (first position, rows that are only
    fed, logits of the rest) for the same tokens far from the prefix, or None; decoder: the static decoder's own parity;
    audio: None where the bundle carries no vocoder.
    """

    prefix: list[Stretch]
    forced: list[int]
    logits: Floats
    late: tuple[int, int, Floats] | None
    decoder: Comparison
    audio: AudioExpectation | None


def expect(bundle: Bundle, checkpoint: Checkpoint, prefix: list[Stretch], steps: int) -> Expectation:
    """Decode `steps` tokens greedily with the static decoder in torch, and hold it and all else to the reference."""
    kv = bundle.manifest.kv_cache
    layout = Layout(kv.prefix_capacity, kv.window)
    forced, decoded = _greedy(bundle, checkpoint, layout, prefix, steps)
    logits, late = _ask(bundle, checkpoint.reference(), prefix, forced)
    audio = expect_audio(bundle.manifest.audio, checkpoint) if checkpoint.recipe.audio.vocoder else None
    return Expectation(prefix, forced, logits, late, compare(decoded, logits), audio)


class TorchAudio(AudioSession):
    """The vocoder in PyTorch, as a session."""

    def __init__(self, vocoder: Vocoder, decoder: AudioDecoder | None = None) -> None:
        super().__init__(decoder or describe(vocoder))
        self._vocoder = vocoder

    @torch.no_grad()
    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        described = self.decoder.graphs[0]
        outputs = self._vocoder(*(torch.from_numpy(feeds[name]) for name in described.inputs))
        return {name: output.numpy() for name, output in zip(described.outputs, outputs, strict=True)}


def spoken_whole(vocoder: Vocoder, audio: Audio, codes: Sequence[int], seed: int) -> Floats:
    """The samples of an utterance in one call, which needs no look-ahead."""
    decoder = describe(vocoder).model_copy(update={"chunk": AudioChunk(first=len(codes), later=len(codes))})
    return play_audio(TorchAudio(vocoder, decoder), audio, codes, seed)


def expect_audio(audio: Audio, checkpoint: Checkpoint) -> AudioExpectation:
    """What the checkpoint's vocoder makes of seeded codes, spoken whole: three chunks and half of another."""
    assert checkpoint.recipe.audio.vocoder is not None
    vocoder = load_vocoder(checkpoint.find(checkpoint.recipe.audio.vocoder))
    config = vocoder.config
    codes = Random(0).choices(range(audio.codes), k=config.first + config.later * 5 // 2)
    return AudioExpectation(codes, 0, spoken_whole(vocoder, audio, codes, 0))


def _ask(
    bundle: Bundle, reference: Reference, stretches: list[Stretch], forced: list[int]
) -> tuple[Floats, tuple[int, int, Floats] | None]:
    """A reference's logits for a prefix and forced tokens, and those far from the prefix: see Expectation."""
    prefix = torch.from_numpy(prefix_rows(bundle, stretches))
    p, window = len(prefix), bundle.manifest.kv_cache.window
    rows = torch.cat([prefix, torch.from_numpy(forced_rows(bundle, stretches, forced))])
    logits = reference(rows, p, window)[0][p - 1 :].numpy()
    skip = reference.backbone.layers * window
    if skip > _LATE_STEPS or bundle.manifest.model.max_position is not None:
        return logits, None
    fed = (forced * (1 + (skip + window) // len(forced)))[: skip + window]
    positions = torch.cat([torch.arange(p), torch.arange(LATE, LATE + len(fed))])
    far = torch.cat([prefix, torch.from_numpy(forced_rows(bundle, stretches, fed))])
    return logits, (LATE, skip, reference(far, p, window, positions)[0][p + skip :].numpy())


@torch.no_grad()
def _greedy(
    bundle: Bundle, checkpoint: Checkpoint, layout: Layout, stretches: list[Stretch], steps: int
) -> tuple[list[int], Floats]:
    """Greedy tokens [steps] of the static decoder in torch, and its logits [1 + steps, V]."""
    backbone = checkpoint.backbone
    step = ScatterStep(checkpoint.decoder(), layout)
    keys = [torch.zeros(backbone.kv_heads, layout.capacity, backbone.head_dim) for _ in range(backbone.layers)]
    values = [torch.zeros_like(key) for key in keys]
    integer = lambda value: torch.tensor([value], dtype=torch.int32)  # noqa: E731
    prefix = torch.from_numpy(prefix_rows(bundle, stretches))
    p = integer(len(prefix))
    logits, _, keys, values = step(prefix[None], integer(0), p, integer(len(prefix) - 1), keys, values)
    seen, ids = [logits], []
    rows = bundle.manifest.tables[bundle.manifest.speech_table].rows
    speakable = torch.tensor(bundle.head_ids < rows)  # a stop id may have no row to be fed back
    for n in range(steps):
        masked = torch.where(speakable, seen[-1], -torch.inf)
        ids.append(int(bundle.head_ids[int(masked.argmax())]))
        row = torch.from_numpy(forced_rows(bundle, stretches, ids[-1:], n))
        logits, _, keys, values = step(row[None], integer(len(prefix) + n), p, integer(0), keys, values)
        seen.append(logits)
    return ids, torch.stack(seen).numpy()


def measure(bundle: Bundle, expectation: Expectation, session: Session) -> Comparison:
    """An artifact, as its runtime runs it, against the reference."""
    prefix = prefix_rows(bundle, expectation.prefix)
    rows = forced_rows(bundle, expectation.prefix, expectation.forced)
    actual, expected = [play(session, prefix, rows)], [expectation.logits]
    if expectation.late is not None:
        position, skip, logits = expectation.late
        count = skip + len(logits)
        if session.max_position is not None and position + count > session.max_position:
            return compare(actual[0], expected[0])
        fed = (expectation.forced * (1 + count // len(expectation.forced)))[:count]
        actual.append(play_late(session, prefix, forced_rows(bundle, expectation.prefix, fed), position, skip))
        expected.append(logits)
    return compare(np.concatenate(actual), np.concatenate(expected))


def measure_exact(
    bundle: Bundle, checkpoint: Checkpoint, expectation: Expectation, precisions: Precisions, session: Session
) -> Exact:
    """A float16 artifact, its arithmetic in float32, against the reference with all values rounded as it stores them.

    What is left is the graph: it has to be the reference, whatever the precisions.
    """
    reference = checkpoint.reference()
    round_as_half(reference, precisions)
    logits, late = _ask(bundle, reference, expectation.prefix, expectation.forced)
    c = measure(bundle, replace(expectation, logits=logits, late=late), session)
    return Exact(
        psnr_db=c.psnr_db,
        max_abs_dlogit=c.max_abs_dlogit,
        greedy_equal=c.greedy_equal,
        first_divergence=c.first_divergence,
    )


def is_exact(exact: Exact) -> bool:
    """Whether it holds the bar of every float32 rung."""
    return exact.greedy_equal and (exact.psnr_db is None or exact.psnr_db >= FLOAT32_PSNR_DB)


def measure_components(
    bundle: Bundle, checkpoint: Checkpoint, expectation: Expectation, precisions: Precisions
) -> dict[str, ComponentParity]:
    """What rounding each component alone does to the reference's logits."""
    prefix = torch.from_numpy(prefix_rows(bundle, expectation.prefix))
    rows = torch.cat([prefix, torch.from_numpy(forced_rows(bundle, expectation.prefix, expectation.forced))])

    def rounded(component: str) -> Floats:
        # In a function of its own: two references of a large model would not fit side by side.
        reference = checkpoint.reference()
        round_reference(reference, component, getattr(precisions, component))
        return reference(rows, len(prefix), bundle.manifest.kv_cache.window)[0][len(prefix) - 1 :].numpy()

    found = {}
    for component in COMPONENTS:
        if getattr(precisions, component).block is not None:
            c = compare(rounded(component), expectation.logits)
            found[component] = ComponentParity(psnr_db=c.psnr_db, kl=c.kl, top1_agreement=c.top1_agreement)
    return found


def hold(bundle: Bundle, checkpoint: Checkpoint, expectation: Expectation, target: str) -> Parity:
    """A target's artifact held to the reference: what the manifest says of it, passed or not by its thresholds.

    An artifact that something of ours interprets also has to be exact.
    """
    artifact = bundle.manifest.artifacts[target]
    with bundle.open(target) as session:
        comparison = measure(bundle, expectation, session)
    exact = None
    if (interpreted := bundle.open_exact(target)) is not None:
        with interpreted:
            exact = measure_exact(bundle, checkpoint, expectation, artifact.precision, interpreted)
    thresholds = artifact.thresholds
    enough = comparison.psnr_db is None or comparison.psnr_db >= thresholds.min_psnr_db
    passed = enough and (comparison.greedy_equal or not thresholds.greedy_equal) and (exact is None or is_exact(exact))
    audio = hold_audio(bundle, expectation.audio, target) if expectation.audio else None
    return Parity(
        how=session.how,
        components=measure_components(bundle, checkpoint, expectation, artifact.precision),
        exact=exact,
        audio=audio,
        passed=passed and (audio is None or audio.passed),
        **asdict(comparison),
    )


def hold_audio(bundle: Bundle, expectation: AudioExpectation, target: str) -> AudioParity:
    """The audio decoder beside a target, in chunks, held to the vocoder over the whole utterance."""
    session, audio = bundle.open_audio(target), bundle.manifest.audio
    actual = play_audio(session, audio, expectation.codes, expectation.seed).astype(np.float64)
    expected = expectation.samples.astype(np.float64)
    return heard(actual, expected, session, audio.sample_rate, bundle.manifest.artifacts[target].audio_thresholds)


def heard(
    actual: Floats64, expected: Floats64, session: AudioSession, sample_rate: int, thresholds: AudioThresholds
) -> AudioParity:
    """Samples [n] that a session gave in chunks, compared with those of the whole."""
    decoder = session.decoder
    met = []
    if decoder.chunk is not None and decoder.hop is not None:
        met = seams(decoder.chunk.first, decoder.chunk.later, decoder.hop, len(actual) // decoder.hop)
    psnr, distance = psnr_db(actual, expected), log_mel_db(actual, expected, sample_rate)
    click = click_db(actual, expected, met)
    return AudioParity(
        how=session.how,
        samples=len(actual),
        psnr_db=psnr,
        log_mel_db=distance,
        click_db=click,
        max_abs_difference=float(np.abs(actual - expected).max()),
        passed=(psnr is None or psnr >= thresholds.min_psnr_db)
        and distance <= thresholds.max_log_mel_db
        and (click is None or click <= CLICK_DB),
    )


def selftest_of(
    expectation: Expectation,
    parities: dict[str, Parity],
    exact: Callable[[str], bool],
    steps: int,
    encoder: TextEncoder | None,
) -> SelfTest:
    """Golden requests for the bundle's own self-test: the first `steps` tokens of the expectation, and golden texts.

    A target's tolerance is half again what was measured here, since other processors sum in other orders; four times
    that of an interpreted one, whose device may accumulate in float16.
    """

    def tolerance(how: str, measured: float) -> float:
        return (1.5 if how == "ran" else 4) * measured + 1e-3

    expected = []
    for step in range(steps + 1):
        logits = expectation.logits[step]
        rows = np.argsort(-logits, kind="stable")[:_TOP]
        expected.append(Expected(step=step, top=[(int(row), round(float(logits[row]), 6)) for row in rows]))
    return SelfTest(
        schema_version=1,
        requests=[Golden(prefix=expectation.prefix, forced=expectation.forced[:steps], expected=expected)],
        tolerance={name: tolerance(p.how, p.max_abs_dlogit) for name, p in parities.items()},
        exact=[name for name in parities if exact(name) and parities[name].greedy_equal],
        audio=None
        if expectation.audio is None
        else GoldenAudio(
            codes=expectation.audio.codes,
            seed=expectation.audio.seed,
            expected=[(i, round(float(x), 6)) for i, x in list(enumerate(expectation.audio.samples))[::_SAMPLES_APART]],
            tolerance={n: tolerance(p.audio.how, p.audio.max_abs_difference) for n, p in parities.items() if p.audio},
        ),
        texts=[] if encoder is None else [golden_text(encoder, text) for text in GOLDEN_TEXTS],
    )
