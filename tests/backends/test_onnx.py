"""What the ONNX backend refuses to emit, and what it emits."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from wand_export.backends.onnx import check_inputs
from wand_export.graph.onnx_weights import store
from wand_export.graph.vocoder import Vocoder, load_vocoder
from wand_export.host.bundle import load_bundle
from wand_export.host.runtimes.onnx import load
from wand_export.host.session import AudioSession
from wand_export.spec.target import AudioPrecision


def graph(*nodes: onnx.NodeProto) -> ir.Model:
    floats = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("keys_0", "rows")]
    index = helper.make_tensor_value_info("index", TensorProto.INT64, [4])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("new_keys_0", "sum")]
    return ir.from_proto(helper.make_model(helper.make_graph(list(nodes), "g", [*floats, index], outputs)))


SCATTER = helper.make_node("ScatterElements", ["keys_0", "index", "rows"], ["new_keys_0"])


def test_a_cache_read_by_its_scatter_alone_passes() -> None:
    check_inputs(graph(SCATTER, helper.make_node("ReduceSum", ["new_keys_0"], ["sum"])))


def test_a_second_reader_of_the_old_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="keys_0 is read by"):
        check_inputs(graph(SCATTER, helper.make_node("ReduceSum", ["keys_0"], ["sum"])))


def test_a_scatter_of_the_cache_into_itself_is_refused() -> None:
    scatter = helper.make_node("ScatterElements", ["keys_0", "index", "keys_0"], ["new_keys_0"])
    with pytest.raises(ValueError, match="keys_0 is read by"):
        check_inputs(graph(scatter, helper.make_node("Sum", ["new_keys_0", "rows"], ["sum"])))


def test_an_input_that_nothing_reads_is_refused() -> None:
    unread = graph(SCATTER, helper.make_node("ReduceSum", ["new_keys_0"], ["sum"]))
    unread.graph.inputs.append(ir.val("position"))
    with pytest.raises(ValueError, match="position is read by nothing"):
        check_inputs(unread)


def test_weights_lie_once_in_the_data_file(exported: Path) -> None:
    """The decoder and its twin name the same bytes, and hold none of their own."""
    folder = exported / "onnx-fp32"
    placed = {}
    for name in ("decoder.onnx", "twin.onnx"):
        model = onnx.load(folder / name, load_external_data=False)
        external = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        placed[name] = {t.name: [(e.key, e.value) for e in t.external_data] for t in external}
        assert (folder / name).stat().st_size < 200_000
    assert placed["twin.onnx"].items() <= placed["decoder.onnx"].items()
    assert sum("weight" in name for name in placed["twin.onnx"]) == 11  # five matrices of each layer, and the head


def test_the_twin_is_full_attention(exported: Path, tiny: Path) -> None:
    from wand_export.graph.checkpoint import open_checkpoint

    bundle = load_bundle(exported)
    rows = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    with bundle.open_twin("onnx-fp32", threads=1) as twin:
        found = [twin.prefill(rows[:5]).logits, *(twin.step(row).logits for row in rows[5:])]
    expected = open_checkpoint(tiny / "checkpoint").reference()(torch.from_numpy(rows), 5, None)[0][4:]
    assert np.abs(np.stack(found) - expected.numpy()).max() < 1e-3


def test_integer_targets_are_smaller(exported: Path) -> None:
    sizes = {name: a.step_bytes for name, a in load_bundle(exported).manifest.artifacts.items()}
    # Blocks of 128 over 64 columns are half padding.
    assert sizes["onnx-fp32"] > 2 * sizes["onnx-int8"] > 3 * sizes["onnx-int4"]


def assert_is_the_vocoder(session: AudioSession, vocoder: Vocoder) -> None:
    """Both lengths of a chunk, neither of them the traced one, from states that are not those of a start."""
    graph = session.decoder.graphs[0]
    for chunk in (vocoder.config.first, vocoder.config.later):
        codes, noise = vocoder.example(chunk)
        values = [torch.randint_like(codes, -1, 27), torch.rand_like(noise), *map(torch.rand_like, vocoder.states())]
        found = session.run(graph.name, {n: v.numpy() for n, v in zip(graph.inputs, values, strict=True)})
        with torch.no_grad():
            expected = vocoder(*values)
        for name, wanted in zip(graph.outputs, expected, strict=True):
            assert np.abs(found[name] - wanted.numpy()).max() < 1e-3 * max(1.0, float(wanted.abs().max()))


def test_the_audio_decoder_is_the_vocoder(exported: Path, tiny: Path) -> None:
    session = load_bundle(exported).open_audio("onnx-fp32")
    assert_is_the_vocoder(session, load_vocoder(tiny / "recipe" / "vocoder"))


def stored(file: Path) -> dict[int, int]:
    """Entries of large initializers by their type."""
    found: dict[int, int] = {}
    for tensor in onnx.load(file).graph.initializer:
        found[tensor.data_type] = found.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return found


@pytest.fixture(scope="module")
def matrix() -> ir.Model:
    """x [1, 512] times a matrix, float32."""
    weight = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 512), ("y", 64))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    initializer = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.flatten())
    graph = helper.make_graph([node], "g", values[:1], values[1:], [initializer])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))


@pytest.mark.parametrize(
    ("precision", "kind", "error"),
    [("float32", TensorProto.FLOAT, 0), ("float16", TensorProto.FLOAT16, 1e-3), ("int8", TensorProto.INT8, 1e-2)],
)
def test_weights_are_stored_narrower(
    matrix: ir.Model, tmp_path: Path, precision: AudioPrecision, kind: int, error: float
) -> None:
    model = ir.from_proto(ir.to_proto(matrix))
    store(model, precision)
    ir.save(model, tmp_path / "m.onnx")
    assert stored(tmp_path / "m.onnx")[kind] == 512 * 64
    x = np.random.default_rng(1).standard_normal((1, 512)).astype(np.float32)
    weight = matrix.graph.initializers["w"].const_value
    assert weight is not None
    expected = x @ weight.numpy()
    found = load(tmp_path / "m.onnx", 1).run(None, {"x": x})[0]
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference <= error + 1e-6 and (difference > 1e-5) == (error > 0)


def test_a_checkpoint_in_half_precision_is_stored_in_it(matrix: ir.Model) -> None:
    """A float32 decoder loses nothing by it, and is half as large."""
    model = ir.from_proto(ir.to_proto(matrix))
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy().astype(np.float16).astype(np.float32), name="w")
    store(model, "float32")
    assert [value.dtype for value in model.graph.initializers.values()] == [ir.DataType.FLOAT16]


def test_a_mixed_decoder_multiplies_integers(exported: Path) -> None:
    decoders = load_bundle(exported).manifest.audio.decoders
    assert set(decoders) == {"float32", "mixed"}
    operations = {
        name: {node.op_type for node in onnx.load(exported / decoder.files[0]).graph.node}
        for name, decoder in decoders.items()
    }
    assert "DynamicQuantizeMatMul" in operations["mixed"] - operations["float32"]
