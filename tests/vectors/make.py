"""Write every vector file: `python tests/vectors/make.py`. Python, Kotlin and Swift are held to them.

layout.json     slots and masks of the WAND law: masks are strings of 0 and 1, one character a slot
random.json     SplitMix64: 64-bit numbers are decimal strings; uniform in [0, 1); noise in [-1, 1); normal
                numbers, to be met within the rounding of log() and cos()
sampling.json   utterances of picks: step i reads row i mod rows of `logits`; one sampler for all steps of a case
stop.json       stop rules
text.json       tables of small tokenizers and what they make of texts: see text_vectors.py
sentences.json  texts and their sentences; sentences in parts of so many words, and in about so many parts; figures in
                the example voice's words, spaces squeezed
replace.json    texts and what they are with the words of a table replaced
stretch.json    speech at other speeds: samples x 32768, to be met within `tolerance` of them
prompt.json     changes of a small manifest, and the stretches that its prefix makes of requests, or why it refuses them
audio.json      utterances: token ids (and vectors) in, each call of a graph as [name, inputs, outputs] (a value is
                [type, shape, numbers]: hold the inputs to yours, and answer with the outputs), and the samples that
                each token completed, those of the end last
wav.json        samples, and the bytes in hexadecimal of their file and of their stream
hostile.json    manifests, checksums and tables that lie, one explained lie each: see hostile_vectors.py
manifest.schema.json, audio.schema.json (audio.json, which wand audio writes), plan.schema.json (wand speak --plan)
No draw lies nearer than MARGIN to a boundary: the rounding of exp() cannot change a pick.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from host_vectors import audio_vectors, prompt_vectors, wav_vectors
from hostile_vectors import hostile_vectors
from text_vectors import text_vectors

from wand_export.host.replace import replaced
from wand_export.host.sampling import Sampler, SplitMix64, StopRule, TextOrder, noise, normal
from wand_export.host.sentences import parts, runs_of_words, sentences
from wand_export.host.stretch import Stretch
from wand_export.host.text import Frontend
from wand_export.layout import Layout, kv_bytes
from wand_export.spec.codec import AudioFile
from wand_export.spec.manifest import Manifest
from wand_export.spec.plan import Plan
from wand_export.spec.recipe import Sampler as Settings
from wand_export.spec.recipe import Stop
from wand_export.spec.schema import shipped

SCHEMA = 1
MARGIN = 1e-6
FOLDER = Path(__file__).resolve().parent


def layout_vectors() -> dict[str, Any]:
    """Rows of three chunk sizes in the prefix, one by one behind it, at the ring's wraps and far away."""
    cases = []
    for prefix_capacity, window in [(8, 8), (13, 3), (6, 26), (31, 1), (1, 31)]:
        layout = Layout(prefix_capacity, window)
        for p in sorted({1, (prefix_capacity + 1) // 2, prefix_capacity}):
            calls = [(first, min(first + 3, p)) for first in range(0, p, 3)]
            generated = {0, 1, window - 1, window, window + 1, 2 * window + 1, 10_007}
            calls += [(p + g, p + g + 1) for g in sorted(generated)]
            rows = [layout_row(layout, p, first, t) for first, end in calls for t in range(first, end)]
            cases.append({"prefix_capacity": prefix_capacity, "window": window, "prefix_len": p, "rows": rows})
    fitting = [[prefix, window, Layout.fitting(prefix, window).prefix_capacity] for prefix, window in FITTING]
    sizes = [[*sizes, kv_bytes(*sizes)] for sizes in [(96, 5, 4, 64, 4), (512, 24, 2, 64, 2)]]
    return {"schema": SCHEMA, "cases": cases, "fitting": fitting, "kv_bytes": sizes}


FITTING = [(1, 1), (32, 32), (33, 32), (480, 32), (1000, 32), (100, 7)]


def layout_row(layout: Layout, p: int, first: int, t: int) -> dict[str, Any]:
    """The slot of token t, and the slots that its query sees in a call whose first row is `first`."""
    slots = range(layout.capacity)
    return {
        "first": first,
        "t": t,
        "slot": layout.slot(t, p),
        "sees_after_write": "".join(str(int(layout.sees_after_write(t, s, p))) for s in slots),
        "sees_before_write": "".join(str(int(layout.sees_before_write(t, s, p, first))) for s in slots),
    }


def random_vectors() -> dict[str, Any]:
    """The first numbers of some seeds, and stretches of both kinds of noise, one of which starts before sample 0."""
    generators = []
    for seed in [0, 1, 2**32 + 5, 2**63, 2**64 - 1]:
        bits, uniform = SplitMix64(seed), SplitMix64(seed)
        outputs, numbers = [str(bits.next()) for _ in range(6)], [uniform.uniform() for _ in range(6)]
        generators.append({"seed": str(seed), "outputs": outputs, "uniform": numbers})
    stretches = [
        {"seed": str(seed), "start": start, "values": noise(seed, start, 8).tolist()}
        for seed, start in [(0, 0), (0, 4), (7, -3), (2**64 - 1, 2**40)]
    ]
    normals = [
        {"seed": str(seed), "start": start, "values": normal(seed, start, 8).tolist()}
        for seed, start in [(0, 0), (0, 4), (7, -3), (2**64 - 1, 2**40)]
    ]
    return {"schema": SCHEMA, "splitmix64": generators, "noise": stretches, "normal": normals}


class Watched(Sampler):
    """A sampler that remembers how near its draws came to a boundary, as a fraction of the sum."""

    margin = 1.0

    def _row(self, scores: Any, settings: Settings, everything: float | None) -> int:
        weights = np.exp(scores - scores[0])
        sums = np.cumsum(weights)
        if settings.top_p < 1:
            total = everything or sums[-1]
            self.margin = min(self.margin, *np.abs(sums / total - settings.top_p))
            sums = sums[: np.searchsorted(sums, settings.top_p * total) + 1]
        if settings.min_p > 0:
            self.margin = min(self.margin, *np.abs(weights - settings.min_p))
            sums = sums[: np.count_nonzero(weights >= settings.min_p)]
        after = SplitMix64(0)
        after._state = self._random._state
        self.margin = min(self.margin, *np.abs(sums[:-1] / sums[-1] - after.uniform()), 1.0)
        return super()._row(scores, settings, everything)


SAMPLED = [
    Settings(temperature=0),
    Settings(temperature=0, repeat_window=4),
    Settings(),
    Settings(temperature=0.5),
    Settings(top_k=1),
    Settings(top_k=5),
    Settings(top_p=0.8),
    Settings(top_p=0.01),
    Settings(temperature=0.8, top_k=50, top_p=0.95),
    Settings(top_k=25, top_p=0.8, repeat_window=10),
    Settings(temperature=0.3, repeat_window=2),
    Settings(top_k=25, top_p=0.8, top_p_of="all", repeat_window=10),
    Settings(top_k=3, top_p=0.9, top_p_of="all"),
    Settings(min_p=0.05),
    Settings(repetition_penalty=1.1, repetition_range=6, temperature=0.4, top_k=40, top_p=0.9, min_p=0.05),
    Settings(repetition_penalty=10.0, repetition_ids=[103, 118], top_k=30, top_p=0.8),
    Settings(repetition_penalty=1.3, temperature=0.6, top_p=0.8),
    Settings(repetition_penalty=2.0, temperature=0),
]


def sampling_case(settings: Settings, rows: int, size: int, banned: list[int], stream: int) -> dict[str, Any]:
    """24 picks from random logits in multiples of 1/64: short in JSON, exact in float32, and with ties."""
    random = np.random.default_rng([rows, size, stream])
    logits = (np.round(random.normal(0, 2, (rows, size)) * 64) / 64).astype(np.float32)
    if size > 2:
        logits[0, 1], logits[0, 2] = 0.0, -0.0
        logits[:, -1] = logits.max(axis=1)
    # Ids with gaps, and not upwards everywhere: heads are cut from several ranges.
    ids = np.roll(np.arange(size, dtype=np.int64) * 3 + 100, 1)
    sampler = Watched(settings, stream)
    picks: list[int] = []
    for step in range(24):
        picks.append(sampler.pick(logits[step % rows], ids, set(banned), picks))
    assert sampler.margin > MARGIN, f"{settings} on stream {stream} draws within {sampler.margin} of a boundary"
    return {
        "settings": settings.model_dump(),
        "seed": str(stream),
        "ids": ids.tolist(),
        "logits": logits.tolist(),
        "banned": banned,
        "picks": picks,
    }


def sampling_vectors() -> dict[str, Any]:
    """Every setting over few and many tokens, with and without banned ids, and a head of one row."""
    shapes: list[tuple[int, int, list[int]]] = [(3, 8, []), (4, 40, [100, 106])]
    pairs = enumerate(product(SAMPLED, shapes), start=1)
    cases = [sampling_case(settings, *shape, stream) for stream, (settings, shape) in pairs]
    cases.append(sampling_case(Settings(repeat_window=3), 1, 1, [], 99))
    return {"schema": SCHEMA, "cases": cases}


def stop_vectors() -> dict[str, Any]:
    """[text tokens, fewest tokens before a stop, most tokens] of some rules; and the order of a text."""
    rules = [
        Stop(ids=[7], max_tokens=100),
        Stop(ids=[7, 9], min_per_text=2.0, max_per_text=20.0, max_tokens=1500),
        Stop(ids=[7], min_per_text=0.1, max_per_text=0.3, max_tokens=50),
        Stop(ids=[7], min_tokens=50, min_per_text=2.0, max_tokens=1500),
    ]
    return {"schema": SCHEMA, "cases": [stop_case(rule) for rule in rules], "orders": [order_case()]}


def order_case() -> dict[str, Any]:
    """A text that is said along: [banned ids, the id picked then], one pick after another, of all ids below 8."""
    stop, text = Stop(ids=[0], max_tokens=100, text_ids=(4, 6), max_per_text_id=2), [5, 7, 4, 5]
    order, steps = TextOrder(stop, text, np.arange(8)), []
    for token in (1, 5, 2, 2, 4, 5, 7, 7, 0):
        steps.append([sorted(order.banned()), token])
        order.picked(token)
    return {"stop": stop.model_dump(), "text": text, "steps": steps}


def stop_case(stop: Stop) -> dict[str, Any]:
    rules = [(n, StopRule(stop, n)) for n in (1, 3, 29, 30, 200)]
    return {"stop": stop.model_dump(), "limits": [[n, rule.minimum, rule.maximum] for n, rule in rules]}


TEXTS = [
    "One. Two!  Three?",
    "Pi is 3.14 today. Version 2.0. Next.",
    "Mr. Smith met Dr. Jones at 9 a.m. in the U.S. embassy.",
    "J. R. R. Tolkien wrote it. So do I. He did.",
    "It ended at 5 p.m. She left. No. 5 is here. No. I won't.",
    "Wait . . . what? Wait... What? Wait… what",
    "What?! Really?? Guys..",
    "Hello…World",
    '"Stop!" she said. "Go." "No."',
    "“Frequently.” “How often?” “Well.”“So.”",
    "It’s mine. ‘Yes.’ (He left.) She stayed.",
    "« Bonjour ! » dit-il. Puis non. „Ja.“ Nein. »Ja.« Gut.",
    "他说：“你好。”然后走了。等等。。。好的",
    "「行く。」と言った。終わり！？次",
    '好。"再见。"走。“好。”，他说',
    "第一。\u3000第二\uff0e\uff13\uff0e\uff11\uff14だ\uff0e三\uff61四",
    "यह पहला है। यह दूसरा॥ तीसरा",
    "هل أنت بخير؟ نعم۔ شكرا",
    "Նա եկավ։ Ես գնացի։",
    "ሰላም። እንዴት፧ ደህና",
    "ខ្ញុំ។ អ្នក",
    "ကောင်း။ ဟုတ်",
    "สวัสดีครับ ผมชื่อ",
    "---\nTitle\n***\n",
    "- one\n- two",
    "1. First item\n2. Second item",
    "He has 5. Then 6.",
    "End.\u200bNext one.",
    "No\u2028line\u2029ends\x0bhere\x0cand\x85there",
    "a\r\nb\rc\n\n",
    "",
    " \n ",
    "... !!! 。",
    "(.)",
    "\ufeffA.",
    "hi there. how are you. fine.",
    "See https://example.com/a?b=c. Then",
    "А. С. Пушкин писал. Да.",
    "etc. and so. Etc. Then.",
]
LONG = [
    ("one two three, four five six seven", 6, 2),
    ("one two three four five six seven", 6, 2),
    ("a  b\tc", 1, 3),
    ("他说，今天天气很好，我们去公园散步吧", 20, 2),
    ("e\u0301" * 8, 3, 3),
    ("สวัสดีครับ ผมชื่อสมชาย ยินดีที่ได้รู้จัก", 2, 2),
    ("unbroken" * 4, 5, 4),
    ("It cost 1,000,000 dollars; nobody paid.", 4, 2),
]
FIGURES = [
    "1st, 22nd, 100th, 1,000th",
    "-5 and \u22125 and a-5",
    "1/2, 3/4, 1 1/2 km, 24/7, 11/25/2026",
    "3.14, .5, 1.2.13",
    "0, 007, 021, 1,250, 1,234,567, 12345678901",
    "in 1999, 2005, 2026, 1905, 1900, 2000",
    "the 1800s, 1990s, '90s and 3s",
    "$3.50, $1, $0.50, $.25, $1.5 million, $1,250.50",
    "\u00a32.01, 1 \u20ac, 5\u20ac, $ 5, -$5",
    "9:30, 9:00, 9:05 pm, 12:34:56, 9am, 4:3, 25:70",
    "1990-1995, 1990\u201395, 2-3 days",
    "555-0199, 1-800-555-0199, 2026-11-25",
    "3\u00b0, 20\u00b0c, 1 \u00b0f",
    "5 km, 1 km, 60 km/h, 100kg",
    "no. 5, fig. 3, no. i won't",
    "50%, a4, v2.0",
]


def sentences_vectors() -> dict[str, Any]:
    """What the tables of code points and of words make of texts."""
    figures = Frontend.load(shipped("models") / "wren" / "text").figures
    return {
        "schema": SCHEMA,
        "sentences": [{"text": text, "sentences": sentences(text)} for text in TEXTS],
        "long": [
            {
                "text": text,
                "words": most,
                "of_words": runs_of_words(text, most),
                "count": count,
                "parts": parts(text, count),
            }
            for text, most, count in LONG
        ],
        "figures": [{"text": text, "spoken": " ".join(figures.spoken(text).split())} for text in FIGURES],
    }


REPLACED = {
    "sql": "sequel",
    "new": "old",
    "new york": "the big apple",
    "york": "new",
    "can": "tin",
    "rock 'n' roll": "music",
    "c++": "c plus plus",
    ".net": "dot net",
    "&": "and",
    "3": "three",
    "café": "coffee house",
    "行": "háng",
    "銀行": "bank",
    "𠮷野": "Yoshino",
    "ไทย": "thai",
    "می": "mi",
    "привет": "hello 👋",
}
REPLACED_IN = [
    "SQL, sql; Sql! MySQL sqlite sql2 _sql_ sql",
    "\"SQL\" (sql) “SQL” ‘sql’ 'sql' «SQL» …sql… 「sql」 sql-like non-sql",
    "New York, new Yorker, york, new\nyork, new new york york",
    "I can, can't, can’t, cans, 'can'",
    "Rock 'n' roll, rock'n'roll",
    "C++, C++x, c+; .NET, ASP.NET; R&D & I",
    "3, 3.14, 1,3, 9:3, 33, 3.",
    "café CAFé CAFÉ cafés cafe\u0301",
    "銀行に行く。行 𠮷野家 𠮷",
    "ภาษาไทยดี ไทย\u0e49",
    "می می\u200cخواهم خواهم\u200cمی",
    "привет Привет приветы 👋sql👋",
    "sql\u200bsql\ufeffsql\u3000sql",
    "",
]


def replace_vectors() -> dict[str, Any]:
    """One table, its words in lower case, over texts of many scripts."""
    cases = [{"text": text, "replaced": replaced(text, REPLACED)} for text in REPLACED_IN]
    return {"schema": SCHEMA, "table": [list(pair) for pair in REPLACED.items()], "cases": cases}


def stretch_vectors() -> dict[str, Any]:
    """Voice-like samples at 2000 Hz, fed in blocks of 100, at several rates. Inputs and outputs are samples x 32768."""
    time = np.arange(700) / 2000
    swell = np.minimum(1, np.minimum(time, 0.35 - time) * 20)
    sound = swell * (0.5 * np.sin(2 * np.pi * (90 + 60 * time) * time) + 0.05 * noise(3, 0, 700))
    given = np.rint(sound * 32768).astype(int)
    samples = (given / 32768).astype(np.float32)
    cases = []
    for rate in (0.5, 0.8, 1.0, 1.25, 2.0, 3.0):
        stretch = Stretch(rate, 2000)
        blocks = [stretch.feed(samples[i : i + 100]) for i in range(0, 700, 100)]
        made = np.concatenate([*blocks, stretch.finish()])
        cases.append({"rate": rate, "samples": np.rint(made * 32768.0).astype(int).tolist()})
    return {"schema": SCHEMA, "sample_rate": 2000, "tolerance": 2, "given": [given.tolist()], "cases": cases}


def compact(document: dict[str, Any]) -> str:
    """JSON with one line for each case, so that a change shows in a diff."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list):
            items = ",\n".join(json.dumps(item, separators=(",", ":")) for item in value)
            lines.append(f"{json.dumps(key)}: [\n{items}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def vectors() -> dict[str, str]:
    """File name -> text of every vector file."""
    return {
        "layout.json": compact(layout_vectors()),
        "random.json": compact(random_vectors()),
        "sampling.json": compact(sampling_vectors()),
        "stop.json": compact(stop_vectors()),
        "text.json": compact(text_vectors()),
        "sentences.json": compact(sentences_vectors()),
        "replace.json": compact(replace_vectors()),
        "stretch.json": compact(stretch_vectors()),
        "prompt.json": compact(prompt_vectors()),
        "audio.json": compact(audio_vectors()),
        "wav.json": compact(wav_vectors()),
        "hostile.json": compact(hostile_vectors()),
        "audio.schema.json": json.dumps(AudioFile.model_json_schema(), indent=2) + "\n",
        "plan.schema.json": json.dumps(Plan.model_json_schema(), indent=2) + "\n",
        "manifest.schema.json": json.dumps(Manifest.model_json_schema(), indent=2) + "\n",
    }


if __name__ == "__main__":
    for name, text in vectors().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
