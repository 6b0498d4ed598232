"""A family's whole model over its checkpoint's own tensors: trained in place, and written back where they lay."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wand_export.distill.data import Batch
from wand_export.graph.checkpoint import Checkpoint
from wand_export.graph.reference import EMBEDDINGS, backbone_shapes, build
from wand_export.graph.weights import rewrite, weight_files


class FamilyModel(nn.Module):
    """Embedding tables, learned positions, transformers' own backbone, norms and the whole head, in float32."""

    def __init__(self, source: Checkpoint) -> None:
        super().__init__()
        recipe = source.recipe
        self.recipe, self.eps = recipe, source.backbone.norm_eps
        prefix = recipe.checkpoint.backbone
        # Copies: float32 weights come as a map of their file, which a teacher and its student would share.
        tensors = {name: source.tensor(prefix + name).clone() for name in backbone_shapes(source.backbone)}
        self.backbone = build(source.backbone, tensors, attention="sdpa")
        self.learned = source.backbone.kind == "gpt2"
        self._places = {f"backbone.{name}": prefix + name for name in tensors}
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name not in EMBEDDINGS)
        self.tables = nn.ParameterDict()
        for name, table in recipe.tables.items():
            self.tables[name] = nn.Parameter(source.table(name).clone())
            self._places[f"tables.{name}"] = table.tensor
        by_tensor = {table.tensor: name for name, table in recipe.tables.items()}
        self.tied = by_tensor.get(recipe.head.weight)
        self.head = nn.ParameterDict()
        for part, place in self._head_places().items():
            self.head[part] = nn.Parameter(source.tensor(place).clone())
            self._places[f"head.{part}"] = place

    def _head_places(self) -> dict[str, str]:
        head = self.recipe.head
        places = {"weight": None if self.tied else head.weight, "bias": head.bias}
        if head.norm:
            places |= {f"norm_{part}": f"{head.norm}.{part}" for part in ("weight", "bias")}
        return {part: place for part, place in places.items() if place is not None}

    def forward(self, batch: Batch, mask: Tensor) -> Tensor:
        """Logits [B, T, rows of the head] of a batch under an additive mask [B, 1, T, T]."""
        rows = torch.zeros(*batch.inputs.shape, self._width, device=mask.device)
        for number, (name, table) in enumerate(self.recipe.tables.items()):
            here = batch.tables == number
            if not here.any():
                continue
            found = F.embedding(batch.inputs[here], self.tables[name])
            if table.positions is not None:
                found = found + F.embedding(batch.positions[here], self.tables[table.positions])
            rows = rows.index_put((here,), found)
        if batch.latents is not None:
            here = batch.tables == len(self.recipe.tables)
            rows = rows.index_put((here,), batch.latents[batch.inputs[here]])
        positions = torch.arange(rows.shape[1], device=mask.device)[None]
        hidden = self.backbone(
            inputs_embeds=rows,
            attention_mask=mask,
            position_ids=positions * 0 if self.learned else positions,
            use_cache=False,
        ).last_hidden_state
        if self.recipe.head.norm:
            norm = self.head["norm_weight"], self.head["norm_bias"]
            hidden = F.layer_norm(hidden, hidden.shape[-1:], *norm, eps=self.eps)
        weight = self.tables[self.tied] if self.tied else self.head["weight"]
        return F.linear(hidden, weight, self.head["bias"] if self.recipe.head.bias else None)

    @property
    def _width(self) -> int:
        return self.tables[self.recipe.speech_table].shape[1]

    def write(self, source: Path, target: Path) -> None:
        """Write the weight files of the checkpoint `source` into the folder `target`, with these weights in them.

        Files, names and dtypes stay; so does every tensor that is not trained.
        """
        mine = {place: self.get_parameter(name).detach().cpu() for name, place in self._places.items()}
        for file in weight_files(source, self.recipe):
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            rewrite(file, place, self.recipe, mine)
