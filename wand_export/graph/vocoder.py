"""Audio codes to waveform, chunk by chunk, as one graph that hands its state on.

    forward(codes int32 [1, n + look_ahead], noise float32 [1, noise samples], *states)
        -> audio float32 [1, samples of n codes], *states

A chunk of n codes is spoken, and the look-ahead only heard. Every convolution keeps the last columns of its input at
the chunk's end, so nothing on the left is computed twice; what lies ahead is computed again by the next call, when more
is known of it. Codes -1 lie outside the utterance and are masked behind every convolution, so that an utterance spoken
in chunks equals the same utterance spoken whole between zeros, but for what lies beyond the look-ahead: see `reach`.

Codes become acoustic features (ConvNeXt over codes, then over frames), and each frame's features a spectrum of three
branches, summed and inverted:

    S = e^h e^(i pi tanh a) STFT(pulses of F0)  +  e^n STFT(noise) 2 / sqrt(n_fft)  +  e^r e^(i b)

The noise is white, uniform in [-1, 1), one value for each absolute sample: the caller gives the same value to the
same sample in every chunk. The factor 2 / sqrt(n_fft) makes its level that of an independent complex normal number
(unit variance in each part) for every bin of every frame after overlap-add. The pulse train has a phase, in cycles,
which starts at 0.

The Fourier transforms are split in two, n_fft = fine x coarse, each a small matrix of cosines and sines; there is no
complex number in the graph. The signal model is that of hibari-tts (Apache-2.0).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from wand_export.errors import CheckpointError
from wand_export.spec.audio import AudioChunk, AudioDecoder, AudioGraph, AudioInput, AudioNoise, AudioState
from wand_export.spec.schema import Schema, explain

ENTER_KERNEL, CODE_KERNEL, SMOOTH_KERNEL, FRAME_KERNEL = 3, 5, 5, 7
F0_SCALE, F0_FLOOR = 5.0, 60.0
"""F0 in Hz is exp(scale x feature) - 1; frames below the floor are unvoiced."""
LOWEST_PITCH, HIGHEST_HARMONIC = 40.0, 11000.0
"""Hz. Between a voiced and an unvoiced frame the interpolated F0 is unvoiced below the lowest pitch."""
LARGEST_LOG = 7.0
BEFORE, BEHIND = 2, 3
"""Frames before a chunk, and behind it, whose samples reach it through one STFT and one inverse STFT of four hops."""


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
    look_ahead: int
    """Codes heard behind those that are spoken."""
    frame_look_ahead: int
    """Frames of them that reach the spectra."""
    first: int
    """Codes spoken in the first call."""
    later: int
    """Codes spoken in every other call."""

    @property
    def samples_per_code(self) -> int:
        return self.frames_per_code * self.hop

    @property
    def reach(self) -> int:
        """The look-ahead with which chunks equal the whole: half the receptive field, in codes."""
        frames = BEHIND - 1 + FRAME_KERNEL // 2 * (1 + self.blocks) + SMOOTH_KERNEL // 2
        codes = ENTER_KERNEL // 2 + CODE_KERNEL // 2 * self.code_blocks
        return -(-frames // self.frames_per_code) + codes

    def noise_samples(self, codes: int) -> int:
        """Samples of noise for a chunk: BEFORE hops in front of its own, BEHIND hops behind them."""
        return codes * self.samples_per_code + (BEFORE + BEHIND) * self.hop


class Carry:
    """The states of one call: what lay to the left of its chunk, in the order that it is asked for, and what will."""

    def __init__(self, states: Sequence[Tensor] = ()) -> None:
        """Without states, zeros lie to the left, and nothing is kept."""
        self._given = iter(states) if states else None
        self.kept: list[Tensor] = []

    def join(self, x: Tensor, end: int, reach: int) -> Tensor:
        """x [.., T] behind the `reach` columns before it; those before column `end` are kept for the next call."""
        if self._given is None:
            return functional.pad(x, (reach, 0))
        joined = torch.cat([next(self._given), x], dim=-1)
        self.kept.append(joined[..., end : end + reach])
        return joined


def along(conv: nn.Conv1d, x: Tensor, carry: Carry, end: int) -> Tensor:
    """A convolution over time, [B, C, T] -> [B, C', T], of columns that were carried here, with zeros ahead."""
    reach = conv.kernel_size[0] // 2
    return conv(functional.pad(carry.join(x, end, reach), (0, reach)))


class Block(nn.Module):
    """A ConvNeXt block over time: [B, C, T] and a mask [.., T] -> [B, C, T], zero where the mask is."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor, inside: Tensor, carry: Carry, end: int) -> Tensor:
        y = self.norm(along(self.depthwise, x, carry, end).transpose(1, 2))
        y = self.down(functional.gelu(self.up(y))) * self.gamma
        return (x + y.transpose(1, 2)) * inside


class CodeDecoder(nn.Module):
    """Code values [B, levels, T] and a mask [B, 1, T] to normalized features [B, features, frames_per_code T]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv1d(len(config.levels), config.code_channels, ENTER_KERNEL)
        sizes = config.code_channels, config.code_hidden, CODE_KERNEL
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.code_blocks))
        self.leave = nn.Linear(config.code_channels, config.features * config.frames_per_code)
        self.smooth = nn.Conv1d(config.features, config.features, SMOOTH_KERNEL)

    def forward(self, values: Tensor, inside: Tensor, carry: Carry, end: int) -> Tensor:
        x = along(self.enter, values, carry, end) * inside
        for block in self.blocks:
            x = block(x, inside, carry, end)
        x = self.leave(x.transpose(1, 2)).reshape(x.shape[0], -1, self.config.features).transpose(1, 2)
        framed = inside.repeat_interleave(self.config.frames_per_code, dim=2)
        x = x * framed
        return (x + along(self.smooth, x, carry, end * self.config.frames_per_code)) * framed


