"""Hostile bundles with right checksums: each has to be refused in one line, or to work.

    python tests/host/mutants.py BUNDLE [--count N] [--seed N] [--files PATTERN] [--targets N] [--write DIR]

A mutant is one file of the bundle with one change: every value of its JSON removed, of another type, negative, huge or
not finite, a path out of the bundle, a list emptied or doubled, a key unknown or twice; lines of a table or of the
checksums likewise; the header of a safetensors file likewise. Its size in the manifest and its checksums are made
right again, as an attacker would. Then the bundle is used as an app uses it: loaded, each target opened, a sentence
planned and its first tokens spoken, the self-test run. The command line does so in a process for each, with 2 GB and
20 seconds; it ends with "N passed, N failed". --write only writes the mutated files, DIR/NNNN/NAME, for hosts in other
languages.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from typing import Any

from wand_export.errors import InputError
from wand_export.host.bundle import CHECKSUMS, MANIFEST, Bundle, load_bundle
from wand_export.host.selftest import run_audio_selftest, run_selftest, run_text_selftest
from wand_export.host.speech import Speaker, tokens
from wand_export.host.voices import Voice, open_voice

SENTENCE = "A bad cab."
TOKENS = 6
SECONDS, BYTES = 20, 2 << 30

Change = tuple[str, Callable[[], bytes]]
"""What is changed, and the bytes of the file then."""
Keys = tuple[str | int, ...]

REMOVED = object()
RAW = "\0raw\0"
"""Stands in a document where JSON text follows that json.dumps would not write."""
RAWS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "[" * 5000 + "]" * 5000,
    '{"a": 1, "a": 2}',
    "01",
    '"\\ud800"',
    "1" * 500,
]
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 255, 4096, 2**20, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30,
    0.5, 1e-300, 1e308, -1e308, "", "x", "7", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\nb", "\0", "\x1b[31m",
    "{x}", "{text.__class__}", "{text:>999999999}", "(a+)+$", "[", "latents", "é" * 300, "x" * 20_000,
    [], {}, [0], [[]], [0] * 5000, {"x": 1}, [[0, 2**31 - 1]], [[5, 2]], [[0, 1], [1, 2]],
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One changed file of a bundle."""

    file: str
    what: str
    make: Callable[[], bytes]


@dataclass(frozen=True)
class Outcome:
    """What became of a bundle: "spoke", "refused" (and why), or else what must not be."""

    kind: str
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.kind in ("spoke", "refused")


