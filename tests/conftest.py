"""Small real checkpoints, and one bundle exported from them that many tests read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wand_export.graph.checkpoint import Checkpoint, expected_shapes, random_checkpoint
from wand_export.graph.vocoder import Vocoder, VocoderConfig
from wand_export.spec.manifest import Manifest
from wand_export.spec.schema import shipped

KINDS = ("llama", "qwen2", "qwen3", "gpt2")

RUNTIMES = {
    "onnx": ("exported", "onnx-fp32"),
    "executorch": ("exported_executorch", "executorch-xnnpack-fp32"),
}
"""Runtime -> the fixture of a bundle for it, and the float32 target in that."""

RECIPE = """
schema_version = 1
family = "tiny"
title = "Tiny"
speech_table = "speech"
window = 8
prefix_capacity = 24
licence = {{ weights = "CC0-1.0", obligations = "None." }}
checkpoint = {{ weights = ["model.safetensors", "model.pt"], nested = "model", entries = ["epoch"], backbone = "lm." }}
backbone = {{ kind = "{kind}", layers = 2, hidden = 64, heads = 4, kv_heads = {kv_heads}, head_dim = 16, mlp = 96 }}
head = {{ weight = "head.weight", bias = "head.bias", rows = 40, wanted = [[0, 30], [33, 36]] }}
prefix = [{{ table = "text", input = "text" }}, {{ table = "speech", ids = [31] }}]
stop = {{ ids = [27, 28, 29, 30, 33, 34, 35, 36], max_tokens = 60 }}
sampler = {{ temperature = 0.9, top_k = 10 }}
text = {{ kind = "lexicon", files = ["text/text.json", "text/lexicon.tsv"], sample = "a cab, a bad cab" }}
audio = {{ token_rate = 40.0, sample_rate = 8000, codes = 27, vocoder = "vocoder" }}
[tables]
text = {{ tensor = "text.weight", rows = 20{positions} }}
speech = {{ tensor = "speech.weight", rows = 37{positions} }}
{tables}
"""

TEXT = {
    "replace": [["-", " "]], "abbreviations": {}, "ones": ["a"] * 20, "tens": ["a"] * 10, "scales": ["a"] * 3,
    "point": "a", "currencies": {}, "graphemes": {c: "ab"[i % 2] for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")},
    "vowels": "a", "punctuation": ".,", "max_words": 30, "symbols": {c: i for i, c in enumerate(" .,abdkˈ")},
    "boundaries": [],
}  # fmt: skip

VOCODER = VocoderConfig(
    levels=[3, 3, 3], frames_per_code=2, code_channels=8, code_hidden=16, code_blocks=1, features=6, f0_feature=4,
    channels=8, hidden=16, blocks=1, n_fft=400, hop=100, sample_rate=8000, look_ahead=16, frame_look_ahead=32,
    first=4, later=8,
)  # fmt: skip


def write_recipe(folder: Path, kind: str = "llama") -> Path:
    """A recipe of this backbone kind with its text tables and a random vocoder; returns the path of recipe.toml."""
    learned = kind == "gpt2"
    positions, table = (
        (', positions = "places"', 'places = { tensor = "places.weight", rows = 300 }') if learned else ("", "")
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text").mkdir()
    (folder / "text" / "text.json").write_text(json.dumps(TEXT), encoding="utf-8")
    (folder / "text" / "lexicon.tsv").write_text("a\ta\ncab\tkˈab\n", encoding="utf-8")
    torch.manual_seed(0)
    (folder / "vocoder").mkdir()
    (folder / "vocoder" / "vocoder.json").write_text(VOCODER.model_dump_json(), encoding="utf-8")
    save_file(
        {k: v.contiguous() for k, v in Vocoder(VOCODER).state_dict().items()},
        folder / "vocoder" / "vocoder.safetensors",
    )
    text = RECIPE.format(kind=kind, kv_heads=4 if learned else 2, positions=positions, tables=table)
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


def tensors_of(source: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor that its recipe reads, by the checkpoint's own names."""
    return {name: source.tensor(name) for name in expected_shapes(source.recipe, source.backbone)}


def write_checkpoint(folder: Path, recipe: Path, window: int | None = 8) -> dict[str, torch.Tensor]:
    """Seeded random weights as a checkpoint folder; returns its tensors."""
    tensors = tensors_of(random_checkpoint(str(recipe)))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if window is not None:
        wand = {"schema": 1, "family": str(recipe), "window": window, "teacher": "0" * 64, "trained_steps": 1}
        (folder / "wand.json").write_text(json.dumps(wand | {"final_loss": 1.0}), encoding="utf-8")
    return tensors


def of_another_decoder(manifest: Manifest, target: str) -> Manifest:
    """The manifest with a longer state in the audio decoder of a target, as another model's would have."""
    name = manifest.artifacts[target].audio_decoder
    assert name is not None
    decoder = manifest.audio.decoders[name]
    state, *others = decoder.states
    longer = state.model_copy(update={"shape": [*state.shape[:-1], state.shape[-1] + 1]})
    decoders = {**manifest.audio.decoders, name: decoder.model_copy(update={"states": [longer, *others]})}
    return manifest.model_copy(update={"audio": manifest.audio.model_copy(update={"decoders": decoders})})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a llama recipe in `recipe/` and its checkpoint in `checkpoint/`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder / "checkpoint", write_recipe(folder / "recipe"))
    return folder


@pytest.fixture(scope="session")
def exported(tiny: Path) -> Path:
    """A bundle of three targets, one of them with its twin. Read only: copy it before changing it."""
    from wand_export.commands.export import export

    export(tiny / "checkpoint", tiny / "bundle", ["onnx-fp32", "onnx-int8", "onnx-int4"], with_twin=True)
    return tiny / "bundle"


@pytest.fixture(scope="session")
def exported_executorch(tiny: Path) -> Path:
    """A bundle of a float32 target and one of three precisions, "mixed". Read only: copy it before changing it."""
    pytest.importorskip("executorch")
    from wand_export.commands.export import export

    text = (shipped("targets") / "executorch-xnnpack-8da4w.toml").read_text(encoding="utf-8")
    text = text.replace("executorch-xnnpack-8da4w", "mixed")
    text = text.replace("attention = { bits = 4, block = 32 }", 'attention = { bits = 8, block = "channel" }')
    text = text.replace("head = { bits = 4, block = 32 }", "head = { bits = 32 }")
    text = text.replace("min_psnr_db = 30.0", "min_psnr_db = 20.0")  # small random weights round badly
    (tiny / "mixed.toml").write_text(text, encoding="utf-8")
    export(tiny / "checkpoint", tiny / "executorch", ["executorch-xnnpack-fp32", str(tiny / "mixed.toml")])
    return tiny / "executorch"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    shutil.copytree(exported, tmp_path / "bundle")
    return tmp_path / "bundle"