class FrameDecoder(nn.Module):
    """Features [B, features, F] and a mask [B, 1, F] to what the frames' spectra are made of [B, F, 5 bins]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.enter = nn.Conv1d(config.features, config.channels, FRAME_KERNEL)
        self.blocks = nn.ModuleList(Block(config.channels, config.hidden, FRAME_KERNEL) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.channels)
        self.leave = nn.Linear(config.channels, 5 * (config.n_fft // 2 + 1))

    def forward(self, features: Tensor, inside: Tensor, carry: Carry, end: int, kept: int) -> Tensor:
        """The five branches of the first `kept` frames, end to end."""
        x = along(self.enter, features, carry, end) * inside
        for left, block in zip(range(len(self.blocks), 0, -1), self.blocks, strict=True):
            # Columns ahead that can no longer be heard are let go.
            needed = min(x.shape[2], kept + left * (FRAME_KERNEL // 2))
            x = block(x[:, :, :needed], inside[:, :, :needed], carry, end)
        return self.leave(self.norm(x[:, :, :kept].transpose(1, 2)))


def code_values(levels: list[int]) -> Tensor:
    """The vector of every code, float32 [codes, len(levels)], each entry in [-1, 1]; the first level varies fastest."""
    code = torch.arange(math.prod(levels))
    columns = []
    for level in levels:
        columns.append(code % level * (2 / (level - 1)) - 1)
        code = code // level
    return torch.stack(columns, 1).float()


class Fourier(nn.Module):
    """The real Fourier transform of windowed frames in two small steps, and its adjoint.

    With time n = fine n1 + n2 and bin k = k1 + coarse k2, coarse x fine = size: a transform over n1 for each n2, a turn
    by n2 k1 / size, and a transform over n2 for each k1, of the bins up to size / 2 alone.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.bins = size, size // 2 + 1
        self.coarse = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
        self.fine = size // self.coarse
        rows = (self.bins - 1) // self.coarse + 1
        self.padding = rows * self.coarse - self.bins

        def wave(a: int, b: int, period: int) -> tuple[Tensor, Tensor]:
            angle = 2 * math.pi / period * (torch.arange(a, dtype=torch.float64)[:, None] * torch.arange(b) % period)
            return torch.cos(angle).float(), torch.sin(angle).float()

        cosine, sine = wave(self.coarse, self.coarse, self.coarse)
        self.register_buffer("first", torch.cat([cosine, -sine]), persistent=False)
        cosine, sine = wave(self.fine, self.coarse, size)
        self.register_buffer("turn", torch.stack([cosine, -sine]), persistent=False)
        cosine, sine = wave(rows, self.fine, self.fine)
        second = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
        self.register_buffer("second", second, persistent=False)
        time = torch.arange(size, dtype=torch.float64)
        window = 0.5 - 0.5 * torch.cos(2 * math.pi / size * time)
        self.register_buffer("window", window.float(), persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, F, size] through a Hann window: real and imaginary parts, each [B, F, bins]."""
        x = (frames * self.window).reshape(*frames.shape[:2], self.coarse, self.fine).transpose(2, 3)
        real, imaginary = functional.linear(x, self.first).split(self.coarse, dim=3)
        cosine, sine = self.turn
        turned = torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=2)
        bins = functional.linear(turned.transpose(2, 3), self.second).transpose(2, 3).flatten(2)
        return bins[:, :, : self.bins], bins[:, :, bins.shape[2] // 2 :][:, :, : self.bins]

    def adjoint(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """The transposed map: [B, F, bins] twice -> frames [B, F, size], windowed."""
        bins = torch.cat([functional.pad(part, (0, self.padding)) for part in (real, imaginary)], dim=2)
        bins = bins.reshape(*bins.shape[:2], -1, self.coarse).transpose(2, 3)
        turned = functional.linear(bins, self.second.T).transpose(2, 3)
        a, b = turned.split(self.fine, dim=2)
        cosine, sine = self.turn
        x = functional.linear(torch.cat([a * cosine + b * sine, b * cosine - a * sine], dim=3), self.first.T)
        return x.transpose(2, 3).flatten(2) * self.window


def magnitude(log: Tensor) -> Tensor:
    return torch.exp(log.clamp(max=LARGEST_LOG))


class Vocoder(nn.Module):
    """The graph described above. Load weights with `load_vocoder`.

    Raises ValueError if the frames' look-ahead is more than the codes' or less than what one frame needs, or n_fft is
    not four hops.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        if not BEHIND + 1 <= config.frame_look_ahead <= config.look_ahead * config.frames_per_code:
            found = f"frame_look_ahead {config.frame_look_ahead} of look_ahead {config.look_ahead}"
            raise ValueError(f"{found}: at least {BEHIND + 1} frames, and no more than the codes have")
        if config.n_fft != 4 * config.hop:
            raise ValueError(f"n_fft {config.n_fft} is not four times hop {config.hop}")
        self.config = config
        self.codes = CodeDecoder(config)
        self.spectra = FrameDecoder(config)
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("std", torch.ones(config.features))
        self.fourier = Fourier(config.n_fft)
        weight = torch.full((self.fourier.bins,), 2.0 / config.n_fft)
        weight[0] = weight[-1] = 1.0 / config.n_fft
        # Squared Hann windows a hop apart sum to 1.5.
        self.register_buffer("inverse_weight", weight / 1.5, persistent=False)
        self.register_buffer("values", code_values(config.levels), persistent=False)
        place = (torch.arange(config.hop) + 0.5) / config.hop - 0.5
        self.register_buffer("from_previous", (-place).clamp(min=0), persistent=False)
        self.register_buffer("from_next", place.clamp(min=0), persistent=False)

    def states(self) -> list[Tensor]:
        """What lies to the left of an utterance: zeros, in the order that forward takes and gives them."""
        config = self.config
        shapes = [(len(config.levels), ENTER_KERNEL // 2)]
        shapes += [(config.code_channels, CODE_KERNEL // 2)] * config.code_blocks
        shapes += [(config.features, SMOOTH_KERNEL // 2), (1, BEFORE + 1), (config.features, FRAME_KERNEL // 2)]
        shapes += [(config.channels, FRAME_KERNEL // 2)] * config.blocks
        carried = [torch.zeros(1, *shape) for shape in shapes]
        return [*carried, torch.zeros(1, 1), torch.zeros(1, 1, config.hop)]

    def example(self, chunk: int) -> tuple[Tensor, Tensor]:
        """Codes and noise of a chunk, as an exporter traces it."""
        codes = torch.zeros(1, chunk + self.config.look_ahead, dtype=torch.int32)
        return codes, torch.zeros(1, self.config.noise_samples(chunk))

    def forward(self, codes: Tensor, noise: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        config = self.config
        *carried, phase, overlap = states
        carry = Carry(carried)
        chunk = codes.shape[1] - config.look_ahead
        inside = (codes >= 0).float()[:, None]
        framed = inside.repeat_interleave(config.frames_per_code, dim=2)
        values = functional.embedding(codes.clamp(min=0).long(), self.values).transpose(1, 2) * inside
        features = (self.codes(values, inside, carry, chunk) * self.std[:, None] + self.mean[:, None]) * framed

        frames = chunk * config.frames_per_code
        heard, kept = frames + config.frame_look_ahead, frames + BEHIND - 1
        features, framed = features[:, :, :heard], framed[:, :, :heard]
        f0 = torch.expm1(F0_SCALE * features[:, config.f0_feature : config.f0_feature + 1])
        f0 = carry.join(f0 * (f0 >= F0_FLOOR), frames, BEFORE + 1)
        pulses, phase = self.pulses(f0[:, :, : BEFORE + frames + BEHIND + 2], phase, frames)

        branches = self.spectra(features, framed, carry, frames, kept)
        harmonic, angle, noisy, free, free_angle = branches.split(self.fourier.bins, dim=2)
        real, imaginary = self.transform(torch.cat([pulses, noise]))
        # A cosine of unit amplitude peaks at n_fft / 4 in the transform.
        loud = magnitude(harmonic) / (config.n_fft / 4)
        hiss = magnitude(noisy) * (2 / math.sqrt(config.n_fft))
        rest = magnitude(free)
        turn = math.pi * torch.tanh(angle)
        cosine, sine = loud * torch.cos(turn), loud * torch.sin(turn)
        sounding = framed[:, :, :kept].transpose(1, 2)
        audio, overlap = self.inverse(
            (real[:1] * cosine - imaginary[:1] * sine + hiss * real[1:] + rest * torch.cos(free_angle)) * sounding,
            (real[:1] * sine + imaginary[:1] * cosine + hiss * imaginary[1:] + rest * torch.sin(free_angle)) * sounding,
            overlap,
        )
        return audio, *carry.kept, phase, overlap

    def transform(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """STFT of float32 [B, N]: real and imaginary parts, each [B, N / hop - 3, bins]."""
        hops = samples.reshape(samples.shape[0], -1, self.config.hop)
        count = hops.shape[1] - 3
        real, imaginary = self.fourier(torch.cat([hops[:, i : i + count] for i in range(4)], dim=2))
        return real, imaginary

    def inverse(self, real: Tensor, imaginary: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """Overlap-added samples [1, chunk samples] of the chunk's frames and two behind, and what overlaps the next."""
        frames = real.shape[1] - (BEHIND - 1)
        hops = self.fourier.adjoint(real * self.inverse_weight, imaginary * self.inverse_weight).split(
            self.config.hop, dim=2
        )
        fourth = torch.cat([overlap, hops[3][:, :frames]], dim=1)
        audio = hops[0][:, 2:] + hops[1][:, 1 : frames + 1] + hops[2][:, :frames] + fourth[:, :frames]
        return audio.flatten(1), fourth[:, frames:]

    def pulses(self, f0: Tensor, phase: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Band-limited pulse train from F0 in Hz [1, 1, BEFORE + frames + BEHIND + 2], and the phase behind the chunk.

        F0 holds one frame more on each side than the samples that come back, for interpolation. Every harmonic up
        to the highest has unit amplitude: sum of cos(h t) for h = 1 to H is sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2.
        """
        config = self.config
        f0 = f0.transpose(1, 2)
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
        offset = phase - before[:, BEFORE : BEFORE + 1]
        ended = before[:, BEFORE + frames : BEFORE + frames + 1] + offset
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
        config = VocoderConfig.model_validate_json(file.read_text(encoding="utf-8"))
        vocoder = Vocoder(config.model_copy(update=overrides))
        file = folder / "vocoder.safetensors"
        state = load_file(file)
        vocoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except ValidationError as error:
        raise CheckpointError(file, explain(error), "restore the file") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(file, " ".join(str(error).split()), "restore the file") from error
    return vocoder.eval()


def describe(vocoder: Vocoder) -> AudioDecoder:
    """How a host calls the graph, which has no files yet."""
    config, states = vocoder.config, vocoder.states()
    hop = config.samples_per_code
    carried = [
        AudioState(input=f"state_{i}", output=f"new_state_{i}", shape=list(state.shape), dtype="float32", initial=0.0)
        for i, state in enumerate(states)
    ]
    hiss = AudioNoise(
        name="noise",
        shape=[1, 0],
        axis=1,
        per_unit=hop,
        before=BEFORE * config.hop,
        behind=BEHIND * config.hop - config.look_ahead * hop,
        distribution="uniform",
    )
    graph = AudioGraph(
        name="vocoder",
        inputs=["codes", "noise", *(state.input for state in carried)],
        outputs=["audio", *(state.output for state in carried)],
        files={},
    )
    return AudioDecoder(
        mode="state",
        hop=hop,
        chunk=AudioChunk(first=config.first, later=config.later),
        look_ahead=config.look_ahead,
        outside=-1,
        inputs=[AudioInput(name="codes", source="codes", dtype="int32", shape=[1, "codes"])],
        noise=[hiss],
        states=carried,
        graphs=[graph],
        samples="audio",
    )
