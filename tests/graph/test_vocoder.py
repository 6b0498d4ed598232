"""The vocoder graph: chunks equal the whole, the noise is as loud as it says, and the saved graph equals torch."""

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from wand_export.graph.vocoder import Vocoder, VocoderConfig, load_vocoder

TINY = VocoderConfig(
    levels=[4, 3], frames_per_code=2, code_channels=8, code_hidden=12, code_blocks=2, features=6, f0_feature=4,
    channels=8, hidden=12, blocks=2, n_fft=64, hop=16, sample_rate=24000, context=12, chunk=5,
)  # fmt: skip


def tiny_vocoder(config: VocoderConfig = TINY) -> Vocoder:
    """Random weights, the same for every chunk size, that speak with a pitch of about 200 Hz and some silence of it."""
    torch.manual_seed(0)
    vocoder = Vocoder(config)
    vocoder.mean[config.f0_feature] = math.log1p(200) / 5
    vocoder.std[config.f0_feature] = 0.2
    return vocoder.eval()


def spoken(vocoder: Vocoder, codes: list[int], noise: Tensor) -> Tensor:
    """The utterance chunk by chunk; `noise` starts `edge_samples` before the first sample."""
    config = vocoder.config
    padded = [-1] * config.context + codes + [-1] * (config.context + config.chunk)
    phase, audio = torch.zeros(1), []
    for first in range(0, len(codes), config.chunk):
        tokens = torch.tensor([padded[first : first + config.chunk + 2 * config.context]], dtype=torch.int32)
        start = first * config.samples_per_token
        with torch.no_grad():
            samples, phase = vocoder(tokens, noise[None, start : start + config.noise_samples], phase)
        audio.append(samples[0])
    return torch.cat(audio)[: len(codes) * config.samples_per_token]


@pytest.mark.parametrize("length", [1, 4, 5, 6, 23])
def test_chunks_equal_the_whole(length: int) -> None:
    vocoder = tiny_vocoder()
    whole = Vocoder(TINY.model_copy(update={"chunk": length})).eval()
    whole.load_state_dict(vocoder.state_dict())
    codes = torch.randint(math.prod(TINY.levels), (length,)).tolist()
    noise = torch.rand(2 * TINY.noise_samples + whole.config.noise_samples) * 2 - 1
    expected = spoken(whole, codes, noise)
    assert (spoken(vocoder, codes, noise) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_context_is_no_larger_than_what_is_heard() -> None:
    """A code at the edge of the reach changes the chunk; without it the context would be wasted."""
    vocoder = tiny_vocoder(TINY.model_copy(update={"context": TINY.reach}))
    config = vocoder.config
    tokens = torch.zeros(1, config.chunk + 2 * config.context, dtype=torch.int32)
    changed = tokens.clone()
    changed[0, -2] = 7
    noise = torch.rand(1, config.noise_samples)
    with torch.no_grad():
        difference = vocoder(tokens, noise, torch.zeros(1))[0] - vocoder(changed, noise, torch.zeros(1))[0]
    assert difference.abs().max() > 0


def test_silence_follows_the_utterance() -> None:
    vocoder = tiny_vocoder()
    tokens = torch.full((1, TINY.chunk + 2 * TINY.context), -1, dtype=torch.int32)
    with torch.no_grad():
        audio, _ = vocoder(tokens, torch.rand(1, TINY.noise_samples), torch.zeros(1))
    assert audio.abs().max() == 0


def test_noise_is_as_loud_as_independent_bins() -> None:
    """White samples through the two transforms, against a complex normal number for every bin of every frame."""
    vocoder = tiny_vocoder(TINY.model_copy(update={"chunk": 400}))
    noise = torch.rand(1, vocoder.config.noise_samples) * 2 - 1
    real, imaginary = vocoder.transform(noise * 2 / math.sqrt(TINY.n_fft))
    ours = vocoder.inverse(real, imaginary)
    theirs = vocoder.inverse(torch.randn_like(real), torch.randn_like(imaginary))
    assert ours.std() / theirs.std() == pytest.approx(1, abs=0.05)


def test_transforms_undo_each_other() -> None:
    vocoder = tiny_vocoder()
    samples = torch.randn(1, TINY.noise_samples)
    edge = TINY.edge_samples
    assert torch.allclose(vocoder.inverse(*vocoder.transform(samples)), samples[:, edge:-edge], atol=1e-5)


def test_pulses_are_harmonics_of_the_pitch() -> None:
    """At a constant F0 the train is the sum of cosines, and the phase behind the chunk is that of the next sample."""
    vocoder = tiny_vocoder()
    f0, rate = 190.0, TINY.sample_rate
    frames = TINY.chunk * TINY.frames_per_code
    train, phase = vocoder.pulses(torch.full((1, frames + 8), f0), torch.tensor([0.25]))
    time = (torch.arange(train.shape[1]) - TINY.edge_samples) / rate
    cycles = 0.25 + f0 * time
    expected = sum(torch.cos(2 * math.pi * h * cycles) for h in range(1, int(11000 // f0) + 1))
    far = (cycles - cycles.round()).abs() > 0.01
    assert torch.allclose(train[0][far], torch.as_tensor(expected)[far], atol=2e-2)
    assert phase.item() == pytest.approx((0.25 + f0 * TINY.chunk_samples / rate) % 1, abs=1e-4)


def test_saved_graph_equals_torch(tmp_path: Path) -> None:
    vocoder = tiny_vocoder()
    tokens = torch.randint(0, 12, (1, TINY.chunk + 2 * TINY.context), dtype=torch.int32)
    tokens[0, :9] = -1
    inputs = (tokens, torch.rand(1, TINY.noise_samples), torch.tensor([0.3]))
    torch.onnx.export(vocoder, inputs, tmp_path / "v.onnx", input_names=["tokens", "noise", "phase"], dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "v.onnx", providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(("tokens", "noise", "phase"), inputs, strict=True)}
    with torch.no_grad():
        expected = vocoder(*inputs)
    for found, wanted in zip(session.run(None, feeds), expected, strict=True):
        assert np.abs(found - wanted.numpy()).max() < 1e-4


def test_load_reads_half_precision(tmp_path: Path) -> None:
    vocoder = tiny_vocoder()
    (tmp_path / "vocoder.json").write_text(TINY.model_dump_json(), encoding="utf-8")
    save_file({name: tensor.half() for name, tensor in vocoder.state_dict().items()}, tmp_path / "vocoder.safetensors")
    loaded = load_vocoder(tmp_path, chunk=7)
    assert loaded.config.chunk == 7
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())


def test_wrong_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="reach of 12 tokens"):
        Vocoder(TINY.model_copy(update={"context": 2}))
    with pytest.raises(ValueError, match="four times"):
        Vocoder(TINY.model_copy(update={"hop": 8}))
    with pytest.raises(ValidationError):
        VocoderConfig.model_validate({**TINY.model_dump(), "surprise": 1})
