"""Voices and audio decoders: checked at export, carried, and used when speaking."""

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from tests.models.published import write_checkpoint
from wand_export.cli import main
from wand_export.commands.export import export
from wand_export.commands.inspect import inspect
from wand_export.commands.speak import speak
from wand_export.errors import BundleError, InputError
from wand_export.host.bundle import load_bundle

RNG = np.random.default_rng(0)


def write_voice(folder: Path, tensors: dict[str, np.ndarray] | None = None, **about: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "voice.json").write_text(json.dumps({"schema_version": 1, **about}))
    if tensors:
        save_file(tensors, folder / "latents.safetensors")
    return folder


def write_decoder(file: Path, inputs: list[tuple[str, int, list[int | str]]], samples: str) -> Path:
    """An ONNX graph whose samples are one of its inputs, as float32, all in a row."""
    nodes = [
        helper.make_node("Cast", [samples], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["small"]),
        helper.make_node("Reshape", ["small", "shape"], ["audio"]),
    ]
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    output = helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, "samples"])
    fixed = [
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [1e-5]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [1, -1]),
    ]
    graph = helper.make_graph(nodes, "decoder", values, [output], fixed)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


SPARK_INPUTS: list[tuple[str, int, list[int | str]]] = [
    ("semantic", TensorProto.INT64, [1, "n"]),
    ("globals", TensorProto.INT64, [1, 32]),
]
GLOBALS = list(range(32))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, two voices and a decoder, and the bundle made from them."""
    folder = tmp_path_factory.mktemp("spark")
    write_checkpoint(folder / "checkpoint", "spark_tts")
    write_voice(folder / "anna", globals=GLOBALS)
    write_voice(folder / "bert", globals=GLOBALS[::-1], prompt_text="So. ", prompt_tokens=[0, 8191])
    write_decoder(folder / "bicodec.onnx", SPARK_INPUTS, "semantic")
    arguments = ["export", folder / "checkpoint", "--recipe", "spark_tts", "--window", "8", "--target", "onnx-fp32"]
    voices = ["--voice", folder / "anna", "--voice", folder / "bert", "--audio-decoder", folder / "bicodec.onnx"]
    assert main(list(map(str, [*arguments, *voices, "-o", folder / "bundle"]))) == 0
    return folder


def test_a_bundle_carries_its_voices_and_its_decoder(spark: Path) -> None:
    bundle = load_bundle(spark / "bundle")
    assert bundle.manifest.voices == ["anna", "bert"] == inspect(spark / "bundle")["voices"]
    assert {"voices/anna/voice.json", "voices/bert/voice.json"} <= set(bundle.manifest.files)
    assert bundle.manifest.artifacts["onnx-fp32"].audio_decoder == "whole"
    assert bundle.manifest.audio.decoders["whole"].files == ["audio/onnx/decoder.onnx"]
    (copy := spark / "copy").exists() or shutil.copytree(spark / "bundle", copy)
    (copy / "voices" / "bert" / "voice.json").write_text("{}")
    with pytest.raises(BundleError, match=r"voices/bert/voice\.json"):
        load_bundle(copy)


def test_a_voice_is_spoken_with(spark: Path, tmp_path: Path) -> None:
    """The first voice is the default; another one's codes and text change what is said."""
    results = {}
    for name, voice in [("default", None), ("anna", "anna"), ("bert", "bert")]:
        files = tmp_path / f"{name}.wav", tmp_path / f"{name}.npy"
        told = speak(spark / "bundle", "Hello.", files[0], voice=voice, tokens_out=files[1], seed=3)
        results[name] = np.load(files[1])
        assert told["voice"] == (voice or "anna")
        with wave.open(str(files[0])) as wav:
            codes = results[name][results[name] >= 155761] - 155761
            codes = codes[codes < 8192]
            assert wav.getnframes() == len(codes) > 0 and wav.getframerate() == 16000
            samples = np.frombuffer(wav.readframes(len(codes)), "<i2")
            assert np.allclose(samples, np.rint(codes * 1e-5 * 32767), atol=1)
    assert np.array_equal(results["default"], results["anna"])
    assert not np.array_equal(results["anna"][:20], results["bert"][:20])


