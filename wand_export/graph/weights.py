"""Weight files: which ones a recipe reads, and their tensors, read one by one when they are asked for."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from wand_export.errors import CheckpointError
from wand_export.graph.foreign import check_file, no_weights
from wand_export.spec.recipe import Recipe
from wand_export.spec.schema import read_json

_TRAINERS = ("state_dict", "model", "module")
"""Keys under which trainers put the tensors, beside what else they save."""
_WRAPPERS = ("module.", "base_model.model.")
"""What wrapped models put before every name."""
_INNER_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What PyTorch's own wrappers put before the names of whatever they wrap."""

_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")),
]
"""What a pickled number of NumPy's consists of: trainers save their steps and losses as such."""

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of the float dtypes in safetensors, and PyTorch's."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for. dtype: PyTorch's name of it in the file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    dtype: str = "float32"


def weight_files(path: Path, recipe: Recipe) -> list[Path]:
    """The files that the recipe's first matching pattern names. Raises CheckpointError naming what is missing.

    Beside the patterns themselves: shards without their index, and a .safetensors file in place of a pickle.
    """
    for pattern in recipe.checkpoint.weights:
        if files := sorted(path.glob(pattern)):
            return _indexed(files[0]) if pattern.endswith(".index.json") else files
    for pattern in recipe.checkpoint.weights:
        whole = pattern.removesuffix(".index.json").removesuffix(".safetensors")
        if shards := sorted(path.glob(f"{whole}-?????-of-?????.safetensors")):
            return _complete(shards)
        converted = (path / pattern).with_suffix(".safetensors")
        if pattern.endswith((".pt", ".pth")) and converted.is_file():
            return [converted]
    raise no_weights(path, recipe)


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(index, f"no index of shards: {error}", "copy it again") from error
    files = [index.parent / str(name) for name in names]
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise CheckpointError(file, f"the shard is missing, and {index.name} names it", "copy it too")
    return files


def _complete(shards: list[Path]) -> list[Path]:
    """Shards that no index names, which have to be all of one set."""
    stem, count = shards[0].stem[:-15], shards[0].stem[-5:]
    wanted = [shards[0].with_name(f"{stem}-{i + 1:05d}-of-{count}.safetensors") for i in range(int(count))]
    for file in wanted:
        if file not in shards:
            raise CheckpointError(file, f"the shard is missing, of {int(count)}", "copy it too")
    return wanted


def read_weights(files: list[Path], recipe: Recipe) -> tuple[dict[str, LazyTensor], list[str]]:
    """Name -> tensor of all files, without what wraps the names; and what the user should know of that.

    Nothing but headers is read yet. Raises CheckpointError.
    """
    tensors: dict[str, LazyTensor] = {}
    notes: list[str] = []
    for file in files:
        check_file(file)
        if file.suffix == ".safetensors":
            tensors |= read_safetensors(file)
        else:
            tensors |= _read_torch(file, recipe, notes)
    plain = _unwrapped(tensors, recipe)
    if changed := next((name for name in tensors if plain[name] != name), None):
        notes.append(f"Tensors are named as in a wrapped model: {changed} was read as {plain[changed]}, and so on.")
    return {plain[name]: tensor for name, tensor in tensors.items()}, notes


def _unwrapped(names: Iterable[str], recipe: Recipe) -> dict[str, str]:
    """Each name without the wrappers before it; those of _WRAPPERS are left out where every name has them."""
    plain = {name: _INNER_WRAPPERS.sub("", name) for name in names}
    while wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in plain.values())), None):
        if recipe.checkpoint.backbone.startswith(wrapper) or not plain:
            break
        plain = {name: short.removeprefix(wrapper) for name, short in plain.items()}
    return plain if len({*plain.values()}) == len(plain) else {name: name for name in plain}


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """Name -> tensor; nothing but the header is read yet. Raises CheckpointError."""
    try:
        handle = safe_open(file, framework="pt")
        names = list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(file, f"not a whole safetensors file: {error}", "copy it again") from error

    def lazy(name: str) -> LazyTensor:
        part = handle.get_slice(name)
        dtype = part.get_dtype()
        return LazyTensor(tuple(part.get_shape()), lambda: handle.get_tensor(name), _DTYPES.get(dtype, dtype))

    return {name: lazy(name) for name in names}


