"""How far a code is heard: by changing codes, and by chunks against the whole."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wand_export.audio.chain import Utterance, speak, speak_whole
from wand_export.audio.codec import Codec
from wand_export.host.session import AudioSession
from wand_export.spec.audio import Measured, Reach

THRESHOLDS = (1e-4, 1e-3, 1e-2)
"""Of the peak."""


def residual_context(rates: Sequence[int], per_unit: int = 1) -> int:
    """Units that a decoder of DAC's kind reaches to either side.

    A convolution of 7 columns, then for each rate a transposed convolution over two columns and three of 7 columns,
    dilated 1, 3 and 9, then one of 7; per_unit: the columns of a unit before all that.
    """
    columns, width = 3.0, 1
    for rate in rates:
        columns += 1 / width
        width *= rate
        columns += 3 * (1 + 3 + 9) / width
    return math.ceil((columns + 3 / width) / per_unit)


def measured(session: AudioSession, codec: Codec, said: Utterance) -> Measured | None:
    """What was found in an utterance; None for a decoder that knows no chunks."""
    hop, unit = codec.decoder.hop, codec.decoder.unit
    if hop is None:
        return None
    before, _ = speak_whole(session, codec, said)
    units, peak = len(said.codes) // unit, float(np.abs(before).max())
    left, right = dict.fromkeys(THRESHOLDS, 0), dict.fromkeys(THRESHOLDS, 0)
    for place in (0, units // 2, units - 1):
        moved = np.abs(speak_whole(session, codec, _changed(codec, said, place))[0] - before)
        for threshold in THRESHOLDS:
            heard = np.flatnonzero(moved > threshold * peak) // hop
            if heard.size:
                left[threshold] = max(left[threshold], int(heard[-1]) - place)
                right[threshold] = max(right[threshold], place - int(heard[0]))
    # What is heard from the middle to an end is heard throughout.
    far = units - 1 - units // 2
    reach = [
        Reach(
            threshold=threshold,
            left=left[threshold] if left[threshold] < far else None,
            right=right[threshold] if right[threshold] < far else None,
        )
        for threshold in THRESHOLDS
    ]
    error = float(np.abs(speak(session, codec, said) - before).max()) / peak
    return Measured(reach=reach, error=error, exact=codec.exact)


def _changed(codec: Codec, said: Utterance, place: int) -> Utterance:
    """The same utterance but for one unit."""
    own = slice(place * codec.decoder.unit, (place + 1) * codec.decoder.unit)
    codes, hidden = said.codes.copy(), None if said.hidden is None else said.hidden.copy()
    codes[own] = (codes[own] + codec.codes // 2 + 1) % codec.codes
    if hidden is not None:
        hidden[own] *= -1
    return replace(said, codes=codes, hidden=hidden)
