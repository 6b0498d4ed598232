"""wand audio, and wand export --audio: a codec's checkpoint to a bundle that speaks."""

import errno
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import nn
from transformers import DacConfig, DacModel, MimiConfig, MimiModel

from tests.audio.checkpoints import MIMI, code_for, seeded, write
from tests.conftest import write_checkpoint, write_recipe
from wand_export.audio.bundled import Asked
from wand_export.audio.codec import names
from wand_export.cli import main
from wand_export.commands.export import export
from wand_export.commands.speak import speak
from wand_export.errors import InputError
from wand_export.host.bundle import load_bundle
from wand_export.spec.codec import AUDIO_FILE, AudioFile
from wand_export.spec.recipe import load_recipe
from wand_export.spec.schema import shipped

TINY = DacConfig(
    encoder_hidden_size=4, downsampling_ratios=[2, 5], decoder_hidden_size=16, n_codebooks=1, codebook_size=16,
    sampling_rate=8000,
)  # fmt: skip


def test_every_recipe_names_a_codec_or_brings_its_vocoder() -> None:
    for folder in sorted(path.parent.name for path in shipped("models").glob("*/recipe.toml")):
        audio = load_recipe(folder)[0].audio
        assert (audio.codec in names()) != (audio.vocoder is not None), folder


