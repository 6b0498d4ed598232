"""Text to token ids by the tables of text/pieces.safetensors and the words of the manifest: no regular expression, no
Unicode data of the platform's."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wand_export.host.normal import KIND, MARK, SPACE, WORD, Normalizer
from wand_export.host.sentences import CONTROL, Unsayable, located, sentences
from wand_export.host.tables import Replacement, Runs, Tables, Trie, find
from wand_export.host.words import words
from wand_export.spec.pieces import Pieces

STRIP_LEFT, STRIP_RIGHT, SINGLE_WORD, STEERS = 1, 2, 4, 8
"""Flags of an added token: it takes the white space on that side along, counts only where it stands alone, or steers
the model, so that nobody may type it into a text."""
REPLACEMENT_CHARACTER = 0xFFFD
LARGEST_ID = 2**31 - 1


class Tokenizer:
    """A text encoder over tables."""

    def __init__(self, tables: Tables, pieces: Pieces) -> None:
        """Raises BundleError for tables that are missing, or lead outside each other."""
        self._pieces = pieces
        self._classes = Runs(tables, "class_from", "class_bits")
        self._case = Replacement(tables, "case") if pieces.case else None
        self._added = AddedTokens(tables, "added", self._classes)
        self._added_normal = AddedTokens(tables, "added_normal", self._classes)
        self._normalizer = Normalizer(tables, pieces.normalize, self._classes)
        self._model = Merges(tables, pieces)

    @classmethod
    def load(cls, file: Path, pieces: Pieces) -> "Tokenizer":
        """Raises BundleError if the file is missing or does not hold what the manifest says."""
        return cls(Tables(file), pieces)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text that may hold control tokens by their strings, as a template does.

        Raises ValueError for a character that the family cannot say.
        """
        if odd := located(text, self._odd(text)):
            raise ValueError(f"cannot say {odd[0]}")
        return self.encode(text)

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text of any script."""
        return sentences(text)

    def unsayable(self, text: str) -> list[Unsayable]:
        """Controls, characters that the family refuses, and strings that would be read as control tokens."""
        return located(text, sorted([*self._odd(text), *self._controls(text)]))

    def encode(self, text: str) -> list[int]:
        """Token ids of any text, without those of a template: the prefix program names those that are wanted."""
        points = code_points(text)
        if self._case is not None:
            points = self._case.apply(points)
        ids: list[int] = []
        for outer in self._added.cut(points):
            if outer.token is not None:
                ids.append(outer.token)
                continue
            for inner in self._added_normal.cut(self._normalizer.apply(outer.text)):
                if inner.token is not None:
                    ids.append(inner.token)
                else:
                    self._encode(inner.text, outer.start == 0 and inner.start == 0, ids)
        return ids

    def _odd(self, text: str) -> list[tuple[int, int]]:
        """[first, end) of each control character, and of each that the family refuses."""
        refused = self._pieces.refused
        return [
            (at, at + 1)
            for at, character in enumerate(text)
            if character in CONTROL or any(first <= ord(character) <= last for first, last in refused)
        ]

    def _controls(self, text: str) -> list[tuple[int, int]]:
        """[first, end) of each string that is a control token; of a stretch whose normal form holds one, all of it."""
        found: list[tuple[int, int]] = []
        points = [self._capital(32 if character in CONTROL else ord(character)) for character in text]
        for outer in self._added.cut(points):
            if outer.control:
                found.append((outer.start, outer.end))
            normal = self._normalizer.apply(outer.text)
            for inner in self._added_normal.cut(normal):
                if inner.control and normal == outer.text:
                    found.append((outer.start + inner.start, outer.start + inner.end))
                elif inner.control:
                    found.append((outer.start, outer.end))
        return found

    def _capital(self, point: int) -> int:
        """A code point in its case, if that is one code point."""
        changed = [point] if self._case is None else self._case.apply([point])
        return changed[0] if len(changed) == 1 else point

    def _encode(self, text: list[int], first: bool, ids: list[int]) -> None:
        """Append the ids of a stretch without added tokens; first: whether the text begins with it."""
        space = 32
        if self._pieces.split in ("mark", "metaspace"):
            space = MARK
            text = [MARK if point == 32 else point for point in text]
        prefixed = self._pieces.prefix == "always" or (self._pieces.prefix == "first" and first)
        if prefixed and text and text[0] != space:
            text = [space, *text]
        kinds = [self._classes.of(point) & KIND for point in text]
        for word in words(text, kinds, self._pieces.split):
            ids.extend(self._model.ids(word))


@dataclass(frozen=True)
class Stretch:
    """A text from `start` to before `end`: an added token's id, or code points that hold none."""

    start: int
    end: int
    text: list[int]
    token: int | None = None
    control: bool = False


