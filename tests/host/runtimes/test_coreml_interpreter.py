"""The interpreter's operations against torch's, each read back from a saved package; and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wand_export.errors import BundleError
from wand_export.host.runtimes.coreml_interpreter import Interpreter
from wand_export.host.runtimes.coreml_ops import OPS
from wand_export.host.runtimes.coreml_package import TensorType, Weights

ct = pytest.importorskip("coremltools")
mb = pytest.importorskip("coremltools.converters.mil").Builder
types = pytest.importorskip("coremltools.converters.mil.mil").types

RNG = np.random.default_rng(0)
A = RNG.standard_normal((2, 3, 8)).astype(np.float32)
B = RNG.standard_normal((2, 3, 8)).astype(np.float32)
ROWS = np.array([[-9, 0, 3], [4, -1, 7]], np.int32)
INPUTS = {"a": A, "b": B, "rows": ROWS}
MATRIX = RNG.standard_normal((5, 8)).astype(np.float32)
KERNEL = RNG.standard_normal((4, 3, 3)).astype(np.float32)
DEPTHWISE = RNG.standard_normal((3, 1, 3)).astype(np.float32)
BIAS = RNG.standard_normal(4).astype(np.float32)
INTEGERS = RNG.integers(-128, 128, (4, 8)).astype(np.int8)
NIBBLES = RNG.integers(-8, 8, (4, 8)).astype(np.int8)
SCALES = RNG.uniform(0.1, 1, (4, 2)).astype(np.float32)

Build = Callable[..., Any]
Expect = Callable[..., Any]


def spread(integers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(integers.astype(np.float32) * np.repeat(SCALES, 4, axis=1))


def quantized(a: Any, integers: np.ndarray) -> Any:
    weight = mb.constexpr_blockwise_shift_scale(data=integers, scale=SCALES)
    return mb.linear(x=a, weight=weight, bias=BIAS)


def positive(x: Any) -> Any:
    return mb.add(x=mb.abs(x=x), y=0.5)


CASES: dict[str, tuple[Build, Expect]] = {
    "add": (lambda a, b, rows: mb.add(x=a, y=b), lambda a, b, rows: a + b),
    "sub": (lambda a, b, rows: mb.sub(x=a, y=b), lambda a, b, rows: a - b),
    "mul": (lambda a, b, rows: mb.mul(x=a, y=0.3), lambda a, b, rows: a * 0.3),
    "real_div": (lambda a, b, rows: mb.real_div(x=a, y=b), lambda a, b, rows: a / b),
    "floor_div": (lambda a, b, rows: mb.floor_div(x=rows, y=4), lambda a, b, rows: rows // 4),
    "equal": (lambda a, b, rows: mb.equal(x=rows, y=ROWS[0, 0]), lambda a, b, rows: rows == rows[0, 0]),
    "less": (lambda a, b, rows: mb.less(x=a, y=b), lambda a, b, rows: a < b),
    "less_equal": (lambda a, b, rows: mb.less_equal(x=rows, y=1), lambda a, b, rows: rows <= 1),
    "greater": (lambda a, b, rows: mb.greater(x=a, y=b), lambda a, b, rows: a > b),
    "greater_equal": (lambda a, b, rows: mb.greater_equal(x=rows, y=0), lambda a, b, rows: rows >= 0),
    "logical_and": (
        lambda a, b, rows: mb.logical_and(x=mb.less(x=a, y=b), y=mb.less(x=a, y=0.0)),
        lambda a, b, rows: (a < b) & (a < 0),
    ),
    "logical_or": (
        lambda a, b, rows: mb.logical_or(x=mb.less(x=a, y=b), y=mb.less(x=a, y=0.0)),
        lambda a, b, rows: (a < b) | (a < 0),
    ),
    "abs": (lambda a, b, rows: mb.abs(x=a), lambda a, b, rows: a.abs()),
    "exp": (lambda a, b, rows: mb.exp(x=a), lambda a, b, rows: a.exp()),
    "sin": (lambda a, b, rows: mb.sin(x=a), lambda a, b, rows: a.sin()),
    "cos": (lambda a, b, rows: mb.cos(x=a), lambda a, b, rows: a.cos()),
    "tanh": (lambda a, b, rows: mb.tanh(x=a), lambda a, b, rows: a.tanh()),
    "floor": (lambda a, b, rows: mb.floor(x=a), lambda a, b, rows: a.floor()),
    "clip": (lambda a, b, rows: mb.clip(x=a, alpha=-0.5, beta=0.7), lambda a, b, rows: a.clamp(-0.5, 0.7)),
    "rsqrt": (lambda a, b, rows: mb.rsqrt(x=positive(a)), lambda a, b, rows: torch.rsqrt(a.abs() + 0.5)),
    "inverse": (lambda a, b, rows: mb.inverse(x=positive(a), epsilon=0.25), lambda a, b, rows: 1 / (a.abs() + 0.75)),
    "silu": (lambda a, b, rows: mb.silu(x=a), lambda a, b, rows: F.silu(a)),
    "gelu": (lambda a, b, rows: mb.gelu(x=a), lambda a, b, rows: F.gelu(a)),
    "gelu tanh": (
        lambda a, b, rows: mb.gelu(x=a, mode="TANH_APPROXIMATION"),
        lambda a, b, rows: F.gelu(a, approximate="tanh"),
    ),
    "softmax": (lambda a, b, rows: mb.softmax(x=a, axis=1), lambda a, b, rows: a.softmax(1)),
    "reduce_max": (lambda a, b, rows: mb.reduce_max(x=rows, axes=[1]), lambda a, b, rows: rows.amax(1)),
    "reduce_mean": (
        lambda a, b, rows: mb.reduce_mean(x=a, axes=[-1, 0], keep_dims=True),
        lambda a, b, rows: a.mean((2, 0), keepdim=True),
    ),
    "reduce_sum": (lambda a, b, rows: mb.reduce_sum(x=a, axes=[2]), lambda a, b, rows: a.sum(2)),
    "layer_norm": (
        lambda a, b, rows: mb.layer_norm(x=a, axes=[-1], gamma=MATRIX[0], beta=MATRIX[1], epsilon=1e-3),
        lambda a, b, rows: F.layer_norm(a, (8,), torch.from_numpy(MATRIX[0]), torch.from_numpy(MATRIX[1]), 1e-3),
    ),
    "cumsum": (lambda a, b, rows: mb.cumsum(x=a, axis=1), lambda a, b, rows: a.cumsum(1)),
    "linear": (
        lambda a, b, rows: mb.linear(x=a, weight=MATRIX, bias=MATRIX[:, 0]),
        lambda a, b, rows: F.linear(a, torch.from_numpy(MATRIX), torch.from_numpy(MATRIX[:, 0])),
    ),
    "matmul": (
        lambda a, b, rows: mb.matmul(x=a, y=b, transpose_y=True),
        lambda a, b, rows: a @ b.transpose(1, 2),
    ),
    "matmul of the transposed": (
        lambda a, b, rows: mb.matmul(x=a, y=b, transpose_x=True),
        lambda a, b, rows: a.transpose(1, 2) @ b,
    ),
    "conv": (
        lambda a, b, rows: mb.conv(
            x=a, weight=KERNEL, bias=BIAS, strides=[2], pad_type="custom", pad=[2, 1], dilations=[1]
        ),
        lambda a, b, rows: F.conv1d(F.pad(a, (2, 1)), torch.from_numpy(KERNEL), torch.from_numpy(BIAS), stride=2),
    ),
    "conv of groups, dilated": (
        lambda a, b, rows: mb.conv(
            x=a, weight=DEPTHWISE, strides=[1], pad_type="valid", pad=[0, 0], dilations=[2], groups=3
        ),
        lambda a, b, rows: F.conv1d(a, torch.from_numpy(DEPTHWISE), dilation=2, groups=3),
    ),
    "conv_transpose": (
        lambda a, b, rows: mb.conv_transpose(
            x=a, weight=KERNEL.swapaxes(0, 1), strides=[2], pad_type="custom", pad=[1, 2], dilations=[1]
        ),
        lambda a, b, rows: F.conv_transpose1d(a, torch.from_numpy(KERNEL.swapaxes(0, 1).copy()), stride=2)[:, :, 1:-2],
    ),
    "select": (
        lambda a, b, rows: mb.select(cond=mb.less(x=a, y=b), a=a, b=b),
        lambda a, b, rows: torch.where(a < b, a, b),
    ),
    "gather": (
        lambda a, b, rows: mb.gather(x=a, indices=np.array([2, 0, 2], np.int32), axis=1),
        lambda a, b, rows: a.index_select(1, torch.tensor([2, 0, 2])),
    ),
    "fill_like": (
        lambda a, b, rows: mb.mul(x=a, y=mb.fill_like(ref_tensor=b, value=0.3)),
        lambda a, b, rows: a * 0.3,
    ),
    "reshape": (lambda a, b, rows: mb.reshape(x=a, shape=[0, -1, 4]), lambda a, b, rows: a.reshape(2, -1, 4)),
    "transpose": (lambda a, b, rows: mb.transpose(x=a, perm=[2, 0, 1]), lambda a, b, rows: a.permute(2, 0, 1)),
    "tile": (lambda a, b, rows: mb.tile(x=a, reps=[2, 1, 3]), lambda a, b, rows: a.repeat(2, 1, 3)),
    "expand_dims": (lambda a, b, rows: mb.expand_dims(x=a, axes=[0, 2]), lambda a, b, rows: a[None, :, None]),
    "squeeze": (
        lambda a, b, rows: mb.squeeze(x=mb.reshape(x=a, shape=[2, 1, 24]), axes=[1]),
        lambda a, b, rows: a.reshape(2, 24),
    ),
    "pad": (
        lambda a, b, rows: mb.pad(x=a, pad=[1, 0, 2, 3], mode="constant", constant_val=0.5),
        lambda a, b, rows: F.pad(a, (2, 3, 1, 0), value=0.5),
    ),
    "concat": (
        lambda a, b, rows: mb.concat(values=[a, np.zeros((2, 1, 8), np.float32), b], axis=1),
        lambda a, b, rows: torch.cat([a, torch.zeros(2, 1, 8), b], 1),
    ),
    "split": (
        lambda a, b, rows: mb.split(x=a, split_sizes=[1, 5, 2], axis=2)[1],
        lambda a, b, rows: a.split([1, 5, 2], 2)[1],
    ),
    "slice_by_index": (
        lambda a, b, rows: mb.slice_by_index(
            x=a, begin=[1, 0, -7], end=[2, 0, -1], stride=[1, 1, 2], end_mask=[False, True, False],
            squeeze_mask=[True, False, False],
        ),
        lambda a, b, rows: a[1, :, -7:-1:2],
    ),
    "cast": (lambda a, b, rows: mb.cast(x=mb.mul(x=a, y=3.0), dtype="int32"), lambda a, b, rows: (a * 3).int()),
    "cast to bool": (lambda a, b, rows: mb.cast(x=rows, dtype="bool"), lambda a, b, rows: rows != 0),
    "constexpr_blockwise_shift_scale": (
        lambda a, b, rows: quantized(a, INTEGERS),
        lambda a, b, rows: F.linear(a, spread(INTEGERS), torch.from_numpy(BIAS)),
    ),
    "constexpr_blockwise_shift_scale of 4 bits": (
        lambda a, b, rows: quantized(a, NIBBLES.astype(types.nptype_from_builtin(types.int4))),
        lambda a, b, rows: F.linear(a, spread(NIBBLES), torch.from_numpy(BIAS)),
    ),
}  # fmt: skip


def save(program: Any, folder: Path) -> Path:
    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
        compute_precision=ct.precision.FLOAT32, pass_pipeline=ct.PassPipeline.EMPTY,
    )  # fmt: skip
    model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One program of every case: as many outputs."""

    @mb.program(
        input_specs=[mb.TensorSpec(A.shape), mb.TensorSpec(B.shape), mb.TensorSpec(ROWS.shape, dtype=types.int32)],
        opset_version=ct.target.iOS18,
    )
    def program(a: Any, b: Any, rows: Any) -> Any:
        results = []
        for i, (build, _) in enumerate(CASES.values()):
            result = build(a, b, rows)
            wanted = "int32" if result.dtype in (types.bool, types.int32) else "fp32"
            results.append(mb.cast(x=result, dtype=wanted, name=f"case_{i}"))
        return tuple(results)

    return save(program, tmp_path_factory.mktemp("ops") / "ops.mlpackage")


