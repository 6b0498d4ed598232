"""Checkpoints in the layouts that the families publish, a few layers deep and narrow, with seeded random weights.

File names, tensor names, shapes, dtypes and vocabularies are the published ones; layers, width and heads are not.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import models, pre_tokenizers
from torch import Tensor

from wand_export.spec.recipe import Recipe, load_recipe

Tensors = dict[str, Tensor]
HUB = ("spark_tts", "neutts_air", "orpheus", "outetts", "llasa")
"""Families whose language model is a checkpoint of transformers."""
FAMILIES = ("cosyvoice2", "index_tts", *HUB)
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 8, "intermediate_size": 48}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """folder: where the model lies in the checkpoint; tied: whether the published configuration ties its head."""

    folder: str
    model_type: str
    vocabulary: int
    dtype: torch.dtype
    tied: bool
    shards: int = 1


LAYOUTS = {
    "spark_tts": Layout("LLM", "qwen2", 166000, torch.float32, True),
    "neutts_air": Layout(".", "qwen2", 217216, torch.bfloat16, True),
    "orpheus": Layout(".", "llama", 156940, torch.bfloat16, False, shards=3),
    "outetts": Layout(".", "qwen3", 153856, torch.float16, True),
    "llasa": Layout(".", "llama", 193800, torch.bfloat16, True),
}
"""neutts_air and outetts are given rows beyond those that the recipe knows, as padded vocabularies have."""


def noise(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def qwen_layers(model_type: str, prefix: str, layers: int = 2) -> Tensors:
    """The layers and norms of a Qwen2, Qwen3 or Llama, by transformers' names behind `prefix`."""
    d, q, kv, mlp = 32, 32, 16, 48
    tensors: Tensors = {f"{prefix}norm.weight": 1 + noise(9, d, scale=0.1)}
    for i in range(layers):
        at, seed = f"{prefix}layers.{i}.", 100 * (i + 1)
        for n, (name, rows, columns) in enumerate(
            [("self_attn.q_proj", q, d), ("self_attn.k_proj", kv, d), ("self_attn.v_proj", kv, d),
             ("self_attn.o_proj", d, q), ("mlp.gate_proj", mlp, d), ("mlp.up_proj", mlp, d), ("mlp.down_proj", d, mlp)]
        ):  # fmt: skip
            tensors[f"{at}{name}.weight"] = noise(seed + n, rows, columns, scale=0.35)
            if model_type == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                tensors[f"{at}{name}.bias"] = noise(seed + 20 + n, rows, scale=0.1)
        for n, name in enumerate(("input_layernorm", "post_attention_layernorm")):
            tensors[f"{at}{name}.weight"] = 1 + noise(seed + 40 + n, d, scale=0.1)
        if model_type == "qwen3":
            for n, name in enumerate(("q_norm", "k_norm")):
                tensors[f"{at}self_attn.{name}.weight"] = 1 + noise(seed + 50 + n, 8, scale=0.1)
    return tensors


def config_of(model_type: str, vocabulary: int, tied: bool) -> dict[str, Any]:
    rope = {"rope_theta": 500000.0, "rope_scaling": LLAMA3} if model_type == "llama" else {"rope_theta": 1e6}
    eps = 1e-5 if model_type == "llama" else 1e-6
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    about = {"architectures": [f"{name}ForCausalLM"], "model_type": model_type, "vocab_size": vocabulary}
    return {
        **about,
        **SIZES,
        **rope,
        "rms_norm_eps": eps,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
    }


def hub_tensors(family: str) -> Tensors:
    layout = LAYOUTS[family]
    tensors = {"model.embed_tokens.weight": noise(1, layout.vocabulary, 32, scale=0.5)}
    tensors |= qwen_layers(layout.model_type, "model.")
    if not layout.tied:
        tensors["lm_head.weight"] = noise(2, layout.vocabulary, 32, scale=0.5)
    return {name: tensor.to(layout.dtype) for name, tensor in tensors.items()}


def cosyvoice2_tensors() -> Tensors:
    tensors = {
        "llm_embedding.weight": noise(2, 2, 32),
        "speech_embedding.weight": noise(3, 6564, 32),
        "llm_decoder.weight": noise(4, 6564, 32, scale=0.5),
        "llm_decoder.bias": noise(5, 6564, scale=0.1),
        "llm.model.model.embed_tokens.weight": noise(1, 151936, 32),
    }
    return tensors | qwen_layers("qwen2", "llm.model.model.") | {"llm.model.lm_head.weight": noise(6, 151936, 32)}


