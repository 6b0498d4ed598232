"""Runs a Core ML package where Core ML is not: its MIL functions, op by op, from the bytes on disk, in numpy.

Two ways. Exact: every float is float32, and what differs from the model is its stored weights alone. Half: every
result is rounded to the type that the program declares for it, as on a device; sums within one op are still float32,
which a Neural Engine need not do, so it is the best that float16 can give.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wand_export.errors import BundleError
from wand_export.host.runtimes.coreml_ops import MOVES, OPS
from wand_export.host.runtimes.coreml_package import Array, Package, TensorType

State = dict[str, Array]
"""The buffers of a function by name, replaced by each call."""

Observer = Callable[[str, str, Array], None]
"""Told of each result: op, name, value."""


class Interpreter:
    """A package with all its functions. Raises BundleError for what cannot be read or is not known."""

    def __init__(self, folder: Path, half: bool) -> None:
        package = Package(folder)
        dense: dict[Any, Array] = {}
        self.functions = {name: Function(package, name, half, dense) for name in package.functions}

    def new_state(self) -> State:
        """Zeros for every state, which all functions share."""
        types = {name: kind for function in self.functions.values() for name, kind in function.states.items()}
        return {name: np.zeros(kind.shape, kind.held) for name, kind in types.items()}


_LIST = "values"
"""The one argument of MIL that is a list of values, where ops have such: concat's."""


@dataclass(frozen=True)
class _Output:
    slot: int
    name: str
    type: TensorType
    rounded: bool

    def accept(self, value: Array) -> Array:
        """The value as the program declares it. Raises ValueError if its shape is another."""
        value = np.asarray(value)
        if value.shape != self.type.shape:
            raise ValueError(f"computed {value.shape}, declared {self.type.shape}")
        if value.dtype != self.type.held:
            value = value.astype(self.type.held)
        return value.astype(np.float16).astype(np.float32) if self.rounded else value


@dataclass(frozen=True)
class _Operation:
    """One op, its constants bound. `inputs` are slots of the environment, or lists of them."""

    kind: str
    run: Callable[..., Any]
    inputs: tuple[tuple[str, int | list[int]], ...]
    constants: Mapping[str, Any]
    outputs: tuple[_Output, ...]
    state: str = ""


