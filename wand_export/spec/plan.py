"""The document of `wand speak --plan --json`: what a text would ask of the model."""

from typing import Literal

from pydantic import Field

from wand_export.spec.limits import Count, Size
from wand_export.spec.recipe import Input
from wand_export.spec.schema import Schema


class PlannedSentence(Schema):
    """A sentence, or a part of one, that is an utterance of its own.

    ids: by the prefix program's input; latents, which are rows, have none. prefix_len: tokens of the whole prefix.
    """

    text: str
    ids: dict[Input, list[Count]]
    prefix_len: Size


class RefusedText(Schema):
    """What of a text would be refused, and why; lone surrogates in it are question marks."""

    text: str
    reason: str


class Plan(Schema):
    """A text's sentences in order. Where anything is refused, nothing of the text would be spoken."""

    version: Literal[1] = Field(alias="schema")
    sentences: list[PlannedSentence]
    refused: list[RefusedText]
