"""A decoder's graphs as files, each held to the family's own code before it is kept."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from wand_export.audio.chain import TorchAudio, speak_whole, utterance
from wand_export.audio.codec import Codec
from wand_export.errors import BundleError, ParityError
from wand_export.graph.hearing import log_mel_db
from wand_export.graph.onnx_weights import DynamicLinear, store
from wand_export.graph.trace import traced
from wand_export.host.runtimes.onnx import OnnxAudio
from wand_export.host.selftest import psnr_db
from wand_export.host.session import Floats
from wand_export.spec.codec import Held
from wand_export.spec.target import AudioPrecision, AudioThresholds

TRACED, HELD = 24, (16, 40)
"""Units that the graphs are traced with, and that they are then held to: a frozen length shows."""
MOST = 2048
"""Units of the longest utterance, or window, that the graphs are said to take."""
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
THRESHOLDS: dict[AudioPrecision, AudioThresholds] = {
    "float32": AudioThresholds(),
    "float16": AudioThresholds(min_psnr_db=40.0, max_log_mel_db=0.5),
    "int8": AudioThresholds(min_psnr_db=20.0, max_log_mel_db=3.0),
    "mixed": AudioThresholds(min_psnr_db=20.0, max_log_mel_db=3.0),
}
"""For weights without a target of their own."""
_AGAIN = "mend its codec's file in wand_export/audio/codecs"


def emit(codec: Codec, folder: Path) -> None:
    """Write each graph as its file, its weights stored at the decoder's precision.

    At "mixed" linear layers multiply integers where that pays, replaced in place; the rest is float16. Raises
    ParityError naming the graph that torch cannot export, which freezes a length, or draws numbers of its own.
    """
    _, values = speak_whole(TorchAudio(codec), codec, utterance(codec, TRACED))
    for graph in codec.decoder.graphs:
        own = codec.graphs[graph.name]
        precision = "float32" if own.float32 else codec.decoder.precision
        if precision == "mixed" and codec.int8_arithmetic:
            _multiply_integers(own.module)
        counted = {what for axes in own.lengths.values() for what, _ in axes.values()}
        dims = {what: torch.export.Dim(what, min=2, max=MOST) for what in sorted(counted)}
        shapes = tuple(
            {axis: each * dims[what] if each > 1 else dims[what] for axis, (what, each) in own.lengths[name].items()}
            if name in own.lengths
            else None
            for name in graph.inputs
        )
        # The module may take its inputs as one tuple of them.
        options = {"input_names": graph.inputs, "output_names": graph.outputs, "dynamic_shapes": (shapes,)}
        try:
            model = traced(_Flat(own.module), tuple(torch.from_numpy(values[name]) for name in graph.inputs), options)
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ParityError(f"graph {graph.name}", f"torch cannot export it: {reason}", _AGAIN) from error
        for value in model.graph.inputs:
            for axis in own.lengths.get(value.name or "", {}):
                if value.shape is not None and isinstance(size := value.shape[axis], int):
                    what = f"has frozen its input {value.name!r} at {size}"
                    raise ParityError(f"graph {graph.name}", what, _AGAIN)
        if drawn := [node.op_type for node in model.graph.all_nodes() if node.op_type in RANDOM]:
            raise ParityError(
                f"graph {graph.name}", f"draws numbers of its own ({drawn[0]})", "make the noise an input"
            )
        store(model, precision)
        ir.save(model, folder / graph.files["onnx"][0])


class _Flat(torch.nn.Module):
    """A module of however many inputs."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        made: torch.Tensor | tuple[torch.Tensor, ...] = self.module(*values)
        return made


def _multiply_integers(module: torch.nn.Module) -> None:
    for name, linear in list(module.named_modules()):
        if isinstance(linear, torch.nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, DynamicLinear(linear))


def hold(codec: Codec, folder: Path, expected: dict[int, Floats]) -> list[Held]:
    """The graphs on disk against the family's own code, at two lengths unlike the traced one, each run twice.

    Raises ParityError if a length is frozen, or the same codes give two answers.
    """
    session, held = OnnxAudio(folder, codec.decoder, None), []
    for units in HELD:
        said = utterance(codec, units, seed=units)
        try:
            found, _ = speak_whole(session, codec, said)
        except BundleError as error:
            what = f"graph {Path(error.file).stem}"
            raise ParityError(what, f"is frozen at {TRACED} units: {error.value}", _AGAIN) from error
        if len(found) != len(expected[units]):
            what = f"{len(found)} samples of {units} units, not {len(expected[units])}: a length is frozen"
            raise ParityError("audio decoder", what, _AGAIN)
        if not np.array_equal(found, speak_whole(session, codec, said)[0]):
            raise ParityError("audio decoder", "gives two answers to the same codes", "make its noise an input")
        psnr = psnr_db(found.astype(np.float64), expected[units].astype(np.float64))
        held.append(Held(units=units, psnr_db=psnr, log_mel_db=log_mel_db(found, expected[units], codec.sample_rate)))
    return held


def originals(codec: Codec) -> dict[int, Floats]:
    """The samples of the family's own code for the utterances of hold(), by their units."""
    return {units: _original(codec, units) for units in HELD}


def _original(codec: Codec, units: int) -> Floats:
    _, values = speak_whole(TorchAudio(codec), codec, utterance(codec, units, seed=units))
    with torch.no_grad():
        samples: Floats = codec.original({name: torch.from_numpy(v) for name, v in values.items()}).flatten().numpy()
    hop = codec.decoder.hop
    return samples if hop is None else np.pad(samples, (0, units * hop - len(samples)))
