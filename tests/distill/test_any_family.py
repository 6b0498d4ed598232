"""Fine-tuning a family with embedding tables of its own: the loss falls, and what is written is its checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.models.published import write_checkpoint
from wand_export.commands.distill import distill
from wand_export.commands.export import export
from wand_export.distill.data import places
from wand_export.distill.train import DistillConfig, Trainer
from wand_export.errors import InputError
from wand_export.graph.checkpoint import open_checkpoint
from wand_export.host.bundle import load_bundle
from wand_export.spec.schema import read_toml

CONFIG = """
family = "{family}"
teacher = "teacher"
data = "tokens.safetensors"
window = 6
window_start = 12
kl_weight = 0.0
steps = {steps}
batch_tokens = 200
learning_rate = 1e-2
held_out = 2
checkpoint_every = 100
"""
TABLES = {"cosyvoice2": ["text", "control", "speech"], "index_tts": ["text", "text_positions", "mel", "mel_positions"]}


def utterance(family: str, rng: np.random.Generator) -> tuple[list[int], list[int], int]:
    """Tokens, their tables, and the length of the prefix; the codes count upwards, which is easy to learn."""
    codes = [*((np.arange(rng.integers(8, 14)) + rng.integers(5)) % 9).tolist(), 6561]
    text = rng.integers(20, 60, 4).tolist()
    if family == "cosyvoice2":
        return [0, *text, 1, *codes], [1, *[0] * 4, 1, *[2] * len(codes)], 6
    codes[-1] = 8193
    prefix = [*rng.permutation(8).tolist(), 0, *text, 1, 8192]
    return [*prefix, *codes], [*[4] * 8, *[0] * 6, 2, *[2] * len(codes)], len(prefix)


def write_data(folder: Path, family: str, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    made = [utterance(family, rng) for _ in range(24)]
    tensors = {
        "tokens": np.concatenate([m[0] for m in made]).astype(np.int32),
        "tables": np.concatenate([m[1] for m in made]).astype(np.int8),
        "offsets": np.cumsum([0, *(len(m[0]) for m in made)]).astype(np.int64),
        "prefix_len": np.array([m[2] for m in made], np.int32),
    }
    if family == "index_tts":
        tensors["latents"] = rng.normal(size=(8, 128)).astype(np.float32)
    save_file(tensors | changes, folder / "tokens.safetensors")


@pytest.fixture(params=["cosyvoice2", "index_tts"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    write_checkpoint(tmp_path / "teacher", request.param)
    write_data(tmp_path, request.param)
    (tmp_path / "distill.toml").write_text(CONFIG.format(family=request.param, steps=12))
    return tmp_path, request.param


def test_the_loss_falls_and_the_result_is_a_checkpoint_of_the_family(prepared: tuple[Path, str]) -> None:
    folder, family = prepared
    report = distill(folder / "distill.toml", folder / "out")
    assert report["held_out"]["student"]["loss"] < report["held_out"]["untuned"]["loss"] - 0.5
    before, after = (open_checkpoint(folder / name, family) for name in ("teacher", "out"))
    assert (after.window, after.backbone) == (6, before.backbone)
    changed = {name for name in before._tensors if not torch.equal(*(s._tensors[name].read() for s in (before, after)))}
    spared = {
        "text_head.weight",
        "text_head.bias",
        "conditioning_encoder.embed.conv.0.weight",
        "llm.model.lm_head.weight",
    }
    assert not changed & spared and {before.recipe.head.weight, before.recipe.tables["text"].tensor} <= changed
    weights = "llm.pt" if family == "cosyvoice2" else "gpt.pth"
    saved = torch.load(folder / "out" / weights, weights_only=True)
    assert (saved["epoch"], saved["step"]) == (7, 1234) if family == "cosyvoice2" else set(saved) == {"model"}
    export(folder / "out", folder / "bundle", ["onnx-fp32"])
    manifest = load_bundle(folder / "bundle").manifest
    assert manifest.source.tuned_for_window and manifest.kv_cache.window == 6


def test_teacher_and_reference_say_the_same(prepared: tuple[Path, str]) -> None:
    """Learned positions, latents, both norms and the window included."""
    folder, family = prepared
    settings = read_toml(folder / "distill.toml", DistillConfig)
    paths = {"teacher": folder / "teacher", "data": folder / "tokens.safetensors"}
    trainer = Trainer(settings.model_copy(update=paths), folder / "state")
    batch = trainer.utterances.collate([3])
    source = trainer.source
    learned = {name: table.positions for name, table in source.recipe.tables.items()}
    rows = []
    for token, number, place in zip(
        *(t[0].tolist() for t in (batch.inputs, batch.tables, batch.positions)), strict=True
    ):
        if number == len(TABLES[family]):
            rows.append(trainer.utterances.latents[token])  # type: ignore[index]
            continue
        name = TABLES[family][number]
        row = source.table(name)[token]
        rows.append(row + source.table(learned[name])[place] if learned[name] else row)  # type: ignore[arg-type]
    from wand_export.distill.curriculum import Stage, attention_bias

    p = int(batch.prefix_len)
    expected = source.reference()(torch.stack(rows), p, 6)[0]
    with torch.no_grad():
        found = trainer.teacher(batch, attention_bias(len(rows), batch.prefix_len, Stage(6, None)))[0]
    assert torch.allclose(found[:, source.recipe.head.ids()], expected, atol=1e-4)


@pytest.mark.parametrize("damage", ["token", "table", "head", "latents"])
def test_tokens_of_another_family_are_refused(prepared: tuple[Path, str], damage: str) -> None:
    folder, family = prepared
    tokens, tables, p = utterance(family, np.random.default_rng(0))
    extra = {"token": [999999, tables[1]], "table": [1, 9], "head": None, "latents": None}[damage]
    changes: dict[str, np.ndarray] = {}
    if damage == "latents":
        changes["latents"] = np.zeros((8, 3), np.float32)
    elif damage == "head":
        changes["tokens"] = np.array([*tokens[:-1], 8194], np.int32)
    else:
        assert extra is not None
        changes["tokens"] = np.array([tokens[0], extra[0], *tokens[2:]], np.int32)
        changes["tables"] = np.array([tables[0], extra[1], *tables[2:]], np.int8)
    if damage != "latents":
        changes.setdefault("tables", np.array(tables, np.int8))
        count = len(tokens)
        offsets, prefix = np.arange(4, dtype=np.int64) * count, np.full(3, p, np.int32)
        changes = {name: np.tile(value, 3) for name, value in changes.items()}
        changes |= {"offsets": offsets, "prefix_len": prefix}
    write_data(folder, family, **changes)
    with pytest.raises(InputError, match=r"tokens\.safetensors"):
        distill(folder / "distill.toml", folder / "out")


def test_places_count_within_runs() -> None:
    assert places(np.array([4, 4, 0, 0, 0, 2, 0])).tolist() == [0, 1, 0, 1, 2, 0, 0]
