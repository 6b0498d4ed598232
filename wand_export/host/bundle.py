"""A bundle on disk: checked, then opened. Everything that reads a bundle comes through here."""

import hashlib
import json
import re
from importlib import import_module
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from wand_export.errors import BundleError, InputError
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.document import MAX_BYTES, load_json, validate
from wand_export.spec.manifest import SCHEMA_VERSION, Artifact, Manifest
from wand_export.spec.pieces import PIECES_FILE
from wand_export.spec.selftest import SELFTEST_FILE
from wand_export.spec.text import LEXICON_FILE, REPLACE_FILE, TEXT_FILE, TEXT_FOLDER
from wand_export.spec.voice import VOICE_FILE

if TYPE_CHECKING:
    from wand_export.host.session import AudioSession, Session

MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
EMBEDDINGS = "embeddings.safetensors"
VOICES_FOLDER = "voices"
_SAFETENSORS = {"float32": "F32", "float16": "F16"}
_CHECKSUM = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
_PART = re.compile(r"(?!\.+$)[^\x00-\x1f\x7f-\x9f/\\]+")
"""A file's or folder's name in a path: no backslash or control character, not dots alone."""
_LONGEST_PART, _DEEPEST = 255, 16
_AGAIN = "copy or export the bundle again"


class Bundle:
    """An opened bundle. Attributes: path, manifest, head_ids (int64 [V], the token id of each logit row)."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Raises BundleError if its embedding tables are not those of the manifest."""
        self.path, self.manifest = path, manifest
        ranges = [np.arange(first, last + 1, dtype=np.int64) for first, last in manifest.head.ranges]
        self.head_ids = np.concatenate(ranges)
        self._tables = _open_tables(path / EMBEDDINGS, manifest)

    @property
    def targets(self) -> list[str]:
        """Names of the targets in it."""
        return list(self.manifest.artifacts)

    def paths(self) -> list[Path]:
        """Every file that it is made of."""
        return [self.path / name for name in (MANIFEST, CHECKSUMS, *self.manifest.files)]

    def resolve(self, target: str | None) -> str:
        """The target of that name, or the only one of that runtime; the first where None. Raises BundleError."""
        if target is None:
            return self.targets[0]
        of_runtime = [name for name, artifact in self.manifest.artifacts.items() if artifact.runtime == target]
        if target in self.manifest.artifacts:
            return target
        if len(of_runtime) == 1:
            return of_runtime[0]
        raise BundleError(self.path, f"no one target {target!r}", f"it has: {', '.join(self.targets)}")

    def import_runtime(self, target: str) -> None:
        """Import what open() of a target needs, as the bare process that its memory is compared with."""
        _runtime(self.manifest.artifacts[self.resolve(target)])

    def open(self, target: str | None = None, threads: int | None = None) -> "Session":
        """A session on a target, for one thread at a time. threads None lets the runtime choose.

        Raises BundleError, and InputError for more threads than the process may use. While a session runs, denormal
        floats count as zero in the thread that calls it; before and after, its arithmetic is as it was.
        """
        name = self.resolve(target)
        artifact = self.manifest.artifacts[name]
        session: Session = _runtime(artifact).open_decoder(self.path, name, self.manifest, artifact, threads)
        return session

    def open_exact(self, target: str) -> "Session | None":
        """A session that interprets a target in float32 throughout; None where nothing of ours interprets it."""
        artifact = self.manifest.artifacts[target]
        open_exact = getattr(_runtime(artifact), "open_exact", None)
        session: Session | None = open_exact and open_exact(self.path, target, self.manifest, artifact)
        return session

    def open_twin(self, target: str, threads: int | None = None) -> "Session":
        """The target's decoder without its window, for benchmarks. Raises BundleError if it was not exported."""
        from wand_export.host.runtimes.onnx import OnnxTwin

        return OnnxTwin(self.path, target, self.manifest, self.manifest.artifacts[target], threads)

    def audio_decoder(self, target: str | None = None) -> AudioDecoder | None:
        """What the manifest tells of the audio decoder beside a target; None where it has none. Raises BundleError."""
        name = self.manifest.artifacts[self.resolve(target)].audio_decoder
        return None if name is None else self.manifest.audio.decoders[name]

    def open_audio(self, target: str | None = None, threads: int | None = None) -> "AudioSession":
        """The audio decoder beside a target. Raises BundleError if it has none."""
        decoder = self.audio_decoder(target)
        if decoder is None:
            raise BundleError(self.path, "it has no audio decoder", "ask for the token ids with --tokens-out")
        artifact = self.manifest.artifacts[self.resolve(target)]
        session: AudioSession = _runtime(artifact).open_audio(self.path, decoder, threads)
        return session

    def embed(self, table: str, ids: npt.ArrayLike, positions: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """Rows of a table, float32 [n, D], for ids [n]; with learned positions [n] added where they are given.

        Raises InputError for an unknown table, an id or position outside it, positions where it has none or of another
        number, and what is no whole numbers in one dimension.
        """
        rows = self._rows(table, ids)
        if positions is None:
            return rows
        learned = self.manifest.tables[table].positions
        if learned is None:
            raise InputError(self.path, f"table {table!r} has no learned positions", "leave positions out")
        added = self._rows(learned, positions)
        if len(added) != len(rows):
            raise InputError(self.path, f"{len(added)} positions for {len(rows)} ids", "give one for each")
        return rows + added

    def _rows(self, table: str, given: npt.ArrayLike) -> npt.NDArray[np.float32]:
        if table not in self._tables:
            raise InputError(self.path, f"no table {table!r}", f"it has: {', '.join(self._tables)}")
        size = self.manifest.tables[table].rows
        ids = _integers(given)
        outside = ids[(ids < 0) | (ids >= size)]
        if outside.size:
            raise InputError(self.path, f"id {outside[0]} is not in table {table!r}", f"ids run from 0 to {size - 1}")
        rows = np.empty((len(ids), self.manifest.model.hidden), np.float32)
        for row, i in zip(rows, ids.tolist(), strict=True):
            row[:] = self._tables[table][i : i + 1][0]
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _integers(given: npt.ArrayLike) -> npt.NDArray[Any]:
    """Ids or positions as an array of whole numbers [n]; floats are none, since 1.7 would count as 1."""
    try:
        array = np.asarray(given)
    except ValueError:  # rows of several lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError("ids", f"{str(given)[:60]} are no whole numbers in one dimension", "give a list of integers")
    return array


def _runtime(artifact: Artifact) -> Any:
    """The module of host/runtimes that runs an artifact: open_decoder() and open_audio()."""
    return import_module(f"wand_export.host.runtimes.{artifact.runtime}")


def _open_tables(file: Path, manifest: Manifest) -> dict[str, Any]:
    """The embedding tables by name, each with the shape and type that the manifest tells.

    Rows are read from the memory map when asked for: a large text table never sits in memory.
    """
    try:
        embeddings: Any = safe_open(file, framework="numpy")
        tables = {name: embeddings.get_slice(name) for name in embeddings.keys()}  # noqa: SIM118
        found = {name: (rows.get_dtype(), rows.get_shape()) for name, rows in tables.items()}
    except (SafetensorError, OSError) as error:
        raise BundleError(file, f"unreadable: {error}", _AGAIN) from error
    if odd := sorted(set(found) ^ set(manifest.tables)):
        raise BundleError(file, f"tensor {odd[0]!r} is not in both it and the manifest's tables", _AGAIN)
    for name, table in manifest.tables.items():
        wanted = _SAFETENSORS[table.dtype], [table.rows, manifest.model.hidden]
        if found[name] != wanted:
            told = f"tensor {name!r} is {found[name][0]} {found[name][1]}, not {wanted[0]} {wanted[1]}"
            raise BundleError(file, told, "the manifest and it are of different bundles: " + _AGAIN)
    return tables


def load_bundle(path: Path | str, check: Literal["full", "size"] = "full") -> Bundle:
    """Open a bundle after checking it.

    check "full" hashes every file; "size" compares sizes only, for phones after the first start. Raises
    BundleError, a ValueError, naming the file and what is wrong with it, and InputError for another check.
    """
    if check not in ("full", "size"):
        raise InputError("check", repr(check), 'give "full" or "size"')
    folder = Path(path)
    manifest = read_manifest(folder)
    sums = read_checksums(folder)
    listed = {MANIFEST, *manifest.files}
    if odd := sorted(listed.symmetric_difference(sums)):
        raise BundleError(folder / CHECKSUMS, f"{odd[0]} is not in both it and {MANIFEST}", _AGAIN)
    for name, size in manifest.files.items():
        file = folder / name
        try:
            found = file.stat()
        except OSError as error:
            raise BundleError(
                file, "missing" if isinstance(error, FileNotFoundError) else str(error), _AGAIN
            ) from error
        if not S_ISREG(found.st_mode):
            raise BundleError(file, "is not a file", _AGAIN)
        if found.st_size != size:
            raise BundleError(file, f"has {found.st_size} bytes, not {size}", _AGAIN)
    for name in listed if check == "full" else [MANIFEST]:
        if sha256_of(folder / name) != sums[name]:
            raise BundleError(folder / name, f"does not have the hash that {CHECKSUMS} gives", _AGAIN)
    return Bundle(folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, consistent in itself, every path in it inside the bundle. Raises BundleError."""
    file = folder / MANIFEST
    if not file.exists():
        raise BundleError(file, "missing", "give the folder that wand export wrote")
    data = load_json(file, _AGAIN, BundleError)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        older = type(version) is int and version < SCHEMA_VERSION
        fix = "export it again with this version" if older else f"this version reads schema {SCHEMA_VERSION}"
        raise BundleError(file, f"schema_version: {version!r}", fix)
    manifest = validate(file, data, Manifest, _AGAIN, BundleError)
    for name in manifest.files:
        _check_inside(file, name)
    for place, name in _needed(manifest).items():
        if name not in manifest.files:
            raise BundleError(file, f"{place}: {name} is not among its files", _AGAIN)
    if not manifest.artifacts:
        raise BundleError(file, "artifacts: there are none", "export the bundle with a target")
    return manifest


def _needed(manifest: Manifest) -> dict[str, str]:
    """The files that a host opens, by the place in the manifest that asks for them."""
    needed = {"tables": EMBEDDINGS, "files": SELFTEST_FILE}
    for target, artifact in manifest.artifacts.items():
        needed |= {f"artifacts.{target}.files.{i}": name for i, name in enumerate(artifact.files)}
        if artifact.twin is not None:
            needed[f"artifacts.{target}.twin"] = artifact.twin
    for decoder, described in manifest.audio.decoders.items():
        needed |= {f"audio.decoders.{decoder}.files.{i}": name for i, name in enumerate(described.files)}
    if manifest.text.kind == "lexicon":
        needed |= {"text.kind": f"{TEXT_FOLDER}/{TEXT_FILE}", "text.files": f"{TEXT_FOLDER}/{LEXICON_FILE}"}
    if manifest.pieces is not None:
        needed["pieces"] = f"{TEXT_FOLDER}/{PIECES_FILE}"
    if manifest.replaces:
        needed["replaces"] = f"{TEXT_FOLDER}/{REPLACE_FILE}"
    for i, voice in enumerate(manifest.voices):
        needed[f"voices.{i}"] = f"{VOICES_FOLDER}/{voice}/{VOICE_FILE}"
    return needed


def read_checksums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 in hexadecimal. Raises BundleError."""
    file = folder / CHECKSUMS
    sums: dict[str, str] = {}
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BundleError(file, f"has more than {MAX_BYTES} bytes", _AGAIN)
        *lines, rest = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise BundleError(file, "missing", _AGAIN) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(file, f"unreadable: {error}", _AGAIN) from error
    if rest:
        raise BundleError(file, "ends in the middle of a line", _AGAIN)
    for line in lines:
        found = _CHECKSUM.fullmatch(line)
        if found is None:
            raise BundleError(file, f"line {line[:80]!r} is not a checksum", _AGAIN)
        if found["name"] in sums:
            raise BundleError(file, f"{found['name']} comes twice", _AGAIN)
        sums[found["name"]] = found["digest"]
    return sums


def sha256_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_inside(file: Path, name: str) -> None:
    parts = name.split("/")
    if (
        not all(_PART.fullmatch(part) and len(part.encode()) <= _LONGEST_PART for part in parts)
        or len(parts) > _DEEPEST
    ):
        raise BundleError(file, f"files: names {name!r}, a path outside the bundle", "do not use this bundle")
    if name in (MANIFEST, CHECKSUMS):
        raise BundleError(file, f"files: names {name}, which cannot give its own size", "do not use this bundle")


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json."""
    document: dict[str, Any] = manifest.model_dump(mode="json")
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
