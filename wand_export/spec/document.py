"""The JSON documents of a bundle: bounded, each key once, every number finite, no value of another type taken for one.

A file that only some readers take is a way to show two of them different things.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wand_export.errors import InputError
from wand_export.spec.schema import S, explain, read_text

MAX_BYTES, MAX_DEPTH = 16 << 20, 32


def load_json(file: Path, fix: str, kind: type[InputError]) -> Any:
    """The value of a JSON file in UTF-8, with a byte-order mark or without.

    Raises `kind` if it is missing, beyond MAX_BYTES or MAX_DEPTH, not JSON, or holds a key twice or NaN or infinity.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = read_text(file)
        data = json.loads(
            text, object_pairs_hook=_once, parse_int=_integer, parse_float=_finite, parse_constant=_finite
        )
        _check_depth(data, MAX_DEPTH)
    except FileNotFoundError as error:
        raise kind(file, "missing", fix) from error
    except RecursionError as error:
        raise kind(file, f"nested deeper than {MAX_DEPTH}", fix) from error
    except (OSError, ValueError) as error:
        raise kind(file, f"unreadable: {error}", fix) from error
    return data


def validate(file: Path, data: Any, schema: type[S], fix: str, kind: type[InputError]) -> S:
    """The record that load_json()'s value of a file holds. Raises `kind` naming the file and the key."""
    try:
        # Strict about types, so that no "5" or true is a 5; only of JSON does pydantic then take lists for tuples.
        return schema.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise kind(file, explain(error), fix) from error


def read_document(file: Path, schema: type[S], fix: str, kind: type[InputError]) -> S:
    """Read and check one JSON file. Raises `kind` as load_json() and validate() do."""
    return validate(file, load_json(file, fix, kind), schema, fix, kind)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {twice!r} comes twice")
    return keys


def _integer(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"integer {text[:40]} has more than 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text} is not finite")
    return number


def _check_depth(data: Any, left: int) -> None:
    if isinstance(data, (dict, list)):
        if left == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for child in data.values() if isinstance(data, dict) else data:
            _check_depth(child, left - 1)
