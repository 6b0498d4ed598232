"""wand speak --plan: what a text would ask of the model, with no model opened."""

from pathlib import Path
from typing import Any

from wand_export.commands.speak import shown
from wand_export.errors import InputError
from wand_export.host.bundle import load_bundle
from wand_export.host.prompt import Inputs, load_reader
from wand_export.host.sentences import without
from wand_export.host.speech import Planner
from wand_export.host.voices import open_voice
from wand_export.spec.plan import Plan, PlannedSentence, RefusedText
from wand_export.spec.voice import LATENTS


def plan(
    bundle: Path | str,
    text: str,
    *,
    voice: str | None = None,
    skip_unsayable: bool = False,
    lexicon: Path | str | None = None,
    replace: Path | str | None = None,
) -> dict[str, Any]:
    """Plan `text` as speak() would, and return the document of `wand speak --plan --json`: see spec/plan.py.

    Raises InputError and BundleError for what is wrong with the bundle, the voice or the type of the text.
    """
    if not isinstance(text, str):
        raise InputError("text", f"a {type(text).__name__}", "give a string")
    opened = load_bundle(bundle)
    own_lexicon, own_replace = (None if path is None else Path(path) for path in (lexicon, replace))
    reader = load_reader(opened, own_lexicon, own_replace)
    text = reader.replaced(text)
    skipped = reader.encoder.unsayable(text) if skip_unsayable else []
    planned, refused = Planner(opened, open_voice(opened, voice), reader).preview(without(text, skipped))
    document = Plan(
        schema=1,
        sentences=[PlannedSentence(text=one.text, ids=_ids(one.inputs), prefix_len=one.prefix_len) for one in planned],
        refused=[RefusedText(text=shown(one.text), reason=one.reason) for one in refused],
    )
    return document.model_dump(mode="json", by_alias=True)


def _ids(inputs: Inputs) -> dict[Any, list[int]]:
    return {name: [int(i) for i in ids] for name, ids in inputs.items() if name != LATENTS}
