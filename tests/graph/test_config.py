"""A configuration's keys: those that change what transformers computes are honoured, or refused by key and value."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import KINDS, write_checkpoint, write_recipe
from wand_export.errors import CheckpointError
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint
from wand_export.graph.config import _FOREIGN, _IDLE, _READ, generation_notes
from wand_export.graph.reference import CONFIGS, filled

Opened = Callable[..., Checkpoint]

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "rope_theta": 5000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
GPT2 = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_inner": 96, "layer_norm_epsilon": 1e-5, "n_positions": 300}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FULL, SLIDING = ["full_attention"] * 2, ["full_attention", "sliding_attention"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Opens the tiny checkpoint of a kind under a changed configuration; a value of None takes its key out."""
    folders: dict[str, Path] = {}

    def get(kind: str, **changes: Any) -> Checkpoint:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            recipe = write_recipe(folders[kind] / "recipe", kind)
            recipe.write_text(
                recipe.read_text().replace('nested = "model"', 'nested = "model", config = "config.json"')
            )
            write_checkpoint(folders[kind] / "c", recipe)
        config = {"model_type": kind, **(GPT2 if kind == "gpt2" else CONFIG), **changes}
        text = json.dumps({key: value for key, value in config.items() if value is not None})
        (folders[kind] / "c" / "config.json").write_text(text)
        return open_checkpoint(folders[kind] / "c")

    return get


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        *((kind, {"hidden_act": "gelu"}, "hidden_act 'gelu'") for kind in ("llama", "qwen2", "qwen3")),
        *((kind, {"attention_bias": True}, "attention_bias True") for kind in ("llama", "qwen3")),
        ("llama", {"mlp_bias": True}, "mlp_bias True"),
        ("llama", {"sliding_window": 128}, "sliding_window 128"),
        ("llama", {"layer_types": SLIDING, "sliding_window": 128}, "layer_types"),
        *(
            (kind, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding_window 8")
            for kind in ("qwen2", "qwen3")
        ),
        ("qwen2", {"layer_types": SLIDING}, "layer_types"),
        *((kind, {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5") for kind in ("llama", "qwen3")),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        *(
            ("llama", {"rope_scaling": {key: kind, "factor": 2.0}}, f"rope type '{kind}'")
            for kind in ("linear", "dynamic", "yarn", "longrope", "proportional")
            for key in ("type", "rope_type")
        ),
        ("qwen2", {"rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]}}, "mrope_section [2, 3, 3]"),
        ("llama", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "rope type 'mrope'"),
        ("llama", {"rope_scaling": {**LLAMA3, "beta_fast": 32}}, "beta_fast 32"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "without 'low_freq_factor'"),
        ("llama", {"rope_scaling": "linear"}, "rope_parameters 'linear'"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("qwen2", {"auto_map": {"AutoModelForCausalLM": "own.Model"}}, "auto_map"),
        ("qwen3", {"per_layer_config": {"1": {"hidden_act": "gelu"}}}, "per_layer_config"),
        ("llama", {"hidden_size": "64"}, "hidden_size"),
        ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps"),
        ("llama", {"num_key_value_heads": 3}, "kv_heads"),
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights False"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention True"),
    ],
)
def test_what_transformers_would_compute_otherwise(opened: Opened, kind: str, changes: Any, words: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        opened(kind, **changes)
    assert words in str(raised.value) and "config.json" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {"rope_scaling": {"type": "default"}}) for kind in ("llama", "qwen2", "qwen3")),
        ("llama", {"partial_rotary_factor": 1.0}),
        ("llama", {"sliding_window": 4096, "use_sliding_window": False}),
        ("llama", {"layer_types": FULL, "my_trainers_key": {"lr": 1e-5}, "auto_map": {}}),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 1, "layer_types": FULL}),
        ("qwen3", {"dtype": "bfloat16", "torch_dtype": "float16", "attention_dropout": 0.1}),
        ("gpt2", {"resid_pdrop": 0.0, "n_ctx": 1024, "summary_type": "mean"}),
    ],
)
def test_what_changes_nothing(opened: Opened, kind: str, changes: dict[str, Any]) -> None:
    assert opened(kind, **changes).backbone == opened(kind).backbone


