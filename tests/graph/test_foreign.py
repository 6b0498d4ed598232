"""What is no plain checkpoint is told by what it is, with the step that helps, in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import write_checkpoint, write_recipe
from wand_export.errors import InputError
from wand_export.graph.checkpoint import open_checkpoint

Tensors = dict[str, torch.Tensor]
UP = "lm.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "recipe")


def told(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as raised:
        open_checkpoint(folder)
    assert all(word in str(raised.value) for word in (str(folder), *words)), raised.value
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", ["Git LFS pointer", "git lfs pull"]),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", ["web page", "download it again"]),
        (b"\n<HTML lang='en'>", ["web page"]),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ["web page"]),
        (b"GGUF\x03\x00\x00\x00", ["GGUF"]),
        (b"", ["is empty", "copy it again"]),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", ["not a whole", "copy it again"]),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "model.pt"])
def test_files_that_are_no_weights(tmp_path: Path, recipe: Path, content: bytes, words: list[str], file: str) -> None:
    write_checkpoint(tmp_path / "c", recipe)
    (tmp_path / "c" / "model.safetensors").unlink()
    (tmp_path / "c" / file).write_bytes(content)
    told(tmp_path / "c", file, *([] if file.endswith("pt") and b"{" in content else words))


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/tiny"}))
    (folder / "adapter_model.safetensors").write_bytes(b"")


def inner(folder: Path) -> None:
    (folder / "checkpoint-480").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "checkpoint-480" / "model.safetensors")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (adapter, ["a LoRA adapter alone, for someone/tiny", "merge_and_unload"]),
        (lambda f: (f / "model.safetensors").symlink_to("../../blobs/gone"), ["is a link to ../../blobs/gone"]),
        (inner, ["no model.safetensors or model.pt in it", "checkpoint-480"]),
        (lambda f: (f / "tiny.Q4_K_M.gguf").write_bytes(b"GGUF"), ["tiny.Q4_K_M.gguf", "float16"]),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"PK"), ["pytorch_model.bin", "save_pretrained"]),
        (lambda f: (f / "epoch_6.pt").write_bytes(b"PK"), ["but epoch_6.pt", "rename"]),
        (lambda f: None, ["no model.safetensors or model.pt in it"]),
    ],
)
def test_folders_without_the_weights(
    tmp_path: Path, recipe: Path, left: Callable[[Path], None], words: list[str]
) -> None:
    write_checkpoint(tmp_path / "c", recipe)
    (tmp_path / "c" / "model.safetensors").unlink()
    left(tmp_path / "c")
    told(tmp_path / "c", *words)


def test_a_folder_around_checkpoints(tmp_path: Path, recipe: Path) -> None:
    for name in ("checkpoint-240", "checkpoint-480"):
        write_checkpoint(tmp_path / "run" / name, recipe)
    told(tmp_path / "run", "no wand.json", f"give {tmp_path / 'run'}/checkpoint-")


@pytest.mark.parametrize("place", ["top", "inside"])
def test_a_model_that_lies_in_another_folder(tmp_path: Path, recipe: Path, place: str) -> None:
    """The recipe reads LM/model.safetensors: it lies at the top, or the folder LM itself was given."""
    own = tmp_path / "recipe.toml"
    own.write_text(recipe.read_text().replace('"model.safetensors", "model.pt"', '"LM/model.safetensors"'))
    folder = tmp_path / ("LM" if place == "inside" else "flat")
    write_checkpoint(folder, recipe)
    with pytest.raises(InputError) as raised:
        open_checkpoint(folder, str(own))
    step = "give the folder above it" if place == "inside" else "move the model's files into LM/"
    assert "no LM/model.safetensors" in str(raised.value) and step in str(raised.value)


def lora(tensors: Tensors) -> None:
    tensors[f"{UP}.base_layer.weight"] = tensors.pop(f"{UP}.weight")
    tensors[f"{UP}.lora_A.default.weight"] = torch.zeros(8, 64)
    tensors[f"{UP}.lora_B.default.weight"] = torch.zeros(96, 8)


def quantized(*suffixes: str) -> Callable[[Tensors], None]:
    """Keeps the weight itself as 8-bit integers, unless the first suffix takes its place."""

    def change(tensors: Tensors) -> None:
        weight = tensors.pop(f"{UP}.weight")
        if suffixes[0].startswith("weight"):
            tensors[f"{UP}.weight"] = weight.to(torch.int8)
        tensors.update({f"{UP}.{suffix}": torch.zeros(4) for suffix in suffixes})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lora, ["lora", "LoRA adapter that is not merged", "merge_and_unload"]),
        (lambda t: t.update({f"{UP}.lora_A.weight": torch.zeros(8, 64)}), ["lora_A", "merge_and_unload"]),
        *(
            (quantized(*suffixes), [f"tensor {UP}.", "quantized weights", "float16"])
            for suffixes in (
                ("qweight", "qzeros", "scales", "g_idx"),
                ("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
                ("weight_scale",),
                ("weight_scale_inv",),
                ("weight_packed", "weight_shape"),
            )
        ),
        *(
            (lambda t, d=d: t.update({f"{UP}.weight": t[f"{UP}.weight"].to(d)}), [f"{UP}.weight is ", "quantized"])
            for d in (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
        ),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "base_model.model."])
def test_tensors_of_adapters_and_quantizers(
    tmp_path: Path, recipe: Path, change: Callable[[Tensors], None], words: list[str], wrapper: str
) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    change(tensors)
    save_file({wrapper + name: tensor for name, tensor in tensors.items()}, tmp_path / "c" / "model.safetensors")
    lower = [word.lower() for word in words]
    with pytest.raises(InputError) as raised:
        open_checkpoint(tmp_path / "c")
    assert all(word in str(raised.value).lower() for word in lower), raised.value


def test_an_unknown_tensor_is_not_called_quantized(tmp_path: Path, recipe: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    save_file({**tensors, "logit_scale": torch.zeros(1)}, tmp_path / "c" / "model.safetensors")
    told(tmp_path / "c", "unknown tensor logit_scale")


def test_an_adapter_beside_whole_weights_is_said(tmp_path: Path, recipe: Path) -> None:
    write_checkpoint(tmp_path / "c", recipe)
    adapter(tmp_path / "c")
    assert "without the adapter" in open_checkpoint(tmp_path / "c").notes[0]


def test_a_stale_file_beside_the_weights(tmp_path: Path, recipe: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    torch.save(tensors, tmp_path / "c" / "model.pt")
    assert "model.safetensors was read, though model.pt" in open_checkpoint(tmp_path / "c").notes[0]
    save_file({"text.weight": torch.zeros(4, 64)}, tmp_path / "c" / "model.safetensors")
    told(tmp_path / "c", "missing tensor", "model.pt lies beside it", "stale")
