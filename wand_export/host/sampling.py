"""Picking tokens, and the random numbers behind it: small enough to be the same in every language.

All arithmetic is in float64 and every sum runs from left to right, so that another implementation can only
differ by the rounding of its exp().
"""

from collections.abc import Sequence, Set

import numpy as np
import numpy.typing as npt

from wand_export.spec.recipe import Sampler as Settings
from wand_export.spec.recipe import Stop

_WORD = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB

Floats64 = npt.NDArray[np.float64]


def mix(state: int) -> int:
    """SplitMix64's finalizer: 64 bits -> 64 bits."""
    z = state & _WORD
    z = (z ^ (z >> 30)) * _FIRST_FACTOR & _WORD
    z = (z ^ (z >> 27)) * _SECOND_FACTOR & _WORD
    return z ^ (z >> 31)


class SplitMix64:
    """Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014). Not for secrets."""

    def __init__(self, seed: int) -> None:
        """Seeds are taken modulo 2^64."""
        self._state = seed & _WORD

    def next(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + _GAMMA) & _WORD
        return mix(self._state)

    def uniform(self) -> float:
        """The next number of [0, 1), a multiple of 2^-53."""
        return (self.next() >> 11) * 2.0**-53


def noise(seed: int, start: int, count: int) -> npt.NDArray[np.float32]:
    """White noise of [-1, 1), float32 [count]: samples start .. start + count - 1 of the stream of `seed`.

    Sample i is output i of SplitMix64(mix(seed)), its upper 24 bits, found without those before it. start may be
    negative: the index is taken modulo 2^64.
    """
    upper: npt.NDArray[np.float32] = (_outputs(seed, start, count) >> np.uint64(40)).astype(np.float32)
    return upper * np.float32(2.0**-23) - np.float32(1)


def normal(seed: int, start: int, count: int) -> npt.NDArray[np.float32]:
    """Noise of mean 0 and variance 1, float32 [count]: samples start .. start + count - 1 of the stream of `seed`.

    Sample i is that of Box and Muller, sqrt(-2 ln u) cos(2 pi v), in float64: u and v are outputs 2 i and 2 i + 1 of
    SplitMix64(mix(seed)), their upper 53 bits, u plus one half of the last.
    """
    bits = (_outputs(seed, 2 * start, 2 * count) >> np.uint64(11)).astype(np.float64).reshape(count, 2)
    radius = np.sqrt(-2 * np.log((bits[:, 0] + 0.5) * 2.0**-53))
    values: npt.NDArray[np.float32] = (radius * np.cos(2 * np.pi * (bits[:, 1] * 2.0**-53))).astype(np.float32)
    return values


def _outputs(seed: int, start: int, count: int) -> npt.NDArray[np.uint64]:
    """Outputs start .. start + count - 1 of SplitMix64(mix(seed)), found without those before them."""
    # Numpy's uint64 arrays wrap silently; its scalars warn, hence the arrays of one.
    first = np.array([(mix(seed) + (start + 1) * _GAMMA) & _WORD], np.uint64)
    z = first + np.arange(count, dtype=np.uint64) * np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST_FACTOR)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND_FACTOR)
    result: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return result


