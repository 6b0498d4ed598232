"""A codec's files and its published code: read without running anything that the user did not name."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from wand_export.errors import CheckpointError, InputError
from wand_export.graph.weights import load_torch, read_safetensors

_OWN = "give the files that the codec's authors published"


def find(path: Path, *files: str) -> Path:
    """The first of these files in a checkpoint folder; the path itself where it is a file. Raises CheckpointError."""
    if path.is_file():
        return path
    for name in files:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(path, f"no {' or '.join(files)} in it", _OWN)


def beside(file: Path, name: str) -> Path:
    """A file next to another. Raises CheckpointError."""
    return find(file.parent, name)


def tensors(file: Path, nested: str | None = None, only: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors or PyTorch file; nested: the key that may hold them; only: how names begin.

    Raises CheckpointError.
    """
    if file.suffix == ".safetensors":
        return {name: lazy.read() for name, lazy in read_safetensors(file).items() if name.startswith(only)}
    state = load_torch(file)
    if nested is not None and isinstance(state, dict) and isinstance(state.get(nested), dict):
        state = state[nested]
    if not isinstance(state, dict):
        raise CheckpointError(file, f"holds a {type(state).__name__}, not a state dict", _OWN)
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and name.startswith(only)}


def load(module: nn.Module, found: Mapping[str, Tensor], file: Path, prefix: str = "") -> None:
    """Give a module the tensors whose names begin with `prefix`, all of its own and nothing else.

    Raises CheckpointError naming the first tensor that is missing, unknown, of another shape or not finite.
    """
    state = {name.removeprefix(prefix): tensor.float() for name, tensor in found.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    for problem, names in (("missing", wanted.keys() - state.keys()), ("unknown", state.keys() - wanted.keys())):
        if names:
            name, more = prefix + min(names), f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                file, f"{problem} tensor {name}{more}", "is it of this codec? else name it by --codec"
            )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)}, not {list(wanted[name].shape)}"
            raise CheckpointError(file, f"tensor {prefix}{name} has shape {shapes}", _OWN)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(file, f"tensor {prefix}{name} holds NaN or infinity", "use an intact checkpoint")
    module.load_state_dict(state)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(file, f"unreadable: {error}", _OWN) from error
    if not isinstance(found, dict):
        raise CheckpointError(file, f"holds a {type(found).__name__}, not an object", _OWN)
    return found


class _Plain(yaml.SafeLoader):
    """YAML as data: `!new:some.Class {..}` becomes the mapping behind it, and nothing is imported or called."""


def _data(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return None if isinstance(node, yaml.SequenceNode) else loader.construct_scalar(node)  # type: ignore[arg-type]


_Plain.add_multi_constructor("!", _data)


def read_yaml(file: Path, tagged: bool = False) -> dict[str, Any]:
    """A YAML mapping. Code that it names is refused; where `tagged`, such a tag is skipped and its mapping read.

    Raises CheckpointError.
    """
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), _Plain if tagged else yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise CheckpointError(file, f"names code: {error.problem}", "only plain YAML is read") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(file, f"unreadable: {error}".splitlines()[0], _OWN) from error
    if not isinstance(found, dict):
        raise CheckpointError(file, f"holds a {type(found).__name__}, not a mapping", _OWN)
    return found


def published(code: str | None, module: str, where: str, with_folder: str | None = None) -> Any:
    """A module of the family's published code.

    code: the package's name, or the folder that holds it; where: how a user comes by it; with_folder: a folder in that
    one, of code that it came with. Raises InputError where the
    user named none, it is not there, or it lacks something itself.
    """
    if code is None:
        raise InputError("--code", "this codec is built from its authors' own code", where)
    folder = Path(code)
    if not folder.is_dir() and code != module.partition(".")[0]:
        raise InputError(code, "no such folder, and not the codec's package", where)
    folders = [str(folder), *([str(folder / with_folder)] if with_folder else [])] if folder.is_dir() else []
    with _on_path(folders):
        try:
            return import_module(module)
        except ImportError as error:
            raise InputError(code, f"cannot import {module}: {error}", where) from error


@contextmanager
def _on_path(folders: list[str]) -> Iterator[None]:
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
