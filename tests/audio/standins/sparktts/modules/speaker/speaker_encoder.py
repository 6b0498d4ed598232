"""The speaker's codes to one vector."""

import math

import torch
from torch import Tensor, nn


class SpeakerEncoder(nn.Module):
    def __init__(self, out_dim: int, latent_dim: int, token_num: int, fsq_levels: list[int]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(fsq_levels), persistent=False)
        self.register_buffer("basis", torch.tensor([math.prod(fsq_levels[:i]) for i in range(len(fsq_levels))]), False)
        self.widen = nn.Linear(len(fsq_levels), latent_dim)
        self.project = nn.Linear(latent_dim * token_num, out_dim)

    def detokenize(self, codes: Tensor) -> Tensor:
        """codes [1, 1, n] -> [1, out_dim]."""
        values = (codes[:, 0, :, None] // self.basis) % self.levels
        return self.project(self.widen(values / (self.levels - 1) * 2 - 1).flatten(1))
