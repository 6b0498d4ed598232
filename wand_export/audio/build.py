"""A codec's checkpoint to a streaming decoder: traced, stored, held to the family's own code, its reach measured."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from wand_export import __version__
from wand_export.audio.chain import speak, speak_whole, utterance
from wand_export.audio.codec import Codec
from wand_export.audio.parity import THRESHOLDS, emit, hold, originals
from wand_export.audio.reach import measured
from wand_export.errors import InputError, ParityError
from wand_export.graph.hearing import log_mel_db
from wand_export.graph.hub import name_of
from wand_export.graph.weights import digest
from wand_export.host.runtimes.onnx import OnnxAudio
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.codec import AUDIO_FILE, AudioFile, Held
from wand_export.spec.target import AudioPrecision, AudioThresholds

EXACT = 1e-4
"""Of the peak: chunks that ought to equal the whole differ by no more, which float32 explains."""
LEAST_UNITS, MOST_UNITS, WINDOWS = 24, 200, 4
"""Reach is measured over an utterance of so many windows, no less and no more than so many units."""


@dataclass(frozen=True)
class Built:
    """A decoder on disk, what was measured of it, and what a user should know."""

    decoder: AudioDecoder
    parity: list[Held]
    passed: bool
    warnings: list[str]


def build(
    codec: Codec,
    folder: Path,
    precision: AudioPrecision = "float32",
    *,
    steps: int | None = None,
    allow_low_parity: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> Built:
    """Write the decoder's ONNX files into `folder`, whose names the decoder that is returned knows.

    steps: of a decoder's loop, instead of the family's own number. Raises ParityError where a graph cannot be exported,
    is frozen, or is below its thresholds; the latter is a warning with allow_low_parity. Raises InputError for steps
    of a decoder that has no loop.
    """
    if steps is not None and (codec.schedule is None or codec.decoder.loop is None):
        raise InputError("--steps", f"{codec.title} takes no steps", "leave it out")
    warnings = [f"The audio decoder's weights are for non-commercial use only: {codec.licence.weights}."]
    warnings = warnings if codec.licence.non_commercial else []
    graphs = [graph.model_copy(update={"files": {"onnx": [f"{graph.name}.onnx"]}}) for graph in codec.decoder.graphs]
    decoder = codec.decoder.model_copy(update={"graphs": graphs, "precision": precision})
    # Integers are scaled by what else is in a call.
    integers = precision == "mixed" and codec.int8_arithmetic
    codec = replace(codec, decoder=decoder, exact=codec.exact and not integers)
    report("asking the codec's own code")
    expected = originals(codec)
    report("exporting the graphs")
    emit(codec, folder)
    report("comparing them with the codec's own code")
    held = hold(codec, folder, expected)
    passed = _judge(codec, held, THRESHOLDS[precision], allow_low_parity, warnings)
    if steps is not None:
        codec = _fewer(codec, folder, steps, warnings)
    report("measuring how far a code is heard")
    decoder = codec.decoder
    heard = decoder.look_back + decoder.look_ahead + (decoder.chunk.later if decoder.chunk else 0)
    session, said = OnnxAudio(folder, decoder, None), utterance(codec, _between(heard * WINDOWS))
    found = measured(session, codec, said)
    if found is not None and found.error > EXACT:
        distance = log_mel_db(speak(session, codec, said), speak_whole(session, codec, said)[0], codec.sample_rate)
        what = f"chunks differ from the whole by {found.error:.1e} of the peak, log-mel spectra by {distance:.2f} dB"
        if found.exact and not allow_low_parity:
            raise ParityError("audio decoder", f"{what}, and ought to be equal", "--allow-low-parity writes it")
        warnings.append(f"{what[0].upper()}{what[1:]}.")
    return Built(decoder.model_copy(update={"measured": found}), held, passed, warnings)


def write_document(name: str, checkpoint: Path, codec: Codec, built: Built, folder: Path) -> AudioFile:
    """Write audio.json beside a decoder's files."""
    document = AudioFile(
        schema_version=1,
        wand_export=__version__,
        codec=name,
        title=codec.title,
        checkpoint=name_of(checkpoint),
        sha256=digest(list(codec.files)),
        licence=codec.licence,
        sample_rate=codec.sample_rate,
        codes=codec.codes,
        decoder=built.decoder,
        parity=built.parity,
        passed=built.passed,
        bytes={file: (folder / file).stat().st_size for file in built.decoder.files},
    )
    text = json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / AUDIO_FILE).write_text(f"{text}\n", encoding="utf-8")
    return document


def _between(units: int) -> int:
    return max(LEAST_UNITS, min(MOST_UNITS, units))


def _fewer(codec: Codec, folder: Path, steps: int, warnings: list[str]) -> Codec:
    """The codec with so many steps, and a warning that tells what they cost."""
    loop, schedule = codec.decoder.loop, codec.schedule
    assert loop is not None and schedule is not None
    other = replace(
        codec,
        decoder=codec.decoder.model_copy(update={"loop": loop.model_copy(update={"times": schedule(steps)})}),
    )
    said = utterance(codec, LEAST_UNITS)
    own, fewer = (speak_whole(OnnxAudio(folder, c.decoder, None), c, said)[0] for c in (codec, other))
    distance = log_mel_db(fewer, own, codec.sample_rate)
    warnings.append(f"{steps} steps instead of {len(loop.times) - 1} move log-mel spectra by {distance:.2f} dB.")
    return other


def _judge(codec: Codec, held: list[Held], floor: AudioThresholds, allowed: bool, warnings: list[str]) -> bool:
    """Whether the worst of them is good enough. Raises ParityError where it has to be."""
    decibels = [one.psnr_db for one in held if one.psnr_db is not None]
    psnr, mel = min(decibels, default=None), max(one.log_mel_db for one in held)
    if codec.judge == "psnr" and psnr is not None and psnr < floor.min_psnr_db:
        what = f"{psnr:.1f} dB, below {floor.min_psnr_db}"
    elif mel > floor.max_log_mel_db:
        what = f"log-mel spectra {mel:.2f} dB apart, above {floor.max_log_mel_db}"
    else:
        return True
    if not allowed:
        raise ParityError("audio decoder", what, "nothing was written; --allow-low-parity writes it")
    warnings.append(f"The audio decoder is below its threshold: {what}.")
    return False