def load_torch(file: Path) -> Any:
    """What a PyTorch file holds: plain tensors, numbers and containers, no code run. Raises CheckpointError."""
    try:
        return _load(file)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            fix = "only plain tensors are read: save model.state_dict(), or a safetensors file"
            raise CheckpointError(file, f"holds pickled code, {code[1]}", fix) from error
        fix = "only plain tensors are read; ask its author for a safetensors file"
        raise CheckpointError(file, "holds pickled code, or is damaged", fix) from error
    except Exception as error:  # on a damaged file, an unpickler raises whatever it stumbles on
        reason = f"{error or type(error).__name__}".splitlines()[0]
        raise CheckpointError(file, f"not a whole PyTorch file: {reason}", "copy it again") from error


def _read_torch(file: Path, recipe: Recipe, notes: list[str]) -> dict[str, LazyTensor]:
    whole = load_torch(file)
    if not isinstance(whole, dict):
        raise CheckpointError(file, f"holds a {type(whole).__name__}, not a state dict", "give the weights file")
    keys = _place(whole, recipe)
    state = _at(whole, keys)
    if keys and keys != [recipe.checkpoint.nested]:
        notes.append(f"{file.name} is a trainer's own: its tensors were read under {'.'.join(keys)}.")
    tensors: dict[str, LazyTensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            tensors[name] = LazyTensor(tuple(value.shape), partial(_identity, value), dtype)
        elif name not in recipe.checkpoint.entries:
            raise CheckpointError(file, f"unknown entry {name}", f"recipe {recipe.family} does not know it")
    return tensors


def _load(file: Path) -> Any:
    """What torch.save wrote, numbers of NumPy's included, without running any code; files of today are mapped."""
    with torch.serialization.safe_globals(_NUMBERS):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def _place(whole: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """The keys, from the outermost on, under which a file holds its tensors; none where they lie at its top."""
    nested = recipe.checkpoint.nested
    if nested and isinstance(whole.get(nested), dict):
        return [nested, *_place(whole[nested], recipe)]
    if any(isinstance(value, Tensor) for value in whole.values()):
        return []
    key = next((key for key in _TRAINERS if isinstance(whole.get(key), dict)), None)
    return [] if key is None else [key, *_place(whole[key], recipe)]


def _at(whole: Any, keys: list[str]) -> dict[str, Any]:
    for key in keys:
        whole = whole[key]
    state: dict[str, Any] = whole
    return state


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def rewrite(file: Path, target: Path, recipe: Recipe, tensors: Mapping[str, Tensor]) -> None:
    """Write `file` again as `target`, with these tensors, in the file's own dtypes, in the place of its own.

    tensors: by the names that read_weights gives. All else stays as it is, entries that are no tensors included.
    """
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata()
        state = load_file(file)
        save_file(_replaced(state, recipe, tensors), target, metadata=metadata)
        return
    whole = _load(file)
    keys = _place(whole, recipe)
    state = _replaced(_at(whole, keys), recipe, tensors)
    for depth in reversed(range(len(keys))):
        state = {**_at(whole, keys[:depth]), keys[depth]: state}
    torch.save(state, target)


def _replaced(state: Mapping[str, Any], recipe: Recipe, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    plain = _unwrapped((name for name, value in state.items() if isinstance(value, Tensor)), recipe)
    mine = {name: tensors[short] for name, short in plain.items() if short in tensors}
    return {name: mine[name].to(value.dtype) if name in mine else value for name, value in state.items()}


def digest(files: list[Path]) -> str:
    """SHA-256 of the files, one behind the other."""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                found.update(block)
    return found.hexdigest()