class Function:
    """One function of a package, ready to be called.

    Attributes: inputs, states and output_types, name -> type; outputs, names.
    """

    def __init__(self, package: Package, name: str, half: bool, dense: dict[Any, Array]) -> None:
        """dense: decompressed weights by where they lie, shared between the functions of a package."""
        self._file, self._half = package.file, half
        function = package.functions[name]
        if function.opset not in function.block_specializations:
            raise BundleError(package.file, f"function {name} has no block for {function.opset}", "export it again")
        block = function.block_specializations[function.opset]
        self.inputs: dict[str, TensorType] = {}
        self.states: dict[str, TensorType] = {}
        for value in function.inputs:
            group = self.states if value.type.WhichOneof("type") == "stateType" else self.inputs
            group[value.name] = package.tensor_type(value.type)
        self._start: list[Any] = []
        self._slots = {value: self._slot() for value in self.inputs}
        self._operations: list[_Operation] = []
        constants: dict[str, Any] = {}
        for op in block.operations:
            if op.type == "const":
                constants[op.outputs[0].name] = package.constant(op.attributes["val"])
            elif op.type.startswith("constexpr_"):
                constants[op.outputs[0].name] = self._dense(package, op, dense)
            else:
                self._operations.append(self._resolve(package, op, constants))
        self.outputs = list(block.outputs)
        made = {output.name: output.type for op in self._operations for output in op.outputs}
        self.output_types = {name: made[name] for name in self.outputs if name in made}

    def __call__(self, inputs: Mapping[str, Array], state: State, observe: Observer | None = None) -> dict[str, Array]:
        """Run once. `state` is read and updated.

        Raises ValueError if the inputs are not those declared, BundleError naming an op that fails.
        """
        values = list(self._start)
        for name, kind in self.inputs.items():
            given = inputs[name]
            if given.shape != kind.shape or given.dtype != kind.held:
                raise ValueError(f"{name} is {given.dtype} {given.shape}, not {kind.held.__name__} {kind.shape}")
            values[self._slots[name]] = given
        with np.errstate(all="ignore"):  # float16 overflows to infinity here as it would there
            for op in self._operations:
                try:
                    self._perform(op, values, state, observe)
                except (ArithmeticError, IndexError, TypeError, ValueError) as error:
                    what = f"{op.kind} {op.outputs[0].name if op.outputs else op.state}: {error}"
                    raise BundleError(self._file, what, "export the bundle again") from error
        return {name: values[self._slots[name]] for name in self.outputs}

    def _perform(self, op: _Operation, values: list[Any], state: State, observe: Observer | None) -> None:
        given: dict[str, Any] = {
            name: values[source] if isinstance(source, int) else [values[i] for i in source]
            for name, source in op.inputs
        }
        if op.kind == "write_state":
            state[op.state] = given["data"]
            return
        results = state[op.state] if op.kind == "read_state" else op.run(**op.constants, **given)
        for output, result in zip(op.outputs, results if type(results) is list else [results], strict=True):
            values[output.slot] = accepted = output.accept(result)
            if observe is not None:
                observe(op.kind, output.name, accepted)

    def _slot(self, constant: Any = None) -> int:
        """A place in the list of values that each call starts with."""
        self._start.append(constant)
        return len(self._start) - 1

    def _dense(self, package: Package, op: Any, dense: dict[Any, Array]) -> Array:
        """The weight that a constexpr op makes of compressed ones."""
        values = {name: argument.arguments[0].value for name, argument in sorted(op.inputs.items())}
        key = op.type, *((value.blobFileValue.fileName, value.blobFileValue.offset) for value in values.values())
        if key not in dense:
            constants = {name: package.constant(value) for name, value in values.items()}
            made = self._known(op.type, list(constants))(**constants)
            dense[key] = self._output(package, op.outputs[0], op.type, slot=-1).accept(made)
        return dense[key]

    def _resolve(self, package: Package, op: Any, known: Mapping[str, Any]) -> _Operation:
        """An op ready to run; `known` are the constants before it."""
        constants: dict[str, Any] = {}
        inputs: list[tuple[str, int | list[int]]] = []
        state = ""
        for name, argument in op.inputs.items():
            slots = []
            for binding in argument.arguments:
                if binding.name in self._slots:
                    slots.append(self._slots[binding.name])
                elif binding.name in self.states:
                    state = binding.name
                elif binding.name and binding.name not in known:
                    raise BundleError(self._file, f"{op.type} reads {binding.name}, which nothing made", "")
                else:
                    constant = known[binding.name] if binding.name else package.constant(binding.value)
                    if name == _LIST:
                        slots.append(self._slot(constant))
                    else:
                        constants[name] = constant
            if slots:
                inputs.append((name, slots if name == _LIST else slots[0]))
        run = self._known(op.type, [*constants, *(name for name, _ in inputs)])
        outputs = []
        for value in op.outputs:
            self._slots[value.name] = self._slot()
            outputs.append(self._output(package, value, op.type, self._slots[value.name]))
        return _Operation(op.type, run, tuple(inputs), constants, tuple(outputs), state)

    def _output(self, package: Package, value: Any, kind: str, slot: int) -> _Output:
        declared = package.tensor_type(value.type)
        rounded = self._half and declared.is_half and kind not in MOVES and kind != "read_state"
        return _Output(slot, value.name, declared, rounded)

    def _known(self, kind: str, arguments: list[str]) -> Callable[..., Any]:
        """The function of an op that takes these arguments. Raises BundleError naming one that is not known."""
        if kind in ("read_state", "write_state"):
            return lambda: None
        if kind not in OPS:
            raise BundleError(self._file, f"holds {kind}, an op that the interpreter lacks", "run it on macOS")
        try:
            inspect.signature(OPS[kind]).bind(**dict.fromkeys(arguments))
        except TypeError as error:
            raise BundleError(self._file, f"{kind}: {error}", "run it on macOS") from error
        return OPS[kind]
