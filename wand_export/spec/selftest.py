"""selftest.json: golden requests that every session of a bundle must reproduce."""

from typing import Literal

from wand_export.spec.schema import Schema


class Stretch(Schema):
    """Consecutive prefix ids from one table."""

    table: str
    ids: list[int]


class Expected(Schema):
    """What the reference says after `step` forced tokens: its largest logits as (row, value)."""

    step: int
    top: list[tuple[int, float]]


class Golden(Schema):
    """One request: a prefix, the tokens that are forced after it, and what is expected on the way."""

    prefix: list[Stretch]
    forced: list[int]
    expected: list[Expected]


class GoldenAudio(Schema):
    """One utterance for the audio decoder: audio codes, the seed of its noise, and some samples as (index, value)."""

    codes: list[int]
    seed: int
    expected: list[tuple[int, float]]
    tolerance: dict[str, float]


class SelfTest(Schema):
    """tolerance: per target, the largest |difference| that passes; exact: targets whose best row must be the same."""

    schema_version: Literal[1]
    requests: list[Golden]
    tolerance: dict[str, float]
    exact: list[str]
    audio: GoldenAudio | None = None
