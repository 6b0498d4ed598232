"""The pitch of each frame."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ConvRNNF0Predictor(nn.Module):
    def __init__(self, in_channels: int, cond_channels: int) -> None:
        super().__init__()
        self.condnet = nn.Sequential(weight_norm(nn.Conv1d(in_channels, cond_channels, 3, padding=1)), nn.ELU())
        self.classifier = nn.Linear(cond_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.abs(self.classifier(self.condnet(x).transpose(1, 2)).squeeze(-1))
