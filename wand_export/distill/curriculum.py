"""How the window closes during fine-tuning (WAND, arXiv 2604.08558, section 3).

While the ramp runs from 0 to 1, the window shrinks from `window_start` to `window` along a cosine, and what lies
outside it loses `tau` from its logit, tau rising geometrically; behind the ramp the mask is hard.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wand_export.layout import sees

HIDDEN = -1e9
"""What is added to the logit of a token that cannot be seen. Finite, so that no row of a softmax is empty."""


@dataclass(frozen=True)
class Stage:
    """The mask of one step: `tau` None is the hard mask."""

    window: int
    tau: float | None


@dataclass(frozen=True)
class Curriculum:
    """The stages of a run: the first `ramp_steps` steps close the window."""

    window: int
    window_start: int
    tau_start: float
    tau_end: float
    ramp_steps: int

    def at(self, step: int) -> Stage:
        """The stage of a step, counted from 0."""
        if step >= self.ramp_steps:
            return Stage(self.window, None)
        progress = step / self.ramp_steps
        closed = (1 - math.cos(math.pi * progress)) / 2
        window = round(self.window_start - closed * (self.window_start - self.window))
        return Stage(window, self.tau_start * (self.tau_end / self.tau_start) ** progress)


def attention_bias(length: int, prefix_len: Tensor, stage: Stage | None) -> Tensor:
    """What is added to the attention logits: float32 [B, 1, length, length], row = query.

    prefix_len: int [B]. Stage None is full attention.
    """
    query = torch.arange(length, device=prefix_len.device)[:, None]
    key = torch.arange(length, device=prefix_len.device)[None]
    prefix = prefix_len[:, None, None, None]
    seen = sees(query, key, length, length).expand(len(prefix_len), 1, length, length)
    bias = torch.zeros(seen.shape, device=prefix_len.device).masked_fill(~seen, HIDDEN)
    if stage is None:
        return bias
    outside = seen & ~sees(query, key, prefix, stage.window)
    return bias.masked_fill(outside, HIDDEN if stage.tau is None else -stage.tau)
