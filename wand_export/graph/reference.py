"""The reference: an uncached, full-sequence, masked forward through transformers' own modeling code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from wand_export.layout import sees
from wand_export.spec.recipe import Backbone

CONFIGS: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gpt2": GPT2Config,
}


def config_of(backbone: Backbone) -> PretrainedConfig:
    """The transformers configuration of a backbone without its embedding tables."""
    if backbone.kind == "gpt2":
        return GPT2Config(
            vocab_size=1,
            n_positions=1,
            n_embd=backbone.hidden,
            n_layer=backbone.layers,
            n_head=backbone.heads,
            n_inner=backbone.mlp,
            layer_norm_epsilon=backbone.norm_eps,
            bos_token_id=None,
            eos_token_id=None,
        )
    return CONFIGS[backbone.kind](
        vocab_size=1,
        hidden_size=backbone.hidden,
        num_hidden_layers=backbone.layers,
        num_attention_heads=backbone.heads,
        num_key_value_heads=backbone.kv_heads,
        head_dim=backbone.head_dim,
        intermediate_size=backbone.mlp,
        rms_norm_eps=backbone.norm_eps,
        rope_parameters=_rope(backbone),
        bos_token_id=None,
        eos_token_id=None,
    )


def _rope(backbone: Backbone) -> dict[str, Any]:
    scaling = backbone.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": backbone.rope_theta}
    stretched = scaling.model_dump(exclude={"original_max_position"})
    stretched["original_max_position_embeddings"] = scaling.original_max_position
    return {"rope_type": "llama3", "rope_theta": backbone.rope_theta, **stretched}


EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "wpe.weight")
"""Tensors of transformers' backbones that a reference replaces by zeros: rows come in as vectors."""


def skeleton(backbone: Backbone, attention: str = "eager") -> nn.Module:
    """transformers' own backbone, on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        return AutoModel.from_config(config_of(backbone), attn_implementation=attention)


def build(backbone: Backbone, tensors: Mapping[str, Tensor], attention: str = "eager") -> nn.Module:
    """transformers' own backbone over float32 tensors of its own names, its embedding tables one row of zeros."""
    return filled(config_of(backbone), tensors, attention)


def filled(config: PretrainedConfig, tensors: Mapping[str, Tensor], attention: str = "eager") -> nn.Module:
    """The backbone of any such configuration, its embedding tables having one row, over tensors as build() takes."""
    with torch.device("meta"):
        model = AutoModel.from_config(config, attn_implementation=attention).eval()
    if hasattr(model, "rotary_emb"):  # its buffers are computed, not loaded
        model.rotary_emb = type(model.rotary_emb)(model.config)
    zeros = {name: torch.zeros(1, config.hidden_size) for name in EMBEDDINGS if name in model.state_dict()}
    model.load_state_dict({**tensors, **zeros}, strict=True, assign=True)
    return model


def backbone_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that a backbone needs, in transformers' own names."""
    state = skeleton(backbone).state_dict()
    return {name: tuple(t.shape) for name, t in state.items() if name not in EMBEDDINGS}


class Reference:
    """A float32 model under the WAND law, as trained: the one that every artifact is held to."""

    def __init__(
        self,
        backbone: Backbone,
        tensors: Mapping[str, Tensor],
        head: Tensor,
        bias: Tensor | None,
        norm: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """tensors: float32, transformers' names; head: [rows, hidden]; bias: [rows] or None.

        norm: weight and bias [hidden] of a second final norm, or None.
        """
        self.backbone = backbone
        self.head, self.bias, self.norm = head, bias, norm
        self.model = build(backbone, tensors)

    @torch.no_grad()
    def __call__(
        self, embeds: Tensor, prefix_len: int, window: int | None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [T, rows] and hidden [T, hidden] of float32 embeds [T, hidden].

        window None is full attention. positions: int64 [T], increasing, where the sequence has a gap; rows whose
        receptive field, layers x window tokens back, holds no gap are those of the whole sequence.
        """
        t = torch.arange(embeds.shape[0]) if positions is None else positions
        seen = sees(t[:, None], t[None, :], prefix_len, int(t[-1]) + 1 if window is None else window)
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
        learned = self.backbone.kind == "gpt2"  # the rows already hold their positions
        output = self.model(
            inputs_embeds=embeds[None],
            attention_mask=mask,
            position_ids=(torch.zeros_like(t) if learned else t)[None],
            use_cache=False,
        )
        hidden = output.last_hidden_state[0]
        if self.norm is not None:
            hidden = F.layer_norm(hidden, hidden.shape[-1:], *self.norm, eps=self.backbone.norm_eps)
        return F.linear(hidden, self.head, self.bias), hidden
