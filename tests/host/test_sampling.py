"""Random numbers, picks and stop rules: against the vectors, and against what their names promise."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from wand_export.host.sampling import Sampler, SplitMix64, StopRule, TextOrder, mix, noise
from wand_export.spec.recipe import Sampler as Settings
from wand_export.spec.recipe import Stop

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
IDS = np.array([10, 20, 30, 40], np.int64)
LOGITS = np.log(np.array([0.1, 0.4, 0.3, 0.2])).astype(np.float32)


def read(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def draws(settings: Settings, count: int = 4000, recent: tuple[int, ...] = (), banned: frozenset[int] = frozenset()):
    sampler = Sampler(settings, 1)
    return Counter(sampler.pick(LOGITS, IDS, banned, recent) for _ in range(count))


def test_splitmix64_gives_the_published_numbers() -> None:
    # The first outputs for seed 1234567 in the reference C implementation (Vigna, prng.di.unimi.it).
    generator = SplitMix64(1234567)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [generator.next() for _ in published] == published


@pytest.mark.parametrize("case", read("random.json")["splitmix64"], ids=lambda case: case["seed"])
def test_generator_matches_the_vectors(case: Any) -> None:
    bits, uniform = SplitMix64(int(case["seed"])), SplitMix64(int(case["seed"]))
    assert [str(bits.next()) for _ in case["outputs"]] == case["outputs"]
    assert [uniform.uniform() for _ in case["uniform"]] == case["uniform"]


@pytest.mark.parametrize("case", read("random.json")["noise"], ids=str)
def test_noise_matches_the_vectors(case: Any) -> None:
    assert noise(int(case["seed"]), case["start"], len(case["values"])).tolist() == case["values"]


def test_noise_is_the_generator_by_index() -> None:
    generator = SplitMix64(mix(5))
    expected = [(generator.next() >> 40) * 2.0**-23 - 1 for _ in range(100)]
    assert noise(5, 0, 100).tolist() == expected


def test_noise_of_overlapping_stretches_agrees() -> None:
    whole = noise(3, -50, 200)
    assert whole.dtype == np.float32
    assert np.array_equal(noise(3, -10, 30), whole[40:70])
    assert whole.min() >= -1 and whole.max() < 1


def test_noise_is_white_and_uniform() -> None:
    values = noise(0, 0, 100_000).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert values.var() == pytest.approx(1 / 3, rel=0.02)
    assert abs(np.mean(values[1:] * values[:-1])) < 0.01
    assert abs(np.mean(values * noise(1, 0, 100_000))) < 0.01


@pytest.mark.parametrize("case", read("sampling.json")["cases"], ids=lambda case: case["seed"])
def test_picks_match_the_vectors(case: Any) -> None:
    sampler = Sampler(Settings.model_validate(case["settings"]), int(case["seed"]))
    ids, logits = np.array(case["ids"]), np.array(case["logits"], np.float32)
    picks: list[int] = []
    for step in range(len(case["picks"])):
        picks.append(sampler.pick(logits[step % len(logits)], ids, set(case["banned"]), picks))
    assert picks == case["picks"]


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = np.array([1, 2, 2, 0], np.float32)
    assert Sampler(Settings(temperature=0), 0).pick(logits, np.array([3, 9, 4, 1]), set(), []) == 4


def test_greedy_repeats_itself_and_draws_nothing() -> None:
    sampler = Sampler(Settings(temperature=0, repeat_window=5), 0)
    assert [sampler.pick(LOGITS, IDS, set(), [20, 20]) for _ in range(3)] == [20, 20, 20]
    assert sampler._random.next() == SplitMix64(0).next()


def test_draws_follow_the_softmax() -> None:
    found = draws(Settings(), 20_000)
    for token, share in zip(IDS.tolist(), [0.1, 0.4, 0.3, 0.2], strict=True):
        assert found[token] / 20_000 == pytest.approx(share, abs=0.015)


def test_temperature_sharpens() -> None:
    assert draws(Settings(temperature=0.5))[20] > draws(Settings())[20] > draws(Settings(temperature=2.0))[20]


def test_top_k_keeps_the_largest() -> None:
    assert set(draws(Settings(top_k=2))) == {20, 30}
    assert set(draws(Settings(top_k=9))) == set(IDS.tolist())


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, {20}), (0.39, {20}), (0.41, {20, 30}), (0.75, {20, 30, 40})])
def test_top_p_keeps_the_token_that_crosses_it(top_p: float, kept: set[int]) -> None:
    assert set(draws(Settings(top_p=top_p))) == kept


def test_top_p_is_taken_of_what_top_k_left() -> None:
    # 0.4 and 0.3 of 0.7: the first alone is 0.571.
    assert set(draws(Settings(top_k=2, top_p=0.55))) == {20}
    assert set(draws(Settings(top_k=2, top_p=0.6))) == {20, 30}


def test_banned_ids_are_never_picked() -> None:
    assert set(draws(Settings(), banned=frozenset({20, 30}))) == {10, 40}
    assert Sampler(Settings(temperature=0), 0).pick(LOGITS, IDS, {20}, []) == 30
    with pytest.raises(ValueError, match="banned"):
        Sampler(Settings(), 0).pick(LOGITS, IDS, set(IDS.tolist()), [])


def test_a_repeated_pick_is_drawn_again_from_all_that_is_left() -> None:
    # top_k 1 always picks 20; once it is recent, the redraw ignores top_k and top_p.
    settings = Settings(top_k=1, top_p=0.5, repeat_window=2)
    assert set(draws(settings)) == {20}
    assert set(draws(settings, recent=(20, 1))) == {10, 30, 40}
    assert set(draws(settings, recent=(20, 1, 2))) == {20}
    assert set(draws(settings, recent=(20, 1), banned=frozenset({10}))) == {30, 40}


def test_a_head_of_one_row_repeats() -> None:
    sampler = Sampler(Settings(repeat_window=3), 0)
    assert sampler.pick(np.ones(1, np.float32), np.array([7]), set(), [7]) == 7


EDGES = [
    {"temperature": 0}, {"temperature": 0.001}, {"temperature": 100}, {"top_p": 1e-300}, {"top_k": 2**31 - 1},
    {"min_p": 0.999}, {"repetition_penalty": 0.001}, {"repetition_penalty": 1000},
    {"temperature": 0.001, "repetition_penalty": 0.001},
]  # fmt: skip


@pytest.mark.parametrize("edge", EDGES, ids=str)
@pytest.mark.filterwarnings("error")
def test_the_edges_of_every_setting_pick_by_numbers(edge: dict[str, float]) -> None:
    """The largest logits that float32 has, as said before and not: no infinity, and the impossible is not picked."""
    largest = float(np.finfo(np.float32).max)
    logits = np.array([largest, -largest, 0, largest / 2], np.float32)
    sampler = Sampler(Settings(**edge), 0)
    for recent in ([], [10], [20], [10, 20, 40]):
        assert sampler.pick(logits, IDS, set(), recent) in (10, 40)


@pytest.mark.parametrize(
    "beyond",
    [
        {"temperature": 1e-310}, {"temperature": 1e-8}, {"temperature": float("inf")}, {"temperature": 1e308},
        {"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"top_p": float("nan")}, {"top_p": 1.1},
        {"min_p": float("nan")}, {"min_p": 1}, {"repetition_penalty": 0}, {"repetition_penalty": float("inf")},
        {"repetition_penalty": float("nan")}, {"repetition_penalty": 1e308}, {"top_k": -1}, {"top_k": 2**31},
        {"top_k": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_settings_beyond_what_can_be_computed_are_refused(beyond: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Settings(**beyond)


def test_inputs_are_left_alone() -> None:
    logits, ids = LOGITS.copy(), IDS.copy()
    Sampler(Settings(repeat_window=3, top_p=0.5), 0).pick(logits, ids, {10}, [20])
    assert np.array_equal(logits, LOGITS) and np.array_equal(ids, IDS)


@pytest.mark.parametrize("case", read("stop.json")["cases"], ids=str)
def test_stop_rules_match_the_vectors(case: Any) -> None:
    for text_tokens, minimum, maximum in case["limits"]:
        rule = StopRule(Stop.model_validate(case["stop"]), text_tokens)
        assert (rule.minimum, rule.maximum) == (minimum, maximum)


@pytest.mark.parametrize("case", read("stop.json")["orders"], ids=str)
def test_text_orders_match_the_vectors(case: Any) -> None:
    order = TextOrder(Stop.model_validate(case["stop"]), case["text"], np.arange(8))
    for banned, picked in case["steps"]:
        assert sorted(order.banned()) == banned
        order.picked(picked)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"max_per_text_id": 3}, "needs text_ids"),
        ({"text_ids": (5, 4)}, "are none"),
        ({"text_ids": (0, 4)}, "hold a stop"),
        ({"text_ids": (4, 5), "min_per_text": 2.0}, "the text is the minimum"),
    ],
)
def test_orders_that_cannot_be_kept_are_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Stop(ids=[0], max_tokens=100, **keys)


ALONG = Stop(ids=[0], max_tokens=100, text_ids=(10, 19), max_per_text_id=3)
EVERY = np.arange(20)


def allowed(order: TextOrder) -> set[int]:
    return set(EVERY.tolist()) - order.banned()


def test_a_text_that_is_said_along_keeps_its_order() -> None:
    order = TextOrder(ALONG, [12, 5, 10, 12], EVERY)
    codes = set(range(1, 10))
    for due in (12, 10, 12, 0):
        assert allowed(order) == codes | {due}
        order.picked(7)
        assert allowed(order) == codes | {due}
        order.picked(due)


def test_a_text_id_lasts_no_longer_than_its_limit() -> None:
    order = TextOrder(ALONG, [12], EVERY)
    for due in (12, 0):
        for _ in range(3):
            assert 7 in allowed(order)
            order.picked(7)
        assert allowed(order) == {due}
        order.picked(due)


def test_no_order_where_the_text_is_not_said_along() -> None:
    order = TextOrder(Stop(ids=[0], max_tokens=100), [12], EVERY)
    order.picked(12)
    assert order.banned() == frozenset()


def test_a_draw_follows_the_text_whatever_the_logits() -> None:
    for seed in range(20):
        order, sampler, said = TextOrder(ALONG, [12, 10, 10], EVERY), Sampler(Settings(), seed), list[int]()
        while not said or said[-1] != 0:
            said.append(sampler.pick(np.zeros(20, np.float32), EVERY, order.banned(), said))
            order.picked(said[-1])
        assert [token for token in said if token >= 10] == [12, 10, 10]
        assert len(said) <= 4 * (3 + 1)


def test_stop_is_barred_below_the_minimum() -> None:
    rule = StopRule(Stop(ids=[7, 9], min_per_text=2.0, max_per_text=20.0, max_tokens=150), 5)
    assert rule.banned(9) == {7, 9}
    assert rule.banned(10) == frozenset()
    assert rule.maximum == 100
    assert StopRule(Stop(ids=[7], max_per_text=20.0, max_tokens=150), 50).maximum == 150
