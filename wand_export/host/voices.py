"""Named voices: what a folder with voice.json and latents.safetensors brings to the prefix and the audio decoder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from wand_export.errors import BundleError, InputError
from wand_export.host.bundle import VOICES_FOLDER, Bundle
from wand_export.host.prompt import Inputs, TextEncoder, part_ids
from wand_export.spec.manifest import Manifest
from wand_export.spec.schema import explain
from wand_export.spec.voice import LATENTS, TENSORS_FILE, VOICE_FILE, VoiceFile

_FIX = "see Voices in models/README.md"


@dataclass(frozen=True)
class Voice:
    """A voice that was checked against a manifest. tensors: of latents.safetensors, by name."""

    name: str
    file: VoiceFile
    tensors: dict[str, npt.NDArray[Any]]

    def inputs(self, manifest: Manifest, encoder: TextEncoder, text: str) -> dict[str, Any]:
        """The inputs of the prefix program for a sentence in this voice. Raises ValueError if it cannot be said."""
        given: dict[str, Any] = {"prompt_tokens": self.file.prompt_tokens, "globals": self.file.globals}
        if self.file.prompt_text is not None:
            if "{prompt_text}" in manifest.text.template:
                text = manifest.text.template.format(prompt_text=self.file.prompt_text, text=text)
            else:
                given["prompt_text"] = encoder.ids(self.file.prompt_text)
        if LATENTS in _taken(manifest):
            given[LATENTS] = self.tensors[LATENTS].astype(np.float32)
        return {"text": encoder.ids(text), **{name: ids for name, ids in given.items() if len(ids)}}


def _taken(manifest: Manifest) -> set[str]:
    taken: set[str] = {part.input for part in manifest.prefix if part.input is not None}
    return taken | ({"prompt_text"} if "{prompt_text}" in manifest.text.template else set())


def load_voice(folder: Path, manifest: Manifest) -> Voice:
    """Read a voice and check it against what the manifest's prefix and audio decoder take.

    Raises InputError naming the file and what is missing, out of range, misshapen, not finite, or refused.
    """
    file = _read(folder / VOICE_FILE)
    tensors: dict[str, npt.NDArray[Any]] = {}
    place = folder / TENSORS_FILE
    if place.exists():
        try:
            tensors = load_file(place)
        except (SafetensorError, OSError) as error:
            raise InputError(place, f"unreadable: {error}", _FIX) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(place, f"tensor {name} holds NaN or infinity", "make the voice again")
    if file.mode is not None:
        why = manifest.refused.get(file.mode, "its recipe knows no such mode")
        raise InputError(folder / VOICE_FILE, f"mode {file.mode!r}: {why}", "make the voice without it")
    given: Inputs = {"prompt_tokens": file.prompt_tokens, "globals": file.globals, **_latents(tensors)}
    taken = _taken(manifest)
    for name in [
        *(n for n in ("prompt_tokens", "globals") if len(given[n])),
        *(["prompt_text"] * bool(file.prompt_text)),
    ]:
        if name not in taken:
            raise InputError(folder / VOICE_FILE, f"{manifest.family} takes no {name}", "leave it out")
    for part in manifest.prefix:
        if part.input in given or part.input == LATENTS:
            source = place if part.input == LATENTS else folder / VOICE_FILE
            try:
                part_ids(manifest, part, given)
            except InputError as error:
                raise InputError(source, error.value, _FIX) from error
    _check_audio(place, manifest, tensors)
    return Voice(folder.name, file, tensors)


def _latents(tensors: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    return {LATENTS: tensors[LATENTS].astype(np.float32)} if LATENTS in tensors else {}


def _read(file: Path) -> VoiceFile:
    try:
        return VoiceFile.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise InputError(file, explain(error), _FIX) from error
    except FileNotFoundError as error:
        raise InputError(file, "missing", "give a voice folder: " + _FIX) from error
    except (OSError, ValueError) as error:
        raise InputError(file, f"unreadable: {error}", _FIX) from error


def _check_audio(place: Path, manifest: Manifest, tensors: dict[str, npt.NDArray[Any]]) -> None:
    """The tensors that the audio decoder takes have its shapes; one that is missing only keeps the voice silent."""
    for wanted in (value for decoder in manifest.audio.decoders.values() for value in decoder.inputs):
        tensor = tensors.get(wanted.tensor or "")
        if wanted.source != "voice" or tensor is None:
            continue
        fits = len(tensor.shape) == len(wanted.shape)
        if not fits or any(isinstance(w, int) and w != n for w, n in zip(wanted.shape, tensor.shape, strict=True)):
            found = f"tensor {wanted.tensor} has shape {list(tensor.shape)}, not {wanted.shape}"
            raise InputError(place, found, _FIX)


def open_voice(bundle: Bundle, name: str | None) -> Voice | None:
    """The voice of that name, or the first; None where the bundle has none. Raises BundleError, InputError."""
    voices = bundle.manifest.voices
    if name is None and not voices:
        return None
    chosen = name if name is not None else voices[0]
    if chosen not in voices:
        fix = f"it has: {', '.join(voices)}" if voices else "it has none; wand export --voice adds them"
        raise BundleError(bundle.path, f"no voice {chosen!r}", fix)
    return load_voice(bundle.path / VOICES_FOLDER / chosen, bundle.manifest)
