"""Weights as trainers leave them: wrapped names, dicts around them, shards; read, said, and written back in place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import write_checkpoint, write_recipe
from wand_export.errors import CheckpointError
from wand_export.graph.checkpoint import open_checkpoint
from wand_export.graph.weights import rewrite, weight_files

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "recipe")


def holds(folder: Path, tensors: Tensors, target: Path) -> list[str]:
    """Reads a checkpoint, and writes it back with other values: both in place. Returns what it says of itself."""
    source = open_checkpoint(folder)
    for name, tensor in tensors.items():
        assert torch.equal(source.tensor(name), tensor.float()), name
    target.mkdir()
    (target / "wand.json").write_bytes((folder / "wand.json").read_bytes())
    mine = {name: tensor + 1 for name, tensor in tensors.items()}
    for file in weight_files(folder, source.recipe):
        rewrite(file, target / file.name, source.recipe, mine)
    written = open_checkpoint(target)
    for name in tensors:
        assert torch.equal(written.tensor(name), mine[name].float()), name
    assert written.notes == source.notes
    return source.notes


def before(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


@pytest.mark.parametrize(
    "wrapped",
    [
        *map(before, ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "_orig_mod.module."]),
        *map(before, ["_fsdp_wrapped_module.", "module.module."]),
        lambda name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
        lambda name: name.replace("lm.", "lm._orig_mod."),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "model.pt"])
def test_names_inside_wrappers(tmp_path: Path, recipe: Path, wrapped: Callable[[str], str], file: str) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    (tmp_path / "c" / "model.safetensors").unlink()
    named = {wrapped(name): tensor for name, tensor in tensors.items()}
    (save_file if file.endswith("s") else torch.save)(named, tmp_path / "c" / file)
    (note,) = holds(tmp_path / "c", tensors, tmp_path / "out")
    assert "was read as" in note


def test_a_wrapper_that_not_every_name_has(tmp_path: Path, recipe: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    named = {"module." + name if name.startswith("lm.") else name: tensor for name, tensor in tensors.items()}
    save_file(named, tmp_path / "c" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing tensor lm\."):
        open_checkpoint(tmp_path / "c")


NUMBERS = [np.int64(5), np.int32(5), np.uint8(5), np.float32(0.5), np.float64(0.5), np.bool_(True)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("around", "said"),
    [
        (lambda t: t, None),
        (lambda t: {"model": t, "optimizer": {"state": {}, "param_groups": []}, "step": 3}, None),
        (lambda t: {"state_dict": t, "epoch": 3}, "state_dict"),
        (lambda t: {"module": t, "optimizer": None, "global_steps": 6, "ds_version": "0.14"}, "module"),
        (lambda t: {"state_dict": {"model": t}}, "state_dict.model"),
        (lambda t: {name: torch.nn.Parameter(tensor) for name, tensor in t.items()}, None),
        *((lambda t, number=number: {**t, "epoch": number}, None) for number in NUMBERS),
    ],
)
def test_dicts_of_trainers(
    tmp_path: Path, recipe: Path, around: Callable[[Any], Any], said: str | None, legacy: bool
) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    (tmp_path / "c" / "model.safetensors").unlink()
    torch.save(around(tensors), tmp_path / "c" / "model.pt", _use_new_zipfile_serialization=not legacy)
    notes = holds(tmp_path / "c", tensors, tmp_path / "out")
    assert notes == [] if said is None else f"under {said}." in notes[0]


def test_a_pickle_that_was_converted(tmp_path: Path, recipe: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    own = tmp_path / "recipe.toml"
    own.write_text(recipe.read_text().replace('["model.safetensors", "model.pt"]', '["model.pt"]'))
    source = open_checkpoint(tmp_path / "c", str(own))
    assert torch.equal(source.tensor("head.bias"), tensors["head.bias"])


def shards(folder: Path, tensors: Tensors, count: int) -> list[Path]:
    names = sorted(tensors)
    files = [folder / f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::count]}, file)
    (folder / "model.safetensors").unlink()
    return files


def test_shards_without_an_index(tmp_path: Path, recipe: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    files = shards(tmp_path / "c", tensors, 3)
    assert holds(tmp_path / "c", tensors, tmp_path / "out") == []
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: the shard is missing"):
        open_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_float(tmp_path: Path, recipe: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in write_checkpoint(tmp_path / "c", recipe).items()}
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    source = open_checkpoint(tmp_path / "c")
    rewrite(source.files[0], tmp_path / "out.safetensors", source.recipe, {})
    assert load_file(tmp_path / "out.safetensors")["head.bias"].dtype == dtype
    assert torch.equal(source.tensor("head.bias"), tensors["head.bias"].float())
