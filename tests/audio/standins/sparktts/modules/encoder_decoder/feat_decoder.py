"""ConvNeXt blocks, conditioned on the speaker."""

from torch import Tensor, nn


class Decoder(nn.Module):
    def __init__(self, input_channels: int, vocos_dim: int, vocos_num_layers: int, out_channels: int) -> None:
        super().__init__()
        self.linear_pre = nn.Linear(input_channels, vocos_dim)
        layers = [nn.Conv1d(vocos_dim, vocos_dim, 7, padding=3, groups=vocos_dim) for _ in range(vocos_num_layers)]
        self.layers = nn.ModuleList(layers)
        self.condition = nn.Linear(out_channels, vocos_dim)
        self.norm = nn.LayerNorm(vocos_dim)
        self.linear = nn.Linear(vocos_dim, out_channels)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.linear_pre(x.transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            y = self.norm(layer(x).transpose(1, 2)) * (1 + self.condition(c)[:, None])
            x = x + nn.functional.gelu(y).transpose(1, 2)
        return self.linear(x.transpose(1, 2)).transpose(1, 2)
