"""Every recipe over a checkpoint in its family's published layout: read, compared with transformers, exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2Model, Qwen2Config, Qwen2Model

from tests.models.published import FAMILIES, HUB, LAYOUTS, write_checkpoint
from wand_export.cli import main
from wand_export.distill.curriculum import Stage, attention_bias
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint
from wand_export.graph.steps import ScatterStep
from wand_export.host.bundle import load_bundle
from wand_export.host.selftest import run_text_selftest
from wand_export.layout import Layout

CLOSE = 2e-4
PREFIX, WINDOW = 9, 6
LAYOUT = Layout(10, WINDOW)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folder by family, written when first asked for. Read only."""
    root = tmp_path_factory.mktemp("published")

    class Folders(dict[str, Path]):
        def __missing__(self, family: str) -> Path:
            write_checkpoint(root / family, family)
            self[family] = root / family
            return self[family]

    return Folders()


def rows(width: int, count: int = PREFIX + 3 * WINDOW) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(5))


def mask(count: int, window: int | None) -> Tensor:
    stage = None if window is None else Stage(window, None)
    return attention_bias(count, torch.tensor([PREFIX]), stage)


def hub_logits(path: Path, family: str, embeds: Tensor, window: int | None) -> Tensor:
    """The family's whole model, loaded by transformers from the same files."""
    model = AutoModelForCausalLM.from_pretrained(path / LAYOUTS[family].folder, dtype=torch.float32)
    return model(inputs_embeds=embeds[None], attention_mask=mask(len(embeds), window), use_cache=False).logits[0]


def cosyvoice2_logits(path: Path, embeds: Tensor, window: int | None) -> Tensor:
    state = torch.load(path / "llm.pt", weights_only=True)
    model = Qwen2Model(Qwen2Config.from_pretrained(path / "CosyVoice-BlankEN")).eval()
    prefix = "llm.model.model."
    model.load_state_dict({name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)})
    output = model(inputs_embeds=embeds[None], attention_mask=mask(len(embeds), window), use_cache=False)
    return F.linear(output.last_hidden_state[0], state["llm_decoder.weight"], state["llm_decoder.bias"])


def index_tts_logits(path: Path, embeds: Tensor, window: int | None) -> Tensor:
    state = torch.load(path / "gpt.pth", weights_only=True)["model"]
    model = GPT2Model(GPT2Config(vocab_size=1, n_positions=64, n_embd=128, n_layer=2, n_head=2)).eval()
    kept = {name[4:]: t for name, t in state.items() if name.startswith("gpt.") and ".attn.bias" not in name}
    kept = {name: t for name, t in kept.items() if "masked_bias" not in name}
    missing = model.load_state_dict(kept, strict=False)
    assert set(missing.missing_keys) <= {"wte.weight", "wpe.weight"} and not missing.unexpected_keys
    model.wpe.weight.data.zero_()
    output = model(inputs_embeds=embeds[None], attention_mask=mask(len(embeds), window), use_cache=False)
    norm = [state[f"final_norm.{part}"] for part in ("weight", "bias")]
    hidden = F.layer_norm(output.last_hidden_state[0], (128,), *norm)
    return F.linear(hidden, state["mel_head.weight"], state["mel_head.bias"])


def theirs(path: Path, family: str, embeds: Tensor, window: int | None) -> Tensor:
    """Logits [T, rows of the whole head] by the family's own layers."""
    own = {"cosyvoice2": cosyvoice2_logits, "index_tts": index_tts_logits}
    return own[family](path, embeds, window) if family in own else hub_logits(path, family, embeds, window)


