"""audio.json: what wand audio writes beside the graphs of a decoder."""

from typing import Literal

from wand_export.spec.audio import AudioDecoder
from wand_export.spec.recipe import Licence
from wand_export.spec.schema import Schema

AUDIO_FILE = "audio.json"


class Held(Schema):
    """The graphs on disk against the family's own code in PyTorch, over one utterance of so many units.

    psnr_db is null when identical; log_mel_db is the root mean square difference of log-mel spectra, in dB.
    """

    units: int
    psnr_db: float | None
    log_mel_db: float


class AudioFile(Schema):
    """A decoder by itself. Paths are relative to the folder; bytes: of each file; sha256: of the checkpoint."""

    schema_version: Literal[1]
    wand_export: str
    codec: str
    title: str
    checkpoint: str
    sha256: str
    licence: Licence
    sample_rate: int
    codes: int
    decoder: AudioDecoder
    parity: list[Held]
    passed: bool
    bytes: dict[str, int]
