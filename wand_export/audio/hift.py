"""CosyVoice 2's vocoder as two graphs: the pitch of each mel frame, and the sound that it makes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from wand_export.audio.rewrites import STFT, InverseSTFT, swapped

LARGEST = 1e2
"""No magnitude is larger."""


class Pitch(nn.Module):
    """The frames behind the prompt, and their pitch: x [1, 80, T], noise [1, 80, n] -> mel [1, 80, n], f0 [1, n]."""

    def __init__(self, hift: nn.Module) -> None:
        super().__init__()
        self.predictor = hift.f0_predictor

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mel = x[:, :, x.shape[2] - noise.shape[2] :]
        return mel, self.predictor(mel)


class Sound(nn.Module):
    """mel [1, 80, n], f0 [1, n], source_noise [1, hop n] of variance 1 -> samples float32 [1, hop n].

    The harmonics' phases start at zero with the first frame. The published code draws noise for each harmonic and adds
    them up by their weights: one, as loud as their sum, is the same.
    """

    def __init__(self, hift: nn.Module) -> None:
        super().__init__()
        self.hift = hift
        size, hop = hift.istft_params["n_fft"], hift.istft_params["hop_len"]
        self.bins, self.scale = size // 2 + 1, int(hift.f0_upsamp.scale_factor)
        self.stft, self.inverse = STFT(hift.stft_window, hop), InverseSTFT(hift.stft_window, hop, size // 2)
        self.register_buffer("harmonics", torch.arange(1, hift.nb_harmonics + 2).float())

    def forward(self, mel: Tensor, f0: Tensor, source_noise: Tensor) -> Tensor:
        def stft(x: Tensor) -> tuple[Tensor, Tensor]:
            real, imaginary = self.stft(x[:, None]).split(self.bins, 1)
            return real, imaginary

        def istft(magnitude: Tensor, phase: Tensor) -> Tensor:
            magnitude = magnitude.clip(max=LARGEST)
            return self.inverse(torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], 1))[:, 0]

        with swapped(self.hift, _stft=stft, _istft=istft):
            return self.hift.decode(mel, self.source(f0, source_noise))

    def source(self, f0: Tensor, noise: Tensor) -> Tensor:
        """[1, 1, hop n]: the sum of sines of the pitch and its multiples, and noise."""
        module = self.hift.m_source
        sines, merge = module.l_sin_gen, module.l_linear
        turns = torch.cumsum((f0[:, :, None] * self.harmonics / self.hift.sampling_rate) % 1, 1) * self.scale
        turns = functional.interpolate(turns.transpose(1, 2), scale_factor=float(self.scale), mode="linear")
        waves = torch.sin(2 * math.pi * (turns - torch.floor(turns))).transpose(1, 2) * sines.sine_amp
        voiced = (f0.repeat_interleave(self.scale, dim=1)[:, :, None] > sines.voiced_threshold).float()
        loudness = voiced * sines.noise_std + (1 - voiced) * sines.sine_amp / 3
        noise = loudness * noise[:, :, None] * merge.weight.norm()
        return torch.tanh(merge(waves * voiced) + noise).transpose(1, 2)
