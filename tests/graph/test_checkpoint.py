"""What a wrong checkpoint gets: one error that names the file, the tensor and the fix."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import write_checkpoint, write_recipe
from wand_export.errors import CheckpointError, InputError
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe")


@pytest.fixture
def folder(tmp_path: Path, recipe: Path) -> Path:
    write_checkpoint(tmp_path / "checkpoint", recipe)
    return tmp_path / "checkpoint"


def read_all(path: Path) -> Checkpoint:
    source = open_checkpoint(path)
    source.reference()
    return source


def test_a_good_checkpoint(folder: Path) -> None:
    source = read_all(folder)
    assert (source.window, source.backbone.layers, len(source.sha256 or "")) == (8, 2, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(tmp_path: Path, recipe: Path, dtype: torch.dtype) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "c" / "model.safetensors")
    assert read_all(tmp_path / "c").tensor("head.bias").dtype == torch.float32


def renamed(tensors: Tensors) -> None:
    tensors["lm.layers.1.mlp.up.weight"] = tensors.pop("lm.layers.1.mlp.up_proj.weight")


def transposed(tensors: Tensors) -> None:
    tensors["lm.layers.0.mlp.up_proj.weight"] = tensors["lm.layers.0.mlp.up_proj.weight"].T.contiguous()


def poisoned(tensors: Tensors) -> None:
    tensors["lm.layers.0.self_attn.q_proj.weight"][3, 4] = float("nan")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("lm.norm.weight"), ["missing tensor lm.norm.weight"]),
        (lambda t: t.update(extra=torch.zeros(2)), ["unknown tensor extra"]),
        (renamed, ["missing tensor lm.layers.1.mlp.up_proj.weight"]),
        (transposed, ["lm.layers.0.mlp.up_proj.weight", "[64, 96]", "[96, 64]"]),
        (lambda t: t.update({"text.weight": torch.zeros(21, 64)}), ["text.weight", "[21, 64]", "[20, 64]"]),
        (poisoned, ["lm.layers.0.self_attn.q_proj.weight", "NaN"]),
    ],
)
def test_wrong_tensors(tmp_path: Path, recipe: Path, damage: Callable[[Tensors], None], words: list[str]) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    damage(tensors)
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    with pytest.raises(CheckpointError) as raised:
        read_all(tmp_path / "c")
    assert all(word in str(raised.value) for word in words)
    assert "\n" not in str(raised.value)


def test_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*not a whole"):
        read_all(folder)


def test_flipped_header(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[20] ^= 0xFF
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError):
        read_all(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors or model\.pt"):
        read_all(folder)


class Code:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, ("__import__('pathlib').Path('executed').touch()",)


@pytest.mark.parametrize("content", ["code", "noise", "list", "truncated"])
def test_untrusted_pickles_are_not_run(
    folder: Path, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    file = folder / "model.pt"
    if content == "code":
        torch.save({"model": Code()}, file)
    elif content == "noise":
        file.write_bytes(b"\x80\x02noise" * 10)
    elif content == "list":
        torch.save([torch.zeros(1)], file)
    else:
        torch.save({"head.bias": torch.zeros(40)}, file)
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        read_all(folder)
    assert not (tmp_path / "executed").exists()


def test_plain_pickle_with_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "model.pt").write_bytes(pickle.dumps({"head.bias": Code()}))
    with pytest.raises(CheckpointError):
        read_all(folder)
    assert not (tmp_path / "executed").exists()


def test_nested_state_dict_and_known_entries(tmp_path: Path, recipe: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    (tmp_path / "c" / "model.safetensors").unlink()
    torch.save({"model": {**tensors, "epoch": 3}}, tmp_path / "c" / "model.pt")
    assert torch.equal(read_all(tmp_path / "c").tensor("head.bias"), tensors["head.bias"])
    torch.save({"model": {**tensors, "author": "me"}}, tmp_path / "c" / "model.pt")
    with pytest.raises(CheckpointError, match="unknown entry author"):
        read_all(tmp_path / "c")


def test_where_the_numbers_are_none(tmp_path: Path, recipe: Path) -> None:
    """The row is named: of a table, an id."""
    tensors = write_checkpoint(tmp_path / "c", recipe)
    tensors["speech.weight"][36, 5] = float("inf")
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"speech\.weight holds NaN or infinity in row 36"):
        open_checkpoint(tmp_path / "c").table("speech")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(({"window": window}, "window") for window in (-5, 0, "64", 64.5, 10**6, True, None)),
        ({"final_loss": float("nan")}, "NaN"),
        ({"final_loss": float("inf")}, "Infinity"),
        ({"final_loss": None}, "final_loss"),
        ({"note": "my run 7"}, "note"),
    ],
)
def test_wand_files_that_are_wrong(folder: Path, change: dict[str, object], words: str) -> None:
    data = json.loads((folder / "wand.json").read_text()) | change
    (folder / "wand.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=words) as raised:
        open_checkpoint(folder)
    assert "wand.json" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "family": "x", "colour": "red"}'])
def test_bad_wand_file(folder: Path, text: str) -> None:
    (folder / "wand.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"wand\.json"):
        open_checkpoint(folder)


def test_family_must_be_told(folder: Path) -> None:
    (folder / "wand.json").unlink()
    with pytest.raises(InputError, match="--recipe"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("window = 8", "windo = 8"), "windo"),
        (("rows = 20 ", ""), "rows"),
        (('"llama"', '"rwkv"'), "backbone"),
        (("[tables]", "[tables"), "TOML"),
    ],
)
def test_bad_recipe(folder: Path, recipe: Path, change: tuple[str, str], words: str) -> None:
    recipe.write_text(recipe.read_text().replace(*change))
    with pytest.raises(InputError, match=words) as raised:
        open_checkpoint(folder)
    assert str(recipe) in str(raised.value)


def test_sizes_come_from_the_config(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace('nested = "model"', 'nested = "model", config = "config.json"'))
    write_checkpoint(tmp_path / "c", recipe)
    config = {"model_type": "llama", "num_hidden_layers": 3, "rope_theta": 5000.0}
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"missing tensor lm\.layers\.2"):
        open_checkpoint(tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    assert open_checkpoint(tmp_path / "c").backbone.rope_theta == 5000.0
    (tmp_path / "c" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(CheckpointError, match="qwen2"):
        open_checkpoint(tmp_path / "c")


BUFFERS = [
    ("llama", "layers.0.self_attn.rotary_emb.inv_freq", lambda: 10000.0 ** -(torch.arange(0, 16, 2) / 16)),
    ("qwen3", "rotary_emb.inv_freq", lambda: (10000.0 ** -(torch.arange(0, 16, 2) / 16)).bfloat16()),
    ("gpt2", "h.1.attn.bias", lambda: torch.ones(1, 1, 8, 8).tril().bool()),
    ("gpt2", "h.1.attn.bias", lambda: torch.ones(1, 1, 8, 8).tril().to(torch.uint8)),
    ("gpt2", "h.1.attn.masked_bias", lambda: torch.tensor(-1e4)),
    ("gpt2", "h.1.attn.masked_bias", lambda: torch.tensor([-1e9])),
]
OTHERS = [
    ("llama", "layers.0.self_attn.rotary_emb.inv_freq", lambda: 500000.0 ** -(torch.arange(0, 16, 2) / 16)),
    ("llama", "rotary_emb.inv_freq", lambda: torch.ones(4)),
    ("gpt2", "h.1.attn.bias", lambda: torch.ones(1, 1, 8, 8).tril().triu(-3).bool()),
    ("gpt2", "h.1.attn.masked_bias", lambda: torch.tensor(0.0)),
]


@pytest.mark.parametrize(("kind", "name", "buffer"), BUFFERS + OTHERS)
def test_buffers_that_are_computed_anew(
    tmp_path: Path, kind: str, name: str, buffer: Callable[[], torch.Tensor]
) -> None:
    """Left out where they are what is computed, and refused by name where they are not."""
    tensors = write_checkpoint(tmp_path / "c", write_recipe(tmp_path / "recipe", kind))
    save_file({**tensors, f"lm.{name}": buffer()}, tmp_path / "c" / "model.safetensors")
    if (kind, name, buffer) in BUFFERS:
        read_all(tmp_path / "c")
        return
    with pytest.raises(CheckpointError, match=f"buffer lm.{name} is not what"):
        open_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(("name", "key"), [("text.weight", "[tables.text]"), ("head.weight", "[head]")])
def test_more_rows_than_the_recipe_knows(tmp_path: Path, recipe: Path, name: str, key: str) -> None:
    tensors = write_checkpoint(tmp_path / "c", recipe)
    tensors[name] = torch.cat([tensors[name], torch.zeros(3, 64)])
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(tmp_path / "c")
    assert key in str(raised.value) and "more_rows = true" in str(raised.value)
    rows = "rows = 20" if name == "text.weight" else "rows = 40"
    recipe.write_text(recipe.read_text().replace(rows, f"{rows}, more_rows = true"))
    if name == "text.weight":
        assert open_checkpoint(tmp_path / "c").recipe.tables["text"].rows == 23