@pytest.fixture(scope="module")
def results(package: Path) -> dict[str, np.ndarray]:
    return Interpreter(package, half=False).functions["main"](INPUTS, {})


@pytest.mark.parametrize("name", CASES)
def test_each_operation_is_torchs(results: dict[str, np.ndarray], name: str) -> None:
    found = results[f"case_{list(CASES).index(name)}"]
    expected = CASES[name][1](*(torch.from_numpy(value) for value in INPUTS.values()))
    assert found.shape == tuple(expected.shape)
    assert np.allclose(found, expected.float().numpy(), rtol=1e-5, atol=2e-6)
    assert np.ptp(found) > 0  # a constant would agree with anything that forgot its input


def test_every_operation_has_a_case() -> None:
    assert {name.split()[0] for name in CASES} == set(OPS)


def test_half_rounds_each_result_and_no_sum_within_one(tmp_path: Path) -> None:
    halves = RNG.standard_normal((4, 300)).astype(np.float16)

    @mb.program(input_specs=[mb.TensorSpec((4, 300), dtype=types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        doubled = mb.mul(x=mb.sub(x=x, y=np.float16(2048.5)), y=np.float16(1.5))
        return mb.reduce_sum(x=x, axes=[1], name="total"), mb.cast(x=doubled, dtype="fp32", name="twice")

    model = save(program, tmp_path / "half.mlpackage")
    inputs = {"x": halves.astype(np.float32)}
    found = Interpreter(model, half=True).functions["main"](inputs, {})
    rounded = (halves - np.float16(2048.5)).astype(np.float16) * np.float16(1.5)
    assert np.array_equal(found["twice"], rounded.astype(np.float32))
    assert np.array_equal(found["total"], halves.astype(np.float32).sum(1).astype(np.float16).astype(np.float32))
    exact = Interpreter(model, half=False).functions["main"](inputs, {})
    assert np.array_equal(exact["twice"], (inputs["x"] - np.float32(np.float16(2048.5))) * np.float32(1.5))
    assert not np.array_equal(exact["twice"], found["twice"])


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((3,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.asin(x=x)

    with pytest.raises(BundleError, match="holds asin, an op that the interpreter lacks"):
        Interpreter(save(program, tmp_path / "unknown.mlpackage"), half=False)


def test_a_case_that_an_operation_lacks_is_named(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((3,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.cumsum(x=x, axis=0, reverse=True)

    function = Interpreter(save(program, tmp_path / "case.mlpackage"), half=False).functions["main"]
    with pytest.raises(BundleError, match=r"cumsum .* reverse"):
        function({"x": np.ones(3, np.float32)}, {})


def test_inputs_of_another_shape_or_type_are_refused(package: Path) -> None:
    function = Interpreter(package, half=False).functions["main"]
    with pytest.raises(ValueError, match="rows is int64"):
        function({**INPUTS, "rows": ROWS.astype(np.int64)}, {})
    with pytest.raises(ValueError, match="a is float32 \\(3, 8\\)"):
        function({**INPUTS, "a": A[0]}, {})


def weights_of(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


@pytest.fixture
def damaged(package: Path, tmp_path: Path) -> Path:
    shutil.copytree(package, tmp_path / "damaged.mlpackage")
    return tmp_path / "damaged.mlpackage"


def test_a_missing_weight_file_is_refused(damaged: Path) -> None:
    weights_of(damaged).unlink()
    with pytest.raises(BundleError, match=r"weight\.bin: missing"):
        Interpreter(damaged, half=False)


def test_a_weight_file_cut_anywhere_is_refused(damaged: Path) -> None:
    whole = weights_of(damaged).read_bytes()
    last = whole.rindex(bytes.fromhex("efbeadde")) + 64  # data of the last blob; padding may follow it
    for size in (0, 10, 63, 64, 100, len(whole) // 2, last, last + 4):
        weights_of(damaged).write_bytes(whole[:size])
        with pytest.raises(BundleError, match=r"weight\.bin"):
            Interpreter(damaged, half=False)


def test_weights_beyond_the_file_or_of_another_type_or_size_are_refused(package: Path) -> None:
    weights = Weights(weights_of(package))
    with pytest.raises(BundleError, match="is beyond them"):
        weights.read(1 << 40, TensorType("FLOAT32", (5, 8)))
    with pytest.raises(BundleError, match="no FLOAT32 weight at 0"):
        weights.read(0, TensorType("FLOAT32", (5, 8)))
    first = weights_of(package).read_bytes().index(bytes.fromhex("efbeadde"))
    with pytest.raises(BundleError, match=r"a weight of \d+ bytes at \d+ for \(1, 1\)"):
        weights.read(first, TensorType("FLOAT32", (1, 1)))


def test_weights_outside_the_package_are_refused(damaged: Path) -> None:
    model = damaged / "Data" / "com.apple.CoreML" / "model.mlmodel"
    data = model.read_bytes()
    model.write_bytes(data.replace(b"@model_path/weights/weight.bin", b"@model_path/../../../../passwd"))
    with pytest.raises(BundleError, match="outside its package"):
        Interpreter(damaged, half=False)


@pytest.mark.parametrize("name", ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel"])
def test_a_missing_or_unreadable_file_is_named(damaged: Path, name: str) -> None:
    (damaged / name).write_bytes(b"\xff\xfe nothing that parses")
    with pytest.raises(BundleError, match=f"{Path(name).name}: unreadable"):
        Interpreter(damaged, half=False)
    (damaged / name).unlink()
    with pytest.raises(BundleError, match=f"{Path(name).name}: missing"):
        Interpreter(damaged, half=False)
