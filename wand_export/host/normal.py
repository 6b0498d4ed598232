"""Normal forms and the other things that are done to a text before it is cut into words."""

from collections.abc import Sequence

from wand_export.host.tables import Replacement, Runs, Tables, Trie
from wand_export.spec.pieces import LAST_CODE_POINT, Step

LETTER, NUMBER, SPACE, KIND = 1, 2, 3, 3
"""The kind of a code point: the lower two bits of its class, 0 for all others."""
WORD = 4
"""The bit of a class that says: part of a word, for added tokens that must stand alone."""
MARK = 0x2581
"""How SentencePiece writes a space."""
UNCHANGED = {"nfc": 0x300, "nfkc": 0xA0}
"""Text wholly below this has its normal form already."""


class NormalForm:
    """NFC or NFKC: which of them is a matter of the tables, which hold all of it, Hangul included."""

    def __init__(self, tables: Tables, name: str) -> None:
        """Raises BundleError."""
        self._unchanged = UNCHANGED[name]
        self._decompose = Replacement(tables, "decompose")
        self._order = Runs(tables, "order_from", "order_class")
        self._pairs = Trie(tables, "pairs", LAST_CODE_POINT + 1)

    def apply(self, text: list[int]) -> list[int]:
        """The text decomposed, its marks ordered, and composed again."""
        if all(point < self._unchanged for point in text):
            return text
        return self._compose(self._ordered(self._decompose.apply(text)))

    def _ordered(self, text: list[int]) -> list[tuple[int, int]]:
        """(combining class, code point) of each, the marks behind a starter sorted by class; equal ones stay."""
        out: list[tuple[int, int]] = []
        marks: list[tuple[int, int]] = []
        for point in text:
            order = self._order.of(point)
            if order == 0:
                out += sorted(marks, key=_order_of)
                marks = []
                out.append((0, point))
            else:
                marks.append((order, point))
        return out + sorted(marks, key=_order_of)

    def _compose(self, text: list[tuple[int, int]]) -> list[int]:
        """Each starter with what follows it in one code point where there is one, unless a mark in between blocks."""
        out: list[int] = []
        starter, last = -1, 0
        for order, point in text:
            adjacent = starter == len(out) - 1
            if starter >= 0 and (adjacent or last < order):
                composed = self._pair(out[starter], point)
                if composed >= 0:
                    out[starter] = composed
                    continue
            if order == 0:
                starter = len(out)
            last = order
            out.append(point)
        return out

    def _pair(self, first: int, second: int) -> int:
        node = self._pairs.child(0, first)
        node = self._pairs.child(node, second) if node else 0
        return self._pairs.value(node) if node else -1


def _order_of(mark: tuple[int, int]) -> int:
    return mark[0]


class Normalizer:
    """The steps of a manifest, one after the other."""

    def __init__(self, tables: Tables, steps: Sequence[Step], classes: Runs) -> None:
        """Raises BundleError."""
        self._steps, self._classes = steps, classes
        self._forms = {step: NormalForm(tables, step) for step in steps if step in UNCHANGED}
        replacements = [step for step in steps if step in ("charsmap", "replace", "lowercase", "nmt")]
        self._replacements = {step: Replacement(tables, step) for step in replacements}

    def apply(self, text: list[int]) -> list[int]:
        """The text after all steps."""
        for step in self._steps:
            if step in self._forms:
                text = self._forms[step].apply(text)
            elif step in self._replacements:
                text = self._replacements[step].apply(text)
            elif step == "strip":
                text = _within(text, [self._classes.of(point) & KIND == SPACE for point in text])
            elif step == "trim":
                text = _within(text, [point == 32 for point in text])
            elif step == "squeeze":
                text = [point for at, point in enumerate(text) if point != 32 or at == 0 or text[at - 1] != 32]
            elif text:  # mark
                text = [MARK, *text]
        return text


def _within(text: list[int], space: list[bool]) -> list[int]:
    """The text without the space at its ends."""
    low, high = 0, len(text)
    while low < high and space[low]:
        low += 1
    while low < high and space[high - 1]:
        high -= 1
    return text[low:high]
