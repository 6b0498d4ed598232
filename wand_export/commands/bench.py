"""wand bench: how fast a bundle steps, early and late, against the floor that memory sets."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wand_export.host.bundle import Bundle, load_bundle
from wand_export.host.memory import resident_bytes
from wand_export.host.session import Floats, Session
from wand_export.host.speech import Speaker

PREFIX = 10
MIDDLE, LATE = 1000, 10_000
TWIN_TOKENS = (10, 250, 500, 1000, 2000, 4000)
ROUNDS, STEPS = 20, 200
PREFILLS = 5
SPEECHES = 5
"""Times that the sample sentence is spoken, with audio and without."""
WARM_UP = 0.03
"""Seconds of steps before those that are timed: the threads of the session before go on spinning for a while."""
_READ_BYTES, _READS = 1 << 30, 10


def bench(
    bundle: Path,
    *,
    threads: int | None = None,
    steps: int | None = None,
    output: Path | None = None,
    report: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Measure every artifact that runs here; nothing else may run on the machine meanwhile.

    threads: of the runtime, default all processors; steps: timed steps at each position, default 200. The
    artifacts take turns, in rounds, so that they share the machine's moods. Returns the document of `wand bench
    --json`; with `output`, a report.md and its plots are written there. Times are milliseconds, sizes bytes.
    """
    opened = load_bundle(bundle)
    count = threads or os.cpu_count() or 1
    running = [target for target in opened.targets if _runs_here(opened, target)]
    footprints = {}
    for target in running:
        report(f"{target}: memory, load and speech in a process of its own")
        footprints[target] = _apart(_footprint, bundle, target, count)
    report("reading bandwidth")
    bandwidth = read_bandwidth(count)
    timings = _rounds(opened, running, count, steps or STEPS, report)
    twins = {}
    for target in running:
        if opened.manifest.artifacts[target].twin is not None:
            report(f"{target}: its twin with full attention")
            twins[target] = _twin(opened, target, count, steps or STEPS)
    document = {
        "schema": 1,
        "machine": {
            "cpu": cpu_name(),
            "threads": count,
            "bandwidth_bytes_per_s": bandwidth,
            "settings": ["denormals flushed", "huge pages where the system has them"],
        },
        "artifacts": [
            _artifact(opened, target, bandwidth, timings[target], footprints[target], twins.get(target))
            if target in running
            else _not_run(opened, target)
            for target in opened.targets
        ],
    }
    if output is not None:
        from wand_export.report import write_bench

        write_bench(output, opened.manifest, document)
    return document


def _runs_here(bundle: Bundle, target: str) -> bool:
    with bundle.open(target) as session:
        return session.how == "ran"


