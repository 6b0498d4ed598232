"""wand verify: a bundle's self-test, or the whole parity ladder against its checkpoint."""

from collections.abc import Callable, Container
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wand_export.errors import InputError
from wand_export.failures import not_installed
from wand_export.host.bundle import Bundle, load_bundle
from wand_export.host.selftest import load_selftest, run_audio_selftest, run_selftest, run_text_selftest
from wand_export.spec.manifest import Artifact

WINDOWS = 4
"""The ladder decodes this many windows of tokens."""


def verify(
    bundle: Path | str,
    checkpoint: Path | str | None = None,
    *,
    report: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Verify every artifact of a bundle, as it lies on disk.

    Without a checkpoint: the golden requests of selftest.json, with the figures that only the reference can give
    left null. With it: the reference, then the static decoder, then each artifact over 4 W greedy steps. Returns the
    document of `wand verify --json`; "ok" is False if anything failed. "text" tells of the golden texts, which all
    targets share: how many "texts" there are, those that "failed", and whether all "passed"; null where the bundle has
    none. A target whose runtime is not installed is not run, and "not_run" says so. Raises BundleError,
    CheckpointError, and InputError if none of them can run.
    """
    report("checking the hashes")
    opened = load_bundle(bundle)
    absent = {target: why for target in opened.targets if (why := absent_runtime(opened, target))}
    if len(absent) == len(opened.targets):
        target, why = next(iter(absent.items()))
        raise InputError(bundle, "none of its targets can run here", f"{target}: {why}")
    report("reading the golden texts")
    text = run_text_selftest(opened)
    if checkpoint is None:
        results = _selftest(opened, absent, report)
    else:
        results = _ladder(opened, Path(checkpoint), absent, report)
    rungs = [result["passed"] for result in results["artifacts"]]
    decoder = results.get("decoder")
    ok = all(passed is not False for passed in rungs) and (decoder is None or decoder["passed"])
    return {
        "schema": 1,
        "ok": ok and (text is None or text.passed),
        **results,
        "text": text and asdict(text),
        "not_run": [f"{target}: {why}" for target, why in absent.items()],
    }


def absent_runtime(bundle: Bundle, target: str) -> str | None:
    """What to install before a target can run; None where it can."""
    try:
        bundle.import_runtime(target)
    except ImportError as error:
        if missing := not_installed(error):  # the extras are named as the runtimes
            extra = bundle.manifest.artifacts[target].runtime
            return f"{missing.file} is not installed (pip install 'wand-export[{extra}]')"
        raise
    return None


def _not_run(target: str, artifact: Artifact) -> dict[str, Any]:
    measured = (
        "steps", "psnr_db", "max_abs_dlogit", "kl", "top1_agreement", "greedy_equal", "first_divergence", "audio",
        "passed",
    )  # fmt: skip
    about = {"target": target, "runtime": artifact.runtime, "files": artifact.files, "how": "not_run"}
    return {**about, **dict.fromkeys(measured)}


def _selftest(bundle: Bundle, absent: Container[str], report: Callable[[str], None]) -> dict[str, Any]:
    found = []
    for target, artifact in bundle.manifest.artifacts.items():
        if target in absent:
            found.append(_not_run(target, artifact))
            continue
        report(f"{target}: self-test")
        with bundle.open(target) as session:
            outcome = run_selftest(bundle, target, session)
        audio = run_audio_selftest(bundle, target)
        found.append(
            {
                "target": target,
                "runtime": artifact.runtime,
                "files": artifact.files,
                "how": session.how,
                "steps": outcome.steps,
                "psnr_db": None,
                "max_abs_dlogit": outcome.max_abs_dlogit,
                "kl": None,
                "top1_agreement": outcome.top1_agreement,
                "greedy_equal": outcome.first_divergence is None,
                "first_divergence": outcome.first_divergence,
                "audio": audio and audio.model_dump(mode="json"),
                "passed": bool(outcome.passed and (audio is None or audio.passed)),
            }
        )
    return {"artifacts": found}


def _ladder(bundle: Bundle, path: Path, absent: Container[str], report: Callable[[str], None]) -> dict[str, Any]:
    from wand_export.graph import ladder
    from wand_export.graph.checkpoint import WAND_FILE, open_checkpoint
    from wand_export.graph.hub import located

    manifest = bundle.manifest
    path = located(path, manifest.family)
    source = open_checkpoint(path, None if (path / WAND_FILE).is_file() else manifest.family)
    if source.sha256 != manifest.source.sha256:
        raise InputError(path, "is not the checkpoint that the bundle was made from", "give that one")
    report("asking the reference")
    prefix = load_selftest(bundle).requests[0].prefix
    expectation = ladder.expect(bundle, source, prefix, WINDOWS * manifest.kv_cache.window)
    decoder = expectation.decoder
    found = []
    for name, artifact in manifest.artifacts.items():
        if name in absent:
            found.append(_not_run(name, artifact))
            continue
        report(f"{name}: comparing with the reference")
        parity = ladder.hold(bundle, source, expectation, name)
        found.append(
            {"target": name, "runtime": artifact.runtime, "files": artifact.files, **parity.model_dump(mode="json")}
        )
    return {
        "decoder": {
            "steps": decoder.steps,
            "psnr_db": decoder.psnr_db,
            "max_abs_dlogit": decoder.max_abs_dlogit,
            "greedy_equal": decoder.greedy_equal,
            "passed": decoder.greedy_equal and (decoder.psnr_db is None or decoder.psnr_db >= ladder.FLOAT32_PSNR_DB),
        },
        "artifacts": found,
    }
