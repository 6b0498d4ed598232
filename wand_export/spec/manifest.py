"""The manifest: all that a bundle says of itself, for hosts that know nothing of its family."""

from typing import Literal

from pydantic import Field

from wand_export.spec.pieces import Pieces
from wand_export.spec.recipe import AudioGraph, Licence, PrefixPart, Sampler, Stop, Text
from wand_export.spec.schema import Schema
from wand_export.spec.target import Precisions, Runtime, Thresholds

SCHEMA_VERSION = 1


class Source(Schema):
    """Where the weights came from. sha256 covers the weight files in name order; null for random weights."""

    checkpoint: str
    sha256: str | None
    random_weights: bool
    tuned_for_window: bool


class Model(Schema):
    """Sizes of the decoder; max_position counts learned positions of generated tokens, null where there are none."""

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    parameters: int
    max_position: int | None


class KVCache(Schema):
    """The fixed KV buffer, and its bytes by the formula."""

    prefix_capacity: int
    window: int
    capacity: int
    dtype: Literal["float32", "float16"]
    bytes: int
    formula: str


class EmbeddingTable(Schema):
    """One table in embeddings.safetensors."""

    rows: int
    dtype: Literal["float32", "float16"]
    positions: str | None


class Head(Schema):
    """What the logits mean: row r of the logits is the r-th id of these [first, last] ranges."""

    ranges: list[tuple[int, int]]


class AudioDecoder(Schema):
    """The tokens-to-audio graph: every call takes context + chunk + context codes and gives the chunk's samples."""

    context: int
    chunk: int
    samples_per_token: int
    noise_samples: int


class Audio(Schema):
    """What generated tokens mean. `decoder` describes one that works in chunks, `graph` one for whole utterances.

    Ids first_id .. first_id + codes - 1 are audio codes, token_rate of them a second; those in the [first, last]
    ranges of `silent` carry no sound, about silent_rate of them a second.
    """

    token_rate: float
    sample_rate: int
    first_id: int
    codes: int
    silent: list[tuple[int, int]]
    silent_rate: float
    decoder: AudioDecoder | None
    graph: AudioGraph | None = None

    @property
    def step_rate(self) -> float:
        """Decode steps per second of audio, about."""
        return self.token_rate + self.silent_rate

    def is_silent(self, token: int) -> bool:
        """Whether a generated id carries no sound."""
        return any(first <= token <= last for first, last in self.silent)


class ComponentParity(Schema):
    """Parity with only this component quantized."""

    psnr_db: float | None
    kl: float
    top1_agreement: float


class Exact(Schema):
    """An interpreted artifact in float32 arithmetic, against the reference with weights rounded as its own are."""

    psnr_db: float | None
    max_abs_dlogit: float
    greedy_equal: bool
    first_divergence: int | None


class AudioParity(Schema):
    """The audio decoder beside an artifact, against the vocoder in PyTorch, over chunks of one utterance."""

    how: Literal["ran", "interpreted", "not_run"]
    samples: int
    psnr_db: float | None
    max_abs_difference: float
    passed: bool


class Parity(Schema):
    """An artifact against the reference. psnr_db is null when identical, audio where the bundle carries no vocoder."""

    how: Literal["ran", "interpreted", "not_run"]
    steps: int
    psnr_db: float | None
    max_abs_dlogit: float
    kl: float
    top1_agreement: float
    greedy_equal: bool
    first_divergence: int | None
    near_ties: int
    components: dict[str, ComponentParity]
    exact: Exact | None = None
    audio: AudioParity | None = None
    passed: bool


class Artifact(Schema):
    """One emitted decoder. Paths are relative to the bundle; step_bytes is what a step reads of the weights.

    max_position is null where the artifact itself limits no position. compute_units is an expectation: where it
    really ran is in what a benchmark wrote.
    """

    runtime: Runtime
    delegate: str
    max_position: int | None = None
    minimum_os: str | None = None
    compute_units: str | None = None
    precision: Precisions
    files: list[str]
    audio_decoder: str | None
    twin: str | None
    bytes: int
    step_bytes: int
    prefill_chunk: int
    emitted_by: dict[str, str]
    oldest_runtime: str | None
    thresholds: Thresholds
    parity: Parity | None


class Manifest(Schema):
    """manifest.json. `files` gives the bytes of every file of the bundle but itself and SHA256SUMS.

    voices: folders in `voices/`, the first being the default; refused: modes of the family, and why; pieces: how a
    tokenizer's tables are read, null for a lexicon and where no text can be read; a part of the
    prefix holds no literal any more.
    """

    schema_version: Literal[1]
    wand_export: str
    family: str
    title: str
    source: Source
    licence: Licence
    model: Model
    kv_cache: KVCache
    tables: dict[str, EmbeddingTable]
    speech_table: str
    head: Head
    prefix: list[PrefixPart]
    skipped_positions: int = 0
    refused: dict[str, str] = Field({})
    voices: list[str] = Field([])
    stop: Stop
    sampler: Sampler
    text: Text
    pieces: Pieces | None = None
    audio: Audio
    artifacts: dict[str, Artifact]
    not_run: list[str]
    files: dict[str, int]
