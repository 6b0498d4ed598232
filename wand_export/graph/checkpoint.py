"""Reading a checkpoint by its recipe: strict in both directions, tensor by tensor."""

import fnmatch
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, FiniteFloat, ValidationError
from torch import Tensor
from transformers import PretrainedConfig

from wand_export.errors import CheckpointError, InputError
from wand_export.graph.config import backbone_of, generation_notes, read_config
from wand_export.graph.decoder import Decoder, Rotary
from wand_export.graph.foreign import ADAPTER, check_names, inner_folder
from wand_export.graph.reference import Reference, backbone_shapes
from wand_export.graph.weights import LazyTensor, digest, read_weights, weight_files
from wand_export.spec.recipe import Backbone, Recipe, load_recipe
from wand_export.spec.schema import Schema, explain, read_json

WAND_FILE = "wand.json"


class WandFile(Schema):
    """wand.json: what fine-tuning left beside the family's own files."""

    schema_version: Literal[1]
    family: str
    window: int = Field(strict=True, ge=1, le=65536, description="an utterance has some thousand tokens at the most")
    teacher: str
    trained_steps: int
    final_loss: FiniteFloat


# Decoder name -> transformers' name(s); several are stacked along the rows.
_GATED = {
    "layers.{i}.attention_norm.weight": ["layers.{i}.input_layernorm.weight"],
    "layers.{i}.attention.qkv.weight": [f"layers.{{i}}.self_attn.{p}_proj.weight" for p in "qkv"],
    "layers.{i}.attention.out.weight": ["layers.{i}.self_attn.o_proj.weight"],
    "layers.{i}.mlp_norm.weight": ["layers.{i}.post_attention_layernorm.weight"],
    "layers.{i}.mlp.gate.weight": ["layers.{i}.mlp.gate_proj.weight"],
    "layers.{i}.mlp.up.weight": ["layers.{i}.mlp.up_proj.weight"],
    "layers.{i}.mlp.down.weight": ["layers.{i}.mlp.down_proj.weight"],
    "norm.weight": ["norm.weight"],
}
_GPT2 = {
    "layers.{i}.attention_norm.": ["h.{i}.ln_1."],
    "layers.{i}.attention.qkv.": ["h.{i}.attn.c_attn."],
    "layers.{i}.attention.out.": ["h.{i}.attn.c_proj."],
    "layers.{i}.mlp_norm.": ["h.{i}.ln_2."],
    "layers.{i}.mlp.up.": ["h.{i}.mlp.c_fc."],
    "layers.{i}.mlp.down.": ["h.{i}.mlp.c_proj."],
    "norm.": ["ln_f."],
}
DECODER_TENSORS: dict[str, dict[str, list[str]]] = {
    "llama": _GATED,
    "qwen2": {
        **_GATED,
        "layers.{i}.attention.qkv.bias": [f"layers.{{i}}.self_attn.{p}_proj.bias" for p in "qkv"],
    },
    "qwen3": {
        **_GATED,
        "layers.{i}.attention.q_norm.weight": ["layers.{i}.self_attn.q_norm.weight"],
        "layers.{i}.attention.k_norm.weight": ["layers.{i}.self_attn.k_norm.weight"],
    },
    "gpt2": {to + part: [name + part for name in names] for to, names in _GPT2.items() for part in ("weight", "bias")},
}
_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""transformers' GPT-2 keeps these as [in, out]."""


