"""Whole runs on a model of one layer: what is written, and that an interrupted run ends where a whole one does."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from wand_export.commands.distill import distill
from wand_export.distill.evaluate import evaluate
from wand_export.distill.train import Trainer
from wand_export.errors import InputError
from wand_export.graph.checkpoint import open_checkpoint
from wand_export.spec.schema import read_toml

CONFIG = """
family = "{recipe}"
teacher = "teacher"
data = "tokens.safetensors"
window = 4
window_start = 16
steps = 6
batch_tokens = 120
learning_rate = 1e-3
corrupt = 0.1
held_out = 4
checkpoint_every = 2
"""


RECIPE = """
schema_version = 1
family = "tiny"
title = "Tiny"
speech_table = "tokens"
window = 4
prefix_capacity = 8
licence = { weights = "CC0-1.0", obligations = "None." }
checkpoint = { weights = ["model.safetensors"], config = "config.json", backbone = "model." }
backbone = { kind = "llama", layers = 1, hidden = 16, heads = 2, kv_heads = 1, head_dim = 8, mlp = 16 }
tables = { tokens = { tensor = "model.embed_tokens.weight", rows = 32 } }
head = { weight = "lm_head.weight", rows = 32 }
prefix = [{ table = "tokens", input = "text" }]
stop = { ids = [31], max_tokens = 60 }
sampler = {}
text = { kind = "tokenizer", files = ["tokenizer.json"], sample = "a" }
audio = { token_rate = 25.0, sample_rate = 8000, codes = 20 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config, a teacher of random weights in float16, and tokens that repeat with a period."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, tie_word_embeddings=False, **sizes))
    model.half().save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "own.txt").write_text("the family's own file", encoding="utf-8")
    rng = np.random.default_rng(0)
    rows = [[*rng.integers(20, 30, 3), *(np.arange(n) % 7), 31] for n in rng.integers(8, 24, 30)]
    tensors = {
        "tokens": np.concatenate(rows).astype(np.int32),
        "offsets": np.cumsum([0, *map(len, rows)]).astype(np.int64),
        "prefix_len": np.full(30, 3, np.int32),
    }
    save_file(tensors, tmp_path / "tokens.safetensors")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "distill.toml").write_text(config(tmp_path), encoding="utf-8")
    return tmp_path


def config(folder: Path) -> str:
    return CONFIG.format(recipe=folder / "recipe.toml")


def test_a_checkpoint_in_the_teachers_layout(folder: Path) -> None:
    report = distill(folder / "distill.toml", folder / "out")
    written = json.loads((folder / "out" / "wand.json").read_text(encoding="utf-8"))
    assert written == {
        "schema": 1,
        "family": str(folder / "recipe.toml"),
        "window": 4,
        "teacher": open_checkpoint(folder / "teacher", str(folder / "recipe.toml")).sha256,
        "trained_steps": 6,
        "final_loss": report["final_loss"],
    }
    assert (folder / "out" / "own.txt").exists()
    before, after = (load_file(folder / name / "model.safetensors") for name in ("teacher", "out"))
    assert before.keys() == after.keys()
    assert all((after[name].shape, after[name].dtype) == (t.shape, t.dtype) for name, t in before.items())
    assert any((before[name] != after[name]).any() for name in before)
    assert report["held_out"]["student"]["loss"] < report["held_out"]["untuned"]["loss"]
    log = [json.loads(line) for line in (folder / "out.state" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line.get("step") for line in log] == [1, 2, 3, 4, 5, 6, None]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_bfloat16_learns_as_well_and_keeps_the_weights(folder: Path) -> None:
    exact = distill(folder / "distill.toml", folder / "exact")
    (folder / "distill.toml").write_text(config(folder) + "bf16 = true\n", encoding="utf-8")
    rough = distill(folder / "distill.toml", folder / "rough")
    assert rough["final_loss"] != exact["final_loss"]
    assert rough["final_loss"] == pytest.approx(exact["final_loss"], rel=0.01)
    state = torch.load(folder / "rough.state" / "state.pt", weights_only=True)
    assert {tensor.dtype for tensor in state["student"].values()} == {torch.float32}


def test_an_interrupted_run_ends_where_a_whole_one_does(folder: Path) -> None:
    interrupted = distill_config(folder, folder / "out.state")
    for record in interrupted.train():
        if record["step"] == 5:
            break
    distill(folder / "distill.toml", folder / "out")
    distill(folder / "distill.toml", folder / "whole")
    parts, whole = (load_file(folder / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def distill_config(folder: Path, state: Path) -> Trainer:
    from wand_export.distill.train import DistillConfig

    config = read_toml(folder / "distill.toml", DistillConfig)
    paths = {"teacher": folder / config.teacher, "data": folder / config.data}
    return Trainer(config.model_copy(update=paths), state)


def test_a_window_longer_than_the_utterance_changes_nothing(folder: Path) -> None:
    trainer = distill_config(folder, folder / "state")
    full, wide, narrow = (asdict(evaluate(trainer.teacher, trainer.utterances, [0, 1], w)) for w in (None, 1000, 2))
    assert wide == pytest.approx(full)
    assert narrow != full


def test_the_scores_are_those_of_plain_causal_attention(folder: Path) -> None:
    trainer = distill_config(folder, folder / "state")
    batch = trainer.utterances.collate([0])
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(batch.inputs).logits[0], batch.targets[0])
    assert evaluate(trainer.teacher, trainer.utterances, [0], None).loss == pytest.approx(loss.item(), abs=1e-5)


def test_refusals_name_the_key_or_the_file(folder: Path) -> None:
    with pytest.raises(InputError, match="already exists"):
        distill(folder / "distill.toml", folder / "teacher")
    (folder / "more.toml").write_text(config(folder) + "surprise = 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="surprise"):
        distill(folder / "more.toml", folder / "out")
    (folder / "more.toml").write_text(config(folder).replace('"teacher"', '"nobody"'), encoding="utf-8")
    with pytest.raises(InputError, match="no such checkpoint"):
        distill(folder / "more.toml", folder / "out")
    (folder / "more.toml").write_text(config(folder).replace("held_out = 4", "held_out = 30"), encoding="utf-8")
    with pytest.raises(InputError, match="30 held out"):
        distill(folder / "more.toml", folder / "out")


def test_a_state_of_another_configuration_is_refused(folder: Path) -> None:
    next(distill_config(folder, folder / "out.state").train())
    for _ in distill_config(folder, folder / "out.state").train():
        pass
    (folder / "distill.toml").write_text(config(folder).replace("steps = 6", "steps = 8"), encoding="utf-8")
    with pytest.raises(InputError, match="another configuration"):
        distill(folder / "distill.toml", folder / "out")
