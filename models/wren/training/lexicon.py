"""Write the text tables of the voice: models/wren/text/text.json and lexicon.tsv.

Pronunciations come from hibari-tts, whose lexicon is that of misaki (both Apache-2.0).
    python models/wren/training/lexicon.py
"""

import argparse
import json
import re
import string
from pathlib import Path

import wordfreq
from hibari import Hibari

FIRST_SYMBOL = 1026
FIRST_BOUNDARY, BOUNDARIES = 1079, 26
"""Ids of the spaces between words, by their number modulo BOUNDARIES."""
PUNCTUATION = ".,!?;:"
REPLACE = [
    ["\u2019", "'"], ["\u2018", "'"], ["\u201c", ""], ["\u201d", ""], ['"', ""], ["\u2026", "..."],
    ["\u2014", ", "], ["\u2013", ", "], ["--", ", "], ["(", ", "], [")", ", "], ["-", " "], ["/", " "],
    ["&", " and "], ["%", " percent "], ["+", " plus "], ["=", " equals "], ["@", " at "],
    ["\u00e9", "e"], ["\u00e8", "e"], ["\u00ea", "e"],
    ["\u00e0", "a"], ["\u00e2", "a"], ["\u00e7", "c"], ["\u00ef", "i"], ["\u00f4", "o"], ["\u00f6", "o"],
    ["\u00fc", "u"], ["\u00f1", "n"],
]  # fmt: skip
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "st": "saint", "vs": "versus", "prof": "professor",
    "etc": "et cetera", "jr": "junior", "sr": "senior", "km": "kilometers", "kg": "kilograms",
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
SCALES = ["hundred", "thousand", "million"]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=45000, help="how many of the most frequent words to keep")
    folder = Path(__file__).resolve().parents[1] / "text"
    words = parser.parse_args().words
    teacher = Hibari()
    frequent = [w for w in wordfreq.top_n_list("en", 4 * words) if re.fullmatch(r"[a-z]+('[a-z]+)*", w)][:words]
    needed = {"point", *CURRENCIES.values(), *ONES, *filter(None, TENS), *SCALES, *string.ascii_lowercase}
    needed.update(*(spoken.split() for spoken in ABBREVIATIONS.values()))
    lexicon = {}
    for word in sorted({*frequent, *needed}):
        spoken = teacher.phonemize(word)
        if len(spoken) == 1 and " " not in (phonemes := spoken[0].strip(PUNCTUATION + " ")) and phonemes:
            lexicon[word] = phonemes
    lexicon |= REDUCED
    letters = sorted({c for phonemes in (*lexicon.values(), *GRAPHEMES.values()) for c in phonemes})
    unknown = [c for c in letters if c not in teacher.vocab]
    assert not unknown, unknown
    symbols = {c: FIRST_SYMBOL + i for i, c in enumerate([" ", *PUNCTUATION, *letters])}
    tables = {
        "replace": REPLACE, "abbreviations": ABBREVIATIONS, "ones": ONES, "tens": TENS, "scales": SCALES,
        "currencies": CURRENCIES, "point": "point", "graphemes": GRAPHEMES, "vowels": VOWELS,
        "punctuation": PUNCTUATION, "max_words": MAX_WORDS, "symbols": symbols,
        "boundaries": list(range(FIRST_BOUNDARY, FIRST_BOUNDARY + BOUNDARIES)),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "text.json").write_text(json.dumps(tables, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    lines = (f"{word}\t{phonemes}\n" for word, phonemes in sorted(lexicon.items()))
    (folder / "lexicon.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"{len(lexicon)} words, {len(symbols)} symbols")


if __name__ == "__main__":
    main()
