"""A text cut into utterances, by tables of code points: no language's own idea of letters or spaces is asked."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import pairwise

CLASSES = {
    # Unicode's White_Space, all 25 of them.
    "space": "9..D 20 85 A0 1680 2000..200A 2028 2029 202F 205F 3000",
    "line_end": "A..D 85 2028 2029",
    # No voice can say these: controls, halves of surrogate pairs, what is no character.
    "control": "0..8 E..1F 7F..84 86..9F D800..DFFF FFFE FFFF",
    # Without width; between words they part like a space.
    "hidden": "200B FEFF",
    # A full stop and what is made of it, which need a space behind them and may mean something else.
    "dot": "2E 2025 2026",
    # Other marks that end a sentence where a space, or a closing quote, follows.
    "stop": "21 3F 37E 203C..203D 2047..2049",
    # Marks of scripts that put no space behind them, or use them for nothing else.
    "full_stop": "589 5C3 61E 61F 6D4 700..702 7F9 964 965 DF4 E5A E5B F0D 104B 1362 1367 166E 17D4 17D5 1803 1809 "
    "1944 1945 1C7E 1C7F 3002 A6F3 A8CE A8CF A9C8 A9C9 AAF0 ABEB FE52 FE56 FE57 FF01 FF0E FF1F FF61",
    "clause": "2C 3A 3B 2013..2015",
    "full_clause": "55D 60C 61B 104A 1363..1366 1802 1808 3001 FE50 FE51 FE54 FE55 FF0C FF1A FF1B FF64",
    "closer": "29 5D 7D BB 2019 201D 203A 200E 200F 202A..202E 2066..2069 3009 300B 300D 300F 3011 3015 3017 3019 301B "
    "301E 301F FE42 FE44 FE5A FE5C FE5E FF09 FF3D FF5D FF60 FF63",
    # They open in one language and close in another, or both in one.
    "quote": "22 27 60 AB 2018 201B 201C 201F 2039 FF02 FF07",
    "opener": "28 5B 7B A1 BF 201A 201E 3008 300A 300C 300E 3010 3014 3016 3018 301A 301D FE41 FE43 FE59 FE5B FE5D "
    "FF08 FF3B FF5B FF5F FF62",
    # What says nothing beside all of the above: dashes, bullets, rules, ornaments.
    "mute": "23 2A 2B 2D 2F 3C..3E 5C 5E 5F 7C 7E A6 A8 AC AF B4 B7 B8 AD 200C 200D 2010..2012 2016 2017 2020..2024 "
    "2027 2032..2038 203B 203E..2046 2060 2190..21FF 2500..25FF 2E3A 2E3B 301C 3030 30FB FE0E FE0F FF0D FF5E",
    "digit": "30..39 660..669 6F0..6F9 966..96F FF10..FF19",
    "lower": "61..7A DF..F6 F8..FF 3AC..3CE 430..45F 561..587",
    "upper": "41..5A C0..D6 D8..DE 386..3AB 400..42F 531..556",
    # Signs that belong to the character before them.
    "joined": "300..36F 591..5BD 610..61A 64B..65F 900..903 93A..93C 93E..94F E31 E34..E3A E47..E4E 1DC0..1DFF 200C "
    "200D 20D0..20FF 302A..302D 3099 309A FE00..FE0F FE20..FE2F 1F3FB..1F3FF E0100..E01EF",
}
"""Code points in hexadecimal, runs of them as first..last."""

ABBREVIATIONS = {
    "never": "mr mrs ms mx dr prof st mt ft gen col maj sgt capt lt cmdr adm rev hon sen rep gov pres messrs mme mlle "
    "hr fr bzw vgl ca dra sra srta ste vs cf viz e.g i.e approx dept ph.d",
    "unless_sentence": "etc al a.m p.m jr sr esq inc ltd co corp bros ave blvd rd km cm mm kg usw ff",
    "before_digit": "no nos nr vol vols ch fig figs eq sec art pp jan feb mar apr jun jul aug sep sept oct nov dec",
}
"""Lower-case words whose full stop ends no sentence: never; unless a lower-case word or a digit could not begin the
next one; and only before a digit."""

_LONGEST_ABBREVIATION, _LONGEST_MARKER = 20, 3


def _points(runs: str) -> frozenset[str]:
    found: set[str] = set()
    for run in runs.split(" "):
        first, _, last = run.partition("..")
        found.update(chr(point) for point in range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(found)


_SETS = {name: _points(runs) for name, runs in CLASSES.items()}
SPACE, LINE_END, CONTROL, HIDDEN = (_SETS[name] for name in ("space", "line_end", "control", "hidden"))
DOT, STOP, FULL_STOP = (_SETS[name] for name in ("dot", "stop", "full_stop"))
CLAUSE, FULL_CLAUSE, MUTE = (_SETS[name] for name in ("clause", "full_clause", "mute"))
CLOSER, QUOTE, OPENER = (_SETS[name] for name in ("closer", "quote", "opener"))
DIGIT, LOWER, UPPER, JOINED = (_SETS[name] for name in ("digit", "lower", "upper", "joined"))
_BLANK = SPACE | HIDDEN
_ENDING = DOT | STOP | FULL_STOP
_LEADING = _BLANK | OPENER | QUOTE
_TRAILING = _ENDING | CLOSER
SILENT = _BLANK | _ENDING | CLAUSE | FULL_CLAUSE | CLOSER | QUOTE | OPENER | MUTE
_NEVER, _UNLESS_SENTENCE, _BEFORE_DIGIT = (frozenset(words.split(" ")) for words in ABBREVIATIONS.values())


@dataclass(frozen=True)
class Unsayable:
    """Characters of a text that cannot be said, and where they stand: line and column count from 1."""

    characters: str
    index: int
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.characters!r} (line {self.line}, column {self.column})"


def located(text: str, found: list[tuple[int, int]]) -> list[Unsayable]:
    """Stretches [first, end) of a text, in order of `first`, with their places; of two that overlap the first.

    CR LF ends one line.
    """
    places: list[Unsayable] = []
    line, start, at, behind = 1, 0, 0, 0
    for first, end in found:
        if first < behind:
            continue
        while at < first:
            if text[at] in LINE_END and not (text[at] == "\r" and text[at + 1] == "\n"):
                line, start = line + 1, at + 1
            at += 1
        places.append(Unsayable(text[first:end], first, line, first - start + 1))
        behind = end
    return places


def without(text: str, odd: list[Unsayable]) -> str:
    """The text less these stretches of it."""
    kept, at = [], 0
    for stretch in odd:
        kept.append(text[at : stretch.index])
        at = stretch.index + len(stretch.characters)
    return "".join([*kept, text[at:]])


def trimmed(text: str) -> str:
    """The text without white space at its ends."""
    first, end = 0, len(text)
    while first < end and text[first] in _BLANK:
        first += 1
    while end > first and text[end - 1] in _BLANK:
        end -= 1
    return text[first:end]


def sentences(text: str, abbreviations: Container[str] = ()) -> list[str]:
    """The sentences of a text in order, trimmed; those that hold nothing to say are left out.

    A sentence ends at a line's end, behind a mark of the class full_stop, and behind one of dot or stop before a space,
    with all further marks, quotes and brackets that close there. It goes on behind an abbreviation (those of this
    module, and `abbreviations`, in lower case), an initial, a list's number that it begins with, and where a
    lower-case word follows an ellipsis or a closing quote.
    """
    found, at, quoted = [], 0, False
    first, word = 0, None  # where the sentence begins, and its first word
    while at < len(text):
        if text[at] in LINE_END:
            found.append(text[first:at])
            first, word, at, quoted = at + 1, None, at + 1, False
        elif text[at] in _ENDING:
            end = _run(text, at, quoted)
            quoted ^= text.count('"', at, end) % 2 == 1
            if _ends(text, at if word is None else word, at, end, abbreviations):
                found.append(text[first:end])
                first, word = end, None
            at = end
        else:
            if word is None and text[at] not in _LEADING:
                word = at
            quoted ^= text[at] == '"'
            at += 1
    found.append(text[first:])
    return [trimmed(part) for part in found if says_something(part)]


def says_something(part: str) -> bool:
    """Whether it holds more than spaces and punctuation."""
    return any(character not in SILENT for character in part)


def _run(text: str, at: int, quoted: bool) -> int:
    """The end of a run of stops and of what closes behind them, spaced ones (. . . and French quotes) included."""
    while True:
        while at < len(text) and (text[at] in _ENDING or _closes(text, at, quoted)):
            quoted ^= text[at] == '"'
            at += 1
        following = at
        while following < len(text) and text[following] in _BLANK and text[following] not in LINE_END:
            following += 1
        if following in (at, len(text)) or text[following] not in _TRAILING or not _apart(text, following + 1):
            return at
        at = following


def _closes(text: str, at: int, quoted: bool) -> bool:
    if text[at] in CLOSER:
        return True
    return text[at] in QUOTE and ((text[at] == '"' and quoted) or _apart(text, at + 1))


def _apart(text: str, at: int) -> bool:
    """Whether no word begins here."""
    return at >= len(text) or (text[at] in SILENT and text[at] not in OPENER)


def _ends(text: str, first: int, at: int, end: int, abbreviations: Container[str]) -> bool:
    """Whether the run [at, end) of stops and closers ends the sentence whose first word begins at `first`."""
    following = end
    while following < len(text) and text[following] in _BLANK and text[following] not in LINE_END:
        following += 1
    after = text[following] if following < len(text) else "\n"
    run = text[at:end]
    closed = run[-1] not in _ENDING
    if any(mark in FULL_STOP for mark in run):
        decimal = run == "\uff0e" and text[end : end + 1] in DIGIT and text[max(0, at - 1) : at] in DIGIT
        return not (decimal or after in CLAUSE or after in FULL_CLAUSE)
    if following == end and after not in LINE_END:
        return closed and (after in OPENER or after in QUOTE)
    if closed and after in LOWER:
        return False
    if any(mark in STOP for mark in run):
        return True
    if run[0] != "." or sum(mark in DOT for mark in run) > 1:
        return after not in LOWER
    return not _abbreviated(text, first, at, after, abbreviations)


def _abbreviated(text: str, first: int, at: int, after: str, abbreviations: Container[str]) -> bool:
    """Whether the full stop at `at`, before the word that begins with `after`, belongs to the word before it."""
    start = at
    while start > first and text[start - 1] not in _BLANK and text[start - 1] not in CLAUSE:
        start -= 1
        if at - start > _LONGEST_ABBREVIATION:
            return False
    while start < at and text[start] in _LEADING:
        start += 1
    written = text[start:at]
    word = lowered(written)
    goes_on = after in LOWER or after in DIGIT
    if word in _NEVER or (word in _UNLESS_SENTENCE and goes_on) or (word in _BEFORE_DIGIT and after in DIGIT):
        return True
    if word in _UNLESS_SENTENCE or word in _BEFORE_DIGIT:
        return False
    letters = written.split(".")
    if all(len(letter) == 1 and (letter in LOWER or letter in UPPER) for letter in letters):
        if len(letters) == 1:
            return word != "i" or start == first
        return goes_on or letters[0] in UPPER
    marker = start == first and 0 < len(word) <= _LONGEST_MARKER and all(digit in DIGIT for digit in word)
    return marker or word in abbreviations


def lowered(text: str) -> str:
    """The text with A to Z in lower case: what tables of words are asked for."""
    return "".join(chr(ord(letter) + 32) if "A" <= letter <= "Z" else letter for letter in text)


def runs_of_words(sentence: str, most: int) -> list[str]:
    """The sentence in parts of at most `most` words, cut behind a clause where one ends past the first quarter."""
    words: list[tuple[int, int]] = []
    start = None
    for at, character in enumerate(sentence + " "):
        if character in _BLANK:
            if start is not None:
                words.append((start, at))
            start = None
        elif start is None:
            start = at
    found, first = [], 0
    while len(words) - first > most:
        clauses = range(first + most, first + most // 4, -1)
        cut = next((n for n in clauses if sentence[words[n - 1][1] - 1] in CLAUSE), first + most)
        found.append(sentence[words[first][0] : words[cut - 1][1]])
        first = cut
    return [*found, *([sentence[words[first][0] : words[-1][1]]] if words else [])]


def parts(sentence: str, count: int) -> list[str]:
    """A sentence of two or more characters in about `count` parts of about one length, at least two, trimmed.

    A cut lies behind a clause that ends less than half a part away, else at the nearest space less than a part away,
    else between two characters.
    """
    count = max(2, min(count, len(sentence)))
    size = len(sentence) // count
    cuts = {0, len(sentence)}
    for number in range(1, count):
        place = number * len(sentence) // count
        cuts.add(
            _nearest(sentence, place, size // 2, _behind_clause)
            or _nearest(sentence, place, size, _at_space)
            or _nearest(sentence, place, size, _between_characters)
            or place
        )
    places = sorted(cuts)
    return [trimmed(sentence[first:end]) for first, end in pairwise(places)]


def _nearest(text: str, place: int, reach: int, cuts: Callable[[str, int], bool]) -> int | None:
    """The nearest place, less than `reach` away and not at an end, where `cuts` allows a cut."""
    for distance in range(reach):
        for at in (place - distance, place + distance):
            if 0 < at < len(text) and cuts(text, at):
                return at
    return None


def _behind_clause(text: str, at: int) -> bool:
    before = text[at - 1]
    return before in FULL_CLAUSE or (text[at] in _BLANK and (before in CLAUSE or before in _ENDING))


def _at_space(text: str, at: int) -> bool:
    return text[at] in _BLANK


def _between_characters(text: str, at: int) -> bool:
    return text[at] not in JOINED and text[at - 1] != "\u200d"
