"""The vocoder graph: chunks equal the whole, the noise is as loud as it says, and nothing drifts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from wand_export.graph.hearing import CLICK_DB, click_db, log_mel_db, seams
from wand_export.graph.ladder import TorchAudio, spoken_whole
from wand_export.graph.vocoder import Fourier, Vocoder, VocoderConfig, load_vocoder
from wand_export.host.audio import AudioStream
from wand_export.host.selftest import play_audio
from wand_export.spec.manifest import Audio

TINY = VocoderConfig(
    levels=[4, 3], frames_per_code=2, code_channels=8, code_hidden=12, code_blocks=2, features=6, f0_feature=4,
    channels=8, hidden=12, blocks=2, n_fft=64, hop=16, sample_rate=24000, look_ahead=12, frame_look_ahead=24, first=5,
    later=5,
)  # fmt: skip


def tiny_vocoder(config: VocoderConfig = TINY) -> Vocoder:
    """Random weights, the same for every chunk size, that speak with a pitch of about 200 Hz and some silence of it."""
    torch.manual_seed(0)
    vocoder = Vocoder(config)
    vocoder.mean[config.f0_feature] = math.log1p(200) / 5
    vocoder.std[config.f0_feature] = 0.2
    return vocoder.eval()


AUDIO = Audio(token_rate=1.0, sample_rate=24000, first_id=0, codes=12, silent=[], silent_rate=0.0)


def spoken(vocoder: Vocoder, codes: list[int]) -> np.ndarray:
    """The utterance in chunks."""
    return play_audio(TorchAudio(vocoder), AUDIO, codes, seed=3)


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7), (9, 4)])
@pytest.mark.parametrize("length", [1, 4, 5, 6, 23])
def test_chunks_equal_the_whole(length: int, sizes: tuple[int, int]) -> None:
    vocoder = tiny_vocoder(TINY.model_copy(update={"first": sizes[0], "later": sizes[1]}))
    codes = torch.randint(math.prod(TINY.levels), (length,)).tolist()
    expected = spoken_whole(vocoder, AUDIO, codes, seed=3)
    found = spoken(vocoder, codes)
    assert len(found) == length * TINY.samples_per_code
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    met = seams(*sizes, TINY.samples_per_code, length)
    assert len(met) == max(0, -(-(length - sizes[0]) // sizes[1]))
    click = click_db(found, expected, met)
    assert click is None or click < CLICK_DB


def test_a_look_ahead_below_the_reach_is_heard() -> None:
    """What the reach tells is neither too little nor too much."""
    codes = torch.randint(math.prod(TINY.levels), (23,)).tolist()

    def error(look_ahead: int) -> float:
        changes = {"look_ahead": look_ahead, "frame_look_ahead": 2 * look_ahead}
        vocoder = tiny_vocoder(TINY.model_copy(update=changes))
        expected = spoken_whole(vocoder, AUDIO, codes, seed=3)
        return float(np.abs(spoken(vocoder, codes) - expected).max() / np.abs(expected).max())

    assert error(TINY.reach) < 1e-4
    assert error(TINY.reach // 2 - 1) > 1e-3


def test_a_click_on_a_seam_is_found() -> None:
    """One that is planted there, and not one that is planted elsewhere: that is for the other figures to tell."""
    vocoder = tiny_vocoder()
    codes = torch.randint(math.prod(TINY.levels), (23,)).tolist()
    expected = spoken_whole(vocoder, AUDIO, codes, seed=3)
    met = seams(5, 5, TINY.samples_per_code, 23)
    for place, found in [(met[2], True), (met[2] - 1, True), (met[2] + 7, False)]:
        planted = spoken(vocoder, codes)
        planted[place] += np.abs(expected).max()
        click = click_db(planted, expected, met)
        assert (click is not None and click > CLICK_DB) == found


def test_silence_follows_the_utterance() -> None:
    vocoder = tiny_vocoder()
    codes, noise = vocoder.example(5)
    with torch.no_grad():
        audio, *_ = vocoder(codes - 1, noise + 0.5, *vocoder.states())
    assert audio.abs().max() == 0


def test_noise_is_as_loud_as_independent_bins() -> None:
    """White samples through the two transforms, against a complex normal number for every bin of every frame."""
    vocoder = tiny_vocoder()
    noise = torch.rand(1, TINY.noise_samples(400)) * 2 - 1
    nothing = torch.zeros(1, 1, TINY.hop)
    real, imaginary = vocoder.transform(noise * 2 / math.sqrt(TINY.n_fft))
    ours, _ = vocoder.inverse(real, imaginary, nothing)
    theirs, _ = vocoder.inverse(torch.randn_like(real), torch.randn_like(imaginary), nothing)
    assert ours.std() / theirs.std() == pytest.approx(1, abs=0.05)


def test_transforms_undo_each_other() -> None:
    """But for the first hop, to which the frame before it belongs; and the overlap is that frame of the next call."""
    vocoder = tiny_vocoder()
    samples = torch.randn(1, TINY.noise_samples(10))
    nothing, before = torch.zeros(1, 1, TINY.hop), 2 * TINY.hop
    whole, _ = vocoder.inverse(*vocoder.transform(samples), nothing)
    assert torch.allclose(whole[:, TINY.hop :], samples[:, before + TINY.hop : before + whole.shape[1]], atol=1e-5)
    half = 5 * TINY.samples_per_code
    first, overlap = vocoder.inverse(*vocoder.transform(samples[:, : TINY.noise_samples(5)]), nothing)
    second, _ = vocoder.inverse(*vocoder.transform(samples[:, half:]), overlap)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5)


@pytest.mark.parametrize("size", [64, 400, 1200, 22])
def test_the_split_transform_is_the_transform(size: int) -> None:
    """And its adjoint the transposed map."""
    fourier = Fourier(size)
    frames = torch.randn(2, 3, size)
    real, imaginary = fourier(frames)
    expected = torch.fft.rfft(frames * torch.hann_window(size))
    assert torch.allclose(torch.complex(real, imaginary), expected, atol=1e-4)
    a, b = torch.randn_like(real), torch.randn_like(real)
    products = (real * a + imaginary * b).sum(), (frames * fourier.adjoint(a, b)).sum()
    assert torch.allclose(*products, rtol=1e-4)


def test_pulses_are_harmonics_of_the_pitch() -> None:
    """At a constant F0 the train is the sum of cosines, and the phase behind the chunk is that of the next sample."""
    vocoder = tiny_vocoder()
    f0, rate, frames = 190.0, TINY.sample_rate, 10
    train, phase = vocoder.pulses(torch.full((1, 1, frames + 7), f0), torch.tensor([[0.25]]), frames)
    time = (torch.arange(train.shape[1]) - 2 * TINY.hop) / rate
    cycles = 0.25 + f0 * time
    expected = sum(torch.cos(2 * math.pi * h * cycles) for h in range(1, int(11000 // f0) + 1))
    far = (cycles - cycles.round()).abs() > 0.01
    assert torch.allclose(train[0][far], torch.as_tensor(expected)[far], atol=2e-2)
    assert phase.item() == pytest.approx((0.25 + f0 * frames * TINY.hop / rate) % 1, abs=1e-4)


def test_a_hundred_thousand_codes_do_not_drift() -> None:
    """The end of a long utterance does not depend on how often its state was handed on, and nothing piles up."""
    codes = torch.randint(math.prod(TINY.levels), (100_000,), generator=torch.Generator().manual_seed(1)).tolist()

    def end(size: int) -> np.ndarray:
        stream = AudioStream(TorchAudio(tiny_vocoder(TINY.model_copy(update={"later": size}))), AUDIO, seed=3)
        blocks = []
        for code in codes:
            blocks.append(stream.feed(code))
            assert len(stream._codes) <= size + TINY.look_ahead
        samples = np.concatenate([*blocks, stream.finish()])
        assert len(samples) == 100_000 * TINY.samples_per_code
        return samples[-100_000:]

    few, many = end(500), end(40)
    assert log_mel_db(many, few, TINY.sample_rate) < 0.05


def test_load_reads_half_precision(tmp_path: Path) -> None:
    vocoder = tiny_vocoder()
    (tmp_path / "vocoder.json").write_text(TINY.model_dump_json(), encoding="utf-8")
    save_file({name: tensor.half() for name, tensor in vocoder.state_dict().items()}, tmp_path / "vocoder.safetensors")
    loaded = load_vocoder(tmp_path, later=7)
    assert loaded.config.later == 7
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())


def test_wrong_configs_are_refused() -> None:
    for changes in ({"frame_look_ahead": 25}, {"frame_look_ahead": 3}):
        with pytest.raises(ValueError, match="no more than the codes have"):
            Vocoder(TINY.model_copy(update=changes))
    with pytest.raises(ValueError, match="four times"):
        Vocoder(TINY.model_copy(update={"hop": 8}))
    with pytest.raises(ValidationError):
        VocoderConfig.model_validate({**TINY.model_dump(), "surprise": 1})
