"""The masks of fine-tuning, against the law written out in plain Python."""

import pytest
import torch

from wand_export.distill.curriculum import HIDDEN, Curriculum, Stage, attention_bias

CURRICULUM = Curriculum(window=32, window_start=128, tau_start=0.5, tau_end=20.0, ramp_steps=100)


def test_window_closes_along_a_cosine() -> None:
    windows = [CURRICULUM.at(step).window for step in range(101)]
    assert windows[0] == 128
    assert windows[50] == 80
    assert windows[100] == 32
    assert windows == sorted(windows, reverse=True)


def test_tau_rises_geometrically_to_the_hard_mask() -> None:
    taus = [CURRICULUM.at(step).tau for step in (0, 50, 99, 100, 5000)]
    assert taus[0] == pytest.approx(0.5)
    assert taus[1] == pytest.approx((0.5 * 20.0) ** 0.5)
    assert taus[2] is not None
    assert taus[2] < 20.0
    assert taus[3:] == [None, None]


def test_no_ramp_is_the_hard_mask_at_once() -> None:
    assert Curriculum(8, 128, 1.0, 10.0, ramp_steps=0).at(0) == Stage(8, None)


@pytest.mark.parametrize("stage", [None, Stage(3, None), Stage(3, 2.5), Stage(1, None), Stage(50, None)])
def test_bias_follows_the_law(stage: Stage | None) -> None:
    length, prefixes = 12, [1, 5, 11]
    bias = attention_bias(length, torch.tensor(prefixes), stage)
    assert bias.shape == (3, 1, length, length)
    for row, prefix in enumerate(prefixes):
        for t in range(length):
            for s in range(length):
                near = stage is None or s < prefix or s > t - stage.window
                outside = HIDDEN if stage is None or stage.tau is None else -stage.tau
                expected = HIDDEN if s > t else 0.0 if near else outside
                assert bias[row, 0, t, s] == pytest.approx(expected), (prefix, t, s)
