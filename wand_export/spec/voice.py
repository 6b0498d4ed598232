"""voice.json: a named preset, made once with a family's own tools. See models/README.md."""

from typing import Literal

from pydantic import Field

from wand_export.spec.limits import Count
from wand_export.spec.schema import Schema

VOICE_FILE, TENSORS_FILE = "voice.json", "latents.safetensors"
LATENTS = "latents"
"""Name of the tensor that enters the prefix; others are for the audio decoder."""


class VoiceFile(Schema):
    """What a voice is beside its tensors. Token ids are in the codec's own numbering."""

    schema_version: Literal[1]
    prompt_text: str | None = Field(None, description="what the reference recording says, or the voice's name")
    prompt_tokens: list[Count] = Field([], description="the reference recording's codes")
    globals: list[Count] = Field([], description="the speaker's codes")
    mode: str | None = Field(None, description="a mode of the family that the voice was made for, if not the usual one")