def read_bandwidth(threads: int) -> float:
    """Bytes per second of the best of ten reads of 1 GiB by this many threads."""
    parts = np.array_split(np.ones(_READ_BYTES // 8, np.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_READS):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, _READ_BYTES / (time.perf_counter() - start))
    return best


def cpu_name() -> str:
    """The processor, as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _rows(bundle: Bundle, count: int) -> Floats:
    """Seeded rows of the size that embeddings have, float32 [count, D]."""
    noise = np.random.default_rng(0).standard_normal((count, bundle.manifest.model.hidden))
    return noise.astype(np.float32)


def _timed(session: Session, row: Floats, count: int) -> list[float]:
    """Milliseconds of each of `count` steps."""
    position, warm = session.position, time.perf_counter() + WARM_UP
    while time.perf_counter() < warm:
        session.step(row)
        session.seek(position)
    found = []
    for _ in range(count):
        start = time.perf_counter()
        session.step(row)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def _rounds(
    bundle: Bundle, targets: list[str], threads: int, steps: int, report: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Steps at the three positions and the prefill, of these targets in turn."""
    manifest = bundle.manifest
    prefix = _rows(bundle, manifest.kv_cache.prefix_capacity)
    short = prefix[: min(PREFIX, len(prefix))]
    sessions = {target: bundle.open(target, threads) for target in targets}
    limits = [session.max_position for session in sessions.values() if session.max_position]
    last = min(limits, default=2 * LATE) - 2 * steps
    positions = {"early": len(short), "middle": min(MIDDLE, last // 2), "late": min(LATE, last)}
    found: dict[str, dict[str, Any]] = {
        t: {"positions": positions, "prefill": [], **{n: [] for n in positions}} for t in sessions
    }
    order = list(positions.items())
    for number in range(ROUNDS):
        order = order[1:] + order[:1]
        report(f"round {number + 1} of {ROUNDS}")
        for target, session in sessions.items():
            if number < PREFILLS:
                start = time.perf_counter()
                session.prefill(prefix)
                found[target]["prefill"].append((time.perf_counter() - start) * 1e3 / len(prefix))
                session.prefill(short)
            for name, position in order:
                session.seek(position)
                found[target][name] += _timed(session, prefix[0], -(-steps // ROUNDS))
    for session in sessions.values():
        session.close()
    return found


def _twin(bundle: Bundle, target: str, threads: int, steps: int) -> dict[str, float]:
    """Median step of full attention after so many generated tokens."""
    prefix = _rows(bundle, min(PREFIX, bundle.manifest.kv_cache.prefix_capacity))
    found = {}
    with bundle.open_twin(target, threads) as session:
        session.prefill(prefix)
        for tokens in TWIN_TOKENS:
            session.seek(len(prefix) + tokens)
            found[str(tokens)] = float(np.median(_timed(session, prefix[0], max(20, steps // 5))))
    return found


def _artifact(
    bundle: Bundle,
    target: str,
    bandwidth: float,
    timing: dict[str, Any],
    footprint: dict[str, Any],
    twin: dict[str, float] | None,
) -> dict[str, Any]:
    manifest = bundle.manifest
    artifact = manifest.artifacts[target]
    step_ms = {
        name: {
            "position": position,
            "p50": float(np.median(timing[name])),
            "p95": float(np.percentile(timing[name], 95)),
        }
        for name, position in timing["positions"].items()
    }
    floor = (artifact.step_bytes + manifest.kv_cache.bytes) / bandwidth * 1e3
    return {
        "target": target,
        "runtime": artifact.runtime,
        "how": "ran",
        "step_ms": step_ms,
        "late_over_early": step_ms["late"]["p50"] / step_ms["early"]["p50"],
        "twin_ms": twin,
        "floor_ms": floor,
        "floor_ratio": step_ms["middle"]["p50"] / floor,
        "prefill_ms_per_token": float(np.median(timing["prefill"])),
        "lm_real_time_factor": step_ms["middle"]["p50"] / 1e3 * manifest.audio.step_rate,
        "artifact_bytes": artifact.bytes,
        "kv_bytes": manifest.kv_cache.bytes,
        **footprint,
    }


def _not_run(bundle: Bundle, target: str) -> dict[str, Any]:
    """The same keys for an artifact whose runtime is not here: its sizes, and null for all that nobody measured."""
    artifact = bundle.manifest.artifacts[target]
    measured = (
        "step_ms", "late_over_early", "twin_ms", "floor_ms", "floor_ratio", "prefill_ms_per_token", "load_ms",
        "first_audio_ms", "private_bytes", "file_bytes", "steady_bytes", "peak_bytes", "lm_real_time_factor",
        "tokens_real_time_factor", "audio_ms_per_second", "audio_share", "real_time_factor",
    )  # fmt: skip
    known = {"target": target, "runtime": artifact.runtime, "how": "not_run"}
    sizes = {"artifact_bytes": artifact.bytes, "kv_bytes": bundle.manifest.kv_cache.bytes}
    return {**known, **dict.fromkeys(measured), **sizes}


def _apart(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a fresh process, whose memory holds nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _footprint(path: Path, target: str, threads: int) -> dict[str, Any]:
    """Memory above a bare process with the same imports, load time, and the speech chain, measured in this process."""
    bundle = load_bundle(path, check="size")
    bundle.import_runtime(target)  # part of the bare process, not of the bundle
    bare = resident_bytes()
    before = bare["private"] + bare["file"] if bare else 0
    start = time.perf_counter()
    session = bundle.open(target, threads)
    load_ms = (time.perf_counter() - start) * 1e3
    prefix = _rows(bundle, bundle.manifest.kv_cache.prefix_capacity)
    session.prefill(prefix)
    _timed(session, prefix[0], 20)
    steady = resident_bytes()
    found: dict[str, Any] = {
        "load_ms": load_ms,
        "private_bytes": steady["private"] - bare["private"] if steady else None,
        "file_bytes": steady["file"] - bare["file"] if steady else None,
        "steady_bytes": steady["private"] + steady["file"] - before if steady else None,
        "peak_bytes": steady["peak"] - before if steady else None,
        "first_audio_ms": None,
        "tokens_real_time_factor": None,
        "audio_ms_per_second": None,
        "audio_share": None,
        "real_time_factor": None,
    }
    if bundle.audio_decoder(target) is not None:
        found |= _speech(bundle, session, target, threads)
    session.close()
    return found


def _speech(bundle: Bundle, session: Session, target: str, threads: int) -> dict[str, Any]:
    """The manifest's sample sentence: first audio, and compute time over audio time, of all and of the tokens alone.

    The two take turns, so that they share the machine's moods; audio_ms_per_second is of the audio decoder.
    """
    speaker = Speaker(bundle, session, bundle.open_audio(target, threads))
    silent = Speaker(bundle, session, None)
    plan = speaker.plan(bundle.manifest.text.sample)
    for _ in speaker.speak(plan, seed=0):  # the first run warms up
        pass
    firsts, wholes, tokens, decoding, samples = [], [], [], [], 0
    for _ in range(SPEECHES):
        start, samples, decoder_seconds = time.perf_counter(), 0, 0.0
        first = None
        for piece in speaker.speak(plan, seed=0):
            samples += len(piece.samples)
            decoder_seconds += piece.audio_seconds
            if samples and first is None:
                first = time.perf_counter() - start
        wholes.append(time.perf_counter() - start)
        decoding.append(decoder_seconds)
        firsts.append(first or 0.0)
        start = time.perf_counter()
        for _ in silent.speak(plan, seed=0):
            pass
        tokens.append(time.perf_counter() - start)
    seconds = samples / bundle.manifest.audio.sample_rate
    if not seconds:
        return {}
    return {
        "first_audio_ms": float(np.median(firsts)) * 1e3,
        "tokens_real_time_factor": float(np.median(tokens)) / seconds,
        "audio_ms_per_second": float(np.median(decoding)) / seconds * 1e3,
        "audio_share": float(np.median(decoding) / np.median(wholes)),
        "real_time_factor": float(np.median(wholes)) / seconds,
    }
