"""What a benchmark tells of the speaking chain, with its audio decoder and without."""

from pathlib import Path

from wand_export.commands.bench import _not_run, _speech
from wand_export.host.bundle import load_bundle


def test_the_chain_is_measured_with_audio_and_without(exported: Path) -> None:
    bundle = load_bundle(exported)
    with bundle.open("onnx-int4", 1) as session:
        found = _speech(bundle, session, "onnx-int4", 1)
    assert 0 < found["tokens_real_time_factor"] < found["real_time_factor"]
    assert 0 < found["audio_share"] < 1
    decoder = found["audio_ms_per_second"] / 1e3
    assert decoder < found["real_time_factor"] and found["first_audio_ms"] > 0
    assert set(found) < set(_not_run(bundle, "onnx-int4"))
