"""A bundle on disk: checked, then opened. Everything that reads a bundle comes through here."""

import hashlib
import json
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from wand_export.errors import BundleError, InputError
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.manifest import SCHEMA_VERSION, Artifact, Manifest
from wand_export.spec.schema import explain
from wand_export.spec.voice import VOICE_FILE

if TYPE_CHECKING:
    from wand_export.host.session import AudioSession, Session

MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
EMBEDDINGS = "embeddings.safetensors"
VOICES_FOLDER = "voices"
_AGAIN = "copy or export the bundle again"


class Bundle:
    """An opened bundle. Attributes: path, manifest, head_ids (int64 [V], the token id of each logit row)."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        ranges = [np.arange(first, last + 1, dtype=np.int64) for first, last in manifest.head.ranges]
        self.head_ids = np.concatenate(ranges)
        try:
            # Rows are read from the memory map when asked for: a large text table never sits in memory.
            embeddings: Any = safe_open(path / EMBEDDINGS, framework="numpy")
            self._tables = {name: embeddings.get_slice(name) for name in manifest.tables}
        except (SafetensorError, OSError) as error:
            raise BundleError(path / EMBEDDINGS, f"unreadable: {error}", _AGAIN) from error

    @property
    def targets(self) -> list[str]:
        """Names of the targets in it."""
        return list(self.manifest.artifacts)

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
        """A session on a target. threads None lets the runtime choose. Raises BundleError."""
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

        Raises InputError for an unknown table, an id or position outside it, or positions where it has none.
        """
        rows = self._rows(table, np.asarray(ids, np.int64))
        if positions is None:
            return rows
        learned = self.manifest.tables[table].positions
        if learned is None:
            raise InputError(self.path, f"table {table!r} has no learned positions", "leave positions out")
        return rows + self._rows(learned, np.asarray(positions, np.int64))

    def _rows(self, table: str, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if table not in self._tables:
            raise InputError(self.path, f"no table {table!r}", f"it has: {', '.join(self._tables)}")
        size = self.manifest.tables[table].rows
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


def _runtime(artifact: Artifact) -> Any:
    """The module of host/runtimes that runs an artifact: open_decoder() and open_audio()."""
    return import_module(f"wand_export.host.runtimes.{artifact.runtime}")


def load_bundle(path: Path | str, check: Literal["full", "size"] = "full") -> Bundle:
    """Open a bundle after checking it.

    check "full" hashes every file; "size" compares sizes only, for phones after the first start. Raises
    BundleError, a ValueError, naming the file and what is wrong with it.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    sums = read_checksums(folder)
    listed = {MANIFEST, *manifest.files}
    if odd := sorted(listed.symmetric_difference(sums)):
        raise BundleError(folder / CHECKSUMS, f"{odd[0]} is not in both it and {MANIFEST}", _AGAIN)
    for name, size in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(file, "missing", _AGAIN)
        if file.stat().st_size != size:
            raise BundleError(file, f"has {file.stat().st_size} bytes, not {size}", _AGAIN)
    for name in listed if check == "full" else [MANIFEST]:
        if sha256_of(folder / name) != sums[name]:
            raise BundleError(folder / name, f"does not have the hash that {CHECKSUMS} gives", _AGAIN)
    return Bundle(folder, manifest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, every path in it inside the bundle. Raises BundleError."""
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(file, "missing", "give the folder that wand export wrote") from error
    except (OSError, ValueError) as error:
        raise BundleError(file, f"unreadable: {error}", _AGAIN) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        older = isinstance(version, int) and version < SCHEMA_VERSION
        fix = "export it again with this version" if older else f"this version reads schema {SCHEMA_VERSION}"
        raise BundleError(file, f"manifest schema {version}", fix)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise BundleError(file, explain(error), _AGAIN) from error
    named = [name for decoder in manifest.audio.decoders.values() for name in decoder.files]
    for artifact in manifest.artifacts.values():
        named += [*artifact.files, *([artifact.twin] if artifact.twin else [])]
    for name in named:
        if name not in manifest.files:
            raise BundleError(file, f"{name} is not among its files", _AGAIN)
    for voice in manifest.voices:
        if f"{VOICES_FOLDER}/{voice}/{VOICE_FILE}" not in manifest.files:
            raise BundleError(file, f"voice {voice!r} is not among its files", _AGAIN)
    for name in manifest.files:
        _check_inside(file, name)
    return manifest


def read_checksums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 in hexadecimal. Raises BundleError."""
    file = folder / CHECKSUMS
    sums = {}
    try:
        *lines, rest = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise BundleError(file, "missing", _AGAIN) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(file, f"unreadable: {error}", _AGAIN) from error
    if rest:
        raise BundleError(file, "ends in the middle of a line", _AGAIN)
    for line in lines:
        digest, separator, name = line.partition("  ")
        if len(digest) != 64 or not separator:
            raise BundleError(file, f"line {line[:80]!r} is not a checksum", _AGAIN)
        sums[name] = digest
    return sums


def sha256_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_inside(file: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
        raise BundleError(file, f"names {name!r}, a path outside the bundle", "do not use this bundle")


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json."""
    document: dict[str, Any] = manifest.model_dump(mode="json")
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
