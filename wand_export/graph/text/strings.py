"""Texts on which tokenizers are likely to differ."""

from collections.abc import Iterator, Sequence
from random import Random

from wand_export.graph.text.compiler import BYTES, SPACE_MARK

ODD = [
    "",
    " ",
    "   ",
    "\n",
    "\t x",
    '“Curly” quotes ‘don’t’ count, "straight" ones don\'t.',
    "no\u00a0break \u202f space\u00a0",
    "a\u0085b\u0085",
    "\u3000wide\u3000\u3000space",
    "\x1cfile\x1d\x1e\x1funit",
    "İstanbul ısı I İ i̇",
    "Straße STRASSE ẞ ŉ ﬁ ǰ",
    "e\u0301\u0323 a\u0323\u0301 \u0344 \u0340 \u1dfa\u0301 \u035c\u0315",
    "q\u0307\u0323 \u0958 \u2adc \ufb1d \u0f73\u0f75\u0f81 \U0001d15e",
    "\u212b \u2126 Å A\u030a ﬁ\u0301 x² ½ Ⅷ",
    "👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽 1️⃣",
    "한국어 \u1112\u1161\u11ab\u1100\u116e\u11a8 \uac00\u11a8 ｶﾞ か\u3099",
    "สวัสดีชาวโลก ำ",
    "١٢٣٤ १२३ ๑๒ 〇 𝟘𝟙 12345678 1234",
    "a\r\nb\r\n\r\n c\n\r\n  d \n",
    "nul\0inside\0",
    "it's IT'S it'ſ we'LL I'D 'Tis 're'VE'S it\u2019s 'K",
    "x  y   z    ",
    "hello <|im_end|>hel<|im_end|>lo<|im_end",
    "<s>x</s> <unk> <0x0A>",
    "▁a▁▁b ▁",
    "\ue000\uffff\ufffe\U0010ffff\ufffd\u0378",
    "\ufeffmark \u200b\u200c\u200d joined",
    "中文。日本語！ ",
    "mixed中文words 3.14,15 -- (a) [b] {c} @#$%",
]
"""Each a kind of trouble of its own."""

_POOLS = [
    "abcdefgh XYZ \n",
    "'sStTrReEvVmMlLdD ſK’",
    " \t\n\r\v\f\x1c\x1f\u0085\u00a0\u1680\u2002\u2028\u2029\u202f\u205f\u3000\u200b\u180e\ufeff",
    "0123456789١٢०๑Ⅷ²½〇𝟘𐄇🄀",
    '.,!?;:"()-_/\\[]{}@#$%&*~`’‘“”…。！¿',
    "aeiou" + "".join(map(chr, range(0x300, 0x370))),
    "".join(map(chr, range(0x1100, 0x1200))) + "가각힣ힰ",
    "".join(map(chr, range(0xE00, 0xE5C))),
    "".join(map(chr, range(0x900, 0x980))),
    "".join(map(chr, (*range(0x5B0, 0x5F0), *range(0x610, 0x680)))),
    "".join(map(chr, range(0x1EA0, 0x1F00))) + "\u0323\u0302\u0301\u031b",
    "😀👍🏽👩❤\u200d\ufe0f\u20e3🇩🇪",
    "中文字かが\u309a\u3099ｶﾞＡ１㌀豈",
    "\0\x01\x07\x1b\x7f\x80\x9f\u00ad\u200e\u202e\u2066",
    "İıßẞǅΣςσﬁﬃŉᾳ",
    f"{SPACE_MARK}{SPACE_MARK} ab<>|_",
]


def random_texts(count: int, tokens: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Seeded random texts of a few kinds of characters each, with any other character and `tokens` among them."""
    random = Random(seed)
    for _ in range(count):
        pools = random.sample(_POOLS, random.randint(1, 4))
        yield "".join(_random_part(random, pools, tokens) for _ in range(random.randint(1, 24)))


def _random_part(random: Random, pools: list[str], tokens: Sequence[str]) -> str:
    roll = random.random()
    if roll < 0.08:
        point = random.randrange(0x3000 if roll < 0.04 else 0x10F800)
        return chr(point if point < 0xD800 else point + 0x800)
    if roll < 0.14 and tokens:
        return random.choice(tokens)
    if roll < 0.22:
        return random.choice(" \n") * random.randint(1, 3)
    return random.choice(random.choice(pools))


def vocabulary_texts(vocabulary: Sequence[str], count: int) -> Iterator[str]:
    """Texts that some of a vocabulary's pieces stand for, evenly picked: as they are, behind a space, and in UTF-8."""
    for piece in sorted(vocabulary)[:: max(1, len(vocabulary) // count)]:
        yield piece
        yield f"x {piece.replace(SPACE_MARK, ' ')}"
        if all(letter in BYTES for letter in piece):
            yield bytes(BYTES[letter] for letter in piece).decode(errors="replace")


def long_texts(size: int) -> list[str]:
    """Texts of some `size` characters that slow a careless reader down."""
    units = [
        "a",
        " ",
        "ab",
        "'s",
        "\n ",
        "1",
        "\u0323\u0301",
        "中",
        "\u1112\u1161\u11ab",
        "😀\u200d",
        "The old clock. ",
    ]
    return [*((unit * size)[:size] for unit in units), " " * size + "x", "".join(random_texts(size // 12, []))]