def test_a_voice_that_is_not_there(spark: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no voice 'cora' \(it has: anna, bert\)"):
        speak(spark / "bundle", "Hello.", tmp_path / "a.wav", voice="cora")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"globals": GLOBALS[:31]}, "31 globals"),
        ({}, "0 globals"),
        ({"globals": [*GLOBALS[:31], 4096]}, "globals hold id 4096"),
        ({"globals": [*GLOBALS[:31], -1]}, "hold id -1"),
        ({"globals": GLOBALS, "prompt_tokens": [8192]}, "prompt_tokens hold id 8192"),
        ({"globals": GLOBALS, "colour": "red"}, "colour"),
        ({"globals": GLOBALS, "mode": "controllable"}, "mode 'controllable': the model first generates"),
        ({"globals": GLOBALS, "mode": "whisper"}, "knows no such mode"),
    ],
)
def test_voices_that_do_not_fit(spark: Path, tmp_path: Path, about: dict[str, object], words: str) -> None:
    voice = write_voice(tmp_path / "v", **about)
    with pytest.raises(InputError, match=words) as raised:
        spark_plan(spark, voices=[voice])
    assert str(voice / "voice.json") in str(raised.value)


def spark_plan(spark: Path, **options: object) -> None:
    checkpoint = spark / "checkpoint"
    export(checkpoint, spark / "none", ["onnx-fp32"], recipe="spark_tts", window=8, dry_run=True, **options)  # type: ignore[arg-type]


def test_no_voice_json_and_two_of_one_name(spark: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"voice\.json: missing"):
        spark_plan(spark, voices=[tmp_path / "empty"])
    with pytest.raises(InputError, match="a second voice 'anna'"):
        spark_plan(spark, voices=[spark / "anna", spark / "anna"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (SPARK_INPUTS[:1], "input 'globals' is missing"),
        ([*SPARK_INPUTS, ("speed", TensorProto.FLOAT, [1])], "input 'speed' is unknown"),
        ([("semantic", TensorProto.INT32, [1, "n"]), SPARK_INPUTS[1]], r"'semantic' is tensor\(int32\) \(int64"),
        ([SPARK_INPUTS[0], ("globals", TensorProto.INT64, [1, 16])], r"'globals' has shape \[1, 16\]"),
        ([SPARK_INPUTS[0], ("globals", TensorProto.INT64, [32])], r"'globals' has shape \[32\]"),
    ],
)
def test_decoders_that_do_not_fit(spark: Path, tmp_path: Path, inputs: list, words: str) -> None:
    file = write_decoder(tmp_path / "d.onnx", inputs, "semantic")
    with pytest.raises(InputError, match=words) as raised:
        spark_plan(spark, audio_decoder=file)
    assert str(file) in str(raised.value)


