"""Playing golden requests on a session, and saying how far its logits are from the expected ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wand_export.errors import BundleError
from wand_export.host.audio import AudioStream
from wand_export.host.bundle import Bundle
from wand_export.host.prompt import TextEncoder, first_position, load_text, rows_of
from wand_export.host.sentences import without
from wand_export.host.session import AudioSession, Floats, Session
from wand_export.spec.document import read_document
from wand_export.spec.manifest import Audio, AudioParity, Manifest
from wand_export.spec.selftest import SELFTEST_FILE, GoldenAudio, GoldenText, SelfTest, Stretch

_AGAIN = "export the bundle again"
TIE = 1e-4
"""The best two expected logits are a tie when they are nearer than this: either may come first."""


@dataclass(frozen=True)
class Comparison:
    """Logits against expected ones, over all steps. psnr_db is None when they are identical; kl is in nats."""

    steps: int
    psnr_db: float | None
    max_abs_dlogit: float
    kl: float
    top1_agreement: float
    greedy_equal: bool
    first_divergence: int | None
    near_ties: int


def prefix_rows(bundle: Bundle, prefix: Sequence[Stretch]) -> Floats:
    """Rows float32 [p, D] of a golden prefix."""
    return rows_of(bundle, [(stretch.table, stretch.ids) for stretch in prefix])


def forced_rows(bundle: Bundle, prefix: Sequence[Stretch], ids: Sequence[int], skip: int = 0) -> Floats:
    """Rows float32 [n, D] of generated tokens behind a golden prefix and `skip` tokens before them."""
    table = bundle.manifest.speech_table
    if bundle.manifest.tables[table].positions is None:
        return bundle.embed(table, ids)
    first = first_position(bundle.manifest, [(stretch.table, stretch.ids) for stretch in prefix]) + skip
    return bundle.embed(table, ids, range(first, first + len(ids)))


def play(session: Session, prefix: Floats, forced: Floats) -> Floats:
    """Logits [1 + n, V]: after the prefix [p, D], and after each forced row [n, D].

    An unrelated utterance goes first, so that a stale cache would show.
    """
    session.prefill(prefix[::-1].copy())
    for row in forced[: session.layout.window + 1]:
        session.step(row)
    return np.stack([session.prefill(prefix).logits, *(session.step(row).logits for row in forced)])


def play_late(session: Session, prefix: Floats, forced: Floats, position: int, skip: int) -> Floats:
    """Logits [n - skip, V] of forced rows [n, D] that start at a late position, the first `skip` only fed."""
    session.prefill(prefix)
    session.seek(position)
    for row in forced[:skip]:
        session.step(row)
    return np.stack([session.step(row).logits for row in forced[skip:]])


def play_audio(session: AudioSession, audio: Audio, codes: Sequence[int], seed: int) -> Floats:
    """Samples [n] of one utterance of audio codes, in as many calls as it takes."""
    stream = AudioStream(session, audio, seed)
    return np.concatenate([*(stream.feed(audio.first_id + code) for code in codes), stream.finish()])


def compare(actual: Floats, expected: Floats) -> Comparison:
    """Compare logits [n, V], step by step.

    KL(expected || actual) of the softmaxes, mean over steps. Where no step prefers another row, ties excepted,
    free-running greedy decoding gives the same ids.
    """
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    log_a, log_e = log_softmax(a), log_softmax(e)
    best, runner_up = np.sort(e, axis=1)[:, :-3:-1].T
    ties = best - runner_up < TIE
    same = a.argmax(1) == e.argmax(1)
    diverged = np.flatnonzero(~same & ~ties)
    return Comparison(
        steps=len(e),
        psnr_db=psnr_db(a, e),
        max_abs_dlogit=float(np.abs(a - e).max()),
        kl=float((np.exp(log_e) * (log_e - log_a)).sum(1).mean()),
        top1_agreement=float(same.mean()),
        greedy_equal=diverged.size == 0,
        first_divergence=int(diverged[0]) if diverged.size else None,
        near_ties=int(ties.sum()),
    )


def psnr_db(actual: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float | None:
    """PSNR = 20 log10((max e - min e) / rms(a - e)), None where they are identical."""
    rms = float(np.sqrt(np.mean((actual - expected) ** 2)))
    return 20 * float(np.log10((expected.max() - expected.min()) / rms)) if rms > 0 else None


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@dataclass(frozen=True)
class Outcome:
    """A self-test: steps compared, the largest |dlogit| over the expected rows, how often the best row agreed."""

    steps: int
    max_abs_dlogit: float
    top1_agreement: float
    first_divergence: int | None
    passed: bool


@dataclass(frozen=True)
class TextOutcome:
    """A self-test of the text encoder, which every target shares: how many texts it read, and those read otherwise."""

    texts: int
    failed: list[str]
    passed: bool


def load_selftest(bundle: Bundle) -> SelfTest:
    """The golden requests of a bundle, which fit its manifest. Raises BundleError."""
    file = bundle.path / SELFTEST_FILE
    test = read_document(file, SelfTest, _AGAIN, BundleError)
    if (misfit := next(_misfits(bundle.manifest, test), None)) is not None:
        raise BundleError(file, misfit, _AGAIN)
    return test


def _misfits(manifest: Manifest, test: SelfTest) -> Iterator[str]:
    """What a self-test asks for that the manifest does not have, each with its place in the file."""
    for n, request in enumerate(test.requests):
        for i, stretch in enumerate(request.prefix):
            if stretch.table not in manifest.tables:
                yield f"requests.{n}.prefix.{i}.table: {stretch.table!r} is not among the tables"
        rows = [row for expected in request.expected for row, _ in expected.top]
        if max(rows) >= manifest.head.rows:
            yield f"requests.{n}.expected: row {max(rows)} lies beyond the head's {manifest.head.rows}"
    for target in manifest.artifacts:
        if target not in test.tolerance:
            yield f"tolerance: has none for {target}"
    if test.audio is not None:
        yield from _audio_misfits(manifest, test.audio)


def _audio_misfits(manifest: Manifest, golden: GoldenAudio) -> Iterator[str]:
    audio, last = manifest.audio, max(index for index, _ in golden.expected)
    if max(golden.codes) >= audio.codes:
        yield f"audio.codes: {max(golden.codes)} is none of the {audio.codes} codes"
    for target, artifact in manifest.artifacts.items():
        if artifact.audio_decoder is None:
            continue
        decoder = audio.decoders[artifact.audio_decoder]
        if decoder.hop is not None and last >= len(golden.codes) // decoder.unit * decoder.hop:
            yield f"audio.expected: index {last} lies beyond the samples of {target}"
        if target not in golden.tolerance:
            yield f"audio.tolerance: has none for {target}"


def run_selftest(bundle: Bundle, target: str, session: Session) -> Outcome:
    """Play every golden request on a session of `target`."""
    test = load_selftest(bundle)
    differences, agreed = [], []
    for request in test.requests:
        prefix = prefix_rows(bundle, request.prefix)
        logits = play(session, prefix, forced_rows(bundle, request.prefix, request.forced))
        for expected in request.expected:
            rows = [row for row, _ in expected.top]
            values = np.array([value for _, value in expected.top])
            differences.append(float(np.abs(logits[expected.step, rows] - values).max()))
            tied = len(values) > 1 and values[0] - values[1] < TIE
            agreed.append(tied or int(logits[expected.step].argmax()) == rows[0])
    largest = max(differences)
    exact = target not in test.exact or all(agreed)
    return Outcome(
        steps=len(differences),
        max_abs_dlogit=largest,
        top1_agreement=sum(agreed) / len(agreed),
        first_divergence=None if all(agreed) else agreed.index(False),
        passed=exact and bool(np.isfinite(largest)) and largest <= test.tolerance[target],
    )


def run_audio_selftest(bundle: Bundle, target: str) -> AudioParity | None:
    """Play the golden utterance on the audio decoder of `target`; None where the bundle has none to play."""
    golden = load_selftest(bundle).audio
    if golden is None:
        return None
    session = bundle.open_audio(target)
    indices, values = zip(*golden.expected, strict=True)
    samples = play_audio(session, bundle.manifest.audio, golden.codes, golden.seed)
    if max(indices) >= len(samples):
        raise BundleError(bundle.path / SELFTEST_FILE, f"audio.expected: only {len(samples)} samples are made", _AGAIN)
    actual, expected = samples[list(indices)].astype(np.float64), np.array(values)
    largest = float(np.abs(actual - expected).max())
    return AudioParity(
        how=session.how,
        samples=len(expected),
        psnr_db=psnr_db(actual, expected),
        log_mel_db=None,
        click_db=None,
        max_abs_difference=largest,
        passed=largest <= golden.tolerance[target],
    )


def golden_text(encoder: TextEncoder, text: str) -> GoldenText:
    """What an encoder makes of a text."""
    odd = encoder.unsayable(text)
    found = encoder.sentences(without(text, odd))
    return GoldenText(
        text=text,
        unsayable=[stretch.characters for stretch in odd],
        sentences=found,
        ids=[_ids(encoder, sentence) for sentence in found],
    )


def _ids(encoder: TextEncoder, sentence: str) -> list[int]:
    try:
        return encoder.ids(sentence)
    except ValueError:  # it cannot be said
        return []


def run_text_selftest(bundle: Bundle) -> TextOutcome | None:
    """Read every golden text with the bundle's text encoder; None where there are none to read."""
    texts = load_selftest(bundle).texts
    if not texts:
        return None
    encoder = load_text(bundle)
    failed = [golden.text for golden in texts if golden_text(encoder, golden.text) != golden]
    return TextOutcome(len(texts), failed, passed=not failed)
