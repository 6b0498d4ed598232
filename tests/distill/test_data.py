"""Token files: what is read, what is refused, and what a batch holds."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wand_export.distill.data import Utterances
from wand_export.distill.loss import IGNORED
from wand_export.errors import InputError


def write(file: Path, rows: list[list[int]], prefix_len: list[int]) -> Path:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    tokens = np.array([token for row in rows for token in row], np.int32)
    save_file({"tokens": tokens, "offsets": offsets, "prefix_len": np.array(prefix_len, np.int32)}, file)
    return file


def test_a_batch_holds_inputs_and_the_tokens_behind_them(tmp_path: Path) -> None:
    utterances = Utterances(write(tmp_path / "t", [[10, 11, 1, 2, 9], [12, 3, 9]], [2, 1]))
    batch = utterances.collate([0, 1])
    assert batch.inputs.tolist() == [[10, 11, 1, 2], [12, 3, 0, 0]]
    assert batch.targets.tolist() == [[IGNORED, 1, 2, 9], [3, 9, IGNORED, IGNORED]]
    assert batch.prefix_len.tolist() == [2, 1]


def test_batches_hold_every_utterance_once_within_the_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [[5] * int(n) for n in rng.integers(2, 30, 50)]
    utterances = Utterances(write(tmp_path / "t", rows, [1] * 50))
    batches = utterances.batches(np.arange(3, 50), 60, rng)
    assert sorted(index for batch in batches for index in batch) == list(range(3, 50))
    assert all(len(batch) * max(len(rows[i]) for i in batch) <= 60 for batch in batches)


def test_corruption_spares_prefix_padding_and_targets(tmp_path: Path) -> None:
    rows = [[100, 101, *range(40), 99], [100, *range(20), 99]]
    utterances = Utterances(write(tmp_path / "t", rows, [2, 1]))
    clean = utterances.collate([0, 1])
    batch = utterances.collate([0, 1], 0.5, np.random.default_rng(0))
    changed = batch.inputs != clean.inputs
    assert 15 < changed.sum() < 45
    assert not changed[:, 0].any()
    assert not changed[0, 1]
    assert not changed[1, 21:].any()
    assert (batch.inputs < 99).sum() == (clean.inputs < 99).sum()
    assert (batch.targets == clean.targets).all()


def test_corruption_keeps_to_its_ids(tmp_path: Path) -> None:
    utterances = Utterances(write(tmp_path / "t", [[100, *range(60), 99]], [1]))
    clean = utterances.collate([0]).inputs
    batch = utterances.collate([0], 0.5, np.random.default_rng(0), (10, 29)).inputs
    changed = clean[batch != clean]
    assert len(changed) > 4
    assert ((changed >= 10) & (changed <= 29)).all()
    assert ((batch[batch != clean] >= 10) & (batch[batch != clean] <= 29)).all()


@pytest.mark.parametrize(("rows", "prefix_len"), [([[1, 2]], [2]), ([[1, 2]], [0]), ([[1, 2]], [1, 1]), ([], [])])
def test_files_that_do_not_fit_are_refused(tmp_path: Path, rows: list[list[int]], prefix_len: list[int]) -> None:
    with pytest.raises(InputError, match="prefix_len"):
        Utterances(write(tmp_path / "t", rows, prefix_len))


def test_a_missing_file_or_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token file"):
        Utterances(tmp_path / "nothing")
    save_file({"tokens": np.zeros(1, np.int32)}, tmp_path / "t")
    with pytest.raises(InputError, match="no token file"):
        Utterances(tmp_path / "t")
