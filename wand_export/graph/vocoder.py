"""Audio tokens to waveform, chunk by chunk, as one graph of static shape.

    forward(tokens int32 [1, context + chunk + context], noise float32 [1, noise samples], phase float32 [1])
        -> audio float32 [1, chunk samples], phase float32 [1]

Tokens -1 lie outside the utterance and are masked behind every convolution, so that an utterance spoken in chunks
equals the same utterance spoken whole between zeros. Tokens become acoustic features (ConvNeXt over tokens, then over
frames), and each frame's features a spectrum of three branches, summed and inverted:

    S = e^h e^(i pi tanh a) STFT(pulses of F0)  +  e^n STFT(noise) 2 / sqrt(n_fft)  +  e^r e^(i b)

The noise is white, uniform in [-1, 1), one value for each absolute sample: the caller gives the same value to the
same sample in every chunk. The factor 2 / sqrt(n_fft) makes its level that of an independent complex normal number
(unit variance in each part) for every bin of every frame after overlap-add. The pulse train has a phase, in cycles,
which one chunk hands to the next. The first chunk starts at 0.

The Fourier transforms are a convolution and a transposed convolution with the same fixed basis; there is no complex
number in the graph. The signal model is that of hibari-tts (Apache-2.0).
"""

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from wand_export.errors import CheckpointError
from wand_export.spec.schema import Schema, explain, read_json

ENTER_KERNEL, CODE_KERNEL, SMOOTH_KERNEL, FRAME_KERNEL = 3, 5, 5, 7
F0_SCALE, F0_FLOOR = 5.0, 60.0
"""F0 in Hz is exp(scale x feature) - 1; frames below the floor are unvoiced."""
LOWEST_PITCH, HIGHEST_HARMONIC = 40.0, 11000.0
"""Hz. Between a voiced and an unvoiced frame the interpolated F0 is unvoiced below the lowest pitch."""
LARGEST_LOG = 7.0
EDGE_FRAMES = 3
"""Frames beyond the chunk whose samples reach it through one STFT and one inverse STFT of four hops."""


