"""Faster or slower speech at its own pitch: overlapping pieces, each taken where it fits the one before (WSOLA).

After Verhelst and Roelands, An overlap-add technique based on waveform similarity (ICASSP 1993). Frame k of 2 H samples
starts in the output at k H, and is taken from the input within R of k H rate: where its samples are most like what
followed the frame before. Most like is the largest sum of products of 16-bit numbers, every fourth of them, the nearest
place of equals: whole numbers, so that no rounding can decide differently in another language.
"""

import numpy as np
import numpy.typing as npt

from wand_export.errors import InputError

Floats = npt.NDArray[np.float32]

SLOWEST, FASTEST = 0.5, 3.0
_HOP_SECONDS, _RANGE_SECONDS = 0.012, 0.008
"""Half a frame, and how far from its place it may be taken."""
_THINNED = 4
"""Every so manieth sample is compared."""


class Stretch:
    """One utterance's samples, fed block by block, at `rate` times their speed; rate 1 gives them back as they are."""

    def __init__(self, rate: float, sample_rate: int) -> None:
        """Raises InputError for a rate outside SLOWEST to FASTEST."""
        if not SLOWEST <= rate <= FASTEST:
            raise InputError("--rate", str(rate), f"give {SLOWEST} to {FASTEST:g}")
        self._rate = rate
        self._hop = max(round(sample_rate * _HOP_SECONDS), _THINNED)
        self._range = round(sample_rate * _RANGE_SECONDS)
        time = np.arange(2 * self._hop)
        self._window = 0.5 - 0.5 * np.cos(np.pi * (time + 0.5) / self._hop)
        self._held: Floats = np.empty(0, np.float32)
        self._forgotten = self._fed = self._frames = self._given = 0
        """Input samples held no more and fed, frames made, and output samples given."""
        self._last = 0
        """Where the frame before was taken from."""
        self._tail = np.zeros(self._hop)

    def feed(self, samples: Floats) -> Floats:
        """The samples, float32 [n], that these [m] complete."""
        if self._rate == 1:
            return samples
        self._held = np.concatenate([self._held, samples])
        self._fed += len(samples)
        return self._made(self._fed)

    def finish(self) -> Floats:
        """The rest, float32 [n]: all in all, the samples fed over the rate, rounded down. Nothing can be fed then."""
        if self._rate == 1:
            return np.empty(0, np.float32)
        left = int(self._fed / self._rate) - self._given
        silence = np.zeros(4 * self._hop + 2 * self._range, np.float32)
        self._held = np.concatenate([self._held, silence])
        made = self._made(self._fed + len(silence))[:left]
        return np.concatenate([made, np.zeros(left - len(made), np.float32)])

    def _made(self, known: int) -> Floats:
        """The hops that input up to sample `known` allows."""
        blocks = []
        while True:
            place = int(self._frames * self._hop * self._rate)
            following = self._last + self._hop
            if max(place + self._range, following) + 2 * self._hop > known:
                break
            start = self._best(place, following) if self._frames else 0
            frame = self._at(start, 2 * self._hop).astype(np.float64) * self._window
            blocks.append((self._tail + frame[: self._hop]).astype(np.float32))
            if self._frames == 0:  # nothing fades out under the first frame
                blocks[0] = self._at(0, self._hop).copy()
            self._tail = frame[self._hop :]
            self._last, self._frames = start, self._frames + 1
            self._forget()
        made = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
        self._given += len(made)
        return made

    def _best(self, place: int, following: int) -> int:
        """The start within the range of `place` whose samples are most like those at `following`."""
        first = max(place - self._range, self._forgotten)
        wanted = whole_numbers(self._at(following, self._hop))[::_THINNED]
        around = whole_numbers(self._at(first, place + self._range - first + self._hop))
        scores = np.lib.stride_tricks.sliding_window_view(around, self._hop)[:, ::_THINNED] @ wanted
        best = (first + np.flatnonzero(scores == scores.max())).tolist()
        return min(best, key=lambda start: (abs(start - place), start))

    def _at(self, start: int, count: int) -> Floats:
        """Input samples start .. start + count - 1."""
        first = start - self._forgotten
        return self._held[first : first + count]

    def _forget(self) -> None:
        """Let go of what no later frame can be taken from."""
        place = int(self._frames * self._hop * self._rate)
        needed = max(0, min(place - self._range, self._last + self._hop))
        self._held = self._held[needed - self._forgotten :]
        self._forgotten = needed


def whole_numbers(samples: Floats) -> npt.NDArray[np.int64]:
    """Samples as 16-bit numbers, halves to the even one."""
    return np.rint(np.clip(samples.astype(np.float64), -1, 1) * 32767).astype(np.int64)
