"""Utterances as token ids, in batches of like length.

The file is safetensors: `tokens` int32 [N], all utterances end to end, each its prefix (conditioning), its audio
tokens and its stop token; `offsets` int64 [U + 1], where each utterance starts and the last one ends; `prefix_len`
int32 [U], how many tokens of each are prefix. Of families with several embedding tables, `tables` int8 [N] tells in
which one each token is looked up: the number of the table in the recipe's [tables], or their count for a conditioning
latent, whose token is then a row of `latents` float32 [R, D]. Without it, all are in the recipe's speech table.
Further tensors are left alone.
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

    Target t is the token behind input t; it is IGNORED inside the prefix and in the padding. tables and positions
    int64 [B, T]: where each input is looked up, and its place among its neighbours from the same table, which is its
    learned position; latents: float32 [R, D], or None.
    """

    inputs: Tensor
    targets: Tensor
    prefix_len: Tensor
    tables: Tensor
    positions: Tensor
    latents: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        moved = {key: value.to(device) for key, value in vars(self).items() if value is not None}
        return Batch(**moved)


class Utterances:
    """The utterances of a file.

    Raises InputError if it is missing or not as described above. speech_table: number of the table of generated
    tokens; skipped: learned positions that are left out before them.
    """

    def __init__(self, file: Path, speech_table: int = 0, skipped: int = 0) -> None:
        self.file, self.speech_table, self.skipped = file, speech_table, skipped
        try:
            with safe_open(file, framework="numpy") as tensors:
                tokens, self.offsets, self.prefix_len = (
                    tensors.get_tensor(name) for name in ("tokens", "offsets", "prefix_len")
                )
                there = set(tensors.keys())
                more = {name: tensors.get_tensor(name) for name in ("tables", "latents") if name in there}
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
        self.tables = more.get("tables", np.full(len(tokens), speech_table)).astype(np.int64)
        self.latents = torch.from_numpy(more["latents"]) if "latents" in more else None
        if len(self.tables) != len(tokens):
            raise InputError(file, f"{len(self.tables)} tables for {len(tokens)} tokens", "give one for each")

    def check(self, rows: list[int], head_rows: int, width: int) -> None:
        """Raise InputError for a token outside its table. rows: of each table; width: of the latents."""
        if self.latents is not None and self.latents.shape[1:] != (width,):
            raise InputError(self.file, f"latents of shape {list(self.latents.shape)}", f"they are rows of {width}")
        sizes = np.array([*rows, 0 if self.latents is None else len(self.latents)])
        known = (self.tables >= 0) & (self.tables < len(sizes))
        if not known.all():
            fix = f"tables are numbered from 0 to {len(sizes) - 1}"
            raise InputError(self.file, f"table {self.tables[~known][0]}", fix)
        # Generated tokens are rows of the head; all but the last of an utterance are looked up as well.
        generated, looked_up = np.zeros(len(self.tokens), bool), np.ones(len(self.tokens), bool)
        looked_up[self.offsets[1:] - 1] = False
        for start, end, prefix in zip(self.offsets[:-1], self.offsets[1:], self.prefix_len, strict=True):
            generated[start + prefix : end] = True
        outside = (self.tokens < 0) | (looked_up & (self.tokens >= sizes[self.tables]))
        outside |= generated & (self.tokens >= head_rows)
        if outside.any():
            at = int(np.flatnonzero(outside)[0])
            found = f"token {self.tokens[at]} lies outside table {self.tables[at]} or the head"
            raise InputError(self.file, found, "make the file for this family")

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
        tables, positions = np.full_like(inputs, self.speech_table), np.zeros_like(inputs)
        for row, index in enumerate(chosen):
            here = slice(self.offsets[index], self.offsets[index + 1])
            ids = self.tokens[here]
            prefix = self.prefix_len[index]
            inputs[row, : len(ids) - 1] = ids[:-1]
            tables[row, : len(ids) - 1] = self.tables[here][:-1]
            positions[row, : len(ids) - 1] = places(self.tables[here][:-1])
            positions[row, prefix : len(ids) - 1] += self.skipped
            targets[row, prefix - 1 : len(ids) - 1] = ids[prefix:]
        prefix_len = self.prefix_len[chosen].astype(np.int64)
        if corrupt and rng is not None:
            place = np.arange(longest)
            generated = (place >= prefix_len[:, None]) & (place < self.lengths[chosen][:, None] - 1)
            if corrupt_ids is not None:
                generated &= (inputs >= corrupt_ids[0]) & (inputs <= corrupt_ids[1])
            wrong = generated & (rng.random(inputs.shape) < corrupt)
            inputs[wrong] = rng.choice(inputs[generated], int(wrong.sum()))
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(prefix_len),
            torch.from_numpy(tables),
            torch.from_numpy(positions),
            self.latents,
        )


def places(tables: np.ndarray) -> np.ndarray:
    """The place of each token in its run of tokens from one table: [2, 2, 0, 0, 0] -> [0, 1, 0, 1, 2]."""
    index = np.arange(len(tables))
    starts = np.flatnonzero(np.diff(tables, prepend=-1))
    return index - starts[np.searchsorted(starts, index, side="right") - 1]
