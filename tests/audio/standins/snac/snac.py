"""Codebooks at several rates, and a decoder of their sum."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from snac.layers import Decoder


class Book(nn.Module):
    def __init__(self, latent: int, size: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.out_proj = weight_norm(nn.Conv1d(width, latent, 1))
        self.codebook = nn.Embedding(size, width)


class Quantizer(nn.Module):
    def __init__(self, latent: int, size: int, width: int, strides: list[int]) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(Book(latent, size, width, stride) for stride in strides)

    def from_codes(self, codes: list[Tensor]) -> Tensor:
        parts = [
            book.out_proj(book.codebook(c).transpose(1, 2)) for book, c in zip(self.quantizers, codes, strict=True)
        ]
        wide = [part.repeat_interleave(book.stride, dim=2) for book, part in zip(self.quantizers, parts, strict=True)]
        return sum(wide[1:], wide[0])


class SNAC(nn.Module):
    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.codebook_size = config["codebook_size"]
        latent = config["encoder_dim"] * 2 ** len(config["decoder_rates"])
        self.quantizer = Quantizer(latent, self.codebook_size, config["codebook_dim"], config["vq_strides"])
        self.decoder = Decoder(latent, config["decoder_dim"], config["decoder_rates"])

    def decode(self, codes: list[Tensor]) -> Tensor:
        return self.decoder(self.quantizer.from_codes(codes))
