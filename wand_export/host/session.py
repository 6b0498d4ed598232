"""A session: one decoder, loaded and ready to step. What every runtime's Session shares, and refuses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from wand_export.errors import InputError
from wand_export.layout import Layout
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import Artifact, Manifest

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StepOutput:
    """logits float32 [V], and hidden float32 [D], the vector that the head read."""

    logits: Floats
    hidden: Floats


class Session(ABC):
    """One request at a time: prefill(), then step() for each generated token; prefill() again starts anew.

    The runtimes accept wrong integers and NaN silently, so they are refused here. `how` tells whether the artifact
    runs in its own runtime or is interpreted by this package.
    """

    how: ClassVar[Literal["ran", "interpreted"]] = "ran"

    def __init__(self, name: str, manifest: Manifest, artifact: Artifact) -> None:
        self.name = name
        self.layout = Layout(manifest.kv_cache.prefix_capacity, manifest.kv_cache.window)
        self.hidden = manifest.model.hidden
        self._limits = manifest.model.max_position, artifact.max_position
        self.chunk = artifact.prefill_chunk
        self.position = 0
        self.prefix_len = 0

    @property
    def max_position(self) -> int | None:
        """The positions that it serves; learned ones count from the prefix's end, where the session is now."""
        learned, absolute = self._limits
        limits = [absolute, None if learned is None else learned + self.prefix_len]
        return min((limit for limit in limits if limit is not None), default=None)

    def prefill(self, embeds: Floats) -> StepOutput:
        """Start a request with the prefix rows float32 [n, D], 1 <= n <= P; the output is that of the last row.

        Raises InputError if the prefix is empty, beyond capacity, of another width, or not finite.
        """
        if embeds.ndim != 2:
            raise InputError(self.name, f"prefix of shape {list(embeds.shape)}", f"give [n, {self.hidden}]")
        if not 1 <= len(embeds) <= self.layout.prefix_capacity:
            fix = f"1 to {self.layout.prefix_capacity} fit; shorten it or export with a larger --prefix"
            raise InputError(self.name, f"prefix of {len(embeds)} rows", fix)
        self._check(embeds)
        self.position, self.prefix_len = 0, len(embeds)
        while self.position < self.prefix_len:
            rows = embeds[self.position : self.position + self.chunk]
            output = self._run(rows)
            self.position += len(rows)
        return output

    def step(self, embed: Floats) -> StepOutput:
        """Decode one generated token from its row float32 [D].

        Raises InputError before a prefill, beyond max_position, or if the row has another width or is not finite.
        """
        if self.prefix_len == 0:
            raise InputError(self.name, "step before prefill", "call prefill first")
        if self.max_position is not None and self.position >= self.max_position:
            fix = f"this artifact serves {self.max_position} positions: speak shorter sentences"
            raise InputError(self.name, f"position {self.position}", fix)
        row = embed[None]
        self._check(row)
        output = self._run(row)
        self.position += 1
        return output

    def seek(self, position: int) -> None:
        """Continue as if at this generated position, the cache left as it is: for measuring late steps."""
        if position < self.prefix_len:
            raise InputError(
                self.name, f"position {position} lies in the prefix", f"seek to {self.prefix_len} or later"
            )
        self.position = position

    def _check(self, rows: Floats) -> None:
        if rows.shape[1:] != (self.hidden,) or rows.dtype != np.float32:
            found = f"rows of {list(rows.shape[1:])} {rows.dtype}"
            raise InputError(self.name, found, f"give float32 rows of width {self.hidden}")
        if not np.isfinite(rows).all():
            raise InputError(self.name, "rows that hold NaN or infinity", "one such row would poison the cache")

    @abstractmethod
    def _run(self, rows: Floats) -> StepOutput:
        """Run rows float32 [S, D], 1 <= S <= chunk, at self.position and read out the last."""

    @abstractmethod
    def close(self) -> None:
        """Release what the runtime holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AudioSession(ABC):
    """The graphs of an audio decoder, which host/audio.py calls as `decoder` tells; `how` as for a session."""

    how: ClassVar[Literal["ran", "interpreted"]] = "ran"

    def __init__(self, decoder: AudioDecoder) -> None:
        self.decoder = decoder

    @abstractmethod
    def run(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The outputs of one graph by name, given its inputs by name, as its description lists both."""
