"""What turns the decoder into files, one module a runtime.

Each offers emit(decoder, layout, target, folder, with_twin) -> Emitted, which may replace the decoder's linear layers
in place, and emit_audio(vocoder, decoder, folder) -> names of files, of which the audio session opens the first; that
may replace layers of the vocoder too.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Emitted:
    """What emit() wrote. Paths are relative to its folder; the session opens the first.

    step_bytes: bytes of the weights that a decode step reads. emitted_by: package or format -> version.
    oldest_runtime: the oldest version that loads the files, None where it was not tried.
    """

    files: list[str]
    step_bytes: int
    emitted_by: dict[str, str]
    oldest_runtime: str | None
    twin: str | None = None


def of(runtime: str) -> Any:
    """The backend of a runtime."""
    return import_module(f"wand_export.backends.{runtime}")
