"""Euler's steps with classifier-free guidance, from noise that is drawn once."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class CausalConditionalCFM(nn.Module):
    def __init__(self, in_channels: int, n_spks: int, spk_emb_dim: int, cfm_params: Any, estimator: nn.Module) -> None:
        super().__init__()
        self.inference_cfg_rate, self.estimator = cfm_params.inference_cfg_rate, estimator
        generator = torch.Generator().manual_seed(0)
        self.rand_noise = torch.randn(1, spk_emb_dim, 2000, generator=generator)

    def forward(self, mu: Tensor, mask: Tensor, steps: int, spks: Tensor, cond: Tensor, streaming: bool) -> Tensor:
        x, none = self.rand_noise[:, :, : mu.shape[2]], torch.zeros_like
        times = [1 - math.cos(i / steps * math.pi / 2) for i in range(steps + 1)]
        for now, after in pairwise(times):
            t = torch.tensor([now])
            wanted = self.estimator(x, mask, mu, t, spks, cond, streaming=streaming)
            other = self.estimator(x, mask, none(mu), t, none(spks), none(cond), streaming=streaming)
            x = x + (after - now) * ((1 + self.inference_cfg_rate) * wanted - self.inference_cfg_rate * other)
        return x
