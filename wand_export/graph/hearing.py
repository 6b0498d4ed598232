"""How far one sound is from another: log-mel distance, and clicks where chunks meet."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats64 = npt.NDArray[np.float64]

FRAME, HOP, BANDS = 1024, 256, 80
QUIET = 1e-5
"""Power added to every band: what lies 50 dB below a full-scale band is not heard."""
JUMP = 1e-3
"""A jump of this share of the peak is never a click."""
AROUND = 240
"""Samples on each side of a seam whose own jumps hide one there."""
CLICK_DB = 6.0
"""A jump at a seam this far above those around it is a click."""


def log_mel(samples: npt.NDArray[np.floating], sample_rate: int) -> Floats64:
    """Log-mel spectrum in dB, [frames, BANDS], of samples [n]; those of less than one frame are padded."""
    x = np.pad(np.asarray(samples, np.float64), (0, max(FRAME - len(samples), 0)))
    window = 0.5 - 0.5 * np.cos(2 * np.pi / FRAME * np.arange(FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME)[::HOP] * window
    power: Floats64 = np.abs(np.fft.rfft(frames)) ** 2 @ _bands(sample_rate).T
    return 10 * np.log10(power + QUIET)


def _bands(sample_rate: int) -> Floats64:
    """Triangles evenly spaced in mel (HTK's formula) from 0 Hz to half the rate: [BANDS, FRAME / 2 + 1]."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, sample_rate / 2, FRAME // 2 + 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.maximum(0, np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)))


def log_mel_db(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating], sample_rate: int) -> float:
    """Root mean square difference of the log-mel spectra of two sounds of one length, in dB."""
    difference = log_mel(actual, sample_rate) - log_mel(expected, sample_rate)
    return float(np.sqrt(np.mean(difference**2)))


def click_db(
    actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating], seams: Sequence[int]
) -> float | None:
    """The largest jump of the difference at a seam, over what hides it, in dB; None without seams or any difference.

    A jump is the change from one sample to the next. It is hidden by the root mean square of those of the expected
    sound around it, and by JUMP of the peak.
    """
    jumps = np.abs(np.diff(np.asarray(actual, np.float64) - np.asarray(expected, np.float64)))
    own = np.diff(np.asarray(expected, np.float64)) ** 2
    least = JUMP * float(np.abs(expected).max(initial=0))
    largest = 0.0
    for at in (seam - 1 for seam in seams if 0 < seam <= len(jumps)):
        hidden = max(least, float(np.sqrt(own[max(at - AROUND, 0) : at + AROUND].mean())))
        largest = max(largest, float(jumps[at]) / hidden if hidden > 0 else 0.0)
    return 20 * float(np.log10(largest)) if largest > 0 else None


def seams(first: int, later: int, hop: int, units: int) -> list[int]:
    """The samples at which chunks meet: the first of every chunk but the first, of an utterance of so many units."""
    return [unit * hop for unit in range(first, units, later)]
