"""Each codec from its published layout to graphs on disk: transformers' own where it has it, else a stand-in."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.audio.checkpoints import code_for, write
from wand_export.audio.build import Built, build
from wand_export.audio.chain import speak, speak_whole, utterance
from wand_export.audio.codec import Codec, names, open_codec
from wand_export.graph import onnx_weights
from wand_export.host.runtimes.onnx import OnnxAudio
from wand_export.spec.audio import AudioDecoder

MODES = {
    "bicodec": "window", "bigvgan": "window", "cosyvoice2": "prefix", "dac": "window", "mimi": "state",
    "neucodec": "window", "snac": "window", "xcodec2": "window",
}  # fmt: skip
FEWER = 2
"""Steps of those that have a loop, here: CosyVoice 2's ten say no more."""


@dataclass(frozen=True)
class Exported:
    codec: Codec
    folder: Path
    built: Built


@pytest.fixture(scope="session")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One codec, exported at float32."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    codec = open_codec(name, write(name, folder / "checkpoint"), code_for(name))
    return Exported(codec, folder, build(codec, folder))


def test_every_codec_is_tested() -> None:
    assert names() == sorted(MODES)


@pytest.mark.parametrize("exported", sorted(MODES), indirect=True)
def test_graphs_on_disk_are_the_codecs_own_code(exported: Exported, request: pytest.FixtureRequest) -> None:
    codec, built = exported.codec, exported.built
    assert built.passed and built.decoder.mode == MODES[request.node.callspec.params["exported"]]
    assert built.decoder == AudioDecoder.model_validate(built.decoder.model_dump())
    assert all(one.log_mel_db < 1e-2 for one in built.parity)
    if codec.judge == "psnr":
        assert all(one.psnr_db is None or one.psnr_db > 100 for one in built.parity)
    found = built.decoder.measured
    assert found is not None
    # What is heard is heard: a decoder that ignored its codes would agree with itself.
    assert all(reach.left is None or reach.left >= 0 for reach in found.reach)
    session = OnnxAudio(exported.folder, built.decoder, 1)
    said, other = utterance(codec, 30), utterance(codec, 30, seed=1)
    one, _ = speak_whole(session, codec, said)
    assert len(one) == 30 * built.decoder.hop
    assert np.abs(one - speak_whole(session, codec, other)[0]).max() > 1e-3 * np.abs(one).max()
    assert len(speak(session, codec, utterance(codec, 1))) == built.decoder.hop
    parts = speak(session, codec, said)
    assert len(parts) == len(one)
    if found.exact:
        assert found.error <= 1e-4 and np.abs(parts - one).max() <= 1e-4 * np.abs(one).max()


@pytest.mark.parametrize("name, precision, least", [("dac", "int8", 25.0), ("neucodec", "mixed", 25.0)])
def test_weights_are_stored_in_fewer_bits(
    name: str, precision: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_weights, "LEAST", 256)
    path, sizes = write(name, tmp_path / "checkpoint"), []
    for kind in ("float32", precision):
        folder = tmp_path / kind
        folder.mkdir()
        built = build(open_codec(name, path), folder, kind)
        assert built.passed and built.decoder.precision == kind
        assert all(one.psnr_db is not None and one.psnr_db > least for one in built.parity)
        sizes.append(sum(file.stat().st_size for file in folder.iterdir()))
    assert sizes[1] < sizes[0]


def test_fewer_steps_say_what_they_cost(tmp_path: Path) -> None:
    path = write("cosyvoice2", tmp_path / "checkpoint")
    built = build(open_codec("cosyvoice2", path, code_for("cosyvoice2")), tmp_path, steps=FEWER)
    assert built.decoder.loop is not None and len(built.decoder.loop.times) == FEWER + 1
    assert any(f"{FEWER} steps instead of 10 move log-mel spectra by" in warning for warning in built.warnings)


def test_descripts_file_is_transformers_model(tmp_path: Path) -> None:
    """descript's names and weight norm, as its own code writes them."""
    own = open_codec("dac", write("dac", tmp_path / "own"))
    file = tmp_path / "weights_24khz.pth"
    _write_descript(tmp_path / "own", file)
    other = open_codec("dac", file)
    codes = {"codes": torch.arange(20)[None] % own.codes}
    with torch.no_grad():
        assert torch.allclose(own.original(codes), other.original(codes), atol=1e-6)


def _write_descript(folder: Path, file: Path) -> None:
    from safetensors.torch import load_file

    from tests.audio.checkpoints import DAC
    from wand_export.audio.codecs.dac import _renamed

    # The inverse of the table, found by renaming every name that descript's layout could have.
    last = len(DAC.downsampling_ratios)
    unit = [f"block.{i}.{part}" for i in range(4) for part in ("weight", "bias", "alpha")]
    inner = [f"block.{i}.{rest}" for i in range(5) for rest in ("weight", "bias", "alpha", *unit)]
    ends = [f"{i}.{part}" for i in (0, last + 1, last + 2) for part in ("weight", "bias", "alpha")]
    blocks = [f"{i}.{rest}" for i in range(1, last + 1) for rest in inner]
    tried = [f"decoder.model.{rest}" for rest in ends + blocks] + [f"encoder.block.{rest}" for rest in ends + blocks]
    names_of = {_renamed(name, last): name for name in tried}
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        old = names_of.get(name, name)
        if name.endswith("conv1.weight") or name.endswith("conv_t1.weight"):
            norms = tensor.flatten(1).norm(dim=1)[:, None, None]
            state |= {f"{old}_g": norms, f"{old}_v": 3 * tensor}
        else:
            state[old] = tensor
    sizes = {
        "encoder_dim": DAC.encoder_hidden_size, "encoder_rates": DAC.downsampling_ratios,
        "decoder_dim": DAC.decoder_hidden_size, "n_codebooks": DAC.n_codebooks, "codebook_size": DAC.codebook_size,
        "codebook_dim": DAC.codebook_dim, "sample_rate": DAC.sampling_rate,
    }  # fmt: skip
    torch.save({"state_dict": state, "metadata": {"kwargs": sizes}}, file)
