"""The base of every schema, and how JSON and TOML files are read."""

import json
import tomllib
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wand_export.errors import InputError


class Schema(BaseModel):
    """An immutable record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Schema)


def explain(error: ValidationError) -> str:
    """The first complaint of a schema as `key: what is wrong`."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'document'}: {first['msg']}"


def read_text(path: Path) -> str:
    """A file of UTF-8 text, without the byte-order mark that some editors put first. Raises OSError or ValueError."""
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """The document of a JSON file. Raises OSError, or ValueError for what is not JSON: NaN and Infinity included."""
    try:
        return json.loads(read_text(path), parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not JSON")


def read_toml(path: Path, schema: type[S]) -> S:
    """Read and check one TOML file.

    Raises InputError, naming the file and the key, if it is missing, not TOML, or refused by the schema.
    """
    try:
        data = tomllib.loads(read_text(path))
    except OSError as error:
        raise InputError(path, error.strerror or "unreadable", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, f"not TOML: {error}", "correct the file") from error
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise InputError(path, explain(error), f"see the keys of {schema.__name__} in wand_export/spec") from error


def find_named(kind: str, name: str, file: str) -> Path:
    """The shipped file `<kind>/<file>` for `name`, or `name` itself where it is a path to a TOML file.

    Raises InputError naming the shipped choices where neither exists.
    """
    if name.endswith(".toml"):
        return Path(name)
    folder = shipped(kind)
    path = folder / file.format(name=name)
    if not path.is_file():
        known = sorted(p.parent.name if p.stem == "recipe" else p.stem for p in folder.glob(file.format(name="*")))
        fix = f"use a path to a .toml file, or: {', '.join(known)}"
        raise InputError(name, f"no such {kind.removesuffix('s')}", fix)
    return path


def shipped(kind: str) -> Path:
    """The folder of shipped `models` or `targets`: inside the wheel, or at the top of a source checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind
