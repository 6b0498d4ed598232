"""A recipe: how the checkpoint of one AR-TTS family is read and spoken with. Data, not code."""

import re
from pathlib import Path
from string import Formatter
from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from wand_export.spec.audio import AudioInput
from wand_export.spec.limits import Count, Name, Rate, Samples, Size, Slots, Tokens
from wand_export.spec.schema import Schema, find_named, read_toml


class Licence(Schema):
    """The licence of the weights, and what it obliges a user of a bundle to do."""

    weights: str
    obligations: str

    @property
    def non_commercial(self) -> bool:
        """Whether the licence says that it excludes commercial use."""
        return "-NC" in self.weights or "non-commercial" in self.weights.lower()


class RopeScaling(Schema):
    """Rotary frequencies stretched as Llama 3.1 does: rope_type "llama3" of transformers."""

    factor: float = Field(ge=1)
    low_freq_factor: float = Field(gt=0)
    high_freq_factor: float = Field(gt=0)
    original_max_position: PositiveInt = Field(description="positions that the model was first trained on")


class Backbone(Schema):
    """The transformer, in the terms of transformers' own configurations."""

    kind: Literal["llama", "qwen2", "qwen3", "gpt2"]
    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    mlp: PositiveInt
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.kind == "gpt2" and (self.kv_heads != self.heads or self.heads * self.head_dim != self.hidden):
            raise ValueError("gpt2 needs kv_heads = heads and heads x head_dim = hidden")
        return self


class OtherFamily(Schema):
    """A family that looks like this one and is not: recognized by the tensors that it has and lacks."""

    name: str
    has: list[str] = Field([], description="all of these are there")
    lacks: list[str] = Field([], description="none of these is there")
    why: str = Field(description="what differs, for the user who mixed them up")


class CheckpointFiles(Schema):
    """Which files of a checkpoint are read, and where its tensors sit in them."""

    weights: list[str] = Field(
        min_length=1,
        description="file names, globs, or an index of shards (*.index.json); the first there is read, else shards "
        "without an index or a .safetensors file in place of a pickle",
    )
    config: str | None = Field(None, description="a transformers config.json, which [backbone] only completes")
    sizes_from_tensors: bool = Field(False, description="gpt2 only: layers, hidden, heads and mlp from the tensors")
    nested: str | None = Field(
        None, description="key under which a .pt file may hold the state dict, if not a trainer's"
    )
    entries: list[str] = Field([], description="names of entries that are not weights, and may be present")
    backbone: str = Field(description="what stands before transformers' own names of the backbone's tensors")
    ignore: list[str] = Field([], description="globs of tensors that are dropped on purpose")
    others: list[OtherFamily] = Field([], description="families that are refused by name")


class Table(Schema):
    """One embedding table that the host looks rows up in."""

    tensor: str
    rows: PositiveInt
    more_rows: bool = Field(False, description="a checkpoint may hold more rows than `rows`; all of them are kept")
    positions: str | None = Field(None, description="table of learned positions that are added to the rows")


