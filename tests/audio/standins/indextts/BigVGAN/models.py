"""A vocoder of the language model's vectors that encodes its speaker itself."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm


class Speaker(nn.Module):
    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(mels, width)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.project(mel).mean(1, keepdim=True)


class Residual(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2))) for d in (1, 3, 5)
        )
        self.alpha = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            alpha = self.alpha.exp()[:, None]
            x = x + conv(x + torch.sin(alpha * x).square() / alpha)
        return x


class BigVGAN(nn.Module):
    def __init__(self, h: Any, use_cuda_kernel: bool = False) -> None:
        super().__init__()
        width, channels = h.speaker_embedding_dim, h.upsample_initial_channel
        self.conv_pre = weight_norm(nn.Conv1d(h.gpt_dim, channels, 7, padding=3))
        self.cond_layer = nn.Conv1d(width, channels, 1)
        self.ups, self.conds, self.resblocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(h.upsample_rates, h.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(weight_norm(up))
            channels //= 2
            self.conds.append(nn.Conv1d(width, channels, 1))
            self.resblocks.append(Residual(channels, h.resblock_kernel_sizes[0]))
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))
        self.speaker_encoder = Speaker(h.num_mels, width)

    def forward(self, x: Tensor, mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, None]:
        speaker = self.speaker_encoder(mel, lengths).transpose(1, 2)
        x = self.conv_pre(x.transpose(1, 2)) + self.cond_layer(speaker)
        for up, condition, residual in zip(self.ups, self.conds, self.resblocks, strict=True):
            x = residual(up(x) + condition(speaker))
        return torch.tanh(self.conv_post(x)), None
