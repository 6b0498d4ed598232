"""X-codec 2 (HKUSTAudio), NeuCodec's forerunner at 16 kHz; Llasa speaks with it."""

from pathlib import Path

from wand_export.audio.codec import Codec
from wand_export.audio.codecs.neucodec import open_at
from wand_export.spec.recipe import Licence


def open(path: Path, code: str | None) -> Codec:
    """The decoder of a folder with model.safetensors. Raises CheckpointError."""
    licence = Licence(weights="CC-BY-NC-4.0", obligations="Non-commercial use only; name HKUSTAudio.")
    return open_at(path, 16000, "X-codec 2", licence)
