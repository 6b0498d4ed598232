"""Utterances as token ids, in batches of like length.

The file is safetensors: `tokens` int32 [N], all utterances end to end, each its prefix (conditioning), its audio
tokens and its stop token; `offsets` int64 [U + 1], where each utterance starts and the last one ends; `prefix_len`
int32 [U], how many tokens of each are prefix. Further tensors are left alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wand_export.distill.loss import IGNORED
from wand_export.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Right-padded utterances: inputs and targets int64 [B, T], prefix_len int64 [B].

    Target t is the token behind input t; it is IGNORED inside the prefix and in the padding.
    """

    inputs: Tensor
    targets: Tensor
    prefix_len: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.inputs.to(device), self.targets.to(device), self.prefix_len.to(device))


class Utterances:
    """The utterances of a file. Raises InputError if it is missing or not as described above."""

    def __init__(self, file: Path) -> None:
        try:
            with safe_open(file, framework="numpy") as tensors:
                tokens, self.offsets, self.prefix_len = (
                    tensors.get_tensor(name) for name in ("tokens", "offsets", "prefix_len")
                )
        except (SafetensorError, OSError) as error:
            fix = "see wand_export/distill/data.py for its tensors"
            raise InputError(file, f"no token file: {error}", fix) from error
        self.tokens = tokens.astype(np.int64)
        self.lengths = np.diff(self.offsets)
        fits = self.prefix_len.shape == self.lengths.shape and len(self.lengths) > 0
        fits = fits and self.offsets[0] == 0 and self.offsets[-1] == len(tokens)
        if not fits or (self.prefix_len < 1).any() or (self.prefix_len >= self.lengths).any():
            fix = "offsets run from 0 to the number of tokens, and 1 <= prefix_len < length for each utterance"
            raise InputError(file, "offsets or prefix_len do not fit the tokens", fix)

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, chosen: np.ndarray, batch_tokens: int, rng: np.random.Generator) -> list[list[int]]:
        """The chosen utterances in batches of like length and at most `batch_tokens` padded tokens, in random order.

        An utterance that is longer than that is a batch of its own.
        """
        order = chosen[np.argsort(self.lengths[chosen] + rng.uniform(0, 8, len(chosen)))]
        batches: list[list[int]] = [[]]
        for index in order.tolist():
            if batches[-1] and (len(batches[-1]) + 1) * self.lengths[[*batches[-1], index]].max() > batch_tokens:
                batches.append([])
            batches[-1].append(index)
        return [batches[i] for i in rng.permutation(len(batches))]

    def collate(
        self,
        chosen: list[int],
        corrupt: float = 0.0,
        rng: np.random.Generator | None = None,
        corrupt_ids: tuple[int, int] | None = None,
    ) -> Batch:
        """The batch of these utterances. A share `corrupt` of the generated tokens is read wrong (any other one of
        the batch in its place), as a model's own picks will be; the targets stay right. corrupt_ids, first and last,
        keeps that to these ids; None is all of them."""
        longest = int(self.lengths[chosen].max()) - 1
        inputs = np.zeros((len(chosen), longest), np.int64)
        targets = np.full_like(inputs, IGNORED)
        for row, index in enumerate(chosen):
            ids = self.tokens[self.offsets[index] : self.offsets[index + 1]]
            prefix = self.prefix_len[index]
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, prefix - 1 : len(ids) - 1] = ids[prefix:]
        prefix_len = self.prefix_len[chosen].astype(np.int64)
        if corrupt and rng is not None:
            place = np.arange(longest)
            generated = (place >= prefix_len[:, None]) & (place < self.lengths[chosen][:, None] - 1)
            if corrupt_ids is not None:
                generated &= (inputs >= corrupt_ids[0]) & (inputs <= corrupt_ids[1])
            wrong = generated & (rng.random(inputs.shape) < corrupt)
            inputs[wrong] = rng.choice(inputs[generated], int(wrong.sum()))
        return Batch(torch.tensor(inputs), torch.tensor(targets), torch.tensor(prefix_len))