def places(value: Any, path: Keys = ()) -> Iterator[Keys]:
    """The path of every value in a document; of long lists and tables the first few and the last."""
    if path:
        yield path
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= 40 else [*keys[:3], keys[-1]]:
        yield from places(value[key], (*path, key))


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Other values in the place of one, each with its description."""
    return ((what, v) for what, v in _candidates(value) if v != value or type(v) is not type(value))


def _candidates(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from [("one more", value + 1), ("doubled", value * 2), ("negative", -value), ("as a string", str(value))]
    if isinstance(value, list) and value:
        yield from [("first twice", [value[0], *value]), ("backwards", value[::-1]), ("without its last", value[:-1])]
        yield "a thousand times", value * 1000
    if isinstance(value, dict):
        some = next(iter(value.values()), 1)
        yield from ((f"with key {key!r}", {**value, key: some}) for key in ("unknown", "../x", "a\nb"))
    yield from ((f"= {json.dumps(other)[:60]}", other) for other in VALUES)


def document_mutants(text: str) -> Iterator[Change]:
    """JSON texts that differ from one in one place, or as a whole."""
    document = json.loads(text)
    for path in places(document):
        name = "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
        value = reduce(lambda place, key: place[key], path, document)
        yield f"{name} removed", partial(_changed, document, path, REMOVED)
        for what, other in changes(value):
            yield f"{name} {what}", partial(_changed, document, path, other)
        for raw in RAWS:
            yield f"{name} = {raw[:20]}", partial(_raw, document, path, raw)
    yield "empty", lambda: b""
    yield "null", lambda: b"null"
    yield "a list", lambda: b"[]"
    yield "cut in the middle", lambda: text[: len(text) // 2].encode(errors="replace")
    yield "behind a byte order mark", lambda: b"\xef\xbb\xbf" + text.encode()
    yield "behind another", lambda: (text + text).encode()
    yield "its first key twice", lambda: text.replace("{", '{"schema_version": 1, ', 1).encode()
    yield "nested without end", lambda: b"[" * 10**5
    yield "beyond its size", lambda: text.encode() + b" " * (20 << 20)


def _changed(document: Any, path: Keys, value: Any) -> bytes:
    copy = deepcopy(document)
    *outer, last = path
    place = reduce(lambda place, key: place[key], outer, copy)
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return json.dumps(copy).encode()


def _raw(document: Any, path: Keys, raw: str) -> bytes:
    return _changed(document, path, RAW).replace(json.dumps(RAW).encode(), raw.encode())


def line_mutants(text: str) -> Iterator[Change]:
    """Texts of lines that differ from one in a line, or as a whole."""
    lines = text.splitlines(keepends=True)
    others = ["\n", "\t\n", "x\n", "a\t\n", "\ta\n", "a\tq\tq\n", "\0\t\0\n", "a" * 10**6 + "\n", "../x\t../x\n"]
    others += [f"{'0' * 64}  {name}\n" for name in ("../x", "/etc/passwd", "x", "", "a\\b", MANIFEST, CHECKSUMS)]
    for n in sorted({0, len(lines) // 2, len(lines) - 1}):
        line = lines[n]
        some = [("removed", ""), ("twice", line * 2), ("in capitals", line.upper()), ("cut", line[:9])]
        some += [("spaced", " " + line), ("with a carriage return", line.rstrip("\n") + "\r\n")]
        some += [("without its end", line.rstrip("\n")), *((f"= {other[:30]!r}", other) for other in others)]
        for what, changed in some:
            yield f"line {n} {what}", partial(_joined, lines, n, changed)
    yield "empty", lambda: b""
    yield "backwards", lambda: "".join(lines[::-1]).encode()
    yield "behind a byte order mark", lambda: b"\xef\xbb\xbf" + text.encode()
    yield "not UTF-8", lambda: text.encode() + b"\xff\n"


def _joined(lines: list[str], n: int, changed: str) -> bytes:
    return "".join([*lines[:n], changed, *lines[n + 1 :]]).encode()


def tensor_mutants(data: bytes) -> Iterator[Change]:
    """safetensors files whose header differs from one in a place, or that are cut."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    for what, make in document_mutants(header.decode()):
        yield f"header {what}", partial(_headed, make, rest)
    for told in (0, 1, size - 1, size + 1, len(data), 2**31, 2**63, 2**64 - 1):
        yield f"header of {told} bytes", partial(bytes.__add__, told.to_bytes(8, "little"), data[8:])
    for cut in (0, 7, 8, 8 + size, len(data) - 1):
        yield f"cut at {cut}", partial(data.__getitem__, slice(cut))
    yield "with bytes behind it", lambda: data + b"\0" * 64
    yield "of infinities", lambda: data[: 8 + size] + b"\x00\x00\x80\x7f" * (len(rest) // 4)


def _headed(make: Callable[[], bytes], rest: bytes) -> bytes:
    header = make()
    return len(header).to_bytes(8, "little") + header + rest


def mutants(folder: Path, pattern: str = "*") -> Iterator[Mutant]:
    """Every mutant of the files of a bundle whose names match a pattern."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if not fnmatch(name, pattern) or ".mlpackage/" in name:
            continue
        found: Iterator[Change] = iter(())
        if file.suffix == ".json":
            found = document_mutants(file.read_text())
        elif name == CHECKSUMS or file.suffix == ".tsv":
            found = line_mutants(file.read_text())
        elif file.suffix == ".safetensors":
            found = tensor_mutants(file.read_bytes())
        yield from (Mutant(name, what, make) for what, make in found)


def chosen(folder: Path, pattern: str, count: int, seed: int) -> list[Mutant]:
    """`count` of the mutants, or all, by a seed, in their order."""
    found = list(mutants(folder, pattern))
    picked = random.Random(seed).sample(range(len(found)), min(count, len(found)))
    return [found[i] for i in sorted(picked)]


def link(folder: Path, copy: Path) -> None:
    """A copy of a bundle whose files are links: one is replaced by a mutant, none is written to."""
    shutil.copytree(folder, copy, copy_function=lambda source, place: os.symlink(Path(source).resolve(), place))


def put(folder: Path, mutant: Mutant, clean: Path) -> None:
    """Replace a file of a linked copy of `clean`, and make the manifest's size of it and the checksums right."""
    data = mutant.make()
    replaced = {mutant.file: data}
    if mutant.file not in (MANIFEST, CHECKSUMS):
        manifest = json.loads((clean / MANIFEST).read_text())
        manifest["files"][mutant.file] = len(data)
        replaced[MANIFEST] = json.dumps(manifest).encode()
    if mutant.file != CHECKSUMS:
        lines = dict(line.split("  ")[::-1] for line in (clean / CHECKSUMS).read_text().splitlines())
        lines |= {name: hashlib.sha256(data).hexdigest() for name, data in replaced.items()}
        if mutant.file == MANIFEST:
            lines = _listed(data, lines)
        replaced[CHECKSUMS] = "".join(f"{digest}  {name}\n" for name, digest in lines.items()).encode()
    for name, data in replaced.items():
        (folder / name).unlink()
        (folder / name).write_bytes(data)


def _listed(manifest: bytes, lines: dict[str, str]) -> dict[str, str]:
    """The checksums of just the files that a mutated manifest names, as far as it can be read."""
    try:
        files = json.loads(manifest)["files"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return lines
    if not isinstance(files, dict):
        return lines
    return {name: lines.get(name, "0" * 64) for name in [*(n for n in files if "\n" not in n), MANIFEST]}


def restore(folder: Path, mutant: Mutant, clean: Path) -> None:
    """Undo put()."""
    for name in {mutant.file, MANIFEST, CHECKSUMS}:
        (folder / name).unlink(missing_ok=True)
        os.symlink((clean / name).resolve(), folder / name)


def use(folder: Path, sentence: str, targets: int | None = None) -> None:
    """Load a bundle, open its first targets, or all; speak some tokens in each voice, run the self-test."""
    bundle = load_bundle(folder)
    voices: list[Voice | None] = [open_voice(bundle, name) for name in bundle.manifest.voices] or [None]
    for target, artifact in list(bundle.manifest.artifacts.items())[:targets]:
        with bundle.open(target, threads=1) as session:
            for voice in voices:
                audio = bundle.open_audio(target, 1) if artifact.audio_decoder else None
                speak(bundle, Speaker(bundle, session, audio, voice), sentence)
            run_selftest(bundle, target, session)
        run_audio_selftest(bundle, target)
        if artifact.twin is not None:
            bundle.open_twin(target, threads=1).close()
    run_text_selftest(bundle)


def speak(bundle: Bundle, speaker: Speaker, sentence: str) -> None:
    """The first tokens of a sentence, and their samples."""
    plan = speaker.plan(sentence)
    stream = speaker._stream(0)
    for token, hidden in islice(tokens(bundle, speaker.session, plan[0], 0), TOKENS):
        if stream is not None:
            stream.feed(token, hidden)
    if stream is not None:
        stream.finish()


def outcome(folder: Path, sentence: str, targets: int | None = None) -> Outcome:
    """What becomes of a bundle that is used."""
    try:
        use(folder, sentence, targets)
    except InputError as error:
        whole = error.value and error.fix and "\n" not in str(error)
        return Outcome("refused" if whole else "refused without a whole sentence", str(error))
    except BaseException as error:  # whatever it is, a panic of a library included, is what is looked for
        return Outcome(type(error).__name__, "".join(traceback.format_exception(error)[-3:]))
    return Outcome("spoke")


def _child(folder: Path, sentence: str, targets: int | None, answer: Any) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answer.send(outcome(folder, sentence, targets))
    answer.close()
    os._exit(0)


def outcome_apart(folder: Path, sentence: str, targets: int | None) -> Outcome:
    """As outcome(), in a process of its own with a limit of memory and time."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(folder, sentence, targets, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else Outcome("hung", f"over {SECONDS} s")
    except EOFError:
        process.join()
        return Outcome("died", f"exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default=MANIFEST, help="which files to change, as a glob (manifest.json)")
    parser.add_argument("--sentence", default=SENTENCE)
    parser.add_argument("--targets", type=int, help="open only so many of the bundle's targets")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(arguments)
    found = chosen(given.bundle, given.files, given.count, given.seed)
    if given.write is not None:
        return write(given.write, found)
    with tempfile.TemporaryDirectory() as place:
        return attack(given.bundle, Path(place) / "bundle", found, given.sentence, given.targets)


def write(folder: Path, found: Iterable[Mutant]) -> int:
    """Each mutant's file in a folder of its own, and index.tsv: number, file, what was changed."""
    folder.mkdir(parents=True)
    lines = []
    for n, mutant in enumerate(found):
        file = folder / f"{n:04}" / mutant.file
        file.parent.mkdir(parents=True)
        file.write_bytes(mutant.make())
        lines.append(f"{n:04}\t{mutant.file}\t{mutant.what}\n")
    (folder / "index.tsv").write_text("".join(lines), encoding="utf-8")
    return 0


def attack(clean: Path, copy: Path, found: Iterable[Mutant], sentence: str, targets: int | None) -> int:
    """Use every mutant, tell of those that neither spoke nor were refused, and count."""
    link(clean, copy)
    bundle = load_bundle(clean)
    for target in bundle.targets:  # before the limit of memory, which is for what a bundle asks for
        bundle.import_runtime(target)
    if (untouched := outcome_apart(copy, sentence, targets)).kind != "spoke":
        print(f"the bundle itself: {untouched.kind}: {untouched.why}")
        return 2
    counts: Counter[str] = Counter()
    for mutant in found:
        put(copy, mutant, clean)
        result = outcome_apart(copy, sentence, targets)
        restore(copy, mutant, clean)
        counts[result.kind if result.passed else "failed"] += 1
        if not result.passed:
            print(f"{mutant.file}: {mutant.what}: {result.kind}: {result.why}", flush=True)
    print(f"{counts['spoke']} spoke, {counts['refused']} were refused")
    print(f"{counts['spoke'] + counts['refused']} passed, {counts['failed']} failed")
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
