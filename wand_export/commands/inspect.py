"""wand inspect: what a checkpoint or a bundle is, and what its KV cache costs."""

from pathlib import Path
from typing import Any

from wand_export.host.bundle import MANIFEST, load_bundle
from wand_export.layout import KV_FORMULA, Layout, kv_bytes
from wand_export.spec.manifest import Manifest
from wand_export.spec.recipe import Backbone, Recipe

GENERATED = (250, 500, 1000, 2000, 5000, 10000)
"""Generated tokens at which the cache of full attention is shown."""
ITEMSIZE, DTYPE = 4, "float32"


def inspect(path: Path | str | None, recipe: str | None = None) -> dict[str, Any]:
    """The document of `wand inspect --json` for a bundle, a checkpoint (whose weights are not read), or a recipe.

    Raises BundleError, CheckpointError or InputError.
    """
    if path is not None and (Path(path) / MANIFEST).exists():
        return _of_bundle(load_bundle(path).manifest)
    from wand_export.graph.checkpoint import open_checkpoint, random_checkpoint
    from wand_export.graph.hub import located

    source = random_checkpoint(recipe or "") if path is None else open_checkpoint(located(path, recipe), recipe)
    window = source.window or source.recipe.window
    layout = Layout.fitting(source.recipe.prefix_capacity, window)
    document = _document(source.recipe, source.backbone, layout, source.parameters)
    kind = "recipe" if path is None else "checkpoint"
    return {**document, "kind": kind, "tuned_window": source.window, "warnings": source.notes}


def _of_bundle(manifest: Manifest) -> dict[str, Any]:
    kv, model = manifest.kv_cache, manifest.model
    layout = Layout(kv.prefix_capacity, kv.window)
    return {
        "schema": 1,
        "kind": "bundle",
        "family": manifest.family,
        "title": manifest.title,
        **_sizes(model.model_dump()),
        "vocab": manifest.tables[manifest.speech_table].rows,
        "head_rows": sum(last - first + 1 for first, last in manifest.head.ranges),
        "parameters": model.parameters,
        "window": kv.window,
        "prefix_capacity": kv.prefix_capacity,
        "kv_bytes": _kv(layout, model.layers, model.kv_heads, model.head_dim),
        "targets": {
            name: {"bytes": a.bytes, "precision": {k: str(v) for k, v in a.precision}, "files": a.files}
            for name, a in manifest.artifacts.items()
        },
        "source": manifest.source.model_dump(),
        "voices": manifest.voices,
        "refused": manifest.refused,
        "licence": manifest.licence.model_dump(),
    }


def _document(recipe: Recipe, backbone: Backbone, layout: Layout, parameters: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "family": recipe.family,
        "title": recipe.title,
        **_sizes(backbone.model_dump()),
        "vocab": recipe.tables[recipe.speech_table].rows,
        "head_rows": len(recipe.head.ids()),
        "parameters": parameters,
        "window": layout.window,
        "prefix_capacity": layout.prefix_capacity,
        "kv_bytes": _kv(layout, backbone.layers, backbone.kv_heads, backbone.head_dim),
        "published_kv": _published(recipe, backbone),
        "refused": recipe.refused,
        "licence": recipe.licence.model_dump(),
    }


def _published(recipe: Recipe, backbone: Backbone) -> dict[str, Any] | None:
    """The bytes at the lengths of the method's own figures, by the same formula, beside those figures in MB."""
    figure = recipe.published_kv
    if figure is None:
        return None

    def of(tokens: int) -> int:
        itemsize = {"float32": 4, "float16": 2}[figure.dtype]
        return kv_bytes(tokens, backbone.layers, backbone.kv_heads, backbone.head_dim, itemsize)

    full, wand = of(figure.prefix_len + figure.generated), of(figure.prefix_len + recipe.window)
    printed = figure.wand_megabytes / figure.full_megabytes - 1
    return {
        "source": "arXiv 2604.08558",
        "formula": KV_FORMULA,
        "dtype": figure.dtype,
        "prefix_len": figure.prefix_len,
        "generated": figure.generated,
        "window": recipe.window,
        "full_bytes": full,
        "wand_bytes": wand,
        "change_percent": 100 * (wand / full - 1),
        "printed_megabytes": [figure.full_megabytes, figure.wand_megabytes],
        "printed_percent": 100 * printed,
        "note": figure.note,
    }


def _sizes(model: dict[str, Any]) -> dict[str, Any]:
    sizes = {key: model[key] for key in ("layers", "heads", "kv_heads", "head_dim", "hidden", "mlp")}
    return {"backbone": model["kind"], **sizes}


def _kv(layout: Layout, layers: int, kv_heads: int, head_dim: int) -> dict[str, Any]:
    """Bytes of the fixed buffer, and of full attention's cache after some generated tokens, for a full prefix."""
    prefix = layout.prefix_capacity
    return {
        "formula": KV_FORMULA,
        "dtype": DTYPE,
        "prefix_len": prefix,
        "wand": kv_bytes(layout.capacity, layers, kv_heads, head_dim, ITEMSIZE),
        "full": {str(n): kv_bytes(prefix + n, layers, kv_heads, head_dim, ITEMSIZE) for n in GENERATED},
    }
