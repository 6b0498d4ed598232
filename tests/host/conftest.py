"""A voice in plain Python: a bundle, a session and an audio decoder that need no runtime and no files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wand_export.host.bundle import Bundle
from wand_export.host.session import AudioSession, Session, StepOutput
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import Manifest

HIDDEN, CODES, STOP = 4, 8, 8
HOP = 2


DECODER = AudioDecoder.model_validate(
    {
        "mode": "window", "hop": HOP, "chunk": {"first": 3, "later": 3}, "look_back": 2, "look_ahead": 2, "outside": -1,
        "inputs": [{"name": "codes", "source": "codes", "dtype": "int32", "shape": [1, "n"]}],
        "graphs": [{"name": "fake", "inputs": ["codes"], "outputs": ["audio"], "files": {"onnx": ["audio.onnx"]}}],
        "samples": "audio",
    }
)  # fmt: skip


def manifest_with(**changes: Any) -> Manifest:
    """A manifest of a voice with 8 audio codes, stop id 8, and a text token for each character of a tokenizer."""
    half = {"bits": 32}
    document = {
        "schema_version": 2,
        "wand_export": "0",
        "family": "fake",
        "title": "Fake",
        "source": {"checkpoint": "fake", "sha256": None, "random_weights": True, "tuned_for_window": False},
        "licence": {"weights": "none", "obligations": "none"},
        "model": {
            "kind": "llama", "layers": 1, "hidden": HIDDEN, "heads": 1, "kv_heads": 1, "head_dim": 4, "mlp": 4,
            "parameters": 1, "max_position": None,
        },
        "kv_cache": {
            "prefix_capacity": 12, "window": 4, "capacity": 16, "dtype": "float32", "bytes": 1, "formula": "none",
        },
        "tables": {
            "text": {"rows": 128, "dtype": "float32", "positions": None},
            "speech": {"rows": 10, "dtype": "float32", "positions": None},
        },
        "speech_table": "speech",
        "head": {"ranges": [(0, 8)]},
        "prefix": [{"table": "text", "input": "text"}, {"table": "speech", "ids": [9]}],
        "stop": {"ids": [STOP], "max_tokens": 50},
        "sampler": {"temperature": 0},
        "text": {"kind": "tokenizer", "files": ["tokenizer.json"], "sample": "Hello."},
        "audio": {
            "token_rate": 10.0,
            "sample_rate": 20,
            "codes": CODES,
            "first_id": 0,
            "silent": [],
            "silent_rate": 0.0,
            "decoders": {"fake": DECODER.model_dump(mode="json")},
        },
        "artifacts": {
            "plain": {
                "runtime": "onnx", "delegate": "cpu", "files": [], "audio_decoder": "fake", "twin": None,
                "precision": {"attention": half, "mlp": half, "head": half, "embeddings": "fp32"},
                "bytes": 0, "step_bytes": 0, "prefill_chunk": 5, "emitted_by": {}, "oldest_runtime": None,
                "thresholds": {"min_psnr_db": 0.0}, "parity": None,
            }
        },
        "not_run": [],
        "files": {},
    }  # fmt: skip
    return Manifest.model_validate(document | changes)


class FakeBundle(Bundle):
    """Row i of table number k is [i, k, 0, 0]; learned position j adds [0, 0, j, 0]."""

    def __init__(self, manifest: Manifest, path: Path = Path("fake")) -> None:
        self.path, self.manifest = path, manifest
        self.head_ids = np.concatenate([np.arange(low, high + 1) for low, high in manifest.head.ranges])
        self._tables = {name: np.zeros((table.rows, HIDDEN), np.float32) for name, table in manifest.tables.items()}
        learned = {table.positions for table in manifest.tables.values()}
        for number, (name, rows) in enumerate(self._tables.items()):
            rows[:, 2 if name in learned else 0] = np.arange(len(rows))
            rows[:, 1] = 0 if name in learned else number
        self.audio_opened = 0

    def open(self, target: str | None = None, threads: int | None = None) -> "FakeSession":
        return FakeSession(self.manifest)

    def open_audio(self, target: str | None = None, threads: int | None = None) -> "FakeAudio":
        self.audio_opened += 1
        return FakeAudio()


class FakeSession(Session):
    """Prefers token (position mod 8), and the stop from `stop_at` generated tokens on. Remembers its rows."""

    def __init__(self, manifest: Manifest, stop_at: int = 20) -> None:
        super().__init__("fake", manifest, manifest.artifacts["plain"])
        self.stop_at = stop_at
        self.rows: list[list[float]] = []

    def _run(self, rows: np.ndarray) -> StepOutput:
        self.rows = self.rows if self.position else []
        self.rows += rows.tolist()
        last = self.position + len(rows) - 1
        logits = np.zeros(9, np.float32)
        logits[last % CODES] = 1
        if last + 1 - self.prefix_len >= self.stop_at:
            logits[STOP] = 2
        return StepOutput(logits, rows[-1])

    def close(self) -> None:
        self.rows = []


class FakeAudio(AudioSession):
    """Every sample of code c is (c + 1) / 16; records the codes of its calls."""

    def __init__(self, decoder: AudioDecoder = DECODER) -> None:
        super().__init__(decoder)
        self.calls: list[list[int]] = []

    def run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        codes = feeds["codes"]
        self.calls.append(codes.flatten().tolist())
        return {"audio": np.repeat((codes + 1) / 16, HOP, axis=1).astype(np.float32)}


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    return manifest_with


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., FakeBundle]:
    """A FakeBundle whose manifest has these keys changed, with a tokenizer of single characters in its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {chr(i): i for i in range(128)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    (tmp_path / "text").mkdir(exist_ok=True)
    tokenizer.save(str(tmp_path / "text" / "tokenizer.json"))
    return lambda **changes: FakeBundle(manifest_with(**changes), tmp_path)


@pytest.fixture
def make_session() -> type[FakeSession]:
    return FakeSession


@pytest.fixture
def audio_session() -> FakeAudio:
    return FakeAudio()
