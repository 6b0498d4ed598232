"""Rung 0: the reference against transformers' own class, loaded from the folder or made from its configuration."""

import codecs
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.models.published import HUB, LAYOUTS, noise, write_checkpoint
from wand_export.cli import main
from wand_export.commands.export import export
from wand_export.errors import CheckpointError
from wand_export.graph import upstream
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint
from wand_export.graph.upstream import compare_with_transformers

IDS = torch.arange(100, 112)


def logits(path: Path) -> torch.Tensor:
    """By transformers, as anybody would load it."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS[None]).logits[0]
    return found


def ours(source: Checkpoint) -> torch.Tensor:
    return source.reference()(source.table("tokens")[IDS], 1, None)[0]


@pytest.mark.parametrize("family", ["cosyvoice2", *HUB])
def test_published_layouts_pass_and_another_model_does_not(tmp_path: Path, family: str) -> None:
    """Loaded by transformers where it can: only cosyvoice2 keeps its configuration beside other weights."""
    write_checkpoint(tmp_path / "c", family)
    source = open_checkpoint(tmp_path / "c", family)
    ids, positions = torch.arange(5), torch.arange(5)
    with torch.no_grad():
        assert (upstream._loaded(source, ids, positions) is None) == (family == "cosyvoice2")
    compare_with_transformers(source)
    source.backbone = source.backbone.model_copy(update={"norm_eps": 1e-3})
    with pytest.raises(CheckpointError, match=r"config\.json: transformers' own class .* dB, below 100"):
        compare_with_transformers(source)


@pytest.mark.parametrize("own", ["other", "equal", "alone"])
def test_a_head_of_its_own_beside_a_configuration_that_ties_it(tmp_path: Path, own: str) -> None:
    """As transformers does: it is kept; and where only the head is there, the table is the head."""
    tensors = write_checkpoint(tmp_path / "c", "llasa")
    table = tensors["model.embed_tokens.weight"]
    head = noise(5, *table.shape, scale=0.5).to(table.dtype) if own == "other" else table.clone()
    tensors["lm_head.weight"] = head
    if own == "alone":
        tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "c" / "model.safetensors", metadata={"format": "pt"})
    source = open_checkpoint(tmp_path / "c", "llasa")
    assert torch.equal(source.head()[0], head.float()[source.recipe.head.ids()])
    wanted = logits(tmp_path / "c")[:, source.recipe.head.ids()]
    assert torch.allclose(ours(source), wanted, atol=1e-4)
    compare_with_transformers(source)


@pytest.mark.parametrize("marked", ["config.json", "generation_config.json"])
def test_marks_of_editors(tmp_path: Path, marked: str) -> None:
    write_checkpoint(tmp_path / "c", "llasa")
    file = tmp_path / "c" / marked
    file.write_bytes(codecs.BOM_UTF8 + (file.read_bytes() if file.exists() else b"{}"))
    compare_with_transformers(open_checkpoint(tmp_path / "c", "llasa"))


def test_a_configuration_that_the_weights_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its number of heads, transformers reads the same tensors as another model; a dry run tells."""
    write_checkpoint(tmp_path / "c", "cosyvoice2")
    file = tmp_path / "c" / "CosyVoice-BlankEN" / "config.json"
    config = json.loads(file.read_text())
    recipe = Path("models/cosyvoice2/recipe.toml").read_text().replace("heads = 14\n", "heads = 4\n", 1)
    (tmp_path / "recipe.toml").write_text(recipe)
    config.pop("num_attention_heads")
    file.write_text(json.dumps(config))
    arguments = ["--recipe", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "o"), "--window", "8", "--dry-run"]
    assert main(["export", str(tmp_path / "c"), *arguments, "--target", "onnx-fp32"]) == 2
    told = capsys.readouterr().err
    assert "config.json: the weights do not fit it" in told and told.count("\n") == 1


def test_it_is_a_stage_of_export_and_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "c", "llasa")
    stages: list[str] = []
    export(tmp_path / "c", tmp_path / "o", ["onnx-fp32"], recipe="llasa", window=8, dry_run=True, report=stages.append)
    assert "comparing with transformers' own class" in stages
    assert capfd.readouterr() == ("", "")


def test_nothing_is_run_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "c", "llasa")
    for name in ("modeling_llama.py", "configuration_llama.py", "__init__.py"):
        (tmp_path / "c" / name).write_text("open('executed', 'w')\n")
    compare_with_transformers(open_checkpoint(tmp_path / "c", "llasa"))
    assert not (tmp_path / "executed").exists()


def test_more_rows_than_the_configuration_says(tmp_path: Path) -> None:
    """Tables that a trainer grew, and its configuration still the old one."""
    tensors = write_checkpoint(tmp_path / "c", "llasa")
    file = tmp_path / "c" / "model.safetensors"
    table = load_file(file)["model.embed_tokens.weight"]
    grown = torch.cat([table, torch.zeros(8, 32, dtype=table.dtype)])
    save_file({**tensors, "model.embed_tokens.weight": grown}, file, metadata={"format": "pt"})
    source = open_checkpoint(tmp_path / "c", "llasa")
    assert source.recipe.tables["tokens"].rows == LAYOUTS["llasa"].vocabulary + 8
    compare_with_transformers(source)
