"""How the example voice is trained: what an utterance is cut to, what is read wrong, and that a run resumes."""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from wand_export.spec.schema import shipped

BEGIN, END, PAUSE, SPACE = 1025, 1024, 1027, 1079


@pytest.fixture(scope="module")
def lm() -> ModuleType:
    file = Path(str(shipped("models"))) / "wren" / "training" / "lm.py"
    spec = importlib.util.spec_from_file_location("wren_lm", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def utterance(text: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """As training/codec.py writes it: silence, then each symbol and its codes; 12 codes in a pause."""
    said, places = [], []
    for place, symbol in enumerate([None, *text]):
        if symbol is not None:
            said, places = [*said, symbol], [*places, place]
        count = 12 if symbol == PAUSE else 2
        said, places = [*said, *rng.integers(0, 1024, count)], [*places, *[place] * count]
    ids = np.array([*text, BEGIN, *said, END])
    return ids, np.array([-1] * len(text) + [0] + places + [-1]), len(text) + 1


def words(count: int, start: int = 0) -> list[int]:
    """Words of two symbols, their spaces numbered from `start`, with a pause behind every third."""
    text: list[int] = []
    for word in range(count):
        text += [1040 + word % 20, 1041 + word % 7] + [PAUSE] * (word % 3 == 2 or word == count - 1)
        text += [SPACE + (start + word) % 26] * (word < count - 1)
    return text


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_utterance_is_one_that_could_have_been_recorded(lm: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = utterance(words(33), rng)
    ids, upcoming, prefix_len = lm.clauses(whole, rng)
    text, said = ids[: prefix_len - 1].tolist(), ids[prefix_len:-1].tolist()
    assert (ids[prefix_len - 1], ids[-1], text[-1]) == (BEGIN, END, PAUSE)
    spaces = [symbol for symbol in text if symbol >= SPACE]
    assert spaces == [SPACE + n % 26 for n in range(len(spaces))]
    assert [token for token in said if token > END] == text
    counted = np.cumsum([0, *(token > END for token in said)])
    assert upcoming.tolist() == [-1] * len(text) + counted.tolist() + [-1]
    assert said[-lm.TAIL - 1] == PAUSE and max(said[-lm.TAIL :]) < END
    assert said.index(text[0]) <= lm.LEAD
    codes = [token for token in said if token < END]
    original = [token for token in whole[0].tolist() if token < END]
    assert any(original[n : n + len(codes) - lm.TAIL] == codes[: -lm.TAIL] for n in range(len(original)))


def test_cuts_start_and_end_anywhere(lm: ModuleType) -> None:
    rng = np.random.default_rng(0)
    whole = utterance(words(12), rng)
    lengths = {lm.clauses(whole, rng)[2] for _ in range(200)}
    assert len(lengths) == 4


def test_only_codes_are_read_wrong(lm: ModuleType) -> None:
    rng = np.random.default_rng(0)
    chosen = [utterance(words(9), rng) for _ in range(40)]
    plain, targets, _ = lm.collate(chosen, None)
    inputs, same_targets, _ = lm.collate(chosen, rng)
    assert torch.equal(targets, same_targets)
    wrong = inputs != plain
    assert (plain[wrong] < END).all() and (inputs[wrong] < END).all()
    assert 0.2 < wrong[plain < END].float().mean() < 0.8


def test_an_interrupted_run_goes_on(lm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "HELD_OUT", 2)
    for key, value in {"hidden_size": 32, "num_hidden_layers": 3, "head_dim": 8, "intermediate_size": 32}.items():
        monkeypatch.setattr(lm.CONFIG, key, value)
    rng = np.random.default_rng(0)
    made = [utterance(words(3 * n), rng) for n in (1, 2, 3, 4, 5, 6)]
    tensors = {
        "tokens": np.concatenate([ids for ids, _, _ in made]).astype(np.int32),
        "upcoming": np.concatenate([upcoming for _, upcoming, _ in made]).astype(np.int32),
        "offsets": np.cumsum([0, *(len(ids) for ids, _, _ in made)]),
        "prefix_len": np.array([prefix_len for _, _, prefix_len in made], np.int32),
    }
    save_file(tensors, tmp_path / "tokens.safetensors")
    corpus = lm.Corpus(tmp_path / "tokens.safetensors")
    taken, collate = [], lm.collate
    monkeypatch.setattr(lm, "collate", lambda chosen, rng: taken.append(1) or collate(chosen, rng))
    for steps, bf16 in ((2, False), (5, True)):
        options = argparse.Namespace(steps=steps, batch_tokens=600, rate=1e-3, bf16=bf16)
        lm.train(corpus, tmp_path / "state.pt", options, torch.device("cpu"))
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == len(taken) == steps
