"""What the configuration beside a checkpoint says: each key that changes what is computed is honoured or refused."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PretrainedConfig

from wand_export.errors import CheckpointError
from wand_export.graph.reference import CONFIGS, config_of
from wand_export.spec.recipe import Backbone, Recipe, RopeScaling
from wand_export.spec.schema import explain, read_json

_OWN = "give the model's own config.json"

_SIZES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "mlp": ("intermediate_size", "n_inner"),
}
_EPSILONS = ("rms_norm_eps", "layer_norm_epsilon")
_READ = {*(key for keys in _SIZES.values() for key in keys), *_EPSILONS, "rope_parameters", "tie_word_embeddings"}
_IDLE = {
    *("vocab_size", "max_position_embeddings", "n_positions", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("initializer_range", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "pretraining_tp"),
    *("architectures", "transformers_version", "dtype", "use_cache", "output_hidden_states", "return_dict"),
    *("id2label", "label2id", "problem_type", "chunk_size_feed_forward", "use_sliding_window", "max_window_layers"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
}
"""Keys that change no logit: tables have the rows of their tensors, and windows act through sliding_window alone."""
_FOREIGN = {
    "quantization_config": "remove the key if the weights are plain floats again; else give those from before",
    "auto_map": "code beside weights is never run; leave the key out if transformers' own class is the model",
    "per_layer_config": "every layer has to be alike",
    "sliding_window": "leave the key out if the layers attend to all; a window for export is --window's",
    "layer_types": "every layer has to be full_attention; a window for export is --window's",
}
"""Keys that transformers takes beside its class's own, and what to do about them."""
_ROPE = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")

_SAMPLER = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def read_config(path: Path, recipe: Recipe) -> tuple[Path, dict[str, Any], PretrainedConfig] | None:
    """The configuration that the recipe names: its file, what stands in it, and how transformers understands that.

    None where the recipe names none. Raises CheckpointError for one that is none, or of another kind.
    """
    if recipe.checkpoint.config is None:
        return None
    file = path / recipe.checkpoint.config
    kind = recipe.backbone.kind
    try:
        data = read_json(file)
    except FileNotFoundError as error:
        raise CheckpointError(file, "missing", _OWN) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(file, f"unreadable: {error}", _OWN) from error
    found = data.get("model_type") if isinstance(data, dict) else data
    if found != kind:
        raise CheckpointError(file, f"model_type {found!r} is not {kind!r}", "use the right --recipe")
    _check_rope(file, data)
    try:
        return file, data, CONFIGS[kind](**data)
    except Exception as error:  # its validators raise errors of every kind
        raise CheckpointError(file, " ".join(str(error).split()), _OWN) from error


def backbone_of(file: Path, data: Mapping[str, Any], config: PretrainedConfig, recipe: Recipe) -> Backbone:
    """The backbone that a configuration describes; sizes that it leaves out are the recipe's.

    Raises CheckpointError for a key by which transformers would compute something else.
    """
    found: dict[str, Any] = {
        field: data[key] for field, keys in _SIZES.items() for key in keys if data.get(key) is not None
    }
    if "head_dim" not in found and config.model_type in ("llama", "qwen2") and {"hidden", "heads"} <= {*found}:
        found["head_dim"] = found["hidden"] // max(1, found["heads"])  # transformers' default
    found["norm_eps"] = next(getattr(config, key) for key in _EPSILONS if hasattr(config, key))
    if (rope := getattr(config, "rope_parameters", None)) is not None:
        scaled = {key.removesuffix("_embeddings"): rope[key] for key in _LLAMA3 if rope["rope_type"] == "llama3"}
        found |= {"rope_theta": rope["rope_theta"], "rope_scaling": RopeScaling(**scaled) if scaled else None}
    try:
        backbone = Backbone.model_validate(recipe.backbone.model_dump() | found)
    except ValidationError as error:
        raise CheckpointError(file, explain(error), _OWN) from error
    for key, value, fix in _different(data, config, backbone):
        raise CheckpointError(file, f"{key} {value!r} is not what this backbone computes", fix)
    return backbone


def _different(data: Mapping[str, Any], config: PretrainedConfig, backbone: Backbone) -> Iterator[tuple[str, Any, str]]:
    """Keys by which transformers would compute something else than our backbone: key, value, what to do about it."""
    ours = config_of(backbone)
    own = {field.name for field in fields(config)}  # type: ignore[arg-type]
    for key in sorted(own - _READ - _IDLE, key=lambda key: (key not in data, key)):
        if getattr(config, key) != (expected := getattr(ours, key)):
            yield key, getattr(config, key), _FOREIGN.get(key, f"{config.model_type} is built in with {expected!r}")
    for key in sorted(_FOREIGN.keys() - own):
        value = data.get(key)
        off = key == "sliding_window" and data.get("use_sliding_window") is False
        full = key == "layer_types" and isinstance(value, list) and set(value) <= {"full_attention"}
        if value and not off and not full:
            yield key, value, _FOREIGN[key]


def _check_rope(file: Path, data: Mapping[str, Any]) -> None:
    """Raises CheckpointError for rotary positions that are not built in."""
    rope = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(file, f"rope_parameters {rope!r} are none", _OWN)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise CheckpointError(file, f"rope type {kind!r} is not supported", "default and llama3 are")
    known = _ROPE + _LLAMA3 if kind == "llama3" else _ROPE
    # transformers takes a missing original length from max_position_embeddings
    for key in _LLAMA3[:-1] if kind == "llama3" else ():
        if key not in rope:
            raise CheckpointError(file, f"rope type llama3 without {key!r}", _OWN)
    for key in sorted(rope.keys() - {*known}):
        raise CheckpointError(file, f"{key} {rope[key]!r} of rope type {kind!r} is not supported", _OWN)
    for place in (data, rope):
        if place.get("partial_rotary_factor") not in (None, 1):
            value = place["partial_rotary_factor"]
            raise CheckpointError(file, f"partial_rotary_factor {value!r} is not supported", "1 is")


def generation_notes(folder: Path, recipe: Recipe) -> list[str]:
    """Where the generation_config.json in a folder contradicts the recipe's sampler or stops, in one sentence.

    Raises CheckpointError for a file that is not JSON.
    """
    file = folder / "generation_config.json"
    if not file.is_file():
        return []
    try:
        data = read_json(file)
        said = {key: data[key] for key in (*_SAMPLER, "eos_token_id") if data.get(key) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(file, f"unreadable: {error}", "correct it, or remove it") from error
    stops = said.pop("eos_token_id", [])
    own = {key: getattr(recipe.sampler, key) for key in said}
    differing = [(f"{key} {said[key]}", f"{key} {own[key]}") for key in said if said[key] != own[key]]
    if not recipe.stop.tokens and any(
        stop not in recipe.stop.ids for stop in (stops if isinstance(stops, list) else [stops])
    ):
        differing.append((f"eos_token_id {stops}", f"stop ids {recipe.stop.ids}"))
    if not differing:
        return []
    theirs, ours = (", ".join(side) for side in zip(*differing, strict=True))
    return [f"{file.name} says {theirs}; the recipe's own are used: {ours}."]