class Sampler:
    """Picks one token after another, reproducibly: one sampler for one utterance."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self._random = SplitMix64(seed)

    def pick(
        self, logits: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], banned: Set[int], recent: Sequence[int]
    ) -> int:
        """The next token id, given logits [V] of the token ids [V].

        banned: ids that cannot be picked; recent: ids picked so far, the newest last. The repetition penalty is that
        of CTRL (arXiv 1909.05858) as transformers has it: once for each id that was said. Temperature 0 picks the
        largest logit, the lowest id of equals, and draws nothing. Otherwise a pick that is among the last
        repeat_window ids is masked and drawn again from all that is left (after repetition aware sampling, VALL-E 2,
        arXiv 2406.05370). Raises ValueError if everything is banned.
        """
        settings = self.settings
        if banned:
            allowed = ~np.isin(ids, list(banned))
            ids, logits = ids[allowed], logits[allowed]
        scores = logits.astype(np.float64)
        if not len(ids):
            raise ValueError("every token is banned")
        if settings.repetition_penalty != 1:
            said = np.isin(ids, [*settings.repetition_ids, *recent[-settings.repetition_range :]])
            penalty = settings.repetition_penalty
            scores = np.where(said, np.where(scores < 0, scores * penalty, scores / penalty), scores)
        if settings.temperature == 0:
            return int(ids[scores == scores.max()].min())
        scores /= settings.temperature
        picked = self._draw(ids, scores, settings)
        window = settings.repeat_window
        if window and picked in recent[-window:] and len(ids) > 1:
            left = ids != picked
            uncut = settings.model_copy(update={"top_k": 0, "top_p": 1.0, "min_p": 0.0})
            picked = self._draw(ids[left], scores[left], uncut)
        return picked

    def _draw(self, ids: npt.NDArray[np.int64], scores: Floats64, settings: Settings) -> int:
        """An id drawn from the softmax of scores, cut by top_k, then top_p, then min_p."""
        top_k = settings.top_k
        everything = np.exp(scores - scores.max()).cumsum()[-1] if settings.top_p_of == "all" else None
        if 0 < top_k < len(ids):
            # Sorting a head of 65,000 rows would take 10 ms. Ties at the cut stay until the ids have ordered them.
            kept = scores >= np.partition(scores, -top_k)[-top_k]
            ids, scores = ids[kept], scores[kept]
        order = np.lexsort((ids, -scores))[: top_k or None]
        return int(ids[order[self._row(scores[order], settings, everything)]])

    def _row(self, scores: Floats64, settings: Settings, everything: float | None) -> int:
        """A row of scores, sorted downwards, drawn from the softmax of those that top_p and min_p keep.

        everything: what the probabilities that top_p counts are fractions of; None for the sum over these rows.
        """
        weights = np.exp(scores - scores[0])
        sums = np.cumsum(weights)
        if settings.top_p < 1:
            sums = sums[: np.searchsorted(sums, settings.top_p * (everything or sums[-1])) + 1]
        if settings.min_p > 0:
            sums = sums[: np.count_nonzero(weights >= settings.min_p)]
        row = np.searchsorted(sums, self._random.uniform() * sums[-1], side="right")
        return min(int(row), len(sums) - 1)


class StopRule:
    """When an utterance ends: Stop for a text of `text_tokens` tokens."""

    def __init__(self, stop: Stop, text_tokens: int) -> None:
        self.ids = frozenset(stop.ids)
        self.minimum = max(stop.min_tokens, int(stop.min_per_text * text_tokens))
        self.maximum = stop.max_tokens
        if stop.max_per_text is not None:
            self.maximum = min(self.maximum, max(1, int(stop.max_per_text * text_tokens)))

    def banned(self, generated: int) -> frozenset[int]:
        """The ids that cannot be picked once `generated` tokens exist."""
        return self.ids if generated < self.minimum else frozenset()


class TextOrder:
    """Holds an utterance to its text, if the model says the text along (Stop.text_ids): each id in its turn.

    Left to itself, a model that loses its place skips words or says the last one twice.
    """

    def __init__(self, stop: Stop, text: Sequence[int], ids: npt.NDArray[np.int64]) -> None:
        """text: the ids of the prefix's text; ids: all that can be picked, [V]."""
        first, last = stop.text_ids or (0, -1)
        self._text = [token for token in text if first <= token <= last]
        self._along = frozenset(range(first, last + 1))
        self._stops = frozenset(stop.ids)
        self._others = frozenset(ids.tolist()) - self._along - self._stops
        self._longest = stop.max_per_text_id
        self._said = self._since = 0

    def banned(self) -> frozenset[int]:
        """The ids that cannot be picked next. At the limit of one text id only the next one can, or a stop."""
        if not self._along:
            return frozenset()
        ended = self._said == len(self._text)
        due = self._stops if ended else frozenset({self._text[self._said]})
        late = self._longest is not None and self._since >= self._longest
        return (self._along | self._stops | (self._others if late else frozenset())) - due

    def picked(self, token: int) -> None:
        """Tell which id was picked."""
        self._since += 1
        if token in self._along:
            self._said, self._since = self._said + 1, 0
