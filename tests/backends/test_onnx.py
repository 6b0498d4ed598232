"""What the ONNX backend refuses to emit, and what it emits."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from wand_export.backends.onnx import check_inputs
from wand_export.host.bundle import Bundle, load_bundle


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
    import torch

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


def audio_inputs(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Codes, some of them outside, and noise for one call of the audio decoder."""
    decoder = bundle.manifest.audio.decoder
    assert decoder is not None
    rng = np.random.default_rng(0)
    tokens = rng.integers(-1, 27, 2 * decoder.context + decoder.chunk).astype(np.int32)
    return tokens, rng.uniform(-1, 1, decoder.noise_samples).astype(np.float32)


def test_the_audio_decoder_is_the_vocoder(exported: Path, tiny: Path) -> None:
    import torch

    from wand_export.graph.vocoder import load_vocoder

    vocoder = load_vocoder(tiny / "recipe" / "vocoder")
    tokens, noise = audio_inputs(load_bundle(exported))
    samples, phase = load_bundle(exported).open_audio().decode(tokens, noise, 0.25)
    with torch.no_grad():
        wanted, after = vocoder(torch.from_numpy(tokens)[None], torch.from_numpy(noise)[None], torch.tensor([0.25]))
    assert np.abs(samples - wanted[0].numpy()).max() < 1e-3 * max(1.0, float(wanted.abs().max()))
    assert abs(phase - after.item()) < 1e-3
