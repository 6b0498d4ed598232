"""Samplers, stop rules and prefixes of the recipes, held to restatements of what each family's own code does."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wand_export.host.sampling import Sampler, StopRule
from wand_export.spec.recipe import Sampler as Settings
from wand_export.spec.recipe import load_recipe

SIZE = 300
IDS = np.arange(SIZE, dtype=np.int64)
QUANTILES = [0.0, 0.1, 0.35, 0.62, 0.9, 0.99]


class Fixed:
    """Random numbers that are known beforehand."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def uniform(self) -> float:
        return self.numbers.pop(0)


def logits_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2.5, SIZE).astype(np.float32)


def pick(settings: Settings, logits: np.ndarray, recent: Sequence[int], *numbers: float) -> int:
    sampler = Sampler(settings, 0)
    sampler._random = Fixed(*numbers)  # type: ignore[assignment]
    return sampler.pick(logits, IDS, frozenset(), recent)


def drawn(probabilities: np.ndarray, number: float) -> int:
    """The id at this quantile, the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")
    return int(order[np.searchsorted(np.cumsum(probabilities[order]), number, side="right")])


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores.astype(np.float64) - scores.max())
    return weights / weights.sum()


def theirs(
    logits: np.ndarray, said: Sequence[int], penalty: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> np.ndarray:
    """Probabilities by transformers' own processors, in the order in which its generate() applies them."""
    steps = LogitsProcessorList()
    if penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(penalty))
    steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    if min_p:
        steps.append(MinPLogitsWarper(min_p))
    scores = steps(torch.tensor([list(said)], dtype=torch.long), torch.tensor(logits, dtype=torch.float64)[None])
    return scores.softmax(-1)[0].numpy()


GENERATE = {
    # penalty, temperature, top_k, top_p, min_p of each family's own call
    "spark_tts": (1.0, 0.8, 50, 0.95, 0.0),
    "index_tts": (10.0, 1.0, 30, 0.8, 0.0),
    "neutts_air": (1.0, 1.0, 50, 1.0, 0.0),
    "orpheus": (1.3, 0.6, 0, 0.8, 0.0),
    "outetts": (1.1, 0.4, 40, 0.9, 0.05),
    "llasa": (1.0, 0.8, 50, 1.0, 0.0),
}
RECENT = [7, 250, 7, 31, 4, 120, *range(60, 130)]


@pytest.mark.parametrize("family", GENERATE)
@pytest.mark.parametrize("seed", [0, 1])
def test_families_of_transformers_sample_as_generate_does(family: str, seed: int) -> None:
    settings = load_recipe(family)[0].sampler
    said = {"index_tts": [1] * 40 + RECENT, "outetts": RECENT[-64:]}.get(family, RECENT)
    wanted = theirs(logits_of(seed), said, *GENERATE[family])
    for number in QUANTILES:
        assert pick(settings, logits_of(seed), RECENT, number) == drawn(wanted, number)


def test_the_penalty_is_that_of_transformers_on_both_sides_of_zero() -> None:
    logits = np.array([3.0, -2.0, 0.0, 2.9, *([-9.0] * (SIZE - 4))], np.float32)
    settings = Settings(repetition_penalty=1.5, temperature=0)
    assert pick(settings, logits, []) == 0
    assert pick(settings, logits, [0]) == 3
    assert pick(settings, logits, [0, 3, 0]) == 0  # 2.0 and 1.93: each is divided once
    wanted = theirs(logits, [0, 1, 2], 1.5, 1.0, 0, 1.0, 0.0)
    assert np.allclose(wanted, softmax(np.array([2.0, -3.0, 0.0, 2.9, *([-9.0] * (SIZE - 4))])))


def restated_ras(logits: np.ndarray, recent: Sequence[int], first: float, second: float) -> int:
    """CosyVoice 2: the nucleus is filled from the likeliest on while it holds under 0.8 and under 25 tokens."""
    probabilities = softmax(logits)
    held, kept = 0.0, list[int]()
    for i in np.argsort(-probabilities, kind="stable"):
        if held >= 0.8 or len(kept) >= 25:
            break
        held += probabilities[i]
        kept.append(int(i))
    nucleus = np.zeros(SIZE)
    nucleus[kept] = probabilities[kept] / held
    chosen = drawn(nucleus, first)
    if chosen not in recent[-10:]:
        return chosen
    masked = logits.astype(np.float64)
    masked[chosen] = -np.inf
    return drawn(softmax(masked), second)


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("first", QUANTILES)
def test_cosyvoice_samples_aware_of_repetitions(spread: float, first: float) -> None:
    settings = load_recipe("cosyvoice2")[0].sampler
    logits = (logits_of(3) * spread).astype(np.float32)
    likely = [int(i) for i in np.argsort(-logits)[:6]]
    for recent in ([], likely, [*likely, *[299] * 10], [*[299] * 9, likely[0]]):
        assert pick(settings, logits, recent, first, 0.77) == restated_ras(logits, recent, first, 0.77)


def test_the_nucleus_is_of_all_probability() -> None:
    """25 flat tokens hold far less than 0.8 of 300: all of them stay, not the first 80 % of them."""
    logits = np.linspace(0.1, 0, SIZE).astype(np.float32)
    assert pick(load_recipe("cosyvoice2")[0].sampler, logits, [], 0.999) == 24
    assert pick(Settings(top_k=25, top_p=0.8), logits, [], 0.999) == 19


@pytest.mark.parametrize(
    ("family", "text_tokens", "fewest", "most"),
    [
        ("cosyvoice2", 10, 20, 200),
        ("cosyvoice2", 100, 200, 1500),
        ("spark_tts", 10, 0, 3000),
        ("index_tts", 10, 0, 600),
        ("neutts_air", 3, 50, 1500),
        ("orpheus", 10, 0, 1200),
    ],
)
def test_when_families_stop(family: str, text_tokens: int, fewest: int, most: int) -> None:
    stop = load_recipe(family)[0].stop
    rule = StopRule(stop, text_tokens)
    assert (rule.minimum, rule.maximum) == (fewest, most)
    assert rule.banned(fewest) == frozenset()
    if fewest:
        assert rule.banned(fewest - 1) == set(stop.ids)


@pytest.mark.parametrize("family", ["cosyvoice2", *GENERATE])
def test_every_generated_id_is_a_code_a_stop_or_silent(family: str) -> None:
    """What the head can say is what the audio side understands, and every one of its codes can be said."""
    recipe = load_recipe(family)[0]
    audio = recipe.audio
    codes = set(range(audio.first_id, audio.first_id + audio.codes))
    said = set(recipe.head.ids())
    silent = {i for first, last in audio.silent for i in range(first, min(last, recipe.head.rows - 1) + 1)}
    assert codes <= said and set(recipe.stop.ids) <= said
    assert said - codes - set(recipe.stop.ids) <= silent and not silent & codes