class AddedTokens:
    """Strings that are tokens wherever they stand, before anything else is read."""

    def __init__(self, tables: Tables, name: str, classes: Runs) -> None:
        """No table of that name: no such tokens. Raises BundleError."""
        self._classes = classes
        self._trie: Trie | None = None
        if f"{name}.start" in tables:
            ids, flags = tables.below(f"{name}.id", LARGEST_ID), tables.integers(f"{name}.flags", "U8")
            tables.require(f"{name}.flags", len(flags) == len(ids), f"not {len(ids)} flags")
            self._trie = Trie(tables, name, len(ids))
            self._ids, self._flags = ids.data, flags.data

    def cut(self, text: list[int]) -> Iterator[Stretch]:
        """The text in stretches, cut around added tokens, the leftmost longest first. No stretch is empty."""
        start = at = 0
        while self._trie is not None and at < len(text):
            token, end = self._trie.longest(text, at)
            if token < 0:
                at += 1
                continue
            low, high, flags = at, end, self._flags[token]
            at = end
            if flags & SINGLE_WORD and (self._has(WORD, WORD, text, low - 1) or self._has(WORD, WORD, text, high)):
                continue
            while flags & STRIP_LEFT and low > start and self._has(KIND, SPACE, text, low - 1):
                low -= 1
            while flags & STRIP_RIGHT and self._has(KIND, SPACE, text, high):
                high += 1
            if start < low:
                yield Stretch(start, low, text[start:low])
            yield Stretch(low, high, [], self._ids[token], bool(flags & STEERS))
            start = high
        if start < len(text):
            yield Stretch(start, len(text), text[start:])

    def _has(self, bits: int, value: int, text: list[int], at: int) -> bool:
        """Whether there is a character at a place, and its class has these bits."""
        return 0 <= at < len(text) and self._classes.of(text[at]) & bits == value


class Merges:
    """Byte-pair encoding: the symbols of a word, and the pairs of ids that become one, each with its rank.

    The merges of left id l are those from merge_from[l] to merge_from[l + 1] - 1, sorted by their right id.
    """

    def __init__(self, tables: Tables, pieces: Pieces) -> None:
        """Raises BundleError for merges that lead outside the vocabulary, which is as long as merge_from says."""
        self._bytes, self._unknown, self._fuse = pieces.alphabet == "bytes", pieces.unknown, pieces.fuse_unknown
        right = tables.integers("merge_right")
        size = len(tables.integers("merge_from")) - 1
        merge_from = tables.offsets("merge_from", size, len(right))
        rank, made = tables.below("merge_rank", LARGEST_ID), tables.below("merge_id", size)
        tables.require("merge_right", len(right) == len(rank) == len(made), "as long as no other")
        tables.require("merge_from", pieces.unknown is None or pieces.unknown < size, "lacks the unknown id")
        self._symbols = Trie(tables, "symbols", size)
        self._whole = Trie(tables, "pieces", size) if "pieces.start" in tables else None
        self._byte_ids: memoryview | None = None
        if "byte_ids" in tables:
            byte_ids = tables.below("byte_ids", size)
            tables.require("byte_ids", len(byte_ids) == 256, "not 256 bytes")
            self._byte_ids = byte_ids.data
        self._from, self._right, self._rank, self._made = merge_from.data, right.data, rank.data, made.data

    def ids(self, word: list[int]) -> list[int]:
        """The ids of one word."""
        symbols = utf8(word) if self._bytes else word
        if self._whole is not None:
            piece, end = self._whole.longest(symbols, 0)
            if piece >= 0 and end == len(symbols):
                return [piece]
        return self._merge(self._first(symbols))

    def _first(self, symbols: list[int]) -> list[int]:
        """The ids of single symbols; one that the vocabulary lacks becomes its bytes, else the unknown id."""
        ids: list[int] = []
        at, unknown = 0, False
        while at < len(symbols):
            value, end = self._symbols.longest(symbols, at)
            if value >= 0:
                ids.append(value)
            elif self._byte_ids is not None:
                ids += [self._byte_ids[byte] for byte in utf8([symbols[at]])]
            elif self._unknown is not None and not (unknown and self._fuse):
                ids.append(self._unknown)
            unknown = value < 0
            at = max(end, at + 1)
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Join the pair of the lowest rank, the leftmost of equals, until there is none.

        An id that was joined to its left neighbour becomes -1; `after` and `before` lead past it. The queue may hold
        pairs that are gone: one counts only while the pair at its place still has its rank.
        """
        size = len(ids)
        after, before = list(range(1, size + 1)), list(range(-1, size - 1))
        queue: list[int] = []

        def merge_at(left: int) -> int:
            """The merge of the id at a place with its right neighbour, or -1."""
            if left < 0 or ids[left] < 0 or after[left] >= size:
                return -1
            low, high = self._from[ids[left]], self._from[ids[left] + 1]
            return find(self._right, ids[after[left]], low, high)

        def offer(left: int) -> None:
            merge = merge_at(left)
            if merge >= 0:
                heapq.heappush(queue, self._rank[merge] << 32 | left)

        for left in range(size - 1):
            offer(left)
        while queue:
            best = heapq.heappop(queue)
            left = best & 0xFFFFFFFF
            merge = merge_at(left)
            if merge < 0 or self._rank[merge] != best >> 32:
                continue
            gone = after[left]
            ids[left], ids[gone], after[left] = self._made[merge], -1, after[gone]
            if after[left] < size:
                before[after[left]] = left
            offer(before[left])
            offer(left)
        return [i for i in ids if i >= 0]


def code_points(text: str) -> list[int]:
    """The code points of a text; half of a surrogate pair is U+FFFD, since UTF-8 has no such thing."""
    return [REPLACEMENT_CHARACTER if "\ud800" <= character <= "\udfff" else ord(character) for character in text]


def utf8(points: list[int]) -> list[int]:
    """The bytes of code points."""
    return list("".join(map(chr, points)).encode("utf-8", "surrogatepass"))
