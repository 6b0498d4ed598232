"""Tokens to mel frames in the voice of a prompt."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosyvoice.masks import make_pad_mask


class CausalMaskedDiffWithXvec(nn.Module):
    def __init__(
        self, input_size: int, output_size: int, spk_embed_dim: int, vocab_size: int, input_frame_rate: int,
        token_mel_ratio: int, encoder: nn.Module, decoder: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.output_size, self.vocab_size, self.token_mel_ratio = output_size, vocab_size, token_mel_ratio
        self.input_embedding = nn.Embedding(vocab_size, input_size)
        self.spk_embed_affine_layer = nn.Linear(spk_embed_dim, output_size)
        self.encoder, self.decoder = encoder, decoder
        self.encoder_proj = nn.Linear(encoder.output_size(), output_size)

    @torch.inference_mode()
    def inference(
        self, token: Tensor, token_len: Tensor, prompt_token: Tensor, prompt_token_len: Tensor, prompt_feat: Tensor,
        prompt_feat_len: Tensor, embedding: Tensor, streaming: bool, finalize: bool,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        assert finalize
        speaker = self.spk_embed_affine_layer(functional.normalize(embedding, dim=1))
        tokens, lengths = torch.cat([prompt_token, token], 1), prompt_token_len + token_len
        embedded = self.input_embedding(tokens) * ~make_pad_mask(lengths)[:, :, None]
        encoded, _ = self.encoder(embedded, lengths, streaming=streaming)
        mu = self.encoder_proj(encoded).transpose(1, 2)
        cond = torch.zeros_like(mu)
        cond[:, :, : prompt_feat.shape[1]] = prompt_feat.transpose(1, 2)
        mel = self.decoder(mu, torch.ones_like(mu[:, :1]), 10, speaker, cond, streaming)
        return mel[:, :, prompt_feat.shape[1] :], None
