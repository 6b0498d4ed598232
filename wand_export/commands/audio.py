"""wand audio: a codec's own checkpoint to a verified streaming decoder, written whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wand_export.audio.build import build, write_document
from wand_export.audio.codec import open_codec
from wand_export.host.output import alone, whole
from wand_export.spec.target import AudioPrecision


def audio(
    checkpoint: Path | str,
    output: Path | str,
    codec: str,
    *,
    code: str | None = None,
    precision: AudioPrecision = "float16",
    steps: int | None = None,
    allow_low_parity: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Write the decoder of a codec's checkpoint, a folder or a file, to the folder `output`.

    code: the codec's published code, a package or a folder; it is imported only because it is named here. steps: of a
    decoder that takes some, instead of the family's own number. report(stage) is called as each stage begins. Returns
    audio.json as a dict, with the key "warnings". Raises InputError (CheckpointError) for what it refuses, ParityError
    for graphs below their thresholds.
    """
    checkpoint = Path(checkpoint)
    with alone(output) as place:
        report("reading the checkpoint")
        opened = open_codec(codec, checkpoint, code)
        with whole(place) as folder:
            built = build(opened, folder, precision, steps=steps, allow_low_parity=allow_low_parity, report=report)
            document = write_document(codec, checkpoint, opened, built, folder)
    return {**document.model_dump(mode="json"), "warnings": built.warnings}
