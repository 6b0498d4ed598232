"""voice.json: a named preset, made once with a family's own tools. See models/README.md."""

from typing import Literal

from pydantic import Field, StrictInt

from wand_export.spec.schema import Schema

VOICE_FILE, TENSORS_FILE = "voice.json", "latents.safetensors"
LATENTS = "latents"
"""Name of the tensor that enters the prefix; others are for the audio decoder."""


class VoiceFile(Schema):
    """What a voice is beside its tensors. Token ids are in the codec's own numbering."""

    schema_version: Literal[1]
    prompt_text: str | None = Field(None, description="what the reference recording says, or the voice's name")
    prompt_tokens: list[StrictInt] = Field([], description="the reference recording's codes")
    globals: list[StrictInt] = Field([], description="the speaker's codes")
    mode: str | None = Field(None, description="a mode of the family that the voice was made for, if not the usual one")


_LONGEST_NAME = 100
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
"""Names that Windows keeps for devices, whatever follows a dot."""


def is_folder_name(name: str) -> bool:
    """Whether a voice of that name can lie in a folder of that name on every system."""
    plain = all(ord(character) >= 32 and not 127 <= ord(character) < 160 for character in name)
    shown = not any(character in '<>:"/\\|?*\u2028\u2029' or "\ud800" <= character <= "\udfff" for character in name)
    edges = not name.startswith((".", " ", "-")) and not name.endswith((".", " "))
    return 0 < len(name) <= _LONGEST_NAME and plain and shown and edges and name.split(".")[0].lower() not in _RESERVED
