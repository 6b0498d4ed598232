"""Write the text tables of the voice: models/wren/text/text.json and lexicon.tsv.

Pronunciations come from hibari-tts, whose lexicon is that of misaki (both Apache-2.0).
    python models/wren/training/lexicon.py
"""

import argparse
import json
import re
import string
import unicodedata
from pathlib import Path
from typing import Any

import wordfreq
from hibari import Hibari

FIRST_SYMBOL = 1026
FIRST_BOUNDARY, BOUNDARIES = 1079, 26
"""Ids of the spaces between words, by their number modulo BOUNDARIES."""
PUNCTUATION = ".,!?;:"
SAME = {
    "'": "\u2018\u2019\u201b\u2032\u00b4`\u02bc\uff07",
    '"': "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2033\u201a\uff02",
    "-": "\u2010\u2011\u2012\u2212",
    "\u2014": "\u2015\u2e3a\u2e3b",
    "...": "\u2026",
    ", ": "\u2022\u00b7\u2023\u25cf\u25aa\u25e6",
    " ": "\u200b\ufeff_~^|\\*\u00a6\u00a8\u00af\u00b8\u200e\u200f",
    "": "\u00ad\u200c\u200d\u2060\ufe0e\ufe0f\u2122\u00ae\u00a9\u00ba\u00aa",
    "ss": "\u00df\u1e9e", "ae": "\u00e6\u00c6", "oe": "\u0153\u0152", "o": "\u00f8\u00d8", "d": "\u0111\u0110",
    "l": "\u0142\u0141", "th": "\u00fe\u00de\u00f0\u00d0", "i": "\u0131", "h": "\u0127\u0126", "k": "\u0138\u212a",
    "t": "\u0167\u0166", "ng": "\u014b\u014a", "s": "\u017f",
    " times ": "\u00d7", " divided by ": "\u00f7", " plus or minus ": "\u00b1", " section ": "\u00a7",
    " number ": "#\u2116", " squared": "\u00b2", " cubed": "\u00b3", " micro": "\u00b5", "/": "\u2044\u2215",
}  # fmt: skip
"""What some characters are read as."""
LATIN = (0xC0, 0x17F), (0x1CD, 0x21B), (0x1E00, 0x1EF9), (0x212B, 0x212B), (0xFB00, 0xFB06), (0xFF01, 0xFF5E)
COMBINING = 0x300, 0x36F
VULGAR_FRACTIONS = 0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F)
REPLACE = [
    ['"', ""], ["\u2014", ", "], ["\u2013", ", "], ["--", ", "], ["(", ", "], [")", ", "],
    ["[", ", "], ["]", ", "], ["{", ", "], ["}", ", "], ["<", " "], [">", " "], ["-", " "], ["/", " "],
    ["&", " and "], ["%", " percent "], ["+", " plus "], ["=", " equals "], ["@", " at "], ["\u00b0", " degrees "],
    ["ph.d", "p h d"],
]  # fmt: skip
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "st": "saint", "vs": "versus", "prof": "professor",
    "etc": "et cetera", "jr": "junior", "sr": "senior", "km": "kilometers", "kg": "kilograms",
    "e.g": "for example", "i.e": "that is",
}  # fmt: skip
CURRENCIES = {"$": "dollars", "\u00a3": "pounds", "\u20ac": "euros"}
VOWELS = "AIOWYiuæɐɑɔəɛɜɪʊʌᵊᵻ"
MAX_WORDS = 20
"""A longer sentence is spoken in parts: the voice learned utterances of up to about eight seconds."""
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ["hundred", "thousand", "million", "billion", "trillion"]
FIGURES = {
    "minus": "minus", "range": "to", "conjunction": "and", "oh": "oh", "full_hour": "o'clock",
    "coins": {"$": ["cent", "cents"], "\u00a3": ["penny", "pence"], "\u20ac": ["cent", "cents"]},
    "units": {
        "\u00b0c": "degrees celsius", "\u00b0f": "degrees fahrenheit", "\u00b0": "degrees", "mm": "millimeters",
        "cm": "centimeters", "km": "kilometers", "km/h": "kilometers per hour", "mph": "miles per hour", "ft": "feet",
        "mg": "milligrams", "kg": "kilograms", "lb": "pounds", "lbs": "pounds", "oz": "ounces", "ml": "milliliters",
        "hz": "hertz", "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "kb": "kilobytes",
        "mb": "megabytes", "gb": "gigabytes", "tb": "terabytes", "ms": "milliseconds", "min": "minutes",
        "hrs": "hours", "am": "a.m.", "pm": "p.m.",
    },
    "singular": {
        "dollars": "dollar", "pounds": "pound", "euros": "euro", "degrees": "degree",
        "degrees celsius": "degree celsius", "degrees fahrenheit": "degree fahrenheit", "millimeters": "millimeter",
        "centimeters": "centimeter", "kilometers": "kilometer", "kilometers per hour": "kilometer per hour",
        "miles per hour": "mile per hour", "feet": "foot", "milligrams": "milligram", "kilograms": "kilogram",
        "ounces": "ounce", "milliliters": "milliliter", "kilobytes": "kilobyte", "megabytes": "megabyte",
        "gigabytes": "gigabyte", "terabytes": "terabyte", "milliseconds": "millisecond", "minutes": "minute",
        "hours": "hour",
    },
    "ordinals": {
        "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
        "twelve": "twelfth",
    },
    "suffixes": ["st", "nd", "rd", "th"],
    "fractions": {
        "2": ["half", "halves"], "3": ["third", "thirds"], "4": ["quarter", "quarters"], "5": ["fifth", "fifths"],
        "6": ["sixth", "sixths"], "7": ["seventh", "sevenths"], "8": ["eighth", "eighths"], "9": ["ninth", "ninths"],
        "10": ["tenth", "tenths"], "16": ["sixteenth", "sixteenths"], "100": ["hundredth", "hundredths"],
    },
    "numbered": {
        "no": "number", "nos": "numbers", "vol": "volume", "ch": "chapter", "fig": "figure", "p": "page", "pp": "pages",
        "sec": "section",
    },
}  # fmt: skip
"""Numbers and their kin: see wand_export/host/figures.py."""
LETTERS = {"a": "ˈA", "i": "ˈI"}
"""Names of letters that are words of their own."""
RARE = {
    "fortieth": "fˈɔɹTiəθ", "sixtieth": "sˈɪkstiəθ", "seventieth": "sˈɛvəntiəθ", "eightieth": "ˈATiəθ",
    "ninetieth": "nˈIndiəθ", "thirtieth": "θˈɜɹTiəθ", "eighths": "ˈAθs", "sixteenths": "sˌɪkstˈinθs",
    "sixths": "sˈɪksθs", "sevenths": "sˈɛvənθs", "ninths": "nˈInθs", "hundredths": "hˈʌndɹədθs",
    "kilobyte": "kˈɪləbˌIt", "kilobytes": "kˈɪləbˌIts", "megabyte": "mˈɛɡəbˌIt", "megabytes": "mˈɛɡəbˌIts",
    "gigabytes": "ɡˈɪɡəbˌIts", "terabyte": "tˈɛɹəbˌIt", "terabytes": "tˈɛɹəbˌIts", "kilohertz": "kˈɪləhˌɜɹts",
    "megahertz": "mˈɛɡəhˌɜɹts", "gigahertz": "ɡˈɪɡəhˌɜɹts", "milligram": "mˈɪləɡɹˌæm",
    "milliliter": "mˈɪləlˌiTəɹ", "milliliters": "mˈɪləlˌiTəɹz", "millisecond": "mˈɪləsˌɛkənd",
}  # fmt: skip
"""Words of FIGURES that are too rare for the list of words."""
REDUCED = {
    "that": "ðæt", "can": "kæn", "his": "hɪz", "her": "hɜɹ", "i": "ˌI", "on": "ˌɔn", "it's": "ɪts", "miz": "mɪz",
    "to": "tə", "in": "ɪn", "this": "ðɪs", "be": "bi", "have": "hæv", "by": "bI", "my": "mI", "will": "wɪl",
    "had": "hæd", "there": "ðɛɹ", "been": "bɪn", "would": "wʊd", "could": "kʊd", "these": "ðiz", "those": "ðOz",
    "through": "θɹu", "am": "æm", "live": "lˈɪv",
}  # fmt: skip
"""Words whose usual form in a sentence is not the one that the phonemizer gives for the word alone."""
GRAPHEMES = {
    "a": "æ", "b": "b", "c": "k", "d": "d", "e": "ɛ", "f": "f", "g": "ɡ", "h": "h", "i": "ɪ", "j": "ʤ", "k": "k",
    "l": "l", "m": "m", "n": "n", "o": "ɑ", "p": "p", "q": "k", "r": "ɹ", "s": "s", "t": "t", "u": "ʌ", "v": "v",
    "w": "w", "x": "ks", "y": "i", "z": "z", "ch": "ʧ", "sh": "ʃ", "th": "θ", "ph": "f", "wh": "w", "ck": "k",
    "ng": "ŋ", "qu": "kw", "ee": "i", "ea": "i", "oo": "u", "ou": "W", "ow": "W", "oi": "Y", "oy": "Y", "ai": "A",
    "ay": "A", "ei": "A", "ey": "i", "ie": "i", "oa": "O", "au": "ɔ", "aw": "ɔ", "ar": "ɑɹ", "er": "əɹ", "ir": "ɜɹ",
    "or": "ɔɹ", "ur": "ɜɹ", "tion": "ʃən", "sion": "ʒən", "igh": "I", "dge": "ʤ", "tch": "ʧ", "ll": "l", "ss": "s",
    "tt": "t", "mm": "m", "nn": "n", "pp": "p", "rr": "ɹ", "ff": "f", "dd": "d", "bb": "b", "gg": "ɡ", "zz": "z",
    "ce": "s", "ci": "sɪ", "ge": "ʤ", "kn": "n", "wr": "ɹ",
}  # fmt: skip


