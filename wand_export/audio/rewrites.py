"""What makes published decoders exportable: each computes the same as what it replaces."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize, remove_weight_norm


def strip_weight_norm(module: nn.Module) -> int:
    """Replace weights that are computed at every call by their values, in place; returns how many there were.

    Both kinds: torch.nn.utils.weight_norm, and parametrizations.
    """
    count = 0
    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
                count += 1
        if hasattr(part, "weight_g"):
            remove_weight_norm(part)
            count += 1
    return count


def _basis(size: int, window: Tensor) -> tuple[Tensor, Tensor]:
    """Windowed cosines and negative sines of each bin: float64 [size // 2 + 1, size] each."""
    time = torch.arange(size, dtype=torch.float64)
    angle = 2 * math.pi / size * (torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * time % size)
    return torch.cos(angle) * window.double(), -torch.sin(angle) * window.double()


class STFT(nn.Module):
    """torch.stft(center=True, pad_mode="reflect") as a convolution: [1, 1, n] -> [1, real and imaginary, frames]."""

    def __init__(self, window: Tensor, hop: int) -> None:
        super().__init__()
        self.hop, self.edge = hop, len(window) // 2
        self.register_buffer("basis", torch.cat(_basis(len(window), window))[:, None].float())

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv1d(functional.pad(x, (self.edge, self.edge), "reflect"), self.basis, stride=self.hop)


class InverseSTFT(nn.Module):
    """Overlap-add of inverse transforms as a transposed convolution, over that of the squared window.

    forward(real and imaginary [1, size + 2, frames]) -> [1, 1, samples], `edge` samples cut from either end.
    """

    def __init__(self, window: Tensor, hop: int, edge: int) -> None:
        super().__init__()
        self.hop, self.edge, size = hop, edge, len(window)
        scale = torch.full((size // 2 + 1, 1), 2 / size, dtype=torch.float64)
        scale[0] = scale[-1] = 1 / size  # the two bins that have no mirror image
        cosine, sine = _basis(size, window)
        self.register_buffer("basis", torch.cat([cosine * scale, sine * scale])[:, None].float())
        self.register_buffer("squares", window.double().square()[None, None].float())

    def forward(self, spectrum: Tensor) -> Tensor:
        y = functional.conv_transpose1d(spectrum, self.basis, stride=self.hop)
        envelope = functional.conv_transpose1d(torch.ones_like(spectrum[:, :1]), self.squares, stride=self.hop)
        return (y / envelope.clamp(min=1e-11))[:, :, self.edge : y.shape[2] - self.edge]


def with_noise(layers: Iterable[nn.Module], x: Tensor, noise: Iterator[Tensor], block: type[nn.Module]) -> Tensor:
    """Modules one after the other, [1, C, T] -> [1, C, T'], each noise block among them taking its noise as an input.

    A noise block computes x + noise linear(x), and draws the noise [1, 1, T] itself.
    """
    for layer in layers:
        if isinstance(layer, block):
            x = x + next(noise) * layer.linear(x)
        elif any(isinstance(part, block) for part in layer.modules()):
            x = with_noise(layer.children(), x, noise, block)
        else:
            x = layer(x)
    return x


def codebooks(codes: Tensor, count: int, stride: int, size: int) -> Tensor:
    """Codes as generated, [1, count T], as values of each codebook: int64 [1, count, T].

    Code c of a frame may have ids of its own, from c x stride; what lies beyond a codebook's size is its last value.
    """
    return (codes.long() % stride).clamp(max=size - 1).reshape(1, -1, count).transpose(1, 2)


@contextmanager
def swapped(owner: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Functions of published code, a module's or an object's, replaced for a while."""
    held = {name: vars(owner)[name] for name in functions if name in vars(owner)}
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name in functions:
            delattr(owner, name)
        for name, function in held.items():
            setattr(owner, name, function)
