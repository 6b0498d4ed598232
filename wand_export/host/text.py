"""Text to token ids by tables alone: replacements, a lexicon, letter rules.

`text.json` holds: replace [[from, to], ...] applied in order to the lower-cased text; abbreviations
{"mr": "mister"}; ones, tens, scales and point (the words of numbers); currencies {"$": "dollars"}; graphemes
{"sh": phonemes} for words that the lexicon lacks, the longest match first, and the phonemes that are vowels (the
first of them takes the stress); punctuation (characters that are spoken as pauses); max_words (longer sentences are
spoken in parts); symbols {phoneme character: token id}; boundaries, the ids of the first, second, ... space between
words, which start anew when they are used up (empty: spaces are a symbol like any other). `lexicon.tsv` holds a word,
a tab and its phonemes a line.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from wand_export.errors import BundleError

_NUMBER = r"\d+(?:,\d{3})*(?!\d)(?:\.\d+)?"
_PIECES = re.compile(rf"[a-z]+(?:'[a-z]+)*|{_NUMBER}|\d+|[^a-z\d]")
_LARGEST = 10**9
_STRESS = "ˈ"
_SIBILANT, _VOICELESS = tuple("szʃʒʧʤ"), tuple("ptkfθ")


class TextError(ValueError):
    """Text that the tables cannot say."""


@dataclass(frozen=True)
class Frontend:
    """The tables of one voice."""

    replace: list[tuple[str, str]]
    abbreviations: dict[str, str]
    ones: list[str]
    tens: list[str]
    scales: list[str]
    point: str
    currencies: dict[str, str]
    graphemes: dict[str, str]
    vowels: str
    punctuation: str
    max_words: int
    symbols: dict[str, int]
    boundaries: list[int]
    lexicon: dict[str, str]

    @classmethod
    def load(cls, folder: Path) -> "Frontend":
        """Read text.json and lexicon.tsv. Raises BundleError naming the file that is missing or not as described."""
        file = folder / "text.json"
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            data["replace"] = [(old, new) for old, new in data["replace"]]
            file = folder / "lexicon.tsv"
            lexicon = dict(line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines())
            return cls(**data, lexicon=lexicon)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BundleError(file, f"no text tables: {error}", "export the bundle again") from error

    def ids(self, text: str) -> list[int]:
        """Token ids of a sentence. Raises TextError if a character cannot be said, or nothing is left to say."""
        return self.encode(self.phonemes(text))

    def encode(self, phonemes: str) -> list[int]:
        """Token ids of a string of phonemes, one for each character.

        Numbered word boundaries tell a model where it is in a text that says the same thing twice.
        """
        found, spaces = [], 0
        for symbol in phonemes:
            if symbol == " " and self.boundaries:
                found.append(self.boundaries[spaces % len(self.boundaries)])
                spaces += 1
            else:
                found.append(self.symbols[symbol])
        return found

    def phonemes(self, text: str) -> str:
        """The sentence as phonemes: words apart by one space, punctuation behind its word, a pause at the end."""
        spoken, previous = "", ""
        for piece in _PIECES.findall(self._normalized(text)):
            if piece in self.punctuation:
                abbreviated = piece == "." and previous in self.abbreviations
                if spoken.endswith(" ") and spoken[-2] not in self.punctuation and not abbreviated:
                    spoken = spoken[:-1] + piece + " "
            elif piece[0].isalnum():
                for word in self._words(piece):
                    spoken += self.pronounce(word) + " "
            previous = piece
        spoken = spoken.rstrip()
        if not spoken:
            raise TextError(f"nothing to say in {text!r}")
        return spoken if spoken[-1] in self.punctuation else spoken + "."

    def pronounce(self, word: str) -> str:
        """Phonemes of a lower-case word: from the lexicon, else of its stem and 's, else by its letters."""
        if word in self.lexicon:
            return self.lexicon[word]
        if word.endswith("'s"):
            stem = self.pronounce(word.removesuffix("'s"))
            return stem + ("ᵻz" if stem.endswith(_SIBILANT) else "s" if stem.endswith(_VOICELESS) else "z")
        word = word.replace("'", "")
        spoken, longest = "", max(map(len, self.graphemes))
        while word:
            size = next(n for n in range(longest, 0, -1) if word[:n] in self.graphemes)
            spoken += self.graphemes[word[:size]]
            word = word[size:]
        first = next((i for i, phoneme in enumerate(spoken) if phoneme in self.vowels), 0)
        return spoken[:first] + _STRESS + spoken[first:]

    def sentences(self, text: str) -> list[str]:
        """Split text behind . ! ? and at line ends; not behind an abbreviation, a single letter or inside a number.

        A sentence of more than `max_words` words is split further, behind its last comma, semicolon or colon that is
        early enough, else behind its last word that is.
        """
        found: list[list[str]] = [[]]
        for word in re.findall(r"\S+|\n", text):
            found[-1].append(word)
            bare = word.strip("\"'()").rstrip(".").lower()
            ends = word.rstrip("\"'”’)").endswith((".", "!", "?", "…"))
            short = word.endswith(".") and (bare in self.abbreviations or len(bare) == 1)
            if word == "\n" or (ends and not short):
                found.append([])
        parts = (part for sentence in found for part in self._parts([word for word in sentence if word != "\n"]))
        return [" ".join(part) for part in parts if any(re.search(r"\w", word) for word in part)]

    def _parts(self, words: list[str]) -> list[list[str]]:
        """The words in runs of at most max_words, cut behind a clause where there is one past the first quarter."""
        if len(words) <= self.max_words:
            return [words]
        clauses = range(self.max_words, self.max_words // 4, -1)
        cut = next((n for n in clauses if words[n - 1].endswith((",", ";", ":"))), self.max_words)
        return [words[:cut], *self._parts(words[cut:])]

    def _normalized(self, text: str) -> str:
        sayable = set(self.punctuation + "'").union(self.currencies, *(old for old, _ in self.replace))
        lower = text.lower()
        for index, character in enumerate(lower):
            plain = character.isascii() and character.isalnum()
            if not (plain or character.isspace() or character in sayable):
                known = f"letters, digits and {' '.join(sorted(sayable - {' '}))}"
                raise TextError(f"cannot say {character!r} (character {index}): this voice knows {known}")
        for sign, name in self.currencies.items():
            lower = re.sub(rf"{re.escape(sign)}\s*({_NUMBER})", rf"\1 {name} ", lower).replace(sign, f" {name} ")
        for old, new in self.replace:
            lower = lower.replace(old, new)
        return lower

    def _words(self, piece: str) -> list[str]:
        """The words of a piece that is a word or a number (1,250 and 3.5 included)."""
        if not piece[0].isdigit():
            return self.abbreviations.get(piece, piece).split()
        whole, _, decimals = piece.replace(",", "").partition(".")
        spelled = [self.ones[int(digit)] for digit in decimals]
        exact = int(whole) < _LARGEST and (whole == "0" or not whole.startswith("0"))
        words = self.number(int(whole)) if exact else [self.ones[int(digit)] for digit in whole]
        return words + ([self.point] if spelled else []) + spelled

    def number(self, value: int) -> list[str]:
        """The words of 0 <= value < 10^9."""
        if value < 20:
            return [self.ones[value]]
        if value < 100:
            return [self.tens[value // 10]] + (self.number(value % 10) if value % 10 else [])
        size, scale = (100, 0) if value < 1000 else (1000, 1) if value < 10**6 else (10**6, 2)
        rest = self.number(value % size) if value % size else []
        return [*self.number(value // size), self.scales[scale], *rest]
