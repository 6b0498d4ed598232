"""A Core ML package as it lies on disk: its MIL program and its weights, read and checked by our own code.

coremltools takes a truncated or missing weight file without a word, so every offset, type and size is checked here.
What is read from Apple's formats: Manifest.json -> model.mlmodel, a protobuf -> weight.bin, blobs behind 64 bytes of
metadata each (coremltools, MILBlob/Blob/StorageFormat.hpp).
"""

import importlib.util
import json
import math
import struct
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from wand_export.errors import BundleError

Array = npt.NDArray[Any]

_AGAIN = "copy or export the bundle again"
_MODEL_PATH = "@model_path/"
_VERSION, _SENTINEL, _METADATA = 2, 0xDEADBEEF, 64
_FLOATS = ("FLOAT16", "FLOAT32")
_STORED = {
    "FLOAT16": np.float16, "FLOAT32": np.float32, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16,
    "UINT16": np.uint16, "INT32": np.int32, "BOOL": np.bool_,
}  # fmt: skip
_BLOB_TYPES = {
    1: "FLOAT16", 2: "FLOAT32", 3: "UINT8", 4: "INT8", 6: "INT16", 7: "UINT16", 8: "INT4", 14: "INT32",
}  # fmt: skip


@dataclass(frozen=True)
class TensorType:
    """A declared type: MIL's name of it, such as "FLOAT16", and a fixed shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.name in _FLOATS

    @property
    def is_half(self) -> bool:
        return self.name == "FLOAT16"

    @property
    def held(self) -> Any:
        """The numpy type that holds its values here: float32 for every float, int8 for INT4."""
        if self.is_float:
            return np.float32
        return np.int8 if self.name == "INT4" else _STORED[self.name]


class Package:
    """A package opened for reading.

    Attributes: file, its model.mlmodel; functions, name -> MIL function (protobuf message).
    Raises BundleError naming the file and what is wrong with it, ModuleNotFoundError without coremltools.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "Data" / _root(folder / "Manifest.json")
        model = _messages().Model_pb2.Model()
        try:
            model.ParseFromString(self.file.read_bytes())
        except FileNotFoundError as error:
            raise BundleError(self.file, "missing", _AGAIN) from error
        except Exception as error:  # protobuf's DecodeError, whose module differs between versions; OSError
            raise BundleError(self.file, f"unreadable: {error}", _AGAIN) from error
        if model.WhichOneof("Type") != "mlProgram":
            raise BundleError(self.file, f"holds a {model.WhichOneof('Type')}, not an ML program", _AGAIN)
        self.functions = dict(model.mlProgram.functions)
        self._weights: dict[str, Weights] = {}
        self._arrays: dict[tuple[str, int], Array] = {}

    def tensor_type(self, value_type: Any) -> TensorType:
        """The declared type of a tensor or of the tensor that a state holds. Raises BundleError for any other."""
        if value_type.WhichOneof("type") == "stateType":
            value_type = value_type.stateType.wrappedType
        tensor = value_type.tensorType
        name = _messages().MIL_pb2.DataType.Name(tensor.dataType)
        shape = [d.constant.size for d in tensor.dimensions if d.WhichOneof("dimension") == "constant"]
        if value_type.WhichOneof("type") != "tensorType" or len(shape) != tensor.rank:
            raise BundleError(self.file, f"a value of {value_type.WhichOneof('type')} or flexible shape", _AGAIN)
        return TensorType(name, tuple(shape))

    def constant(self, value: Any) -> Any:
        """A constant: str, bool, int or float where it is a scalar, an array else, floats as float32.

        Large ones come from the weight file, the same array each time.
        """
        declared = self.tensor_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            key = blob.fileName, blob.offset
            if key not in self._arrays:
                self._arrays[key] = self._file(blob.fileName).read(blob.offset, declared)
            return self._arrays[key]
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind == "strings":
            return tensor.strings.values[0]
        if declared.name not in _STORED or kind not in ("bytes", "floats", "ints", "bools"):
            raise BundleError(self.file, f"a constant {declared.name} as {kind}, which is unknown", _AGAIN)
        values = getattr(tensor, kind).values
        array: Array = (
            np.frombuffer(values, _STORED[declared.name])
            if kind == "bytes"
            else np.array(list(values), _STORED[declared.name])
        )
        if array.size != math.prod(declared.shape):
            raise BundleError(self.file, f"a constant of {array.size} values for {declared.shape}", _AGAIN)
        array = array.astype(declared.held).reshape(declared.shape)
        return array if declared.shape else array.item()

    def _file(self, name: str) -> "Weights":
        if name not in self._weights:
            relative = PurePosixPath(name.removeprefix(_MODEL_PATH))
            if not name.startswith(_MODEL_PATH) or ".." in relative.parts or relative.is_absolute():
                raise BundleError(self.file, f"names weights {name!r} outside its package", "do not use this bundle")
            self._weights[name] = Weights(self.file.parent / relative)
        return self._weights[name]


