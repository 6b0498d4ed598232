"""The words of a closed list by which a host reads text/pieces.safetensors."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from wand_export.spec.schema import Schema

PIECES_FILE = "pieces.safetensors"

LAST_CODE_POINT = 0x10FFFF

Step = Literal["nfc", "nfkc", "charsmap", "replace", "lowercase", "nmt", "strip", "trim", "squeeze", "mark"]
"""nfc, nfkc: normal forms; charsmap, replace, lowercase, nmt: the replacements of that name; strip: no white space at
either end, trim: no U+0020 there; squeeze: no two U+0020 side by side; mark: U+2581 in front of what is not empty."""

Split = Literal["none", "mark", "metaspace", "gpt2", "qwen2", "llama3"]
"""How words are told apart. mark and metaspace write U+0020 as U+2581, and metaspace cuts before each of them; the
last three are the rules of the models of that name."""


class Pieces(Schema):
    """A text to ids: refused -> case -> added tokens -> normalize -> added tokens -> prefix -> split -> model.

    prefix: whether a space (U+2581 where the split writes it so) is put in front of a stretch that does not start with
    one: always, only at the beginning of the text, or never. alphabet: what the model's first symbols are. unknown: the
    id of a symbol that the model lacks, null where such are dropped; fuse_unknown: neighbours are one.
    """

    refused: list[tuple[NonNegativeInt, NonNegativeInt]] = Field([], description="[first, last] code points")
    case: Literal["upper"] | None = None
    normalize: list[Step] = Field([])
    split: Split
    prefix: Literal["always", "first", "never"]
    alphabet: Literal["bytes", "characters"]
    model: Literal["bpe"]
    unknown: NonNegativeInt | None
    fuse_unknown: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.normalize)) != len(self.normalize) or {"nfc", "nfkc"} <= set(self.normalize):
            raise ValueError("normalize names a step twice, or both normal forms")
        for first, last in self.refused:
            if not first <= last <= LAST_CODE_POINT:
                raise ValueError(f"refused range [{first}, {last}] is none of code points")
        return self
