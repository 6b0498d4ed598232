"""Decoders that cannot be exported as they are, each refused by name, and one that cannot be streamed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wand_export.audio.build import build
from wand_export.audio.chain import speak, utterance
from wand_export.audio.codec import Codec, Graph
from wand_export.audio.parity import TRACED
from wand_export.errors import InputError, ParityError
from wand_export.host.runtimes.onnx import OnnxAudio
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput
from wand_export.spec.recipe import Licence

HOP = 3


class Plain(nn.Module):
    """Codes to samples, one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, HOP)

    def forward(self, codes: Tensor) -> Tensor:
        return self.table(codes).flatten(1)


class Levelled(Plain):
    """Every sample over the utterance's loudness, which no chunk knows."""

    def forward(self, codes: Tensor) -> Tensor:
        samples = super().forward(codes)
        return samples / samples.square().mean(1, keepdim=True).sqrt()


class Clamped(Plain):
    """Places up to the traced length: the graph takes any length, and computes something else beyond."""

    def forward(self, codes: Tensor) -> Tensor:
        count = TRACED if torch.compiler.is_exporting() else codes.shape[1]
        return super().forward(codes) * torch.arange(codes.shape[1])[None].clamp(max=count).float().repeat_interleave(
            HOP, 1
        )


class Fixed(Plain):
    """One length alone, which torch itself finds."""

    def forward(self, codes: Tensor) -> Tensor:
        count = TRACED if torch.compiler.is_exporting() else codes.shape[1]
        return super().forward(codes) + torch.zeros(1, count * HOP)


class Hissing(Plain):
    def forward(self, codes: Tensor) -> Tensor:
        samples = super().forward(codes)
        return samples + torch.randn_like(samples)


class Neighbours(Plain):
    """Each sample with those of the code before it."""

    def forward(self, codes: Tensor) -> Tensor:
        samples = super().forward(codes)
        return samples + nn.functional.pad(samples, (HOP, 0))[:, : samples.shape[1]]


def codec(module: Plain, mode: str = "window", look_back: int = 0) -> Codec:
    words = AudioDecoder(
        mode=mode,
        hop=None if mode == "whole" else HOP,
        chunk=None if mode == "whole" else AudioChunk(first=2, later=5),
        look_back=look_back,
        inputs=[AudioInput(name="codes", source="codes", dtype="int64", shape=[1, "codes"])],
        graphs=[AudioGraph(name="plain", inputs=["codes"], outputs=["samples"], files={})],
        samples="samples",
    )
    return Codec(
        title="Plain",
        files=(),
        licence=Licence(weights="CC0-1.0", obligations="None."),
        sample_rate=8000,
        decoder=words,
        graphs={"plain": Graph(module.eval().requires_grad_(False), {"codes": {1: ("codes", 1)}})},
        codes=10,
        original=lambda values: module(values["codes"]),
        exact=True,
    )


def test_what_cannot_be_streamed_speaks_at_the_end(tmp_path: Path) -> None:
    whole = codec(Levelled(), "whole")
    built = build(whole, tmp_path)
    assert built.passed and built.decoder.measured is None
    said = utterance(whole, 30)
    samples = speak(OnnxAudio(tmp_path, built.decoder, 1), whole, said)
    with torch.no_grad():
        expected = whole.original({"codes": torch.from_numpy(said.codes)[None]}).flatten().numpy()
    assert np.allclose(samples, expected, atol=1e-6)


def test_chunks_that_ought_to_equal_the_whole_and_do_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"chunks differ from the whole by .*ought to be equal"):
        build(codec(Levelled()), tmp_path)
    built = build(replace(codec(Levelled()), exact=False), tmp_path)
    assert built.decoder.measured is not None and built.decoder.measured.error > 0.01
    assert any("chunks differ" in warning.lower() for warning in built.warnings)
    # Reach tells why: every code is heard everywhere.
    assert built.decoder.measured.reach[0].left is None and built.decoder.measured.reach[0].right is None


def test_reach_is_what_the_decoder_reads(tmp_path: Path) -> None:
    built = build(codec(Neighbours(), look_back=1), tmp_path)
    assert built.decoder.measured is not None
    assert {(reach.left, reach.right) for reach in built.decoder.measured.reach} == {(1, 0)}
    with pytest.raises(ParityError, match="ought to be equal"):
        build(codec(Neighbours()), tmp_path)


@pytest.mark.parametrize(
    "module, told", [(Fixed, "graph plain: has frozen its input 'codes' at 24"), (Clamped, "dB, below 70")]
)
def test_a_frozen_length_is_refused(module: type[Plain], told: str, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=told):
        build(codec(module()), tmp_path)


def test_random_nodes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"graph plain: draws numbers of its own \(RandomNormal"):
        build(codec(Hissing()), tmp_path)


def test_steps_are_for_decoders_that_take_some(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no steps"):
        build(codec(Plain()), tmp_path, steps=4)
