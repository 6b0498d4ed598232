"""Weight files: which ones a recipe reads, and their tensors, read one by one when they are asked for."""

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from wand_export.errors import CheckpointError
from wand_export.spec.recipe import Recipe


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def weight_files(path: Path, recipe: Recipe) -> list[Path]:
    """The files that the recipe's first matching pattern names. Raises CheckpointError naming what is missing."""
    for pattern in recipe.checkpoint.weights:
        if files := sorted(path.glob(pattern)):
            return _shards(files[0]) if pattern.endswith(".index.json") else files
    wanted = " or ".join(recipe.checkpoint.weights)
    raise CheckpointError(path, f"no {wanted} in it", f"recipe {recipe.family} reads its weights there")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(index, f"no index of shards: {error}", "copy it again") from error
    files = [index.parent / str(name) for name in names]
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise CheckpointError(file, f"the shard is missing, and {index.name} names it", "copy it too")
    return files


def read_weights(files: list[Path], recipe: Recipe) -> dict[str, LazyTensor]:
    """Name -> tensor of all files; nothing but headers is read yet. Raises CheckpointError."""
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        tensors |= read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file, recipe)
    return tensors


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """Name -> tensor; nothing but the header is read yet. Raises CheckpointError."""
    try:
        handle = safe_open(file, framework="pt")
        names = list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(file, f"not a whole safetensors file: {error}", "copy it again") from error

    def lazy(name: str) -> LazyTensor:
        return LazyTensor(tuple(handle.get_slice(name).get_shape()), lambda: handle.get_tensor(name))

    return {name: lazy(name) for name in names}


def load_torch(file: Path) -> Any:
    """What a PyTorch file holds, if that is plain tensors and containers alone. Raises CheckpointError."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        fix = "only plain tensors are read; ask its author for a safetensors file"
        raise CheckpointError(file, "holds pickled code, or is damaged", fix) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(file, f"not a whole PyTorch file: {error}".splitlines()[0], "copy it again") from error


def _read_torch(file: Path, recipe: Recipe) -> dict[str, LazyTensor]:
    state = load_torch(file)
    nested = recipe.checkpoint.nested
    if nested and isinstance(state, dict) and isinstance(state.get(nested), dict):
        state = state[nested]
    if not isinstance(state, dict):
        raise CheckpointError(file, f"holds a {type(state).__name__}, not a state dict", "give the weights file")
    tensors: dict[str, LazyTensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[name] = LazyTensor(tuple(value.shape), partial(_identity, value))
        elif name not in recipe.checkpoint.entries:
            raise CheckpointError(file, f"unknown entry {name}", f"recipe {recipe.family} does not know it")
    return tensors


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def rewrite(file: Path, target: Path, recipe: Recipe, tensors: Mapping[str, Tensor]) -> None:
    """Write `file` again as `target`, with these tensors, in the file's own dtypes, in the place of its own.

    All else in it stays as it is, entries that are no tensors included.
    """
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata()
        state = load_file(file)
        save_file(_replaced(state, tensors), target, metadata=metadata)
        return
    whole = torch.load(file, map_location="cpu", weights_only=True)
    nested = recipe.checkpoint.nested
    if nested and isinstance(whole.get(nested), dict):
        torch.save({**whole, nested: _replaced(whole[nested], tensors)}, target)
    else:
        torch.save(_replaced(whole, tensors), target)


def _replaced(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensors[name].to(value.dtype) if name in tensors else value for name, value in state.items()}


def digest(files: list[Path]) -> str:
    """SHA-256 of the files, one behind the other."""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                found.update(block)
    return found.hexdigest()
