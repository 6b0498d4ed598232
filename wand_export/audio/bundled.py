"""The codec of a recipe, built into a bundle."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wand_export.audio.build import build, write_document
from wand_export.audio.codec import Codec, open_codec
from wand_export.errors import InputError
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.recipe import Recipe
from wand_export.spec.target import Target

RUNTIME = "onnx"
"""The only one that codecs are written for."""


@dataclass(frozen=True)
class Asked:
    """What the user gave: the codec's checkpoint, its published code, which is run, and steps instead of its own."""

    checkpoint: Path
    code: str | None = None
    steps: int | None = None


def open_asked(asked: Asked, recipe: Recipe, targets: Sequence[Target], other: Path | None = None) -> Codec:
    """The codec that the recipe names. other: a decoder that the user brings beside it, which is one too many.

    Raises InputError (CheckpointError) if the recipe names none, no target can carry it, or it is of another rate.
    """
    told = recipe.audio
    if told.codec is None or other is not None:
        why = "it comes with its own decoder" if told.codec is None else "--audio-decoder brings one already"
        raise InputError(asked.checkpoint, f"recipe {recipe.family} takes no codec: {why}", "leave --audio out")
    if not any(target.runtime == RUNTIME for target in targets):
        raise InputError(asked.checkpoint, "no onnx target to carry it", "add an onnx target, or leave --audio out")
    codec = open_codec(told.codec, asked.checkpoint, asked.code, told.codebook_ids)
    found = {"Hz": codec.sample_rate, "codes": codec.codes}
    for what, wanted in {"Hz": told.sample_rate, "codes": told.codes}.items():
        if found[what] != wanted:
            fix = "give the codec that the family was trained with"
            raise InputError(asked.checkpoint, f"{found[what]} {what}, and recipe {recipe.family} has {wanted}", fix)
    return codec


def build_into(
    folder: Path,
    asked: Asked,
    recipe: Recipe,
    targets: Sequence[Target],
    allow_low_parity: bool,
    warnings: list[str],
    report: Callable[[str], None],
) -> dict[str, AudioDecoder]:
    """Write the decoder into a bundle, once for each precision of the targets that carry it: decoders by precision."""
    assert recipe.audio.codec is not None
    decoders: dict[str, AudioDecoder] = {}
    for precision in dict.fromkeys(target.audio.precision for target in targets if target.runtime == RUNTIME):
        place = f"audio/{RUNTIME}/{precision}"
        (folder / place).mkdir(parents=True)
        codec = open_asked(asked, recipe, targets)
        stage = partial(_stage, report, f"audio decoder, {precision}")
        built = build(
            codec, folder / place, precision, steps=asked.steps, allow_low_parity=allow_low_parity, report=stage
        )
        write_document(recipe.audio.codec, asked.checkpoint, codec, built, folder / place)
        warnings += [warning for warning in built.warnings if warning not in warnings]
        decoders[precision] = built.decoder.in_folder(place)
        gc.collect()
    return decoders


def _stage(report: Callable[[str], None], of: str, stage: str) -> None:
    report(f"{of}: {stage}")
