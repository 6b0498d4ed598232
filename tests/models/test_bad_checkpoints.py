"""What is wrong with a family's checkpoint is named exactly, in one line, with exit code 2."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.models.published import FAMILIES, HUB, LAYOUTS, Tensors, tensors_of, write_checkpoint, write_tensors
from wand_export.cli import main
from wand_export.graph.checkpoint import open_checkpoint

UP = {
    "cosyvoice2": "llm.model.model.layers.1.mlp.up_proj.weight",
    "index_tts": "gpt.h.1.mlp.c_fc.weight",
    **{family: "model.layers.1.mlp.up_proj.weight" for family in HUB},
}
SPEECH = {
    "cosyvoice2": ("speech_embedding.weight", 6564),
    "index_tts": ("mel_embedding.weight", 8194),
    **{family: ("model.embed_tokens.weight", LAYOUTS[family].vocabulary) for family in HUB},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Tensors]]:
    """The folder and the tensors of a sound checkpoint, written once for each family."""
    made: dict[str, tuple[Path, Tensors]] = {}

    def get(family: str) -> tuple[Path, Tensors]:
        if family not in made:
            folder = tmp_path_factory.mktemp("sound") / family
            made[family] = folder, write_checkpoint(folder, family)
        return made[family]

    return get


def refused(folder: Path, family: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `wand inspect` says about it."""
    assert main(["inspect", str(folder), "--recipe", family]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    return told.err


def damaged(folder: Path, sound: Path, family: str, tensors: Tensors) -> Path:
    """A copy of the checkpoint with these tensors."""
    weights = ("*.pt", "*.pth", "*.safetensors", "*.index.json")
    shutil.copytree(sound, folder, ignore=shutil.ignore_patterns(*weights))
    write_tensors(folder, family, tensors)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("damage", ["missing", "transposed", "renamed", "vocabulary", "unknown"])
def test_one_tensor_is_wrong(sound, tmp_path: Path, capsys, family: str, damage: str) -> None:
    place, tensors = sound(family)
    tensors, name, (table, count) = dict(tensors), UP[family], SPEECH[family]
    shape, word = list(tensors[name].shape), ""
    if damage == "missing":
        tensors.pop(name)
        words = [f"missing tensor {name} "]
    elif damage == "transposed":
        tensors[name] = tensors[name].T.contiguous()
        words = [name, str(shape[::-1]), str(shape)]
    elif damage == "renamed":
        tensors[name.replace("weight", "kernel")] = tensors.pop(name)
        words = [f"missing tensor {name} "]
    elif damage == "vocabulary":
        fewer = 1000 if family == "index_tts" else 6000
        tensors[table] = tensors[table][:fewer].contiguous()
        words = [table, str(fewer)]
    else:
        tensors["adapter.weight"] = torch.zeros(2)
        words = ["unknown tensor adapter.weight "]
    line = refused(damaged(tmp_path / "c", place, family, tensors), family, capsys)
    assert all(part in line for part in [*words, word]), line
    assert str(tmp_path / "c") in line
    assert count > 6000


GROWN = {"cosyvoice2": ("text", "llm.model.model.embed_tokens.weight"), "index_tts": ("text", "text_embedding.weight")}


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_that_a_trainer_grew_are_taken(sound, tmp_path: Path, family: str) -> None:
    """Rows behind those that the recipe knows; of a head too, and none of them can be said that could not before."""
    place, tensors = sound(family)
    table, tensor = GROWN.get(family, ("tokens", "model.embed_tokens.weight"))
    grown = {
        name: torch.cat([t, torch.zeros(24, *t.shape[1:], dtype=t.dtype)]) if name in (tensor, "lm_head.weight") else t
        for name, t in tensors.items()
    }
    source = open_checkpoint(damaged(tmp_path / "c", place, family, grown), family)
    assert source.recipe.tables[table].rows == len(tensors[tensor]) + 24
    assert len(source.table(table)) == len(tensors[tensor]) + 24
    if family != "outetts":  # every row is wanted there
        assert source.recipe.head.ids() == open_checkpoint(place, family).recipe.head.ids()


def test_a_model_at_the_top_instead_of_in_its_folder(sound, tmp_path: Path, capsys) -> None:
    shutil.copytree(sound("spark_tts")[0] / "LLM", tmp_path / "c")
    assert "move the model's files into LLM/" in refused(tmp_path / "c", "spark_tts", capsys)
    assert "give the folder above it" in refused(sound("spark_tts")[0] / "LLM", "spark_tts", capsys)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_keys_of_another_family(sound, tmp_path: Path, capsys, family: str) -> None:
    """The right file names and configuration around the tensors of another model."""
    other = "cosyvoice2" if family != "cosyvoice2" else "spark_tts"
    folder = damaged(tmp_path / "c", sound(family)[0], family, dict(list(tensors_of(other).items())[-20:]))
    line = refused(folder, family, capsys)
    assert "missing tensor" in line and "more" in line and f"is it of family {family}?" in line


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_of_another_family(sound, capsys, family: str) -> None:
    other = "cosyvoice2" if family != "cosyvoice2" else "index_tts"
    line = refused(sound(other)[0], family, capsys)
    assert f"recipe {family} reads its weights there" in line


def test_a_shard_is_missing(sound, tmp_path: Path, capsys) -> None:
    shutil.copytree(sound("orpheus")[0], tmp_path / "c")
    (tmp_path / "c" / "model-00002-of-00003.safetensors").unlink()
    line = refused(tmp_path / "c", "orpheus", capsys)
    assert "model-00002-of-00003.safetensors: the shard is missing, and model.safetensors.index.json names it" in line


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../a.safetensors"}}'])
def test_an_index_that_is_none(sound, tmp_path: Path, capsys, text: str) -> None:
    shutil.copytree(sound("orpheus")[0], tmp_path / "c")
    (tmp_path / "c" / "model.safetensors.index.json").write_text(text)
    line = refused(tmp_path / "c", "orpheus", capsys)
    assert "index.json" in line or "a.safetensors" in line


def test_cosyvoice_3_is_refused_by_name(sound, tmp_path: Path, capsys) -> None:
    place, tensors = sound("cosyvoice2")
    tensors = {name: t for name, t in tensors.items() if name not in ("llm_embedding.weight", "llm_decoder.bias")}
    for name in ("speech_embedding.weight", "llm_decoder.weight"):
        tensors[name] = torch.zeros(6761, 32)
    line = refused(damaged(tmp_path / "c", place, "cosyvoice2", tensors), "cosyvoice2", capsys)
    assert "this is CosyVoice 3, not CosyVoice 2 0.5B" in line and "head has no bias" in line


def test_index_tts_2_is_refused_by_name(sound, tmp_path: Path, capsys) -> None:
    place, tensors = sound("index_tts")
    folder = damaged(tmp_path / "c", place, "index_tts", {**tensors, "speed_emb.weight": torch.zeros(2, 128)})
    assert "this is IndexTTS 2, not IndexTTS 1.5" in refused(folder, "index_tts", capsys)


def test_an_entry_that_no_trainer_writes(sound, tmp_path: Path, capsys) -> None:
    place, tensors = sound("cosyvoice2")
    folder = damaged(tmp_path / "c", place, "cosyvoice2", tensors)
    torch.save({**tensors, "epoch": 1, "optimizer": [1]}, folder / "llm.pt")
    assert "unknown entry optimizer" in refused(folder, "cosyvoice2", capsys)


def test_a_head_that_the_configuration_does_not_tie(sound, tmp_path: Path, capsys) -> None:
    place, tensors = sound("llasa")
    folder = damaged(tmp_path / "c", place, "llasa", tensors)
    config = (folder / "config.json").read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    (folder / "config.json").write_text(config)
    assert "missing tensor lm_head.weight" in refused(folder, "llasa", capsys)


def test_a_rope_that_is_not_built_in(sound, tmp_path: Path, capsys) -> None:
    place, tensors = sound("llasa")
    folder = damaged(tmp_path / "c", place, "llasa", tensors)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"llama3"', '"yarn"'))
    assert "rope type 'yarn' is not supported" in refused(folder, "llasa", capsys)
    (folder / "config.json").write_text(config.replace('"low_freq_factor": 1.0, ', ""))
    assert "llama3 without 'low_freq_factor'" in refused(folder, "llasa", capsys)


def test_a_tokenizer_of_another_family(sound, tmp_path: Path, capsys) -> None:
    shutil.copytree(sound("llasa")[0], tmp_path / "c")
    shutil.copyfile(sound("neutts_air")[0] / "tokenizer.json", tmp_path / "c" / "tokenizer.json")
    arguments = ["export", str(tmp_path / "c"), "--recipe", "llasa", "-o", str(tmp_path / "o")]
    assert main([*arguments, "--target", "onnx-fp32", "--window", "8", "--dry-run"]) == 2
    line = capsys.readouterr().err
    assert "tokenizer.json: <|TEXT_UNDERSTANDING_START|> has id None, not 128258" in line
