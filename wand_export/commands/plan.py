"""wand speak --plan: what a text would ask of the model, with no model opened."""

from pathlib import Path
from typing import Any

from wand_export.commands.speak import shown
from wand_export.errors import InputError
from wand_export.host.bundle import load_bundle
from wand_export.host.prompt import Inputs
from wand_export.host.sentences import without
from wand_export.host.speech import Planner
from wand_export.host.voices import open_voice
from wand_export.spec.voice import LATENTS


def plan(bundle: Path | str, text: str, *, voice: str | None = None, skip_unsayable: bool = False) -> dict[str, Any]:
    """Plan `text` as speak() would, and return the document of `wand speak --plan --json`.

    "sentences" holds each utterance's text, its "ids" by the prefix program's input (text, prompt_tokens, ...; latents
    are rows, and have none) and "prefix_len", the tokens of its whole prefix; "refused" holds what speak() would
    refuse, and why: nothing of a text with a refusal in it would be spoken. Raises InputError and BundleError for what
    is wrong with the bundle, the voice or the type of the text.
    """
    if not isinstance(text, str):
        raise InputError("text", f"a {type(text).__name__}", "give a string")
    opened = load_bundle(bundle)
    planner = Planner(opened, open_voice(opened, voice))
    planned, refused = planner.preview(without(text, planner.text.unsayable(text)) if skip_unsayable else text)
    return {
        "schema": 1,
        "sentences": [{"text": one.text, "ids": _ids(one.inputs), "prefix_len": one.prefix_len} for one in planned],
        "refused": [{"text": shown(one.text), "reason": one.reason} for one in refused],
    }


def _ids(inputs: Inputs) -> dict[str, list[int]]:
    return {name: [int(i) for i in ids] for name, ids in inputs.items() if name != LATENTS}
