"""The ranges that the numbers and names of a bundle lie in, as types. Kotlin and Swift hold the same.

Sizes are small enough that the bytes of a cache or a table, as a product of them, fit 64 bits.
"""

from typing import Annotated

from pydantic import Field

Size = Annotated[int, Field(ge=1, lt=2**31)]
"""How many, at least one."""

Count = Annotated[int, Field(ge=0, lt=2**31)]
"""How many, perhaps none; an id, an index, an offset."""

Bytes = Annotated[int, Field(ge=0, le=2**53)]
"""Every JSON reader holds integers up to 2^53."""

Layers = Annotated[int, Field(ge=1, le=2**10)]
"""Layers, or heads of one layer."""

Width = Annotated[int, Field(ge=1, le=2**16)]
"""Of a vector: the hidden size, a head's."""

Slots = Annotated[int, Field(ge=1, le=2**20)]
"""Slots of the KV cache, or tokens of one utterance."""

Tokens = Annotated[int, Field(ge=0, le=2**20)]
"""Tokens of one utterance, perhaps none."""

Samples = Annotated[int, Field(ge=1, le=2**24)]
"""Of audio, in one call of a decoder."""

Rate = Annotated[float, Field(ge=0, le=10_000)]
"""Tokens a second, or for each token of a text."""

Real = Annotated[float, Field(ge=-3.5e38, le=3.5e38)]
"""A number that float32 holds."""

Name = Annotated[str, Field(max_length=100, pattern=r"^[^\p{Cc}/\\]*[^\p{Cc}/\\.][^\p{Cc}/\\]*$")]
"""A file's or folder's name: no separators or control characters, not dots alone."""

MAX_HEAD_ROWS = 2**22