class Weights:
    """A weight file, mapped. Raises BundleError if it is missing, empty or of another version."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._bytes = np.memmap(file, np.uint8, "r")
        except FileNotFoundError as error:
            raise BundleError(file, "missing", _AGAIN) from error
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise BundleError(file, f"unreadable: {error}", _AGAIN) from error
        if len(self._bytes) < _METADATA or (version := self._unpack("<4xI", 0)[0]) != _VERSION:
            found = f"version {version}" if len(self._bytes) >= _METADATA else f"{len(self._bytes)} bytes"
            raise BundleError(file, f"{found}, not a weight file of version {_VERSION}", _AGAIN)

    def read(self, offset: int, declared: TensorType) -> Array:
        """The blob whose metadata lie at `offset`, floats as float32. Raises BundleError for what cannot be so."""
        if not 0 <= offset <= len(self._bytes) - _METADATA:
            raise BundleError(self.file, f"has {len(self._bytes)} bytes, a weight at {offset} is beyond them", _AGAIN)
        sentinel, kind, size, start = self._unpack("<IIQQ", offset)
        if sentinel != _SENTINEL or _BLOB_TYPES.get(kind) != declared.name:
            raise BundleError(self.file, f"no {declared.name} weight at {offset}", _AGAIN)
        if start + size > len(self._bytes):
            raise BundleError(self.file, f"has {len(self._bytes)} bytes, a weight ends at {start + size}", _AGAIN)
        count = math.prod(declared.shape)
        wanted = -(-count // 2) if declared.name == "INT4" else count * np.dtype(_STORED[declared.name]).itemsize
        if size != wanted:
            raise BundleError(self.file, f"a weight of {size} bytes at {offset} for {declared.shape}", _AGAIN)
        raw = self._bytes[start : start + size]
        if declared.name == "INT4":
            return _nibbles(raw)[:count].reshape(declared.shape)
        return np.array(raw.view(_STORED[declared.name]), declared.held).reshape(declared.shape)

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes[offset : offset + struct.calcsize(layout)].tobytes())


def _nibbles(raw: Array) -> Array:
    """Signed integers of 4 bits, the low one first: int8 [2 n] of uint8 [n]."""
    pairs = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1).astype(np.int8)
    return pairs - 16 * (pairs >= 8).astype(np.int8)


def _root(manifest: Path) -> PurePosixPath:
    """Path of the model inside Data, as the package's own Manifest.json gives it."""
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        path = PurePosixPath(document["itemInfoEntries"][document["rootModelIdentifier"]]["path"])
    except FileNotFoundError as error:
        raise BundleError(manifest, "missing", _AGAIN) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(manifest, f"unreadable: {error!r}", _AGAIN) from error
    if ".." in path.parts or path.is_absolute():
        raise BundleError(manifest, f"names {str(path)!r}, outside its package", "do not use this bundle")
    return path


def _messages() -> Any:
    """coremltools' protobuf messages, loaded without the rest of it, which takes seconds and imports torch."""
    name = "wand_export_coreml_proto"
    if name not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'coremltools'", name="coremltools")
        folder = Path(found.submodule_search_locations[0]) / "proto"
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