class Head(Schema):
    """The output projection, cut to the rows that can be wanted."""

    weight: str
    tied: str | None = Field(
        None, description="tensor that is the head where `weight` is absent and the configuration does not untie them"
    )
    bias: str | None = None
    norm: str | None = Field(None, description="a second final norm before the head: its tensors' name up to .weight")
    rows: PositiveInt = Field(description="rows of the tensor in the checkpoint")
    more_rows: bool = Field(False, description="as for tables")
    wanted: list[tuple[int, int]] = Field([], description="[first, last] id ranges that are kept; none: every row")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        for first, last in self.wanted:
            if not 0 <= first <= last < self.rows:
                raise ValueError(f"wanted range [{first}, {last}] does not lie in the {self.rows} rows")
        return self

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The kept [first, last] id ranges, in order."""
        return self.wanted or [(0, self.rows - 1)]

    def ids(self) -> list[int]:
        """The token id of each kept row, in order."""
        return [i for first, last in self.ranges for i in range(first, last + 1)]


Input = Literal["text", "prompt_text", "prompt_tokens", "globals", "latents"]
"""What a request brings along; all but the text come from a voice. Latents are float rows, the others ids."""


class PrefixPart(Schema):
    """One stretch of the prefix: fixed ids, a fixed string, or an input, looked up in a table."""

    table: str | None = Field(None, description="latents need none: they are rows already")
    ids: list[Count] | None = None
    literal: str | None = Field(None, description="a string for the tokenizer; an export replaces it by its ids")
    input: Input | None = None
    offset: Count = Field(0, description="added to each id of the input: where the codec's code 0 lies")
    codes: Size | None = Field(None, description="ids of the input lie below this, before the offset")
    length: Size | None = Field(None, description="the input is required, and has this many ids or rows")
    given: Input | None = Field(None, description="left out of a request that lacks this input")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.ids, self.literal, self.input)) != 1:
            raise ValueError("give one of ids, literal and input")
        if (self.table is None) != (self.input == "latents"):
            raise ValueError("every part but latents names a table")
        if self.input == "latents" and self.length is None:
            raise ValueError("latents need a length")
        return self


MAX_TEXT_IDS = 2**16


class Stop(Schema):
    """When generation ends: at one of `ids`, barred before min_tokens and before min_per_text x text tokens."""

    ids: list[Count] = Field(min_length=1)
    tokens: list[str] = Field([], description="further stops by their strings; an export adds their ids to `ids`")
    min_tokens: Tokens = 0
    min_per_text: Rate = 0.0
    max_per_text: Rate | None = None
    max_tokens: Slots
    text_ids: tuple[Count, Count] | None = Field(
        None, description="[first, last] id of a text that is generated along: in its order, and whole before a stop"
    )
    max_per_text_id: Slots | None = Field(
        None, description="most tokens from one of text_ids to the next, or before the first"
    )

    @model_validator(mode="after")
    def _order_fits(self) -> Self:
        if self.text_ids is None:
            if self.max_per_text_id is not None:
                raise ValueError("max_per_text_id needs text_ids")
            return self
        first, last = self.text_ids
        if not 0 <= last - first < MAX_TEXT_IDS or any(first <= token <= last for token in self.ids):
            raise ValueError(f"text_ids {first} to {last} are none, too many, or hold a stop")
        if self.min_tokens or self.min_per_text:
            raise ValueError("with text_ids the text is the minimum: leave out min_tokens and min_per_text")
        return self


MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 100.0
"""Between them float64 holds every logit over the temperature."""


class Sampler(Schema):
    """How a token is picked.

    Applied in this order: repetition penalty, temperature, top_k, top_p, min_p, draw, repetition redraw.
    """

    repetition_penalty: float = Field(
        1.0,
        ge=1e-3,
        le=1e3,
        description="logits of ids said before are divided by it where positive, else multiplied",
    )
    repetition_range: Count = Field(0, description="only the last N generated ids count as said; 0 counts all")
    repetition_ids: list[Count] = Field([], description="ids that always count as said")
    temperature: float = Field(
        1.0, ge=0.0, le=MAX_TEMPERATURE, description=f"0 picks the largest logit; else at least {MIN_TEMPERATURE}"
    )
    top_k: Count = Field(0, description="0 keeps all")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="the token that crosses top_p is kept")
    top_p_of: Literal["top_k", "all"] = Field("top_k", description="the tokens whose probabilities sum to one for it")
    min_p: float = Field(0.0, ge=0.0, lt=1.0, description="keeps tokens at least this fraction as likely as the best")
    repeat_window: Count = Field(0, description="a pick seen in the last N tokens is masked and redrawn from all")

    @field_validator("temperature")
    @classmethod
    def _not_too_small(cls, value: float) -> float:
        if 0 < value < MIN_TEMPERATURE:
            raise ValueError(f"must be 0, which picks the largest logit, or at least {MIN_TEMPERATURE}")
        return value


_CLASS = re.compile(r"\[\^?(?:[^\\\[\]]|\\.)+\]", re.DOTALL)


class Text(Schema):
    """How text becomes token ids."""

    kind: Literal["lexicon", "tokenizer"]
    files: list[str] = Field(
        min_length=1,
        description="looked for beside the checkpoint, then beside the recipe. For a tokenizer: tokenizer.json, a "
        "SentencePiece .model, or vocab.json with what transformers reads beside it",
    )
    sample: str = Field(description="a sentence that parity is measured on")
    template: str = Field("{text}", description="how a voice's {prompt_text} and the {text} are read as one string")
    added_tokens: list[str] = Field([], description="special tokens that the family's code adds, in its order")
    tokens: dict[str, Count] = Field({}, description="ids that this recipe relies on, compared with the tokenizer's")
    uppercase: bool = Field(False, description="text is read in capital letters")
    unsupported: str | None = Field(
        None, description="characters that are refused, as one class of a regular expression, such as [a-z]"
    )
    markup: list[str] = Field(
        [], description="added tokens that a text may hold; all others, typed into a text, are refused with their place"
    )
    instructs: bool = Field(False, description="a voice may bring a prompt text without prompt tokens")
    expects: str | None = Field(None, description="what a text must be where it is not ordinary writing")

    @model_validator(mode="after")
    def _template_of_text(self) -> Self:
        try:
            fields = [field for _, *field in Formatter().parse(self.template) if field[0] is not None]
        except ValueError as error:
            raise ValueError(f"template {self.template!r}: {error}") from error
        if ["text", "", None] not in fields or any(
            f not in (["text", "", None], ["prompt_text", "", None]) for f in fields
        ):
            raise ValueError(
                f"template {self.template!r} must hold {{text}}, and nothing in braces but {{prompt_text}}"
            )
        return self

    @model_validator(mode="after")
    def _one_class(self) -> Self:
        """Other expressions may take time that grows with the square of a text, or more."""
        if self.unsupported is not None:
            if not _CLASS.fullmatch(self.unsupported):
                raise ValueError(f"unsupported {self.unsupported!r} must be one class of characters, [...]")
            try:
                re.compile(self.unsupported)
            except re.error as error:
                raise ValueError(f"unsupported {self.unsupported!r}: {error}") from error
        return self


class WholeGraph(Schema):
    """An ONNX audio decoder that speaks a whole utterance at once, mode "whole" in a bundle: what it takes.

    Its first output, float32, holds the utterance's samples in [-1, 1] in its last dimension, the others being 1.
    """

    inputs: list[AudioInput] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [value.name for value in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"inputs {', '.join(names)} must have names of their own")
        return self


class PublishedKV(Schema):
    """A KV cache figure that the method's authors printed, and the lengths at which the formula gives it."""

    prefix_len: PositiveInt
    generated: PositiveInt
    dtype: Literal["float32", "float16"]
    full_megabytes: float
    wand_megabytes: float
    note: str


