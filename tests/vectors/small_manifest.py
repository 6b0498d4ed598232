"""A manifest as small as one can be, for vectors to change: 8 audio codes, stop id 8, a text of 128 characters."""

from copy import deepcopy
from typing import Any

FULL = {"bits": 32}
DECODER = {
    "mode": "window", "hop": 2, "chunk": {"first": 3, "later": 3}, "look_back": 2, "look_ahead": 2, "outside": -1,
    "inputs": [{"name": "codes", "source": "codes", "dtype": "int32", "shape": [1, "n"]}],
    "graphs": [{"name": "decoder", "inputs": ["codes"], "outputs": ["audio"], "files": {"onnx": ["audio.onnx"]}}],
    "samples": "audio",
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "schema_version": 2, "wand_export": "0", "family": "small", "title": "Small",
    "source": {"checkpoint": "small", "sha256": None, "random_weights": True, "tuned_for_window": False},
    "licence": {"weights": "none", "obligations": "none"},
    "model": {
        "kind": "llama", "layers": 1, "hidden": 4, "heads": 1, "kv_heads": 1, "head_dim": 4, "mlp": 4,
        "parameters": 1, "max_position": None,
    },
    "kv_cache": {
        "prefix_capacity": 12, "window": 20, "capacity": 32, "dtype": "float32", "bytes": 1024, "formula": "none",
    },
    "tables": {
        "text": {"rows": 128, "dtype": "float32", "positions": None},
        "speech": {"rows": 10, "dtype": "float32", "positions": None},
    },
    "speech_table": "speech",
    "head": {"ranges": [[0, 8]]},
    "prefix": [{"table": "text", "input": "text"}, {"table": "speech", "ids": [9]}],
    "stop": {"ids": [8], "max_tokens": 50},
    "sampler": {"temperature": 0},
    "text": {"kind": "tokenizer", "files": ["tokenizer.json"], "sample": "Hello."},
    "audio": {
        "token_rate": 10.0, "sample_rate": 20, "codes": 8, "first_id": 0, "silent": [[20, 21]], "silent_rate": 0.0,
        "decoders": {"small": DECODER},
    },
    "artifacts": {
        "plain": {
            "runtime": "onnx", "delegate": "cpu", "files": ["decoder.onnx"], "audio_decoder": "small", "twin": None,
            "precision": {"attention": FULL, "mlp": FULL, "head": FULL, "embeddings": "fp32"},
            "bytes": 0, "step_bytes": 0, "prefill_chunk": 5, "emitted_by": {}, "oldest_runtime": None,
            "thresholds": {"min_psnr_db": 0.0}, "parity": None,
        }
    },
    "not_run": [],
    "files": {"audio.onnx": 1, "decoder.onnx": 1, "embeddings.safetensors": 1, "selftest.json": 1},
}  # fmt: skip


def manifest_with(changes: dict[str, Any]) -> dict[str, Any]:
    """The document with other values at paths of keys and indices, apart by dots."""
    document = deepcopy(MANIFEST)
    for path, value in changes.items():
        *outer, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        place: Any = document
        for key in outer:
            place = place[key]
        place[last] = deepcopy(value)
    return document
