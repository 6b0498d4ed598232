"""Autoregressive text-to-speech decoders with a fixed-capacity KV buffer, exported for small devices.

The names below are loaded when first asked for, so that importing the package stays light.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wand_export.commands.bench import bench
    from wand_export.commands.export import export
    from wand_export.commands.verify import verify
    from wand_export.errors import BundleError
    from wand_export.host.bundle import load_bundle

# Without this in the environment when its library is loaded, by whomever, ONNX Runtime keeps an id of the device and a
# queue of events in the user's cache, and nothing stops it afterwards.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["BundleError", "__version__", "bench", "export", "load_bundle", "verify"]

_HOMES = {
    "BundleError": "wand_export.errors",
    "bench": "wand_export.commands.bench",
    "export": "wand_export.commands.export",
    "load_bundle": "wand_export.host.bundle",
    "verify": "wand_export.commands.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
