"""Transposed convolutions, weight-normed the old way."""

from torch import Tensor, nn
from torch.nn.utils import weight_norm


class WaveGenerator(nn.Module):
    def __init__(self, input_channel: int, channels: int, rates: list[int], kernel_sizes: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [weight_norm(nn.Conv1d(input_channel, channels, 7, padding=3))]
        for kernel, rate in zip(kernel_sizes, rates, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            layers += [nn.ELU(), weight_norm(up)]
            channels //= 2
        self.model = nn.Sequential(*layers, weight_norm(nn.Conv1d(channels, 1, 7, padding=3)), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