def played(source: Checkpoint, embeds: Tensor) -> Tensor:
    """Logits of the static decoder behind the prefix and behind each further row, over dirty caches."""
    backbone = source.backbone
    step = ScatterStep(source.decoder(), LAYOUT)
    keys = list(torch.full((backbone.layers, backbone.kv_heads, LAYOUT.capacity, backbone.head_dim), 3.0))
    values = [-key for key in keys]
    found = []
    for start, stop in [(0, PREFIX), *((t, t + 1) for t in range(PREFIX, len(embeds)))]:
        integers = [torch.tensor([i], dtype=torch.int32) for i in (start, PREFIX, stop - start - 1)]
        logits, _, keys, values = step(embeds[None, start:stop], *integers, keys, values)
        found.append(logits)
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_parity_with_transformers(published: dict[str, Path], family: str) -> None:
    """Steps 0, 1 and 2 of the ladder: the recipe's model without and with a window, and the static decoder."""
    path = published[family]
    source = open_checkpoint(path, family)
    embeds, wanted = rows(source.backbone.hidden), source.recipe.head.ids()
    reference = source.reference()
    open_window = theirs(path, family, embeds, None)[:, wanted]
    assert open_window.std() > 0.3
    assert torch.allclose(reference(embeds, PREFIX, None)[0], open_window, atol=CLOSE)
    windowed = theirs(path, family, embeds, WINDOW)[:, wanted]
    assert (windowed - open_window).abs().max() > 0.05
    assert torch.allclose(reference(embeds, PREFIX, WINDOW)[0], windowed, atol=CLOSE)
    assert torch.allclose(played(source, embeds), windowed[PREFIX - 1 :], atol=CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_are_the_checkpoints(published: dict[str, Path], family: str) -> None:
    source = open_checkpoint(published[family], family)
    for name, table in source.recipe.tables.items():
        assert source.table(name).shape == (table.rows, source.backbone.hidden)
        assert source.table(name).dtype == torch.float32
    if family in HUB:
        assert source.recipe.tables["tokens"].rows == LAYOUTS[family].vocabulary
        assert source.recipe.head.weight == ("model.embed_tokens.weight" if LAYOUTS[family].tied else "lm_head.weight")


def test_index_tts_sizes_come_from_its_tensors(published: dict[str, Path]) -> None:
    backbone = open_checkpoint(published["index_tts"], "index_tts").backbone
    assert (backbone.layers, backbone.hidden, backbone.heads, backbone.mlp) == (2, 128, 2, 512)


@torch.no_grad()
def test_the_hidden_vector_is_behind_both_norms(published: dict[str, Path]) -> None:
    """The vocoder is fed what the head reads."""
    source = open_checkpoint(published["index_tts"], "index_tts")
    logits, hidden = source.reference()(rows(128), PREFIX, WINDOW)
    weight, bias = source.head()
    assert torch.allclose(F.linear(hidden, weight, bias), logits)
    norm = source.head_norm()
    assert norm is not None
    undone = (hidden - norm[1]) / norm[0]  # of unit variance only if final_norm came last
    assert torch.allclose(undone.var(1, unbiased=False), torch.ones(len(hidden)), atol=1e-2)


TEXT = "It is a short text."
EXPECTED_PREFIX = {
    "cosyvoice2": [("control", [0]), ("text", None), ("control", [1])],
    "spark_tts": [("tokens", None)],
    "index_tts": [("text", None), ("mel", [8192])],
    "neutts_air": [("tokens", None)],
    "orpheus": [("tokens", None)],
    "outetts": [("tokens", None)],
    "llasa": [("tokens", None)],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_export_through_the_command_line(
    published: dict[str, Path], family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle with the prefix program of the family, whose artifact equals the reference."""
    out = tmp_path / "bundle"
    arguments = ["export", str(published[family]), "--recipe", family, "-o", str(out), "--target", "onnx-fp32"]
    assert main([*arguments, "--window", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    bundle = load_bundle(out)
    manifest = bundle.manifest
    parity = manifest.artifacts["onnx-fp32"].parity
    assert parity is not None and parity.passed and parity.greedy_equal and (parity.psnr_db or 999) > 90
    assert all(part.literal is None for part in manifest.prefix)
    test = json.loads((out / "selftest.json").read_text(encoding="utf-8"))
    assert len(test["texts"]) == 5 and run_text_selftest(bundle).passed  # type: ignore[union-attr]
    golden = test["requests"][0]["prefix"]
    assert [stretch["table"] for stretch in golden] == [table for table, _ in EXPECTED_PREFIX[family]]
    for stretch, (_, ids) in zip(golden, EXPECTED_PREFIX[family], strict=True):
        assert ids is None or stretch["ids"] == ids
    noncommercial = any("non-commercial" in warning for warning in told["warnings"])
    assert noncommercial == (family in ("spark_tts", "index_tts", "llasa"))
    assert manifest.licence.obligations


def test_random_weights_of_true_width(tmp_path: Path) -> None:
    assert main(
        ["export", "--recipe", "index_tts", "--random-weights", "--layers", "1", "--target", "onnx-int4",
         "-o", str(tmp_path / "out"), "--window", "8", "--json"]
    ) == 0  # fmt: skip
    bundle = load_bundle(tmp_path / "out")
    manifest = bundle.manifest
    assert run_text_selftest(bundle) is None, "there is no tokenizer to read with"
    assert (manifest.model.hidden, manifest.model.layers, manifest.source.random_weights) == (1280, 1, True)
    assert manifest.model.max_position == 608 and manifest.skipped_positions == 0


def test_learned_positions_reach_the_rows(published: dict[str, Path], tmp_path: Path) -> None:
    """Text and codes count positions of their own from 0, and codes go on from the start code's."""
    from wand_export.commands.export import export
    from wand_export.host.prompt import first_position, prefix_rows, stretches

    export(published["index_tts"], tmp_path / "b", ["onnx-fp32"], recipe="index_tts", window=8)
    bundle = load_bundle(tmp_path / "b")
    latents = np.random.default_rng(0).normal(size=(32, 128)).astype(np.float32)
    inputs = {"text": [5, 6], "latents": latents}
    found = prefix_rows(bundle, inputs)
    state = torch.load(published["index_tts"] / "gpt.pth", weights_only=True)["model"]
    text = state["text_embedding.weight"][[0, 5, 6, 1]] + state["text_pos_embedding.emb.weight"][:4]
    start = state["mel_embedding.weight"][8192] + state["mel_pos_embedding.emb.weight"][0]
    assert np.allclose(found, np.concatenate([latents, text, start[None]]), atol=1e-6)
    assert first_position(bundle.manifest, stretches(bundle.manifest, inputs)) == 1


@pytest.mark.parametrize(
    ("family", "change", "dtype"),
    [("cosyvoice2", -49.9, "float32"), ("index_tts", -66.2, "float16"), ("spark_tts", -60.5, "float32")],
)
def test_the_published_kv_figures(family: str, change: float, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The formula at the lengths that fit gives the printed megabytes to their last digit but one."""
    assert main(["inspect", "--recipe", family, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["published_kv"]
    assert told["dtype"] == dtype and "slots x layers" in told["formula"] and told["note"]
    assert told["printed_percent"] == pytest.approx(change, abs=0.05)
    assert told["change_percent"] == pytest.approx(change, abs=0.1)
    for size, printed in zip((told["full_bytes"], told["wand_bytes"]), told["printed_megabytes"], strict=True):
        assert size / 1e6 == pytest.approx(printed, abs=0.025)