class VocoderConfig(Schema):
    """What a vocoder is, beside its weights. Raises pydantic.ValidationError on an unknown key."""

    levels: list[int]
    """Levels of each dimension of the finite scalar quantizer; their product is the number of codes."""
    frames_per_code: int
    code_channels: int
    code_hidden: int
    code_blocks: int
    features: int
    f0_feature: int
    """Which feature is log(1 + F0 in Hz) / 5."""
    channels: int
    hidden: int
    blocks: int
    n_fft: int
    hop: int
    """Samples of a frame; n_fft must be four of them."""
    sample_rate: int
    context: int
    """Tokens on each side that reach into the chunk."""
    chunk: int
    """Tokens spoken in one call."""

    @property
    def samples_per_token(self) -> int:
        return self.frames_per_code * self.hop

    @property
    def chunk_samples(self) -> int:
        return self.chunk * self.samples_per_token

    @property
    def edge_samples(self) -> int:
        """Samples of noise in front of those of the chunk, and behind them."""
        return EDGE_FRAMES * self.hop

    @property
    def noise_samples(self) -> int:
        return self.chunk_samples + 2 * self.edge_samples

    @property
    def reach(self) -> int:
        """The least context with which chunks equal the whole: half the receptive field, in tokens."""
        frames = EDGE_FRAMES - 1 + FRAME_KERNEL // 2 * (1 + self.blocks) + SMOOTH_KERNEL // 2
        tokens = ENTER_KERNEL // 2 + CODE_KERNEL // 2 * self.code_blocks
        return -(-frames // self.frames_per_code) + tokens


class Block(nn.Module):
    """A ConvNeXt block over time: [B, C, T] and a mask [.., T] -> [B, C, T], zero where the mask is."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))
        y = self.down(functional.gelu(self.up(y))) * self.gamma
        return (x + y.transpose(1, 2)) * inside


class CodeDecoder(nn.Module):
    """Code values [B, T, levels] and a mask [B, 1, T] to normalized features [B, frames_per_code T, features]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv1d(len(config.levels), config.code_channels, ENTER_KERNEL, padding=ENTER_KERNEL // 2)
        sizes = config.code_channels, config.code_hidden, CODE_KERNEL
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.code_blocks))
        self.leave = nn.Linear(config.code_channels, config.features * config.frames_per_code)
        self.smooth = nn.Conv1d(config.features, config.features, SMOOTH_KERNEL, padding=SMOOTH_KERNEL // 2)

    def forward(self, values: Tensor, inside: Tensor) -> Tensor:
        x = self.enter(values.transpose(1, 2)) * inside
        for block in self.blocks:
            x = block(x, inside)
        x = self.leave(x.transpose(1, 2)).reshape(x.shape[0], -1, self.config.features).transpose(1, 2)
        framed = inside.repeat_interleave(self.config.frames_per_code, dim=2)
        x = x * framed
        return ((x + self.smooth(x)) * framed).transpose(1, 2)


class FrameDecoder(nn.Module):
    """Features [B, F, features] and a mask [B, 1, F] to what the frames' spectra are made of [B, C, F], masked."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.enter = nn.Conv1d(config.features, config.channels, FRAME_KERNEL, padding=FRAME_KERNEL // 2)
        self.blocks = nn.ModuleList(Block(config.channels, config.hidden, FRAME_KERNEL) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.channels)
        self.leave = nn.Linear(config.channels, 5 * (config.n_fft // 2 + 1))

    def forward(self, features: Tensor, inside: Tensor, kept: slice) -> Tensor:
        """The five branches of the kept frames, end to end: [B, 5 bins, kept frames]."""
        x = self.enter(features.transpose(1, 2)) * inside
        for block in self.blocks:
            x = block(x, inside)
        return self.leave(self.norm(x[:, :, kept].transpose(1, 2))).transpose(1, 2)


def code_values(levels: list[int]) -> Tensor:
    """The vector of every code, float32 [codes, len(levels)], each entry in [-1, 1]; the first level varies fastest."""
    code = torch.arange(math.prod(levels))
    columns = []
    for level in levels:
        columns.append(code % level * (2 / (level - 1)) - 1)
        code = code // level
    return torch.stack(columns, 1).float()


def fourier_basis(size: int) -> Tensor:
    """Hann-windowed real and then imaginary rows of a Fourier transform: float32 [size + 2, 1, size]."""
    time = torch.arange(size, dtype=torch.float64)
    angle = 2 * math.pi / size * (torch.arange(size // 2 + 1)[:, None] * time % size)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi / size * time)
    return (torch.cat([torch.cos(angle), -torch.sin(angle)]) * window)[:, None].float()


def magnitude(log: Tensor) -> Tensor:
    return torch.exp(log.clamp(max=LARGEST_LOG))


class Vocoder(nn.Module):
    """The graph described above. Load weights with `load_vocoder`.

    Raises ValueError if the config's context is below its reach, or n_fft is not four hops.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        if config.context < config.reach:
            raise ValueError(f"context {config.context} is below the vocoder's reach of {config.reach} tokens")
        if config.n_fft != 4 * config.hop:
            raise ValueError(f"n_fft {config.n_fft} is not four times hop {config.hop}")
        self.config = config
        self.codes = CodeDecoder(config)
        self.spectra = FrameDecoder(config)
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("std", torch.ones(config.features))
        self.bins = config.n_fft // 2 + 1
        weight = torch.full((self.bins,), 2.0 / config.n_fft)
        weight[0] = weight[-1] = 1.0 / config.n_fft
        # Squared Hann windows a hop apart sum to 1.5.
        self.register_buffer("inverse_weight", weight[None, :, None] / 1.5, persistent=False)
        self.register_buffer("values", code_values(config.levels), persistent=False)
        self.register_buffer("basis", fourier_basis(config.n_fft), persistent=False)
        self.register_buffer("inverse_basis", self.basis, persistent=False)
        place = (torch.arange(config.hop) + 0.5) / config.hop - 0.5
        self.register_buffer("from_previous", (-place).clamp(min=0), persistent=False)
        self.register_buffer("from_next", place.clamp(min=0), persistent=False)

    def forward(self, tokens: Tensor, noise: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        inside = (tokens >= 0).float()[:, None]
        framed = inside.repeat_interleave(config.frames_per_code, dim=2)
        values = functional.embedding(tokens.clamp(min=0).long(), self.values) * inside.transpose(1, 2)
        features = (self.codes(values, inside) * self.std + self.mean) * framed.transpose(1, 2)

        start = config.context * config.frames_per_code
        frames = config.chunk * config.frames_per_code
        heard = slice(start - EDGE_FRAMES - 1, start + frames + EDGE_FRAMES + 1)
        f0 = torch.expm1(F0_SCALE * features[:, heard, config.f0_feature])
        pulses, phase = self.pulses(f0 * (f0 >= F0_FLOOR), phase)

        kept = slice(start - 1, start + frames + 2)
        branches = self.spectra(features, framed, kept)
        harmonic, angle, noisy, free, free_angle = branches.split(self.bins, dim=1)
        (pulse_real, noise_real), (pulse_imaginary, noise_imaginary) = self.transform(torch.cat([pulses, noise]))
        # A cosine of unit amplitude peaks at n_fft / 4 in the transform.
        loud = magnitude(harmonic) / (config.n_fft / 4)
        hiss = magnitude(noisy) * (2 / math.sqrt(config.n_fft))
        rest = magnitude(free)
        turn = math.pi * torch.tanh(angle)
        cosine, sine = loud * torch.cos(turn), loud * torch.sin(turn)
        real = pulse_real * cosine - pulse_imaginary * sine + hiss * noise_real + rest * torch.cos(free_angle)
        imaginary = pulse_real * sine + pulse_imaginary * cosine + hiss * noise_imaginary + rest * torch.sin(free_angle)
        return self.inverse(real * framed[:, :, kept], imaginary * framed[:, :, kept]), phase

    def transform(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """STFT of float32 [B, N]: real and imaginary parts, each [B, bins, N / hop - 3]."""
        both = functional.conv1d(samples[:, None], self.basis, stride=self.config.hop)
        return both[:, : self.bins], both[:, self.bins :]

    def inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Overlap-added samples [1, chunk samples] of the chunk's frames, one frame before and two behind."""
        both = torch.cat([real * self.inverse_weight, imaginary * self.inverse_weight], dim=1)
        samples = functional.conv_transpose1d(both, self.inverse_basis, stride=self.config.hop)[:, 0]
        edge = self.config.edge_samples
        return samples[:, edge : edge + self.config.chunk_samples]

    def pulses(self, f0: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Band-limited pulse train from F0 in Hz [1, frames + 2], and the phase behind the chunk.

        F0 holds one frame more on each side than the samples that come back, for interpolation. Every harmonic up
        to the highest has unit amplitude: sum of cos(h t) for h = 1 to H is sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2.
        """
        config = self.config
        f0 = f0[:, :, None]
        previous, current, following = f0[:, :-2], f0[:, 1:-1], f0[:, 2:]
        place = self.from_previous + self.from_next
        hertz = previous * self.from_previous + current * (1 - place) + following * self.from_next
        voiced = hertz > LOWEST_PITCH
        hertz = hertz.clamp(min=LOWEST_PITCH)

        # Cycles before each sample: within its frame, and whole frames before it (kept small for float32).
        steps = hertz / config.sample_rate
        within = torch.cumsum(steps, dim=2)
        totals = within[:, :, -1]
        before = torch.cumsum(totals - torch.floor(totals), dim=1)
        before = torch.cat([torch.zeros_like(before[:, :1]), before], dim=1)
        origin, end = EDGE_FRAMES, EDGE_FRAMES + config.chunk * config.frames_per_code
        offset = phase[:, None] - before[:, origin : origin + 1]
        ended = before[:, end] + offset[:, 0]
        frame_phase = before[:, :-1] + offset
        cycles = (frame_phase - torch.floor(frame_phase))[:, :, None] + within - steps
        cycles = cycles - torch.floor(cycles)

        harmonics = torch.floor(HIGHEST_HARMONIC / hertz) + 0.5
        half = 2 * torch.sin(math.pi * cycles)
        at_peak = half.abs() <= 2e-3
        train = torch.sin(2 * math.pi * harmonics * cycles) / torch.where(at_peak, torch.ones_like(half), half)
        train = torch.where(at_peak, harmonics, train) - 0.5
        return (train * voiced).flatten(1), ended - torch.floor(ended)


def load_vocoder(folder: Path, **overrides: Any) -> Vocoder:
    """The vocoder of vocoder.json and vocoder.safetensors, in float32; `overrides` replace values of its config.

    Raises CheckpointError naming the file that is missing or wrong.
    """
    file = folder / "vocoder.json"
    try:
        config = VocoderConfig.model_validate(read_json(file))
        vocoder = Vocoder(config.model_copy(update=overrides))
        file = folder / "vocoder.safetensors"
        state = load_file(file)
        vocoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except ValidationError as error:
        raise CheckpointError(file, explain(error), "restore the file") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(file, " ".join(str(error).split()), "restore the file") from error
    return vocoder.eval()
