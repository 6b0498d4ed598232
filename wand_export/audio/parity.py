"""A decoder's graphs as files, each held to the family's own code before it is kept."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from wand_export.audio.chain import Utterance, inputs_of, onnx_runners, run, torch_runners, utterance, whole
from wand_export.audio.codec import Codec
from wand_export.errors import ParityError
from wand_export.graph.trace import traced
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


def emit(codec: Codec, folder: Path) -> None:
    """Write each graph as <name>.onnx, float32.

    Raises ParityError naming the graph that froze a length, or draws random numbers of its own.
    """
    said = utterance(codec, TRACED)
    given = inputs_of(codec.decoder, said, 0, TRACED) | {
        state.input: np.full(state.shape, state.initial, state.dtype) for state in codec.decoder.states
    }
    values = run(codec.decoder, torch_runners(codec), given)
    for graph in codec.decoder.graphs:
        lengths = codec.graphs[graph.name].lengths
        counted = {what for axes in lengths.values() for what, _ in axes.values()}
        dims = {what: torch.export.Dim(what, min=2, max=MOST) for what in sorted(counted)}
        shapes = {
            name: {axis: each * dims[what] if each > 1 else dims[what] for axis, (what, each) in axes.items()}
            for name, axes in lengths.items()
        }
        arguments = tuple(torch.from_numpy(values[name]) for name in graph.inputs)
        options = {"input_names": graph.inputs, "output_names": graph.outputs}
        try:
            # A tuple of them: the inputs may come as one *arguments.
            given_shapes = tuple(shapes.get(name) for name in graph.inputs)
            model = traced(
                _Flat(codec.graphs[graph.name].module), arguments, {**options, "dynamic_shapes": (given_shapes,)}
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ParityError(
                f"graph {graph.name}", f"torch cannot export it: {reason}", "its codec's file rewrites what it must"
            ) from error
        if drawn := [node.op_type for node in model.graph.all_nodes() if node.op_type in RANDOM]:
            raise ParityError(
                f"graph {graph.name}", f"draws numbers of its own ({drawn[0]})", "make the noise an input"
            )
        ir.save(model, folder / f"{graph.name}.onnx")


class _Flat(torch.nn.Module):
    """A module of however many inputs."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        made: torch.Tensor | tuple[torch.Tensor, ...] = self.module(*values)
        return made


def hold(codec: Codec, folder: Path) -> list[Held]:
    """The graphs on disk against the family's own code, at two lengths unlike the traced one, each run twice.

    Raises ParityError naming the graph whose length is frozen, or which gives two answers.
    """
    runners = onnx_runners(codec.decoder, folder)
    held = []
    for units in HELD:
        said = utterance(codec, units, seed=units)
        expected = original(codec, said)
        try:
            found = whole(codec.decoder, runners, said)
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            first = str(error).splitlines()[0]
            raise ParityError("audio decoder", f"a graph is frozen at {TRACED} units: {first}", "rewrite it") from error
        if len(found) != len(expected):
            raise ParityError(
                "audio decoder",
                f"{len(found)} samples of {units} units, not {len(expected)}: a length is frozen",
                "rewrite it",
            )
        if not np.array_equal(found, whole(codec.decoder, runners, said)):
            raise ParityError("audio decoder", "gives two answers to the same codes", "make its noise an input")
        held.append(
            Held(units=units, psnr_db=psnr(expected, found), log_mel_db=log_mel(expected, found, codec.sample_rate))
        )
    return held


def original(codec: Codec, said: Utterance) -> npt.NDArray[np.float32]:
    """The samples of the family's own code, as long as the units are."""
    values = inputs_of(codec.decoder, said, 0, said.units)
    with torch.no_grad():
        samples: npt.NDArray[np.float32] = codec.original({k: torch.from_numpy(v) for k, v in values.items()}).numpy()
    samples = samples.reshape(-1)
    return samples if codec.decoder.hop is None else np.pad(samples, (0, said.units * codec.decoder.hop - len(samples)))


def psnr(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float | None:
    """Peak over the root mean square of the difference, in dB; None where there is none."""
    difference = float(np.sqrt(np.mean(np.square(expected.astype(np.float64) - found))))
    return None if difference == 0 else 20 * float(np.log10(np.abs(expected).max() / difference))


def log_mel(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], sample_rate: int) -> float:
    """Root mean square difference of log-mel spectra, in dB."""
    a, b = (_mel(torch.from_numpy(samples), sample_rate) for samples in (expected, found))
    return float((a - b).square().mean().sqrt())


def _mel(samples: torch.Tensor, sample_rate: int, size: int = 1024, bands: int = 80) -> torch.Tensor:
    """Powers of triangular bands, even in mel, in dB, no more than 80 dB below the loudest: [bands, frames]."""
    spectrum = torch.stft(
        samples, size, size // 4, window=torch.hann_window(size), pad_mode="constant", return_complex=True
    )
    mels = torch.linspace(0, 2595 * float(np.log10(1 + sample_rate / 2 / 700)), bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    rising = (torch.linspace(0, sample_rate / 2, size // 2 + 1)[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[
        :, None
    ]
    falling = (edges[2:, None] - torch.linspace(0, sample_rate / 2, size // 2 + 1)[None]) / (edges[2:] - edges[1:-1])[
        :, None
    ]
    power = torch.minimum(rising, falling).clamp(min=0) @ spectrum.abs().square()
    decibels = 10 * torch.log10(power.clamp(min=1e-10))
    return decibels.clamp(min=float(decibels.max()) - 80)
