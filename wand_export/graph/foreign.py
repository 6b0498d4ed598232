"""What is no plain checkpoint: told by what it is, with the step that makes one of it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from wand_export.errors import CheckpointError
from wand_export.spec.recipe import Recipe
from wand_export.spec.schema import read_json

ADAPTER = "adapter_config.json"
_MERGE = "merge it: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)"
_WHOLE = "give the checkpoint from before, in float16, bfloat16 or float32"

_HEADS = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the weights", "git lfs pull, or download the file itself"),
    (rb"\s*<(!doctype|html|\?xml)", "is a web page, not the weights", "download it again, signed in where need be"),
    (rb"GGUF", "is a GGUF file, quantized for another runtime", _WHOLE),
    (rb"\Z", "is empty", "copy it again"),
)
"""How files begin that are often in the place of weights."""

_NAMES = (
    (r"\.(lora_[A-Za-z]\w*|base_layer|modules_to_save)\b", "belongs to a LoRA adapter that is not merged", _MERGE),
    (
        r"\.(absmax|quant_map|nested_\w+|SCB|qweight|qzeros|scales|g_idx|weight_scale\w*|weight_packed|weight_shape"
        r"|weight_zero_point|scale_inv|(input|k|v)_scale)$|\.quant_state\b",
        "belongs to quantized weights",
        _WHOLE,
    ),
)
"""Parts of the names of tensors that no float checkpoint has."""

_FLOATS = ("float64", "float32", "float16", "bfloat16")


def check_file(file: Path) -> None:
    """Raises CheckpointError for a file of weights that begins like something else."""
    with file.open("rb") as stream:
        head = stream.read(64)
    for pattern, what, fix in _HEADS:
        if re.match(pattern, head, re.IGNORECASE):
            raise CheckpointError(file, what, fix)


def check_names(path: Path, unknown: Iterable[str], dtypes: Mapping[str, str]) -> None:
    """Raises CheckpointError for adapters and quantized weights.

    unknown: names of tensors that the recipe does not know; dtypes: of those that it reads, by name.
    """
    for name in unknown:
        for pattern, what, fix in _NAMES:
            if re.search(pattern, name):
                raise CheckpointError(path, f"tensor {name} {what}", fix)
    for name, dtype in dtypes.items():
        if dtype not in _FLOATS:
            raise CheckpointError(path, f"tensor {name} is {dtype}: quantized weights", _WHOLE)


def no_weights(path: Path, recipe: Recipe) -> CheckpointError:
    """What to say of a folder without the weights that the recipe names."""
    wanted, fix = recipe.checkpoint.weights, f"recipe {recipe.family} reads its weights there"
    missing = f"no {' or '.join(wanted)} in it"
    for file in (path / pattern for pattern in wanted):
        if file.is_symlink():
            return CheckpointError(file, f"is a link to {file.readlink()}, which is not there", "fetch it again")
    if (path / ADAPTER).is_file():
        return CheckpointError(path, f"holds a LoRA adapter alone, for {_base_of(path / ADAPTER)}", _MERGE)
    for pattern in wanted:
        below = Path(pattern).parent
        if below != Path() and any(path.glob(Path(pattern).name)):
            where = "give the folder above it" if path.name == below.name else f"move the model's files into {below}/"
            return CheckpointError(path, f"{missing}, but {Path(pattern).name} at its top", f"{fix}; {where}")
    if inner := inner_folder(path, wanted):
        return CheckpointError(path, missing, f"{fix}; give {path / inner}")
    found = sorted(f.name for f in path.iterdir() if f.suffix in (".safetensors", ".gguf", ".bin", ".pt", ".pth"))
    if not found:
        return CheckpointError(path, missing, fix)
    told = f"{missing}, but {found[0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
    if any(name.endswith(".gguf") for name in found):
        return CheckpointError(path, told, f"{fix}; {_WHOLE}")
    if any(name.startswith("pytorch_model") for name in found):
        save = "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder) writes safetensors"
        return CheckpointError(path, told, f"{fix}; {save}")
    return CheckpointError(path, told, f"{fix}; rename the file if it is that one")


def inner_folder(path: Path, names: Iterable[str]) -> str | None:
    """The folder in `path`, the latest written where there are several, that holds one of these names."""
    holding = {file.parent for name in names for file in path.glob(f"*/{name}")}
    return max(holding, key=lambda folder: folder.stat().st_mtime).name if holding else None


def _base_of(file: Path) -> str:
    try:
        return str(read_json(file)["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another model"
