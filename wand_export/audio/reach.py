"""How far a code is heard: by changing codes, and by chunks against the whole."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wand_export.audio.chain import Runner, Utterance, chunked, whole
from wand_export.audio.codec import Codec
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


def measured(codec: Codec, runners: Mapping[str, Runner], said: Utterance) -> Measured | None:
    """What was found in an utterance; None for a decoder that knows no chunks."""
    decoder = codec.decoder
    if decoder.hop is None:
        return None
    before = whole(decoder, runners, said)
    peak = float(np.abs(before).max())
    left, right = dict.fromkeys(THRESHOLDS, 0), dict.fromkeys(THRESHOLDS, 0)
    for unit in (0, said.units // 2, said.units - 1):
        moved = np.abs(whole(decoder, runners, _changed(codec, said, unit)) - before)
        for threshold in THRESHOLDS:
            units = np.flatnonzero(moved > threshold * peak) // decoder.hop
            if units.size:
                left[threshold] = max(left[threshold], int(units[-1]) - unit)
                right[threshold] = max(right[threshold], unit - int(units[0]))
    # What moves the far end of the utterance moves all of it.
    far = said.units - 1 - said.units // 2
    reach = [
        Reach(
            threshold=threshold,
            left=left[threshold] if left[threshold] < far else None,
            right=right[threshold] if right[threshold] < far else None,
        )
        for threshold in THRESHOLDS
    ]
    parts = np.concatenate(list(chunked(decoder, runners, said)))
    error = float(np.abs(parts - before[: len(parts)]).max()) / peak
    return Measured(reach=reach, error=error, exact=codec.exact)


def _changed(codec: Codec, said: Utterance, unit: int) -> Utterance:
    """The same utterance but for one unit."""

    def change(value: npt.NDArray[np.generic], axis: int) -> npt.NDArray[np.generic]:
        value = value.copy()
        places = [slice(None)] * value.ndim
        places[axis] = slice(unit * codec.decoder.unit, (unit + 1) * codec.decoder.unit)
        old = value[tuple(places)]
        value[tuple(places)] = (old + codec.codes // 2 + 1) % codec.codes if value.dtype.kind == "i" else -old
        return value

    axes = {v.name: next((i for i, n in enumerate(v.shape) if isinstance(n, str)), 0) for v in codec.decoder.inputs}
    streamed = {name: change(value, axes[name]) for name, value in said.streamed.items()}
    return replace(said, streamed=streamed)