class Checkpoint:
    """The tensors of one model, named and shaped as its recipe says.

    Attributes: recipe, folder (of the recipe), path (None for random weights), backbone (true sizes), window
    (None where the checkpoint was never tuned for one), sha256 of the weight files (None for random weights), config
    (transformers' own, None where the recipe names none), files (of the weights), notes (what the user should know).
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        path: Path | None,
        backbone: Backbone,
        tensors: dict[str, LazyTensor],
        window: int | None,
        sha256: str | None,
        config: PretrainedConfig | None = None,
        files: Sequence[Path] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.recipe, self.folder, self.path, self.backbone = recipe, folder, path, backbone
        self.window, self.sha256 = window, sha256
        self.config, self.files, self.notes = config, list(files), list(notes)
        self._tensors = tensors

    @property
    def parameters(self) -> int:
        """Number of weights in the backbone, the embedding tables and the whole head."""
        shapes = expected_shapes(self.recipe, self.backbone)
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    def tensor(self, name: str) -> Tensor:
        """One tensor as float32. Raises CheckpointError if it holds NaN or infinity."""
        tensor = self._tensors[name].read().detach().to(torch.float32)
        if not (finite := torch.isfinite(tensor)).all():
            row = f" in row {int((~finite).nonzero()[0][0])}" if tensor.dim() else ""
            raise CheckpointError(self.path or name, f"tensor {name} holds NaN or infinity{row}", "use an intact one")
        return tensor

    def table(self, name: str) -> Tensor:
        """Embedding table [rows, hidden], float32."""
        return self.tensor(self.recipe.tables[name].tensor)

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [wanted rows, hidden] and bias [wanted rows] of the head, float32."""
        head = self.recipe.head
        ids = torch.tensor(head.ids())
        bias = self.tensor(head.bias)[ids] if head.bias else None
        return self.tensor(head.weight)[ids], bias

    def head_norm(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias [hidden] of the second final norm, float32; None where there is one norm only."""
        name = self.recipe.head.norm
        return (self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")) if name else None

    def reference(self) -> Reference:
        """transformers' own model over these tensors."""
        prefix = self.recipe.checkpoint.backbone
        tensors = {name: self.tensor(prefix + name) for name in backbone_shapes(self.backbone)}
        return Reference(self.backbone, tensors, *self.head(), self.head_norm())

    def decoder(self) -> Decoder:
        """The static decoder over these tensors, float32."""
        weight, bias = self.head()
        norm = self.head_norm()
        with torch.device("meta"):
            decoder = Decoder(self.backbone, weight.shape[0], bias is not None, norm is not None)
        if decoder.rotary is not None:  # its buffer is computed, not loaded
            decoder.rotary = Rotary(self.backbone)
        state = {name: self._stacked(names) for name, names in self._decoder_names()}
        state |= {"head.weight": weight} | ({} if bias is None else {"head.bias": bias})
        state |= {} if norm is None else {"head_norm.weight": norm[0], "head_norm.bias": norm[1]}
        decoder.load_state_dict(state, strict=True, assign=True)
        return decoder.eval().requires_grad_(False)

    def _decoder_names(self) -> Iterator[tuple[str, list[str]]]:
        for name, sources in DECODER_TENSORS[self.backbone.kind].items():
            for i in range(self.backbone.layers if "{i}" in name else 1):
                yield name.format(i=i), [source.format(i=i) for source in sources]

    def _stacked(self, names: list[str]) -> Tensor:
        parts = [self.tensor(self.recipe.checkpoint.backbone + name) for name in names]
        if self.backbone.kind == "gpt2" and names[0].endswith(_CONV1D):
            parts = [part.T.contiguous() for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def find(self, file: str) -> Path:
        """A file that the recipe names: beside the checkpoint, or beside the recipe. Raises InputError."""
        for folder in filter(None, (self.path, self.folder)):
            if (folder / file).exists():
                return folder / file
        raise InputError(
            self.path or self.folder,
            f"{file} is missing",
            f"recipe {self.recipe.family} needs it: copy it from the published model",
        )


def open_checkpoint(path: Path, recipe_name: str | None = None) -> Checkpoint:
    """Open a checkpoint folder and check every name and shape in it; no weight is read yet.

    The family comes from wand.json where recipe_name is None. Raises CheckpointError or InputError naming the
    file, the tensor and the fix.
    """
    if not path.is_dir():
        raise InputError(path, "no such checkpoint folder", "give the folder that holds the weights")
    wand = _read_wand_file(path)
    if recipe_name is None and wand is None:
        inner = inner_folder(path, [WAND_FILE])
        fix = f"give {path / inner}" if inner else "say which with --recipe"
        raise InputError(path, "no wand.json names the family", fix)
    recipe, folder = load_recipe(recipe_name or (wand.family if wand else ""))
    files = weight_files(path, recipe)
    configured = read_config(path, recipe)
    tensors, notes = read_weights(files, recipe)
    backbone = backbone_of(*configured, recipe) if configured else recipe.backbone
    if recipe.checkpoint.sizes_from_tensors:
        backbone = _sized(path, recipe, backbone, tensors)
    config = configured[2] if configured else None
    recipe = _fitted(recipe, config, tensors)
    _check_tensors(path, recipe, backbone, tensors)
    if configured and configured[0].parent == files[0].parent:  # else it was made for other weights
        notes += generation_notes(configured[0].parent, recipe)
    if (files[0].parent / ADAPTER).is_file():
        notes.append(f"{ADAPTER} lies beside the weights: they were read as they are, without the adapter.")
    if len(choices := _choices(path, recipe)) > 1:
        notes.append(f"{choices[0]} was read, though {choices[1]} lies beside it.")
    window = wand.window if wand else None
    return Checkpoint(recipe, folder, path, backbone, tensors, window, digest(files), config, files, notes)


def random_checkpoint(recipe_name: str, layers: int | None = None, seed: int = 0) -> Checkpoint:
    """A checkpoint of true size with seeded random weights, spread so that attention is not flat."""
    recipe, folder = load_recipe(recipe_name)
    backbone = recipe.backbone.model_copy(update={"layers": layers} if layers else {})
    recipe = _fitted(recipe, None, {})

    def lazy(name: str, shape: tuple[int, ...]) -> LazyTensor:
        def read() -> Tensor:
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            noise = torch.randn(shape, generator=generator)
            if len(shape) > 1:
                return noise * (1.5 / min(shape) ** 0.5)
            return 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise

        return LazyTensor(shape, read)

    tensors = {name: lazy(name, shape) for name, shape in expected_shapes(recipe, backbone).items()}
    return Checkpoint(recipe, folder, None, backbone, tensors, None, None)


def expected_shapes(recipe: Recipe, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the recipe reads, in the checkpoint's own names."""
    prefix = recipe.checkpoint.backbone
    shapes = {prefix + name: shape for name, shape in backbone_shapes(backbone).items()}
    shapes |= {table.tensor: (table.rows, backbone.hidden) for table in recipe.tables.values()}
    shapes[recipe.head.weight] = (recipe.head.rows, backbone.hidden)
    if recipe.head.bias:
        shapes[recipe.head.bias] = (recipe.head.rows,)
    if recipe.head.norm:
        shapes |= {f"{recipe.head.norm}.{part}": (backbone.hidden,) for part in ("weight", "bias")}
    return shapes


def _read_wand_file(path: Path) -> WandFile | None:
    file = path / WAND_FILE
    if not file.is_file():
        return None
    try:
        data = read_json(file)
        if isinstance(data, dict) and "schema" in data:
            data["schema_version"] = data.pop("schema")
        return WandFile.model_validate(data)
    except ValidationError as error:
        raise CheckpointError(file, explain(error), "write it again with wand distill") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(file, f"unreadable: {error}", "write it again with wand distill") from error


def _sized(path: Path, recipe: Recipe, backbone: Backbone, tensors: Mapping[str, LazyTensor]) -> Backbone:
    try:
        return Backbone.model_validate(backbone.model_dump() | _gpt2_sizes(recipe, tensors))
    except ValidationError as error:
        raise CheckpointError(path, explain(error), "is it a GPT-2 of this family?") from error


def _gpt2_sizes(recipe: Recipe, tensors: Mapping[str, LazyTensor]) -> dict[str, int]:
    """Sizes of a GPT-2 as its one-dimensional tensors tell them, as far as they are there."""
    prefix = recipe.checkpoint.backbone
    layers = {int(m[1]) for name in tensors if (m := re.match(rf"{re.escape(prefix)}h\.(\d+)\.", name))}
    sizes = {"layers": max(layers) + 1} if layers else {}
    norm, up = tensors.get(f"{prefix}ln_f.bias"), tensors.get(f"{prefix}h.0.mlp.c_fc.bias")
    if norm is not None:
        hidden = norm.shape[0]
        sizes |= {"hidden": hidden, "heads": hidden // recipe.backbone.head_dim}
        sizes["kv_heads"] = sizes["heads"]
    return sizes | ({"mlp": up.shape[0]} if up is not None else {})


def _fitted(recipe: Recipe, config: PretrainedConfig | None, tensors: Mapping[str, LazyTensor]) -> Recipe:
    """The recipe with the head that this checkpoint has, and the row counts that it leaves to the checkpoint.

    As transformers does, a head of its own is kept even where the configuration ties it, and of two tied tensors either
    may be there.
    """
    head, tables = recipe.head, recipe.tables
    if head.tied and (config is None or config.tie_word_embeddings):
        if head.weight not in tensors:
            head = head.model_copy(update={"weight": head.tied})
        elif head.tied not in tensors:
            update = {"tensor": head.weight}
            tables = {n: t.model_copy(update=update) if t.tensor == head.tied else t for n, t in tables.items()}

    def rows(tensor: str, least: int, more: bool) -> dict[str, int]:
        found = tensors[tensor].shape[0] if tensor in tensors and tensors[tensor].shape else least
        return {"rows": max(least, found) if more else least}

    tables = {
        name: table.model_copy(update=rows(table.tensor, table.rows, table.more_rows)) for name, table in tables.items()
    }
    head = head.model_copy(update=rows(head.weight, head.rows, head.more_rows))
    return recipe.model_copy(update={"tables": tables, "head": head})


def _choices(path: Path, recipe: Recipe) -> list[str]:
    """The recipe's patterns that are met: the first of them is read."""
    return [pattern for pattern in recipe.checkpoint.weights if any(path.glob(pattern))]


def _check_tensors(path: Path, recipe: Recipe, backbone: Backbone, tensors: dict[str, LazyTensor]) -> None:
    for other in recipe.checkpoint.others:
        if all(name in tensors for name in other.has) and not any(name in tensors for name in other.lacks):
            raise CheckpointError(path, f"this is {other.name}, not {recipe.title}: {other.why}", "there is no recipe")
    expected = expected_shapes(recipe, backbone)
    missing = [name for name in expected if name not in tensors]
    unknown = [
        name
        for name in tensors
        if name not in expected
        and not _is_derived(path, name, tensors[name], recipe, backbone)
        and not any(fnmatch.fnmatchcase(name, glob) for glob in recipe.checkpoint.ignore)
    ]
    check_names(path, unknown, {name: tensors[name].dtype for name in expected if name in tensors})
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            fix = f"is it of family {recipe.family}? else use another --recipe"
            if len(files := _choices(path, recipe)) > 1:
                fix = f"{files[0]} was read, and {files[1]} lies beside it: remove the one that is stale"
            raise CheckpointError(path, f"{problem} tensor {names[0]}{more}", fix)
    rows = {table.tensor: f"[tables.{name}]" for name, table in recipe.tables.items()} | {recipe.head.weight: "[head]"}
    for name, shape in expected.items():
        if (found := tensors[name].shape) != shape:
            padded = name in rows and len(found) == 2 and found[0] > shape[0] and found[1] == shape[1]
            fix = f"in a recipe of your own, {rows[name]} takes them: more_rows = true" if padded else "check its sizes"
            raise CheckpointError(path, f"tensor {name} has shape {list(found)}, not {list(shape)}", fix)


def _is_derived(path: Path, name: str, tensor: LazyTensor, recipe: Recipe, backbone: Backbone) -> bool:
    """Whether a tensor is a buffer that is computed anew: rotary frequencies, or the causal mask of a GPT-2.

    Raises CheckpointError where it holds something else than what is computed.
    """
    short = name.removeprefix(recipe.checkpoint.backbone)
    if short == name and recipe.checkpoint.backbone:
        return False
    if backbone.kind != "gpt2" and short.endswith("rotary_emb.inv_freq"):
        found, ours = tensor.read(), Rotary.frequencies(backbone)
        rounding = 2 * torch.finfo(found.dtype).eps
        same = found.shape == ours.shape and torch.allclose(found.float(), ours, rtol=rounding, atol=1e-7)
    elif backbone.kind == "gpt2" and re.fullmatch(r"h\.\d+\.attn\.bias", short):
        mask = tensor.read().bool()
        same = torch.equal(mask.tril(), torch.ones_like(mask).tril())  # what lies ahead is never seen anyway
    elif backbone.kind == "gpt2" and re.fullmatch(r"h\.\d+\.attn\.masked_bias", short):
        same = bool((tensor.read() <= -1e4).all())
    else:
        return False
    if not same:
        raise CheckpointError(path, f"buffer {name} is not what this backbone computes", "give the model's own")
    return True
