"""A codec's checkpoint to a streaming decoder: traced, stored, held to the family's own code, its reach measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from wand_export.audio.chain import onnx_runners, utterance
from wand_export.audio.codec import Codec
from wand_export.audio.parity import THRESHOLDS, emit, hold
from wand_export.audio.reach import measured
from wand_export.audio.storage import store
from wand_export.errors import ParityError
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.codec import Held
from wand_export.spec.target import AudioPrecision, AudioThresholds

EXACT = 1e-4
"""Of the peak: chunks that ought to equal the whole differ by no more, which float32 explains."""
MEASURED_UNITS = 4
"""Reach is measured over an utterance of so many times what a call hears, at least."""
LEAST_UNITS, MOST_UNITS = 24, 200


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
    thresholds: AudioThresholds | None = None,
    allow_low_parity: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> Built:
    """Write the decoder's ONNX files into `folder`, whose names the decoder that is returned knows.

    Raises ParityError where a graph cannot be exported, is frozen, or is below its thresholds; the latter is a warning
    with allow_low_parity.
    """
    floor, warnings = thresholds or THRESHOLDS[precision], list[str]()
    graphs = [graph.model_copy(update={"files": {"onnx": [f"{graph.name}.onnx"]}}) for graph in codec.decoder.graphs]
    codec = replace(codec, decoder=codec.decoder.model_copy(update={"graphs": graphs, "precision": precision}))
    report("exporting the graphs")
    emit(codec, folder)
    report("comparing float32 with the codec's own code")
    exact = hold(codec, folder)
    _judge(codec, exact, THRESHOLDS["float32"], allow_low_parity, warnings)
    report("measuring how far a code is heard")
    decoder = codec.decoder
    heard = decoder.look_back + decoder.look_ahead + (decoder.chunk.later if decoder.chunk else 0)
    units = max(LEAST_UNITS, min(MOST_UNITS, MEASURED_UNITS * heard))
    found = measured(codec, onnx_runners(decoder, folder), utterance(codec, units))
    if found is not None and found.error > EXACT:
        what = f"chunks differ from the whole by {found.error:.1e} of the peak"
        if found.exact and not allow_low_parity:
            raise ParityError("audio decoder", f"{what}, and ought to be equal", "--allow-low-parity writes it")
        warnings.append(f"{what[0].upper()}{what[1:]}: it was cut into calls that hear {heard} units.")
    held, passed = exact, True
    if precision != "float32":
        report(f"storing weights at {precision}")
        for graph in decoder.graphs:
            if not codec.graphs[graph.name].float32:
                store(folder / graph.files["onnx"][0], precision, codec.int8_arithmetic)
        report(f"comparing {precision} with the codec's own code")
        held = hold(codec, folder)
        passed = _judge(codec, held, floor, allow_low_parity, warnings)
    return Built(decoder.model_copy(update={"measured": found}), held, passed, warnings)


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
