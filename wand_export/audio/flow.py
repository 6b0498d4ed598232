"""CosyVoice 2's flow matching as two graphs: what is wanted of each frame, and one step towards it."""

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from wand_export.audio.rewrites import swapped

MOST_PROMPT = 1500
"""Mel frames of the longest prompt: 30 s."""


def chunk_mask(x: Tensor, mask: Tensor, *options: int | bool) -> Tensor:
    """add_optional_chunk_mask() for one utterance without padding, which needs no look into the mask's values.

    x [1, T, C], mask bool [1, 1, T] -> bool [1, T, T]: a place sees all up to the end of its own chunk.
    """
    size = options[3]
    place = torch.arange(x.shape[1])
    return mask & (place[None] < (place[:, None] // size + 1) * size)[None]


def no_padding(lengths: Tensor, size: int = 0) -> Tensor:
    """make_pad_mask() for one utterance without padding: bool [1, T]."""
    return torch.zeros(1, size, dtype=torch.bool)


class Encoder(nn.Module):
    """What the steps start from.

    forward(tokens int64 [1, P + n], prompt_mel [1, 2 P, 80], speaker [1, 192], noise [1, 80, 2 n])
        -> x, mu, cond [1, 80, 2 (P + n)], spks [1, 80]
    """

    def __init__(self, flow: nn.Module, code: ModuleType) -> None:
        super().__init__()
        self.embedding, self.encoder, self.project = flow.input_embedding, flow.encoder, flow.encoder_proj
        self.speaker, self.code = flow.spk_embed_affine_layer, code
        self.register_buffer("prompt_noise", flow.decoder.rand_noise[:, :, :MOST_PROMPT].clone())

    def forward(self, tokens: Tensor, prompt_mel: Tensor, speaker: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        with swapped(self.code, add_optional_chunk_mask=chunk_mask, make_pad_mask=no_padding):
            encoded, _ = self.encoder(self.embedding(tokens), torch.zeros(1, dtype=torch.int32), streaming=True)
        mu = self.project(encoded).transpose(1, 2)
        x = torch.cat([self.prompt_noise[:, :, : prompt_mel.shape[1]], noise], 2)
        cond = torch.cat([prompt_mel.transpose(1, 2), torch.zeros_like(noise)], 2)
        return x, mu, cond, self.speaker(functional.normalize(speaker, dim=1))


class Step(nn.Module):
    """One step of Euler's, with classifier-free guidance: x [1, 80, T] at time [1], and how far [1] -> x."""

    def __init__(self, flow: nn.Module, code: ModuleType) -> None:
        super().__init__()
        self.estimator, self.rate, self.code = flow.decoder.estimator, flow.decoder.inference_cfg_rate, code

    def forward(self, x: Tensor, mu: Tensor, cond: Tensor, spks: Tensor, time: Tensor, step: Tensor) -> Tensor:
        def guided(value: Tensor) -> Tensor:
            return torch.cat([value, torch.zeros_like(value)])

        mask = torch.ones_like(x[:, :1]).repeat(2, 1, 1)
        with swapped(self.code, add_optional_chunk_mask=chunk_mask):
            slope = self.estimator(
                x.repeat(2, 1, 1), mask, guided(mu), time.repeat(2), guided(spks), guided(cond), streaming=True
            )
        return x + step * ((1 + self.rate) * slope[:1] - self.rate * slope[1:])
