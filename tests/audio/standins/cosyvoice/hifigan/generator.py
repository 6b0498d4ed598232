"""A source of sines and noise, filtered by mel frames, through an inverse STFT: complex numbers and all."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


class Sines(nn.Module):
    sine_amp, noise_std, voiced_threshold = 0.1, 0.003, 10

    def __init__(self, rate: int, harmonics: int, scale: int) -> None:
        super().__init__()
        self.rate, self.count, self.scale = rate, harmonics + 1, scale

    def forward(self, f0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turns = (f0 * torch.arange(1, self.count + 1) / self.rate) % 1
        turns = functional.interpolate(turns.transpose(1, 2), scale_factor=1 / self.scale, mode="linear")
        phase = torch.cumsum(turns, 2) * self.scale
        phase = functional.interpolate(phase, scale_factor=float(self.scale), mode="linear").transpose(1, 2)
        voiced = (f0 > self.voiced_threshold).float()
        noise = (voiced * self.noise_std + (1 - voiced) * self.sine_amp / 3) * torch.randn(1, f0.shape[1], self.count)
        return torch.sin(2 * math.pi * phase) * self.sine_amp * voiced + noise, voiced, noise


class Source(nn.Module):
    def __init__(self, rate: int, harmonics: int, scale: int) -> None:
        super().__init__()
        self.l_sin_gen, self.l_linear = Sines(rate, harmonics, scale), nn.Linear(harmonics + 1, 1)

    def forward(self, f0: Tensor) -> Tensor:
        return torch.tanh(self.l_linear(self.l_sin_gen(f0)[0]))


class HiFTGenerator(nn.Module):
    def __init__(
        self, in_channels: int, base_channels: int, nb_harmonics: int, sampling_rate: int, upsample_rates: list[int],
        istft_params: dict[str, Any], f0_predictor: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.nb_harmonics, self.sampling_rate, self.istft_params = nb_harmonics, sampling_rate, istft_params
        size, rate = istft_params["n_fft"], upsample_rates[0]
        self.f0_upsamp = nn.Upsample(scale_factor=rate * istft_params["hop_len"])
        self.m_source = Source(sampling_rate, nb_harmonics, rate * istft_params["hop_len"])
        self.conv_pre = weight_norm(nn.Conv1d(in_channels, base_channels, 7, padding=3))
        self.up = weight_norm(nn.ConvTranspose1d(base_channels, base_channels, 2 * rate, rate, padding=rate // 2))
        self.source_down = nn.Conv1d(size + 2, base_channels, 1)
        self.conv_post = weight_norm(nn.Conv1d(base_channels, size + 2, 7, padding=3))
        self.stft_window = torch.hann_window(size)
        self.f0_predictor = f0_predictor

    def _options(self) -> tuple[int, int, int]:
        return self.istft_params["n_fft"], self.istft_params["hop_len"], self.istft_params["n_fft"]

    def _stft(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.stft(x, *self._options(), window=self.stft_window, return_complex=True)
        return found.real, found.imag

    def _istft(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        found = torch.polar(magnitude.clip(max=1e2), phase)
        return torch.istft(found, *self._options(), window=self.stft_window)

    def decode(self, x: Tensor, s: Tensor) -> Tensor:
        source = self.source_down(torch.cat(self._stft(s.squeeze(1)), 1))
        x = functional.pad(self.up(functional.leaky_relu(self.conv_pre(x), 0.1)), (1, 0), "reflect")
        log, phase = self.conv_post(functional.leaky_relu(x + source)).chunk(2, 1)
        return self._istft(torch.exp(log), torch.sin(phase)).clamp(-0.99, 0.99)

    @torch.inference_mode()
    def inference(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        f0 = self.f0_upsamp(self.f0_predictor(mel)[:, None]).transpose(1, 2)
        source = self.m_source(f0).transpose(1, 2)
        return self.decode(mel, source), source
