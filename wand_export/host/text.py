"""Text to token ids by tables alone: figures in words, replacements, a lexicon, letter rules.

`text.json` holds: fold {"É": "e"}, what a character is read as before all else, beside A to Z in lower case; figures,
the words of numbers and their kin (see Figures), of which ones, tens, scales, point and currencies stand outside;
replace [[from, to], ...] applied in order once figures are words; abbreviations {"mr": "mister"}; letters, the
phonemes of a letter's name where they are not those of the word; graphemes {"sh": phonemes} for words that the lexicon
lacks, the longest match first, and the phonemes that are vowels (the first of them takes the stress); punctuation
(characters that are spoken as pauses); max_words (longer sentences are spoken in parts); symbols {phoneme character:
token id}; boundaries, the ids of the first, second, ... space between words, which start anew when they are used up
(empty: spaces are a symbol like any other). fold, figures and letters may be left out. `lexicon.tsv` holds a word, a
tab and its phonemes a line, once for each word, those that a user gave to the export first.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from wand_export.errors import BundleError
from wand_export.host.figures import Figures
from wand_export.host.replace import read_table
from wand_export.host.sentences import SPACE, Unsayable, located, lowered, runs_of_words, sentences
from wand_export.spec.document import read_document
from wand_export.spec.text import LEXICON_FILE, TEXT_FILE, TextTables

_AGAIN = "export the bundle again"
_LONGEST = 1 << 20
"""Characters of a sentence: replacements may make a text longer, and those of a hostile table without end."""
_STRESS = "ˈ"
_SIBILANT, _VOICELESS = tuple("szʃʒʧʤ"), tuple("ptkfθ")
_SHARED = "ones", "tens", "scales", "point", "currencies"
"""Tables of Figures that stand outside `figures`."""


class TextError(ValueError):
    """Text that the tables cannot say."""


@dataclass(frozen=True)
class Frontend:
    """The tables of one voice."""

    figures: Figures
    replace: list[tuple[str, str]]
    abbreviations: dict[str, str]
    graphemes: dict[str, str]
    vowels: str
    punctuation: str
    max_words: int
    symbols: dict[str, int]
    boundaries: list[int]
    lexicon: dict[str, str]
    fold: dict[str, str]
    letters: dict[str, str]

    @classmethod
    def load(cls, folder: Path) -> "Frontend":
        """Read text.json and lexicon.tsv. Raises BundleError naming the file that is missing or not as described."""
        return cls.read(folder / TEXT_FILE, folder / LEXICON_FILE)

    @classmethod
    def read(cls, tables: Path, words: Path) -> "Frontend":
        """As load(), from wherever the two lie."""
        found = dict(read_document(tables, TextTables, _AGAIN, BundleError))
        figures = Figures(**{name: found.pop(name) for name in _SHARED}, **dict(found.pop("figures")))
        try:
            lexicon = dict(line.split("\t", 1) for line in words.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise BundleError(words, f"no text tables: {error}", _AGAIN) from error
        if odd := set().union(*lexicon.values()) - set(found["symbols"]):
            raise BundleError(words, f"phoneme {min(odd)!r} is not among the symbols of {tables.name}", _AGAIN)
        return cls(**found, figures=figures, lexicon=lexicon)

    def with_lexicon(self, file: Path) -> "Frontend":
        """These tables with a user's own words before those of the lexicon: lexicon.tsv with comments.

        Raises InputError naming the file and the line of a word that is never asked for, or cannot be said.
        """
        own = read_table(file, self._entry)
        return replace(self, lexicon={**own, **self.lexicon, **own})

    def _entry(self, written: str, phonemes: str) -> tuple[str, str]:
        """A line of a user's lexicon, its word as texts are when the lexicon is asked."""
        if odd := self.unsayable(written):
            raise ValueError(f"cannot read {odd[0].characters!r} in {written!r}")
        word = self._in_words(written)
        of_letters = _is_letter(word, 0) and _behind_word(word, 0) == len(word)
        if not of_letters or any("0" <= character <= "9" for character in written):
            raise ValueError(f"{written!r} is not one word of letters, with apostrophes between them")
        if word in self.abbreviations:
            raise ValueError(f"{written!r} is read as {self.abbreviations[word]!r}: change it with --replace")
        if unknown := next((phoneme for phoneme in phonemes if phoneme not in self.symbols), None):
            raise ValueError(f"phoneme {unknown!r} is none of this voice's: {' '.join(sorted(self.symbols))}")
        return word, phonemes

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
            elif symbol in self.symbols:
                found.append(self.symbols[symbol])
            else:
                raise TextError(f"no token for phoneme {symbol!r}")
        return found

    def phonemes(self, text: str) -> str:
        """The sentence as phonemes: words apart by one space, punctuation behind its word, a pause at the end."""
        if odd := self.unsayable(text):
            known = " ".join(sorted(self._signs - set(self.fold)))
            raise TextError(f"cannot say {odd[0]}: this voice knows letters, digits and {known}")
        text = self._in_words(text)
        spoken: list[str] = []
        at = 0
        while at < len(text):
            if _is_letter(text, at):
                words, at = self._words(text, at)
                spoken += words
            else:
                if text[at] in self.punctuation and spoken and spoken[-1][-1] not in self.punctuation:
                    spoken[-1] += text[at]
                at += 1
        if not spoken:
            raise TextError(f"nothing to say in {text!r}")
        said = " ".join(spoken)
        return said if said[-1] in self.punctuation else said + "."

    def pronounce(self, word: str) -> str:
        """Phonemes of a lower-case word: from the lexicon, else of its stem and 's, else by its letters."""
        if word in self.lexicon:
            return self.lexicon[word]
        if word.endswith("'s"):
            stem = self.pronounce(word.removesuffix("'s"))
            return stem + ("ᵻz" if stem.endswith(_SIBILANT) else "s" if stem.endswith(_VOICELESS) else "z")
        word = word.replace("'", "")
        spoken, longest, at = "", max(map(len, self.graphemes)), 0
        while at < len(word):
            size = next((n for n in range(longest, 0, -1) if word[at : at + n] in self.graphemes), None)
            if size is None:
                raise TextError(f"no rule for {word[at]!r}")
            spoken += self.graphemes[word[at : at + size]]
            at += size
        first = next((i for i, phoneme in enumerate(spoken) if phoneme in self.vowels), 0)
        return spoken[:first] + _STRESS + spoken[first:]

    def sentences(self, text: str) -> list[str]:
        """The sentences of a text, those of more than `max_words` words in parts; all have something to say."""
        found = [part for one in sentences(text, self.abbreviations) for part in runs_of_words(one, self.max_words)]
        return [part for part in found if any(character in self._spoken for character in part)]

    def unsayable(self, text: str) -> list[Unsayable]:
        """The characters of a text that are neither letters, digits, spaces nor in the tables, with their places."""
        return located(text, [(i, i + 1) for i, character in enumerate(text) if character not in self._known])

    @cached_property
    def _spoken(self) -> frozenset[str]:
        """The characters that become words: letters, digits, and what is read as them."""
        letters = {chr(point) for first, last in ("az", "AZ", "09") for point in range(ord(first), ord(last) + 1)}
        read = [*self.fold.items(), *self.replace]
        return frozenset(letters.union(self.figures.currencies, (old for old, new in read if letters & set(new))))

    @cached_property
    def _known(self) -> frozenset[str]:
        return self._spoken | self._signs | SPACE

    @cached_property
    def _signs(self) -> frozenset[str]:
        """The characters that are no letters, digits or spaces, and known all the same."""
        return frozenset(self.punctuation + "'").union(
            self.fold, self.figures.currencies, *self.figures.units, *(old for old, _ in self.replace)
        ) - frozenset("abcdefghijklmnopqrstuvwxyz ")

    def _in_words(self, text: str) -> str:
        """The text in letters and punctuation alone, lower case."""
        known = "".join(self.fold.get(character, " " if character in SPACE else character) for character in text)
        words = self.figures.spoken(lowered(known))
        for old, new in self.replace:
            words = words.replace(old, new)
            if len(words) > _LONGEST:
                raise TextError(f"more than {_LONGEST} characters after replacements")
        return words

    def _words(self, text: str, at: int) -> tuple[list[str], int]:
        """The phonemes of the word, abbreviation or row of initials that begins here, and where it ends."""
        end = _behind_word(text, at)
        while end == at + 1 or text[end - 2 : end - 1] == ".":
            if text[end : end + 1] != "." or not _is_letter(text, end + 1) or _is_letter(text, end + 2):
                break
            end += 2
        word, stopped = text[at:end], text[end : end + 1] == "."
        if word in self.abbreviations:
            return [self.pronounce(part) for part in self.abbreviations[word].split(" ")], end + stopped
        if word[1:2] == "." or (len(word) == 1 and stopped and _goes_on(text, end + 1)):
            names = [letter for letter in word if letter != "."]
            return [self.letters.get(name) or self.pronounce(name) for name in names], end + stopped
        return [self.pronounce(word)], end


def _is_letter(text: str, at: int) -> bool:
    return at < len(text) and "a" <= text[at] <= "z"


def _behind_word(text: str, at: int) -> int:
    """The end of the word that begins here: letters, and apostrophes between letters."""
    while _is_letter(text, at) or (text[at : at + 1] == "'" and _is_letter(text, at + 1)):
        at += 1
    return at


def _goes_on(text: str, at: int) -> bool:
    """Whether a word follows at once, or behind a space."""
    return _is_letter(text, at) or (text[at : at + 1] == " " and _is_letter(text, at + 1))