@pytest.mark.parametrize(
    ("changes", "theta", "eps"),
    [
        ({}, 5000.0, 1e-5),
        ({"rope_theta": None}, 10000.0, 1e-5),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 7e5, "rope_type": "default"}}, 7e5, 1e-5),
        ({"rope_parameters": {"rope_theta": 7e5, "rope_type": "default"}}, 7e5, 1e-5),
        ({"rms_norm_eps": None}, 5000.0, 1e-6),
    ],
)
def test_a_key_that_is_missing_is_transformers_default(opened: Opened, changes: Any, theta: float, eps: float) -> None:
    backbone = opened("llama", **changes).backbone
    assert (backbone.rope_theta, backbone.norm_eps, backbone.rope_scaling) == (theta, eps, None)


def test_llama3_stretches_from_the_positions_that_the_model_has(opened: Opened) -> None:
    scaling = opened("llama", rope_scaling=LLAMA3, max_position_embeddings=4096).backbone.rope_scaling
    assert scaling is not None and (scaling.factor, scaling.original_max_position) == (8.0, 4096)
    rope = {**LLAMA3, "original_max_position_embeddings": 1024}
    scaling = opened("llama", rope_scaling=rope, max_position_embeddings=4096).backbone.rope_scaling
    assert scaling is not None and scaling.original_max_position == 1024


OTHER = {"dtype": "float16", "id2label": {"0": "a"}, "label2id": {"a": 0}, "problem_type": "regression",
         "max_window_layers": 1, "chunk_size_feed_forward": 1, "attention_dropout": 0.3, "resid_pdrop": 0.3,
         "embd_pdrop": 0.3, "attn_pdrop": 0.3, "summary_first_dropout": 0.3, "initializer_range": 0.5,
         "architectures": ["Other"], "transformers_version": "4.1", "summary_type": "mean", "vocab_size": 7,
         "summary_activation": "tanh", "use_sliding_window": False}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_key_of_the_class_is_refused_or_read_or_idle(opened: Opened, kind: str) -> None:
    """The idle ones by transformers' own word: its hidden vectors do not change with them."""
    source = opened(kind)
    prefix = source.recipe.checkpoint.backbone
    names = [name.removeprefix(prefix) for name in source._tensors if name.startswith(prefix)]
    tensors = {name: source.tensor(prefix + name) for name in names}

    def hidden(**changes: Any) -> torch.Tensor:
        config = CONFIGS[kind](**{**(GPT2 if kind == "gpt2" else CONFIG), **changes})
        config.vocab_size, config.pad_token_id = 1, None
        if kind == "gpt2":
            config.n_positions = 1
        rows = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(1))
        positions = torch.arange(9)[None] * (kind != "gpt2")
        output = filled(config, tensors)(
            inputs_embeds=rows, position_ids=positions, attention_mask=torch.ones(1, 9), use_cache=False
        )
        found: torch.Tensor = output[0]
        return found

    wanted = hidden()
    for field in fields(CONFIGS[kind]):  # type: ignore[arg-type]
        default = getattr(source.config, field.name)
        if field.name in _IDLE:
            other = OTHER.get(field.name, not default if isinstance(default, bool) else 5)
            assert torch.equal(hidden(**{field.name: other}), wanted), field.name
            assert opened(kind, **{field.name: other}).backbone == source.backbone, field.name
        elif field.name not in _READ | _FOREIGN.keys():
            other = not default if isinstance(default, bool) else "relu"
            with pytest.raises(CheckpointError, match=field.name):
                opened(kind, **{field.name: other})


def test_where_generation_config_contradicts_the_recipe(opened: Opened, tmp_path: Path) -> None:
    recipe = opened("llama").recipe
    file = tmp_path / "generation_config.json"
    assert generation_notes(tmp_path, recipe) == []
    file.write_text(json.dumps({"temperature": 0.9, "top_k": 10, "eos_token_id": [27, 28], "max_length": 9}))
    assert generation_notes(tmp_path, recipe) == []
    file.write_text(json.dumps({"temperature": 0.7, "top_k": 10, "top_p": 0.5, "eos_token_id": 3}))
    (note,) = generation_notes(tmp_path, recipe)
    assert "temperature 0.7, top_p 0.5, eos_token_id 3" in note and "temperature 0.9, top_p 1.0, stop ids [27" in note
    file.write_text("{")
    with pytest.raises(CheckpointError, match="generation_config"):
        generation_notes(tmp_path, recipe)
