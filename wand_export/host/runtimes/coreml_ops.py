"""MIL operations in numpy: those that our packages hold, each a function of MIL's own argument names.

Floats come and go as float32, whatever type the program declares; rounding to it is the caller's. An argument that a
function lacks is one that it would ignore, so the caller refuses it. Meaning of the ops: coremltools' MIL reference.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Value = Any
"""An array, or a constant scalar: bool, int, float or str."""
Axes = Sequence[int] | Array
"""Integers that are constants of the program."""


def _ints(values: Axes) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def clip(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(x, alpha, beta)


def rsqrt(x: Array, epsilon: float = 1e-12) -> Value:
    return 1 / np.sqrt(x + epsilon)


def inverse(x: Array, epsilon: float = 1e-4) -> Value:
    return 1 / (x + epsilon)


def silu(x: Array) -> Value:
    return x / (1 + np.exp(-x))


def gelu(x: Array, mode: str = "EXACT") -> Value:
    if mode == "EXACT":
        return 0.5 * x * (1 + erf(x * 0.5**0.5))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    raise ValueError(f"gelu mode {mode}")


def erf(x: Array) -> Value:
    """The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    wide = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * wide)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    value: Array = (np.sign(x) * (1 - series * np.exp(-wide * wide))).astype(np.float32)
    return value


def softmax(x: Array, axis: int = -1) -> Value:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    """A reduction over `axes`, all where there are none."""

    def reduce(x: Array, axes: Axes | None = None, keep_dims: bool = False) -> Array:
        return function(x, axis=None if axes is None else _ints(axes), keepdims=keep_dims)

    return reduce


