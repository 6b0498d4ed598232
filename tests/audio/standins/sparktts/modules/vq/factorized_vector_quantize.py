"""A codebook behind a projection, weight-normed the old way."""

from torch import Tensor, nn
from torch.nn.utils import weight_norm


class FactorizedVectorQuantize(nn.Module):
    def __init__(self, input_dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.out_project = weight_norm(nn.Conv1d(codebook_dim, input_dim, 1))
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def detokenize(self, codes: Tensor) -> Tensor:
        return self.out_project(self.codebook(codes).transpose(1, 2))