class Audio(Schema):
    """What the generated tokens mean, and the model that turns them into samples."""

    token_rate: Rate = Field(gt=0, description="audio codes per second of audio")
    sample_rate: Samples
    first_id: Count = Field(0, description="token id of audio code 0")
    codes: Size
    silent: list[tuple[Count, Count]] = Field(
        [], description="[first, last] ranges of generated ids that carry no sound, such as the phoneme being spoken"
    )
    silent_rate: Rate = Field(0.0, description="about how many of them come with a second of audio")
    vocoder: str | None = Field(None, description="folder with vocoder.json and vocoder.safetensors")
    graph: WholeGraph | None = Field(None, description="what --audio-decoder must look like")
    codec: str | None = Field(None, description="the codec whose checkpoint --audio reads: see wand audio")
    codebook_ids: PositiveInt | None = Field(
        None, description="ids of a codebook, where the model counts more of them than the codec has"
    )


class Recipe(Schema):
    """One family. Raises pydantic.ValidationError on an unknown, missing or contradictory key."""

    schema_version: Literal[1]
    family: Name
    title: str
    licence: Licence
    checkpoint: CheckpointFiles
    backbone: Backbone
    tables: dict[str, Table]
    speech_table: str = Field(description="the table that generated tokens are fed back through")
    head: Head
    prefix: list[PrefixPart]
    stop: Stop
    sampler: Sampler
    text: Text
    audio: Audio
    window: PositiveInt = Field(description="W that the method's authors or this family's tuning used")
    prefix_capacity: PositiveInt = Field(description="P where the user names none")
    skipped_positions: Count = Field(
        0, description="learned positions left out between the prefix and the first generated token"
    )
    refused: dict[str, str] = Field({}, description="modes of the family that do not fit a window, and why")
    published_kv: PublishedKV | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        used = [part.table for part in self.prefix if part.table] + [self.speech_table]
        used += [table.positions for table in self.tables.values() if table.positions]
        for name in used:
            if name not in self.tables:
                raise ValueError(f"table {name!r} is not among [tables]: {', '.join(self.tables)}")
        for part in self.prefix:
            rows = self.tables[part.table].rows if part.table else 0
            for i in part.ids or []:
                if not 0 <= i < rows:
                    raise ValueError(f"prefix id {i} does not lie in table {part.table!r}")
            if part.codes and part.offset + part.codes > rows:
                raise ValueError(f"codes of prefix input {part.input!r} do not lie in table {part.table!r}")
        if self.backbone.kind == "gpt2":
            positions = self.tables[self.speech_table].positions
            if positions is None:
                raise ValueError(f"backbone gpt2 needs learned positions for table {self.speech_table!r}")
            if self.stop.max_tokens + self.skipped_positions >= self.tables[positions].rows:
                raise ValueError(f"stop.max_tokens {self.stop.max_tokens} do not fit table {positions!r}")
        elif self.checkpoint.sizes_from_tensors or self.head.norm:
            raise ValueError("sizes_from_tensors and head.norm are for backbone gpt2")
        return self


def load_recipe(name: str) -> tuple[Recipe, Path]:
    """The recipe of that name or path, and the folder it lies in. Raises InputError."""
    path = find_named("models", name, "{name}/recipe.toml")
    return read_toml(path, Recipe), path.parent
