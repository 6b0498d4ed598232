"""The example voice: its files fit its recipe, its tables say English, and its bundle speaks."""

import json
import tomllib
import wave
from pathlib import Path

import pytest

from wand_export.commands.export import export
from wand_export.commands.speak import speak
from wand_export.graph.checkpoint import open_checkpoint
from wand_export.host.text import Frontend
from wand_export.spec.schema import shipped

VOICE = shipped("models") / "wren"


def test_the_checkpoint_fits_the_recipe() -> None:
    source = open_checkpoint(VOICE / "checkpoint")
    source.reference()
    assert source.window == source.recipe.window == 64
    distilled = tomllib.loads((VOICE / "distill.toml").read_text())
    wand = json.loads((VOICE / "checkpoint" / "wand.json").read_text())
    assert (wand["window"], wand["trained_steps"]) == (distilled["window"], distilled["steps"])
    assert wand["teacher"] == open_checkpoint(VOICE / "teacher", "wren").sha256


def test_every_symbol_has_a_row_of_its_own() -> None:
    recipe = open_checkpoint(VOICE / "checkpoint").recipe
    frontend = Frontend.load(VOICE / "text")
    symbols = sorted([*frontend.symbols.values(), *frontend.boundaries])
    assert len(set(symbols)) == len(symbols)
    assert recipe.prefix[1].ids is not None
    assert recipe.audio.codes <= recipe.stop.ids[0] < recipe.prefix[1].ids[0] < symbols[0]
    assert symbols[-1] < recipe.tables["tokens"].rows
    assert all(token in recipe.head.ids() for token in symbols if token != frontend.symbols[" "])


def test_the_weights_are_light() -> None:
    assert sum(file.stat().st_size for file in VOICE.rglob("*.safetensors")) <= 40_000_000


@pytest.mark.parametrize("text", ["The old clock struck nine.", "We saw twenty two ships, and nobody waved!"])
def test_it_speaks(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The utterance ends by itself, and lasts as long as people take to say it."""
    folder = tmp_path_factory.getbasetemp() / "wren"
    if not folder.exists():
        export(VOICE / "checkpoint", folder, ["onnx-int4"])
    output = Path(f"{folder}-{len(text)}.wav")
    result = speak(folder, text, output, seed=1)
    words = len(text.split())
    assert result["cut_sentences"] == 0
    assert 0.15 * words < result["audio_seconds"] < 0.8 * words
    with wave.open(str(output)) as file:
        assert file.getframerate() == 24000
        assert file.getnframes() == round(result["audio_seconds"] * 24000)