def fold() -> dict[str, str]:
    """What each character is read as: Latin letters without their accents, fractions by their figures, and SAME."""
    found = {}
    for first, last in LATIN:
        for character in map(chr, range(first, last + 1)):
            plain = unicodedata.normalize("NFKD", character)
            plain = "".join(c for c in plain if not unicodedata.combining(c))
            if plain.isascii() and plain != character:
                found[character] = plain
    found |= {chr(point): "" for point in range(COMBINING[0], COMBINING[1] + 1)}
    for point in VULGAR_FRACTIONS:
        found[chr(point)] = f" {unicodedata.normalize('NFKD', chr(point)).replace(chr(0x2044), '/')}"
    return found | {character: read for read, characters in SAME.items() for character in characters}


def words_of(tables: Any) -> set[str]:
    """The words of lists and of tables' values, at any depth."""
    if isinstance(tables, str):
        return {word for word in tables.split() if re.fullmatch("[a-z']+", word)}
    return set().union(*map(words_of, tables.values() if isinstance(tables, dict) else tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=45000, help="how many of the most frequent words to keep")
    folder = Path(__file__).resolve().parents[1] / "text"
    words = parser.parse_args().words
    teacher = Hibari()
    frequent = [w for w in wordfreq.top_n_list("en", 4 * words) if re.fullmatch(r"[a-z]+('[a-z]+)*", w)][:words]
    needed = {"point", *CURRENCIES.values(), *ONES, *filter(None, TENS), *SCALES, *string.ascii_lowercase}
    needed.update(*(spoken.split() for spoken in ABBREVIATIONS.values()))
    needed.update(words_of(FIGURES))
    lexicon = {}
    for word in sorted({*frequent, *needed}):
        spoken = teacher.phonemize(word)
        if len(spoken) == 1 and " " not in (phonemes := spoken[0].strip(PUNCTUATION + " ")) and phonemes:
            lexicon[word] = phonemes
    lexicon |= REDUCED | RARE
    letters = sorted({c for phonemes in (*lexicon.values(), *GRAPHEMES.values()) for c in phonemes})
    unknown = [c for c in letters if c not in teacher.vocab]
    assert not unknown, unknown
    symbols = {c: FIRST_SYMBOL + i for i, c in enumerate([" ", *PUNCTUATION, *letters])}
    tables = {
        "fold": fold(), "figures": FIGURES, "replace": REPLACE, "abbreviations": ABBREVIATIONS, "letters": LETTERS,
        "ones": ONES, "tens": TENS, "scales": SCALES, "currencies": CURRENCIES, "point": "point",
        "graphemes": GRAPHEMES, "vowels": VOWELS, "punctuation": PUNCTUATION, "max_words": MAX_WORDS,
        "symbols": symbols, "boundaries": list(range(FIRST_BOUNDARY, FIRST_BOUNDARY + BOUNDARIES)),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "text.json").write_text(json.dumps(tables, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    lines = (f"{word}\t{phonemes}\n" for word, phonemes in sorted(lexicon.items()))
    (folder / "lexicon.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"{len(lexicon)} words, {len(symbols)} symbols")


if __name__ == "__main__":
    main()
