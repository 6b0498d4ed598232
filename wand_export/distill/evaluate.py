"""What a model makes of held-out utterances, under full attention or under a window."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from wand_export.distill.curriculum import Stage, attention_bias
from wand_export.distill.data import Utterances
from wand_export.distill.loss import IGNORED


@dataclass(frozen=True)
class Score:
    """Means over all held-out targets: loss in nats, and how often the likeliest token is the right one."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, utterances: Utterances, chosen: list[int], window: int | None) -> Score:
    """Score the chosen utterances with the hard mask of `window`; None is full attention."""
    model.eval()
    device = next(model.parameters()).device
    loss = right = count = 0.0
    for index in chosen:
        batch = utterances.collate([index]).to(device)
        stage = None if window is None else Stage(window, None)
        mask = attention_bias(batch.inputs.shape[1], batch.prefix_len, stage)
        logits = model(batch, mask)
        wanted = batch.targets != IGNORED
        loss += functional.cross_entropy(logits[wanted], batch.targets[wanted], reduction="sum").item()
        right += (logits.argmax(-1) == batch.targets)[wanted].sum().item()
        count += wanted.sum().item()
    return Score(loss / count, right / count)