def layer_norm(
    x: Array, axes: Axes, gamma: Array | None = None, beta: Array | None = None, epsilon: float = 1e-5
) -> Value:
    centred = x - x.mean(axis=_ints(axes), keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=_ints(axes), keepdims=True) + epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def cumsum(x: Array, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Array:
    if exclusive or reverse:
        raise ValueError("an exclusive or reverse cumsum")
    return np.cumsum(x, axis=axis, dtype=x.dtype)


def linear(x: Array, weight: Array, bias: Value = 0.0) -> Value:
    return x @ weight.T + bias


def matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Value:
    return np.matmul(x.swapaxes(-1, -2) if transpose_x else x, y.swapaxes(-1, -2) if transpose_y else y)


def conv(
    x: Array,
    weight: Array,
    strides: Axes = (1,),
    pad_type: str = "valid",
    pad: Axes = (0, 0),
    dilations: Axes = (1,),
    groups: int = 1,
    bias: Array | None = None,
) -> Value:
    """x [B, in, time], weight [out, in / groups, kernel] -> [B, out, time']."""
    if x.ndim != 3 or pad_type not in ("valid", "custom"):
        raise ValueError(f"a convolution of {x.ndim} axes with padding {pad_type}")
    span = (weight.shape[2] - 1) * int(dilations[0]) + 1
    padded = np.pad(x, ((0, 0), (0, 0), _ints(pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, span, axis=2)
    windows = windows[:, :, :: int(strides[0]), :: int(dilations[0])].swapaxes(2, 3)  # [B, in, kernel, time']
    columns = windows.reshape(len(x), groups, -1, windows.shape[3])
    y = np.matmul(weight.reshape(groups, len(weight) // groups, -1), columns)
    y = y.reshape(len(x), len(weight), -1)
    return y if bias is None else y + bias[:, None]


def conv_transpose(
    x: Array,
    weight: Array,
    strides: Axes = (1,),
    pad_type: str = "valid",
    pad: Axes = (0, 0),
    dilations: Axes = (1,),
    groups: int = 1,
    output_shape: Axes | None = None,
    bias: Array | None = None,
) -> Value:
    """x [B, in, time], weight [in, out, kernel] -> [B, out, time']."""
    if x.ndim != 3 or pad_type not in ("valid", "custom") or groups != 1:
        raise ValueError(f"a transposed convolution of {x.ndim} axes, {groups} groups, padding {pad_type}")
    channels, out, kernel = weight.shape
    stride, dilation, time = int(strides[0]), int(dilations[0]), x.shape[2]
    columns = np.matmul(weight.reshape(channels, -1).T, x).reshape(len(x), out, kernel, time)
    reach = stride * (time - 1) + 1
    y = np.zeros((len(x), out, reach + dilation * (kernel - 1)), x.dtype)
    for k in range(kernel):
        y[:, :, k * dilation : k * dilation + reach : stride] += columns[:, :, k]
    before, behind = _ints(pad)
    y = y[:, :, before : y.shape[2] - behind]
    if output_shape is not None and y.shape != _ints(output_shape):
        raise ValueError(f"a transposed convolution to {_ints(output_shape)}, not {y.shape}")
    return y if bias is None else y + bias[:, None]


def select(cond: Array, a: Value, b: Value) -> Value:
    return np.where(cond, a, b)


def gather(x: Array, indices: Array, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Array:
    if batch_dims:
        raise ValueError("a gather with batch dimensions")
    if np.min(indices) < 0 or np.max(indices) >= x.shape[axis]:
        raise ValueError(f"gather index {np.min(indices)} to {np.max(indices)} of {x.shape[axis]} rows")
    return np.take(x, indices, axis=axis)


def fill_like(ref_tensor: Array, value: float = 0.0) -> Array:
    return np.full_like(ref_tensor, value)


def reshape(x: Array, shape: Axes) -> Array:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(_ints(shape))])


def pad(x: Array, pad: Axes, mode: str = "constant", constant_val: float = 0.0) -> Array:
    """The last axes widened by pairs of (before, behind)."""
    if mode != "constant":
        raise ValueError(f"padding mode {mode}")
    pairs = np.array(_ints(pad)).reshape(-1, 2)
    return np.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs.tolist(), constant_values=constant_val)


def transpose(x: Array, perm: Axes) -> Array:
    return x.transpose(_ints(perm))


def tile(x: Array, reps: Axes) -> Array:
    return np.tile(x, _ints(reps))


def expand_dims(x: Array, axes: Axes) -> Array:
    return np.expand_dims(x, _ints(axes))


def squeeze(x: Array, axes: Axes | None = None) -> Array:
    return np.squeeze(x, None if axes is None else _ints(axes))


def concat(values: list[Array], axis: int, interleave: bool = False) -> Array:
    if interleave:
        raise ValueError("an interleaved concat")
    return np.concatenate(values, axis=axis)


def split(x: Array, axis: int, split_sizes: Axes | None = None, num_splits: int | None = None) -> list[Array]:
    parts: Any = num_splits if split_sizes is None else np.cumsum(split_sizes)[:-1]
    return np.split(x, parts, axis=axis)


def slice_by_index(
    x: Array,
    begin: Axes,
    end: Axes,
    stride: Axes | None = None,
    begin_mask: Axes | None = None,
    end_mask: Axes | None = None,
    squeeze_mask: Axes | None = None,
) -> Array:
    """Masked ends are open; squeezed axes are taken at `begin` and vanish."""
    index: list[slice | int] = []
    for i in range(x.ndim):
        if squeeze_mask is not None and squeeze_mask[i]:
            index.append(int(begin[i]))
            continue
        first = None if begin_mask is not None and begin_mask[i] else int(begin[i])
        last = None if end_mask is not None and end_mask[i] else int(end[i])
        index.append(slice(first, last, None if stride is None else int(stride[i])))
    return np.asarray(x[tuple(index)])


def cast(x: Value, dtype: str) -> Value:
    """Floats are cut towards zero. Raises ValueError for a value outside a narrow integer type."""
    if dtype in ("fp16", "fp32"):
        return np.asarray(x, np.float32)
    if dtype == "bool":
        return np.asarray(x) != 0
    wanted = np.dtype(dtype)
    values = np.asarray(x)
    if wanted.itemsize < 4 and values.dtype != np.bool_ and values.size:
        low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
        if values.min() < low or values.max() > high:
            raise ValueError(f"cast of {values.min()} to {values.max()} to {dtype}")
    return values.astype(wanted)


def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Value:
    """(data - offset) * scale, each entry of scale and offset for a block of data."""

    def spread(parts: Array) -> Array:
        for axis, size in enumerate(data.shape):
            parts = np.repeat(parts, size // parts.shape[axis], axis=axis)
        return parts

    centred = data.astype(np.float32) if offset is None else data.astype(np.float32) - spread(offset)
    return centred * spread(scale)


def of(function: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """A function of positional arguments under MIL's names for them."""
    if names == ("x",):
        return lambda x: function(x)
    return lambda x, y: function(x, y)


OPS: dict[str, Callable[..., Any]] = {
    **{
        name: of(function, "x", "y")
        for name, function in {
            "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.true_divide,
            "floor_div": np.floor_divide, "equal": np.equal, "less": np.less, "less_equal": np.less_equal,
            "greater_equal": np.greater_equal, "greater": np.greater, "logical_and": np.logical_and,
            "logical_or": np.logical_or,
        }.items()
    },
    **{
        name: of(function, "x")
        for name, function in {
            "abs": np.abs, "exp": np.exp, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "floor": np.floor,
        }.items()
    },
    "reduce_max": reduction(np.max), "reduce_mean": reduction(np.mean), "reduce_sum": reduction(np.sum),
    **{
        function.__name__: function
        for function in (
            cast, clip, concat, constexpr_blockwise_shift_scale, conv, conv_transpose, cumsum, expand_dims, fill_like,
            gather, gelu, inverse, layer_norm, linear, matmul, pad, reshape, rsqrt, select, silu, slice_by_index,
            softmax, split, squeeze, tile, transpose,
        )
    },
}  # fmt: skip
"""Every operation by MIL's name of it."""

MOVES = frozenset(
    "concat expand_dims gather pad reshape select slice_by_index split squeeze tile transpose reduce_max abs".split()
)
"""Operations whose results are values that they were given: nothing to round."""
