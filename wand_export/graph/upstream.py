"""Rung 0 of the parity ladder: the reference held to transformers' own class, over the checkpoint's configuration."""

import codecs
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.utils import logging

from wand_export.errors import CheckpointError
from wand_export.graph.checkpoint import Checkpoint
from wand_export.graph.foreign import ADAPTER
from wand_export.graph.reference import backbone_shapes, filled
from wand_export.host.selftest import psnr_db

MIN_PSNR_DB = 100.0
_ROWS, _APART = 32, 61
"""Rows that are compared, and how far apart their positions lie: a stretched rotary shows at late ones."""
_CLASSES: dict[str, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}
_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def compare_with_transformers(source: Checkpoint) -> None:
    """Compare the reference, window off, with transformers' own class; nothing where no configuration was read.

    The class loads the folder itself where its own files and names are those that the recipe reads; else it is made
    from the configuration and filled with the recipe's tensors. Both are float32, and one is held at a time. Raises
    CheckpointError below MIN_PSNR_DB.
    """
    if source.config is None or source.path is None:
        return
    place = source.path / str(source.recipe.checkpoint.config)
    table = source.table(source.recipe.speech_table)
    ids = torch.randint(len(table), (_ROWS,), generator=torch.Generator().manual_seed(0))
    rows = table[ids]
    del table
    positions = torch.arange(_ROWS) * _APART
    with _quiet(), torch.no_grad():
        wanted = _loaded(source, ids, positions)
        if wanted is None:
            wanted = _filled(source, rows, positions)
    found = source.reference()(rows, 1, None, positions)[0]
    psnr = psnr_db(found.double().numpy(), wanted.double().numpy())
    if psnr is not None and not psnr >= MIN_PSNR_DB:  # of NaN, neither holds
        told = f"transformers' own class computes something else: {psnr:.1f} dB, below {MIN_PSNR_DB:g}"
        raise CheckpointError(
            place, told, "do weights and configuration belong together? else report it with this file"
        )


def _loaded(source: Checkpoint, ids: Tensor, positions: Tensor) -> Tensor | None:
    """Logits [T, rows of the head] of the folder as transformers loads it; None where it would not be the same weights.

    No code is run from the folder.
    """
    recipe = source.recipe
    assert source.config is not None and source.path is not None
    folder = (source.path / str(recipe.checkpoint.config)).parent
    own = folder / _FILE if (folder / _FILE).exists() else folder / _INDEX
    files = [folder / _FILE] if own.name == _FILE else sorted(folder.glob("model-*-of-*.safetensors"))
    names = {recipe.tables[recipe.speech_table].tensor, recipe.head.weight}
    plain = names <= {_EMBEDDING, _HEAD} and recipe.head.bias is None and recipe.head.norm is None
    if not (plain and source.backbone.kind in _CLASSES and own.exists() and files == source.files):
        return None
    if recipe.checkpoint.backbone != "model." or (folder / ADAPTER).exists() or _is_marked(folder):
        return None
    config = copy.deepcopy(source.config)
    config.vocab_size, config.pad_token_id = recipe.tables[recipe.speech_table].rows, None
    try:
        model, info = _CLASSES[source.backbone.kind].from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager", use_safetensors=True,
            local_files_only=True, trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # it raises errors of every kind
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(folder, f"transformers cannot load it: {reason}", "give what it can load") from error
    if info["missing_keys"]:  # names inside a wrapper, of which transformers knows nothing
        return None
    mask = torch.ones_like(ids)[None]
    output = model.eval()(input_ids=ids[None], attention_mask=mask, position_ids=positions[None], use_cache=False)
    logits: Tensor = output.logits[0][:, recipe.head.ids()]
    return logits


def _is_marked(folder: Path) -> bool:
    """Whether a configuration begins with a byte-order mark, which transformers does not read."""
    files = (folder / "config.json", folder / "generation_config.json")
    return any(file.exists() and file.read_bytes().startswith(codecs.BOM_UTF8) for file in files)


def _filled(source: Checkpoint, rows: Tensor, positions: Tensor) -> Tensor:
    """Logits [T, rows of the head] of a backbone made from the configuration, over the recipe's own tensors."""
    assert source.config is not None and source.path is not None
    config = copy.deepcopy(source.config)
    config.vocab_size, config.pad_token_id = 1, None
    if source.backbone.kind == "gpt2":  # the rows already hold their positions
        config.n_positions, positions = 1, positions * 0
    prefix = source.recipe.checkpoint.backbone
    tensors = {name: source.tensor(prefix + name) for name in backbone_shapes(source.backbone)}
    try:
        model = filled(config, tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        file = source.path / str(source.recipe.checkpoint.config)
        raise CheckpointError(file, f"the weights do not fit it: {reason}", "give the model's own") from error
    mask = torch.ones(1, len(rows), dtype=torch.int64)
    output = model(inputs_embeds=rows[None], attention_mask=mask, position_ids=positions[None], use_cache=False)
    hidden = output.last_hidden_state[0]
    if (norm := source.head_norm()) is not None:
        hidden = F.layer_norm(hidden, hidden.shape[-1:], *norm, eps=source.backbone.norm_eps)
    return F.linear(hidden, *source.head())


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers says nothing meanwhile: its reports and bars would stand between ours."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
