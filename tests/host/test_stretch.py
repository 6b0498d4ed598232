"""Speech at another speed: as long as it should be, at its own pitch, and the same however it is fed."""

import numpy as np
import pytest

from wand_export.errors import InputError
from wand_export.host.stretch import Stretch

RATE = 24000


def stretched(samples: np.ndarray, rate: float, block: int) -> np.ndarray:
    stretch = Stretch(rate, RATE)
    blocks = [stretch.feed(samples[i : i + block]) for i in range(0, len(samples), block)]
    return np.concatenate([*blocks, stretch.finish()])


def tone(seconds: float, hertz: float = 200.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * hertz * time) + 0.2 * np.sin(4 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.0, 1.3, 2.0, 3.0])
def test_length_and_pitch(rate: float) -> None:
    samples = tone(1.0)
    found = stretched(samples, rate, 1200)
    assert found.dtype == np.float32 and len(found) == int(len(samples) / rate)
    middle = found[len(found) // 4 : 3 * len(found) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 17))
    assert np.argmax(spectrum) * RATE / (1 << 17) == pytest.approx(200, abs=2)
    # The level stays, and nothing jumps more than the tone itself does.
    assert np.std(middle) == pytest.approx(np.std(samples), rel=0.1)
    assert np.abs(np.diff(middle)).max() < 1.3 * np.abs(np.diff(samples)).max()


@pytest.mark.parametrize("rate", [0.5, 1.7, 3.0])
def test_blocks_make_no_difference(rate: float) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 9000).astype(np.float32)
    whole = stretched(samples, rate, 9000)
    assert all(np.array_equal(stretched(samples, rate, block), whole) for block in (1, 77, 2000))


@pytest.mark.parametrize("count", [0, 1, 5, 287, 288, 289, 1000])
@pytest.mark.parametrize("rate", [0.5, 1.1, 3.0])
def test_short_sounds(rate: float, count: int) -> None:
    assert len(stretched(tone(1.0)[:count], rate, 100)) == int(count / rate)


def test_memory_does_not_grow() -> None:
    stretch = Stretch(2.0, RATE)
    for _ in range(200):
        stretch.feed(np.zeros(1200, np.float32))
        assert len(stretch._held) < 4000


def test_the_same_speed_changes_nothing() -> None:
    samples = tone(0.2)
    assert np.array_equal(stretched(samples, 1.0, 100), samples)


@pytest.mark.parametrize("rate", [0.49, 3.01, float("nan")])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    with pytest.raises(InputError, match=r"--rate: .* \(give 0\.5 to 3\)"):
        Stretch(rate, RATE)