def test_a_folder_with_graphs_and_the_words_to_stream_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write("snac", tmp_path / "checkpoint"), tmp_path / "decoder"
    code = code_for("snac")
    assert code is not None
    options = ["--codec", "snac", "--code", code, "-o", str(output), "--json"]
    assert main(["audio", str(path), *options]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((output / AUDIO_FILE).read_text(encoding="utf-8"))
    assert {**written, "warnings": []} == told
    found = AudioFile.model_validate(written)
    assert found.passed and found.decoder.precision == "float16" and found.licence.weights == "MIT"
    assert {AUDIO_FILE, *found.bytes} == {file.name for file in output.iterdir()}
    assert found.decoder.measured is not None and found.decoder.measured.exact
    # It is there now.
    assert main(["audio", str(path), *options]) == 2


@pytest.mark.parametrize(
    "options, value",
    [
        (["--codec", "opus"], "no such codec"),
        (["--codec", "snac"], "built from its authors' own code"),
        (["--codec", "mimi"], "'dac' is no causal Mimi"),
        (["--codec", "dac", "--precision", "int3"], "no such precision 'int3'"),
        (["--codec", "dac", "--steps", "4"], "takes no steps"),
    ],
)
def test_usage_is_refused_in_one_line(
    options: list[str], value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("dac", tmp_path / "checkpoint")
    capsys.readouterr()
    assert main(["audio", str(path), "-o", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert value in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("dac", tmp_path / "checkpoint")

    def full(model: object, file: Path) -> None:
        Path(file).write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(ir, "save", full)
    assert main(["audio", str(path), "--codec", "dac", "-o", str(tmp_path / "out")]) == 3
    assert "no space left on the device" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def _family(folder: Path, codec: str, codebook_ids: int, model: nn.Module) -> Path:
    """A recipe that speaks with this codec in `recipe/`, its checkpoint and the codec's in `lm/` and `codec/`."""
    recipe = write_recipe(folder / "recipe")
    text = recipe.read_text(encoding="utf-8")
    text = text.replace('vocoder = "vocoder"', f'codec = "{codec}", codebook_ids = {codebook_ids}')
    recipe.write_text(text.replace("max_tokens = 60", "min_tokens = 50, max_tokens = 60"), encoding="utf-8")
    write_checkpoint(folder / "lm", recipe)
    seeded(model).save_pretrained(folder / "codec")
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _family(tmp_path_factory.mktemp("family"), "dac", 27, DacModel(TINY))


def _spoken(bundle: Path, folder: Path) -> tuple[list[int], npt.NDArray[np.float64]]:
    """The codes that a bundle picked, and the samples that it made of them, chunk by chunk."""
    speak(bundle, "a cab, a bad cab", folder / "a.wav", tokens_out=folder / "a.npy")
    count = load_bundle(bundle).manifest.audio.codes
    codes = [int(token) for token in np.load(folder / "a.npy") if token < count]
    assert len(codes) > 40
    return codes, np.frombuffer((folder / "a.wav").read_bytes()[44:], "<i2") / 32767


def test_a_bundle_with_its_codec_speaks_in_chunks(family: Path, tmp_path: Path) -> None:
    manifest = export(family / "lm", tmp_path / "bundle", ["onnx-fp32"], audio=Asked(family / "codec"))
    decoder = manifest["audio"]["decoders"]["float32"]
    assert decoder["mode"] == "window" and decoder["measured"]["exact"]
    assert "audio/onnx/float32/audio.json" in manifest["files"]
    codes, samples = _spoken(tmp_path / "bundle", tmp_path)
    model = DacModel.from_pretrained(family / "codec")
    with torch.no_grad():
        expected = model.decode(audio_codes=torch.tensor([[[min(code, 15) for code in codes]]])).audio_values[0].numpy()
    assert len(samples) == 10 * len(codes)
    assert np.abs(samples[: len(expected)] - expected).max() < 1e-3 * max(1, np.abs(expected).max())


def test_a_bundle_hands_its_codecs_state_on(tmp_path: Path) -> None:
    sizes = {**MIMI.to_dict(), "sampling_rate": 8000, "num_quantizers": 3, "codebook_size": 8}
    folder = _family(tmp_path, "mimi", 9, MimiModel(MimiConfig(**sizes)))
    manifest = export(folder / "lm", folder / "bundle", ["onnx-fp32"], audio=Asked(folder / "codec"))
    assert manifest["audio"]["decoders"]["float32"]["mode"] == "state"
    codes, samples = _spoken(folder / "bundle", tmp_path)
    frames = len(codes) // 3
    books = torch.tensor(codes[: 3 * frames]).reshape(1, frames, 3).transpose(1, 2) % 9
    with torch.no_grad():
        expected = MimiModel.from_pretrained(folder / "codec").decode(books.clamp(max=7)).audio_values[0, 0].numpy()
    assert len(samples) == len(expected)
    assert np.abs(samples - expected.clip(-1, 1)).max() < 1e-3


@pytest.mark.parametrize(
    "options, value",
    [
        ({"targets": ["coreml-fp16"]}, "no onnx target"),
        ({"audio_decoder": Path("mine.onnx")}, "takes no"),
    ],
)
def test_an_export_that_cannot_carry_the_codec(
    options: dict[str, object], value: str, family: Path, tmp_path: Path
) -> None:
    settings: dict[str, object] = {"targets": ["onnx-fp32"], "audio": Asked(family / "codec"), **options}
    with pytest.raises(InputError, match=value):
        export(family / "lm", tmp_path / "bundle", **settings)  # type: ignore[arg-type]


def test_a_codec_of_another_rate_is_refused(family: Path, tmp_path: Path) -> None:
    other = DacConfig(**{**TINY.to_dict(), "sampling_rate": 16000})
    seeded(DacModel(other)).save_pretrained(tmp_path / "codec")
    with pytest.raises(InputError, match="16000 Hz"):
        export(family / "lm", tmp_path / "bundle", ["onnx-fp32"], audio=Asked(tmp_path / "codec"), dry_run=True)


def test_a_recipe_with_its_own_vocoder_takes_no_codec(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="comes with its own decoder"):
        export(tiny / "checkpoint", tmp_path / "bundle", ["onnx-fp32"], audio=Asked(tmp_path))


def test_code_and_steps_are_for_audio(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--code", "snac"], ["--steps", "4"]):
        assert main(["export", str(family / "lm"), "-o", str(tmp_path / "b"), "--target", "onnx-fp32", *options]) == 2
        assert "they are for --audio" in capsys.readouterr().err
