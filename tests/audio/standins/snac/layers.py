"""Weight-normed convolutions (parametrized), snakes, and a block that draws its own noise."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class NoiseBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = weight_norm(nn.Conv1d(channels, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape[0], 1, x.shape[2]) * self.linear(x)


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)


class Unit(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        wide = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation, groups=channels)
        self.block = nn.Sequential(
            Snake(channels), weight_norm(wide), Snake(channels), weight_norm(nn.Conv1d(channels, channels, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Block(nn.Module):
    def __init__(self, channels: int, rate: int) -> None:
        super().__init__()
        half, edge = channels // 2, -(-rate // 2)
        up = nn.ConvTranspose1d(channels, half, 2 * rate, rate, padding=edge, output_padding=rate % 2)
        units = [Unit(half, dilation) for dilation in (1, 3, 9)]
        self.block = nn.Sequential(Snake(channels), weight_norm(up), NoiseBlock(half), *units)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Decoder(nn.Module):
    def __init__(self, latent: int, channels: int, rates: list[int]) -> None:
        super().__init__()
        enter = weight_norm(nn.Conv1d(latent, latent, 7, padding=3, groups=latent))
        blocks = [Block(channels // 2**i, rate) for i, rate in enumerate(rates)]
        last = channels // 2 ** len(rates)
        self.model = nn.Sequential(
            enter,
            weight_norm(nn.Conv1d(latent, channels, 1)),
            *blocks,
            Snake(last),
            weight_norm(nn.Conv1d(last, 1, 7, padding=3)),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
