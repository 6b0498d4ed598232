import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.audio.checkpoints import STANDINS, WRITERS, code_for, write
from wand_export.audio.codec import names, open_codec
from wand_export.audio.reading import published, read_yaml
from wand_export.errors import CheckpointError, InputError

WEIGHTS = {
    "bicodec": "BiCodec/model.safetensors", "bigvgan": "bigvgan_generator.pth", "cosyvoice2": "hift.pt",
    "dac": "model.safetensors", "mimi": "model.safetensors", "neucodec": "model.safetensors",
    "snac": "pytorch_model.bin", "xcodec2": "model.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each codec. Read only."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in WRITERS:
        write(name, folder / name)
    return folder


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_truncated_checkpoint_is_refused_by_name(name: str, checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / name, tmp_path / name)
    file = tmp_path / name / WEIGHTS[name]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=file.name):
        open_codec(name, tmp_path / name, code_for(name))


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_checkpoint_of_another_codec_is_refused(name: str, checkpoints: Path, tmp_path: Path) -> None:
    others = [other for other in names() if other not in (name, "xcodec2" if name == "neucodec" else "neucodec")]
    for other in others:
        with pytest.raises(CheckpointError):
            open_codec(name, checkpoints / other, code_for(name))


def test_the_rate_of_neucodec_and_its_forerunner_is_not_mixed_up(checkpoints: Path) -> None:
    for name, other in (("neucodec", "xcodec2"), ("xcodec2", "neucodec")):
        with pytest.raises(CheckpointError, match=r"head\.linear\.\w+ has shape"):
            open_codec(name, checkpoints / other)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_one_missing_tensor_is_named(name: str, checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / name, tmp_path / name)
    file = tmp_path / name / WEIGHTS[name]
    if file.suffix == ".safetensors":
        state = load_file(file)
        lost = next(key for key in reversed(list(state)) if key.startswith(("decoder.", "acoustic_decoder.norm")))
        del state[lost]
        save_file(state, file)
    else:
        found = torch.load(file, weights_only=True)
        state = found.get("generator", found)
        lost = list(state)[-1]
        del state[lost]
        torch.save(found, file)
    with pytest.raises(CheckpointError, match="missing tensor"):
        open_codec(name, tmp_path / name, code_for(name))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def test_pickled_code_is_not_run(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "snac", tmp_path / "snac")
    torch.save({"state": Malicious()}, tmp_path / "snac" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled code"):
        open_codec("snac", tmp_path / "snac", STANDINS)


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("tag", ["!!python/object/apply:os._exit [1]", "!!python/name:os.system ''"])
def test_yaml_that_names_python_is_refused(tag: str, tagged: bool, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"audio_tokenizer: {tag}\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.yaml: names code"):
        read_yaml(tmp_path / "config.yaml", tagged)


@pytest.mark.parametrize("name, file", [("bicodec", "BiCodec/config.yaml"), ("bigvgan", "config.yaml")])
def test_yaml_with_any_tag_is_refused_where_none_is_published(
    name: str, file: str, checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints / name, tmp_path / name)
    with (tmp_path / name / file).open("a", encoding="utf-8") as stream:
        stream.write("extra: !apply:builtins.exit [7]\n")
    with pytest.raises(CheckpointError, match="names code"):
        open_codec(name, tmp_path / name, code_for(name))


def test_yaml_that_names_its_code_is_read_without_running_it(checkpoints: Path) -> None:
    settings = read_yaml(checkpoints / "cosyvoice2" / "cosyvoice2.yaml", tagged=True)
    assert settings["__set_seed"] is None and settings["flow"]["encoder"]["static_chunk_size"] == "<chunk_size>"


def test_published_code_runs_only_where_it_is_named(checkpoints: Path) -> None:
    for name in filter(code_for, names()):
        with pytest.raises(InputError, match="--code"):
            open_codec(name, checkpoints / name)
    with pytest.raises(InputError, match="no such folder, and not the codec's package"):
        open_codec("snac", checkpoints / "snac", "os")


def test_published_code_that_lacks_something_says_what(tmp_path: Path) -> None:
    (tmp_path / "some_codec.py").write_text("import a_module_that_nobody_has\n", encoding="utf-8")
    before = list(sys.path)
    with pytest.raises(InputError, match="a_module_that_nobody_has"):
        published(str(tmp_path), "some_codec", "install it")
    assert sys.path == before


def test_names_and_places_that_do_not_exist(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such codec"):
        open_codec("codec", tmp_path)
    with pytest.raises(InputError, match="no such checkpoint"):
        open_codec("dac", tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors or weights\.pth in it"):
        open_codec("dac", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((checkpoints / "dac" / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps([]), encoding="utf-8")
    with pytest.raises(CheckpointError, match="not an object"):
        open_codec("dac", tmp_path)