def test_a_decoder_that_is_none(spark: Path, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "d.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"d\.onnx"):
        spark_plan(spark, audio_decoder=tmp_path / "d.onnx")
    with pytest.raises(InputError, match="takes no audio decoder"):
        export(tiny / "checkpoint", tmp_path / "o", ["onnx-fp32"], dry_run=True, audio_decoder=tmp_path / "d.onnx")


INDEX_INPUTS: list[tuple[str, int, list[int | str]]] = [
    ("latent", TensorProto.FLOAT, [1, "n", "width"]),
    ("mel", TensorProto.FLOAT, [1, "frames", 100]),
]


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports an IndexTTS checkpoint with a voice of these tensors."""
    folder = tmp_path_factory.mktemp("index")
    write_checkpoint(folder / "checkpoint", "index_tts")

    def bundle(out: Path, tensors: dict[str, np.ndarray], **options: object) -> Path:
        voices = [write_voice(out.with_name(f"{out.name}-voice"), tensors)] if tensors else []
        export(folder / "checkpoint", out, ["onnx-fp32"], recipe="index_tts", window=8, voices=voices, **options)  # type: ignore[arg-type]
        return out

    return bundle


def latents(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def test_latents_condition_what_is_said(index: Callable[..., Path], tmp_path: Path) -> None:
    """Other latents, other codes; and the vectors for the vocoder come beside the ids."""
    said = []
    for name in "ab":
        bundle = index(tmp_path / name, {"latents": latents(32, 128)})
        files = {"tokens_out": tmp_path / f"{name}.npy", "hidden_out": tmp_path / f"{name}h.npy"}
        told = speak(bundle, "Hear the old clock.", None, **files)
        assert told["not_run"] == [
            "audio: target onnx-fp32 has no audio decoder; the family's own reads the vectors of --hidden-out"
        ]
        said.append(np.load(files["tokens_out"]))
        assert np.load(files["hidden_out"]).shape == (len(said[-1]), 128)
    assert not np.array_equal(said[0][:10], said[1][:10])


def test_a_decoder_over_hidden_vectors_and_the_voices_own_tensors(index: Callable[..., Path], tmp_path: Path) -> None:
    recipe_width = write_decoder(tmp_path / "v.onnx", INDEX_INPUTS, "latent")
    mel = latents(1, 7, 100)
    bundle = index(tmp_path / "b", {"latents": latents(32, 128), "mel": mel}, audio_decoder=recipe_width)
    files = {"tokens_out": tmp_path / "t.npy", "hidden_out": tmp_path / "h.npy"}
    speak(bundle, "Hear it.", tmp_path / "a.wav", **files)
    hidden = np.load(files["hidden_out"])
    with wave.open(str(tmp_path / "a.wav")) as wav:
        assert wav.getnframes() == hidden.size
        samples = np.frombuffer(wav.readframes(hidden.size), "<i2")
    assert np.allclose(samples, np.rint(hidden.reshape(-1) * 1e-5 * 32767), atol=1)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"latents": latents(32, 64)}, r"latents of shape \[32, 64\]"),
        ({"latents": latents(31, 128)}, "31 latents"),
        ({"mel": latents(1, 7, 100)}, "0 latents"),
        ({"latents": latents(32, 128) * np.float32(np.inf)}, "tensor latents holds NaN or infinity"),
        ({"latents": latents(32, 128), "mel": latents(7, 80)}, r"tensor mel has shape \[7, 80\]"),
    ],
)
def test_latents_that_do_not_fit(index: Callable[..., Path], tmp_path: Path, tensors: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        index(tmp_path / "b", tensors)
    assert "latents.safetensors" in str(raised.value)


def test_a_voice_without_what_the_decoder_takes(index: Callable[..., Path], tmp_path: Path) -> None:
    decoder = write_decoder(tmp_path / "v.onnx", INDEX_INPUTS, "latent")
    bundle = index(tmp_path / "b", {"latents": latents(32, 128)}, audio_decoder=decoder)
    with pytest.raises(InputError, match="a voice with tensor 'mel'"):
        speak(bundle, "Hear it.", tmp_path / "a.wav")
    assert not (tmp_path / "a.wav").exists()


def test_without_a_voice_the_missing_one_is_named(index: Callable[..., Path], tmp_path: Path) -> None:
    bundle = index(tmp_path / "b", {})
    assert load_bundle(bundle).manifest.voices == []
    with pytest.raises(InputError, match=r"0 latents .*choose a voice that has its 32"):
        speak(bundle, "Hear it.", None, tokens_out=tmp_path / "t.npy")
    with pytest.raises(BundleError, match=r"no voice 'x' \(it has none"):
        speak(bundle, "Hear it.", None, tokens_out=tmp_path / "t.npy", voice="x")
