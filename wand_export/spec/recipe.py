"""A recipe: how the checkpoint of one AR-TTS family is read and spoken with. Data, not code."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from wand_export.spec.schema import Schema, find_named, read_toml


class Licence(Schema):
    """The licence of the weights, and what it obliges a user of a bundle to do."""

    weights: str
    obligations: str


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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.kind == "gpt2" and (self.kv_heads != self.heads or self.heads * self.head_dim != self.hidden):
            raise ValueError("gpt2 needs kv_heads = heads and heads x head_dim = hidden")
        return self


class CheckpointFiles(Schema):
    """Which files of a checkpoint are read, and where its tensors sit in them."""

    weights: list[str] = Field(min_length=1, description="file names or globs (shards); the first that matches is read")
    config: str | None = Field(None, description="a transformers config.json whose sizes replace those of [backbone]")
    nested: str | None = Field(None, description="key under which a .pt file may hold the state dict")
    entries: list[str] = Field([], description="names of entries that are not weights, and may be present")
    backbone: str = Field(description="what stands before transformers' own names of the backbone's tensors")
    ignore: list[str] = Field([], description="globs of tensors that are dropped on purpose")


class Table(Schema):
    """One embedding table that the host looks rows up in."""

    tensor: str
    rows: PositiveInt
    positions: str | None = Field(None, description="table of learned positions that are added to the rows")


class Head(Schema):
    """The output projection, cut to the rows that can be wanted."""

    weight: str
    bias: str | None = None
    rows: PositiveInt = Field(description="rows of the tensor in the checkpoint")
    wanted: list[tuple[int, int]] = Field(min_length=1, description="[first, last] id ranges that are kept")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        for first, last in self.wanted:
            if not 0 <= first <= last < self.rows:
                raise ValueError(f"wanted range [{first}, {last}] does not lie in the {self.rows} rows")
        return self

    def ids(self) -> list[int]:
        """The token id of each kept row, in order."""
        return [i for first, last in self.wanted for i in range(first, last + 1)]


class PrefixPart(Schema):
    """One stretch of the prefix: fixed ids, or the ids of an input, looked up in a table."""

    table: str
    ids: list[int] | None = None
    input: Literal["text", "prompt_text", "prompt_tokens"] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.ids is None) == (self.input is None):
            raise ValueError("give either ids or input")
        return self


class Stop(Schema):
    """When generation ends: at one of `ids`, barred before min_per_text x text tokens."""

    ids: list[int] = Field(min_length=1)
    min_per_text: float = 0.0
    max_per_text: float | None = None
    max_tokens: PositiveInt


class Sampler(Schema):
    """How a token is picked. Applied in this order: temperature, top_k, top_p, draw, repetition redraw."""

    temperature: float = Field(1.0, ge=0.0, description="0 picks the largest logit")
    top_k: int = Field(0, ge=0, description="0 keeps all")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="the token that crosses top_p is kept")
    repeat_window: int = Field(0, ge=0, description="a pick seen in the last N tokens is masked and redrawn from all")


class Text(Schema):
    """How text becomes token ids."""

    kind: Literal["lexicon", "tokenizer"]
    files: list[str] = Field(min_length=1, description="looked for beside the checkpoint, then beside the recipe")
    sample: str = Field(description="a sentence that parity is measured on")


class Audio(Schema):
    """What the generated tokens mean, and the model that turns them into samples."""

    token_rate: float = Field(gt=0, description="audio codes per second of audio")
    sample_rate: PositiveInt
    first_id: int = Field(0, ge=0, description="token id of audio code 0")
    codes: PositiveInt
    silent: list[tuple[int, int]] = Field(
        [], description="[first, last] ranges of generated ids that carry no sound, such as the phoneme being spoken"
    )
    silent_rate: float = Field(0.0, ge=0, description="about how many of them come with a second of audio")
    vocoder: str | None = Field(None, description="folder with vocoder.json and vocoder.safetensors")


class Recipe(Schema):
    """One family. Raises pydantic.ValidationError on an unknown, missing or contradictory key."""

    schema_version: Literal[1]
    family: str
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

    @model_validator(mode="after")
    def _tables_exist(self) -> Self:
        used = [part.table for part in self.prefix] + [self.speech_table]
        used += [table.positions for table in self.tables.values() if table.positions]
        for name in used:
            if name not in self.tables:
                raise ValueError(f"table {name!r} is not among [tables]: {', '.join(self.tables)}")
        for part in self.prefix:
            for i in part.ids or []:
                if not 0 <= i < self.tables[part.table].rows:
                    raise ValueError(f"prefix id {i} does not lie in table {part.table!r}")
        if self.backbone.kind == "gpt2" and self.tables[self.speech_table].positions is None:
            raise ValueError(f"backbone gpt2 needs learned positions for table {self.speech_table!r}")
        return self


def load_recipe(name: str) -> tuple[Recipe, Path]:
    """The recipe of that name or path, and the folder it lies in. Raises InputError."""
    path = find_named("models", name, "{name}/recipe.toml")
    return read_toml(path, Recipe), path.parent
