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


def inspect(path: Path, recipe: str | None = None) -> dict[str, Any]:
    """The document of `wand inspect --json` for a bundle, or for a checkpoint (whose weights are not read).

    Raises BundleError, CheckpointError or InputError.
    """
    if (path / MANIFEST).exists():
        return _of_bundle(load_bundle(path).manifest)
    from wand_export.graph.checkpoint import open_checkpoint

    source = open_checkpoint(path, recipe)
    window = source.window or source.recipe.window
    layout = Layout.fitting(source.recipe.prefix_capacity, window)
    document = _document(source.recipe, source.backbone, layout, source.parameters)
    return {**document, "kind": "checkpoint", "tuned_window": source.window}


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
        "licence": recipe.licence.model_dump(),
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