def index_tts_tensors() -> Tensors:
    d = 128
    tensors = {
        "text_embedding.weight": noise(1, 12001, d),
        "mel_embedding.weight": noise(2, 8194, d),
        "mel_pos_embedding.emb.weight": noise(3, 803, d),
        "text_pos_embedding.emb.weight": noise(4, 602, d),
        "mel_head.weight": noise(5, 8194, d, scale=0.2),
        "mel_head.bias": noise(6, 8194, scale=0.1),
        "text_head.weight": noise(7, 12001, d),
        "text_head.bias": noise(8, 12001),
        "conditioning_encoder.embed.conv.0.weight": noise(9, 4, 1, 3, 3),
        "perceiver_encoder.latents": noise(10, 32, d),
    }
    for n, name in enumerate(("gpt.ln_f", "final_norm")):
        tensors[f"{name}.weight"] = 1 + noise(20 + n, d, scale=0.2)
        tensors[f"{name}.bias"] = noise(30 + n, d, scale=0.2)
    for i in range(2):
        at, seed = f"gpt.h.{i}.", 100 * (i + 1)
        for n, (name, rows, columns) in enumerate(
            [("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, 4 * d), ("mlp.c_proj", 4 * d, d)]
        ):
            tensors[f"{at}{name}.weight"] = noise(seed + n, rows, columns, scale=0.15)
            tensors[f"{at}{name}.bias"] = noise(seed + 10 + n, columns, scale=0.1)
        for n, name in enumerate(("ln_1", "ln_2")):
            tensors[f"{at}{name}.weight"] = 1 + noise(seed + 20 + n, d, scale=0.1)
            tensors[f"{at}{name}.bias"] = noise(seed + 30 + n, d, scale=0.1)
        tensors[f"{at}attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        tensors[f"{at}attn.masked_bias"] = torch.tensor(-1e4)
    return tensors


def tensors_of(family: str) -> Tensors:
    """Every tensor of a family's checkpoint by its published name."""
    special = {"cosyvoice2": cosyvoice2_tensors, "index_tts": index_tts_tensors}
    return special[family]() if family in special else hub_tensors(family)


def write_tensors(folder: Path, family: str, tensors: Tensors) -> None:
    """Write the weight files alone."""
    if family == "cosyvoice2":
        torch.save({**tensors, "epoch": 7, "step": 1234}, folder / "llm.pt")
    elif family == "index_tts":
        torch.save({"model": tensors}, folder / "gpt.pth")
    else:
        layout = LAYOUTS[family]
        _write_safetensors(folder / layout.folder, tensors, layout.shards)


def _write_safetensors(folder: Path, tensors: Tensors, shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    places = {
        name: f"model-{n * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors" for n, name in enumerate(names)
    }
    for file in set(places.values()):
        mine = {name: tensors[name] for name in names if places[name] == file}
        save_file(mine, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def tokenizer_for(recipe: Recipe) -> tokenizers.Tokenizer:
    """One token a character, and the special tokens that the recipe names, at the ids that it relies on."""
    named = dict(recipe.text.tokens)
    literals = [part.literal for part in recipe.prefix if part.literal]
    for token in [*re.findall(r"<\|\w+\|>", "".join(literals)), *recipe.stop.tokens]:
        named.setdefault(token, 1000 + len(named))
    vocabulary = {chr(i): i for i in range(0x300)} | named
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="?"))
    tokenizer.add_special_tokens(list(named))
    return tokenizer


def write_qwen_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json as Qwen2 ships them, with two merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "he", "hel"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nh e\nhe l\n", encoding="utf-8")
    start = len(vocabulary)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(start + n): {"content": token, **plain} for n, token in enumerate(tokens)},
        "additional_special_tokens": tokens[1:],
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_sentencepiece(file: Path, kind: str = "bpe", **options: Any) -> None:
    """A small SentencePiece model that was trained on a few capital words; options are its trainer's."""
    import sentencepiece

    words = "THE OLD CLOCK IN THE HALL STRUCK NINE, AND NOBODY WAS THERE TO HEAR IT. 'TIS A LONG WAY - VERY LONG!"
    text = file.with_suffix(".txt")
    text.write_text("\n".join([words, *words.split(), *words] * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(file.with_suffix("")), model_type=kind, minloglevel=2,
        bos_id=0, eos_id=1, unk_id=2, normalization_rule_name="nmt_nfkc", **({"vocab_size": 50} | options),
    )  # fmt: skip


def write_checkpoint(folder: Path, family: str) -> Tensors:
    """A whole checkpoint folder; returns its tensors."""
    recipe = load_recipe(family)[0]
    folder.mkdir(parents=True)
    tensors = tensors_of(family)
    if family == "cosyvoice2":
        text = folder / "CosyVoice-BlankEN"
        text.mkdir()
        (text / "config.json").write_text(json.dumps(config_of("qwen2", 151936, True)))
        write_qwen_tokenizer(text)
        (folder / "cosyvoice2.yaml").write_text("sample_rate: 24000\n")
    elif family == "index_tts":
        write_sentencepiece(folder / "bpe.model")
        (folder / "config.yaml").write_text("gpt:\n    model_dim: 128\n")
    else:
        layout = LAYOUTS[family]
        place = folder / layout.folder
        place.mkdir(exist_ok=True)
        (place / "config.json").write_text(json.dumps(config_of(layout.model_type, layout.vocabulary, layout.tied)))
        tokenizer_for(recipe).save(str(place / "tokenizer.json"))
    write_tensors(folder, family, tensors)
    return tensors
