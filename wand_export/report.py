"""Reports for people: report.md with its plots, from a manifest and from what a benchmark measured."""

from pathlib import Path
from typing import Any

from wand_export.layout import kv_bytes
from wand_export.spec.manifest import AudioParity, Manifest

REPORT, KV_PLOT, LATENCY_PLOT = "report.md", "kv_memory.png", "step_latency.png"
SECONDS = 60
"""Length of audio that the memory plot covers."""


def write_report(folder: Path, manifest: Manifest, warnings: list[str]) -> None:
    """Write report.md and its memory plot into a bundle."""
    plot_kv(folder / KV_PLOT, manifest)
    lines = [f"# {manifest.title}", "", *_facts(manifest)]
    if warnings:
        lines += ["", "## Take note", "", *(f"- {warning}" for warning in warnings)]
    lines += ["", "## Parity with the PyTorch reference", "", *_parity_table(manifest)]
    lines += ["", "## KV memory", "", f"![KV memory over audio length]({KV_PLOT})", "", _kv_words(manifest)]
    (folder / REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_bench(folder: Path, manifest: Manifest, document: dict[str, Any]) -> None:
    """Write report.md with both plots beside a benchmark's other results."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_kv(folder / KV_PLOT, manifest)
    plot_latency(folder / LATENCY_PLOT, document)
    machine = document["machine"]
    lines = [
        f"# {manifest.title}: benchmark",
        "",
        f"{machine['cpu']}, {machine['threads']} threads, {machine['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s read.",
        "",
        *bench_table(document),
        "",
        "floor: the bytes that a step reads, at that bandwidth. Steps are medians in milliseconds.",
        "",
        f"![Step latency over position]({LATENCY_PLOT})",
        "",
        f"![KV memory over audio length]({KV_PLOT})",
        "",
        _kv_words(manifest),
        "",
        "## Parity with the PyTorch reference",
        "",
        *_parity_table(manifest),
    ]
    (folder / REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _facts(manifest: Manifest) -> list[str]:
    model, kv, source = manifest.model, manifest.kv_cache, manifest.source
    return [
        f"- Source: {source.checkpoint}" + (f", SHA-256 {source.sha256[:16]}..." if source.sha256 else ""),
        f"- Model: {model.kind}, {model.layers} layers, hidden {model.hidden}, {model.heads} heads over "
        f"{model.kv_heads} of {model.head_dim}, {model.parameters:,} parameters",
        f"- Window: {kv.window} generated tokens ({kv.window / manifest.audio.step_rate:.2f} s of audio) behind a "
        f"prefix of at most {kv.prefix_capacity} tokens: {kv.capacity} slots",
        f"- Licence of the weights: {manifest.licence.weights}. {manifest.licence.obligations}",
    ]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _audio(parity: AudioParity | None) -> str:
    if parity is None:
        return "-"
    if parity.how == "not_run":
        return "not run"
    distance = "" if parity.log_mel_db is None else f", log-mel {parity.log_mel_db:.3f} dB"
    return "identical" if parity.psnr_db is None else f"{parity.psnr_db:.1f} dB{distance}, {parity.how}"


def _parity_table(manifest: Manifest) -> list[str]:
    lines = [
        "| target | how | MB | PSNR dB | max dlogit | KL, nats | top-1 | first divergence | audio decoder | passed |",
        "|" + "---|" * 10,
    ]
    components, notes = [], []
    for name, artifact in manifest.artifacts.items():
        parity = artifact.parity
        if parity is None:
            continue
        diverged = "none" if parity.first_divergence is None else f"step {parity.first_divergence}"
        lines.append(
            f"| {name} | {parity.how} | {artifact.bytes / 1e6:.1f} | {_number(parity.psnr_db)} | "
            f"{parity.max_abs_dlogit:.2g} | {parity.kl:.2g} | {parity.top1_agreement:.1%} of {parity.steps} | "
            f"{diverged} | {_audio(parity.audio)} | {'yes' if parity.passed else 'NO'} |"
        )
        for component, alone in parity.components.items():
            components.append(
                f"| {name} | {component} | {_number(alone.psnr_db)} | {alone.kl:.2g} | {alone.top1_agreement:.1%} |"
            )
        if parity.exact is not None:
            psnr = _number(parity.exact.psnr_db)
            notes.append(
                f"- {name} needs {artifact.minimum_os}; where it runs: {artifact.compute_units}. "
                f"It was interpreted here, in float16; in float32 it is at {psnr} dB of a reference rounded alike."
            )
    if notes:
        lines += ["", *notes]
    if components:
        lines += ["", "Each component rounded alone:", "", "| target | component | PSNR dB | KL, nats | top-1 |"]
        lines += ["|---|---|---|---|---|", *components]
    return lines


def bench_table(document: dict[str, Any]) -> list[str]:
    """The benchmark as a Markdown table."""
    lines = [
        "| target | MB | early | middle | late | late/early | p95/p50 | floor | x floor | prefill/token | private MB "
        "| file MB | first audio ms | audio ms/s | share | tokens alone | real time |",
        "|" + "---|" * 17,
    ]
    for a in document["artifacts"]:
        if a["how"] == "not_run":
            lines.append(f"| {a['target']} | {a['artifact_bytes'] / 1e6:.1f} | not run here |" + " - |" * 14)
            continue
        early, middle, late = (a["step_ms"][name] for name in ("early", "middle", "late"))
        private, file = ("-" if a[key] is None else f"{a[key] / 1e6:.1f}" for key in ("private_bytes", "file_bytes"))
        lines.append(
            f"| {a['target']} | {a['artifact_bytes'] / 1e6:.1f} | {early['p50']:.2f} | {middle['p50']:.2f} | "
            f"{late['p50']:.2f} | {a['late_over_early']:.3f} | {middle['p95'] / middle['p50']:.2f} | "
            f"{a['floor_ms']:.2f} | {a['floor_ratio']:.2f} | {a['prefill_ms_per_token']:.2f} | {private} | {file} | "
            f"{_number(a['first_audio_ms'], 0)} | {_number(a['audio_ms_per_second'])} | "
            f"{_number(a['audio_share'], 2)} | "
            f"{_number(a['tokens_real_time_factor'], 3)} | {_number(a['real_time_factor'], 3)} |"
        )
    return lines


def _kv_words(manifest: Manifest) -> str:
    kv = manifest.kv_cache
    return f"The KV buffer holds {kv.bytes:,} bytes ({kv.formula}, {kv.dtype}), however long the audio."


def plot_kv(file: Path, manifest: Manifest) -> None:
    """KV megabytes over seconds of audio, WAND against full attention, for a full prefix."""
    model, kv, rate = manifest.model, manifest.kv_cache, manifest.audio.step_rate
    seconds = list(range(SECONDS + 1))
    full = [
        kv_bytes(kv.prefix_capacity + round(s * rate), model.layers, model.kv_heads, model.head_dim, 4) / 1e6
        for s in seconds
    ]
    figure, axes = _figure("seconds of audio", f"KV cache, MB ({kv.dtype})")
    axes.plot(seconds, full, label="full attention", color="tab:gray")
    axes.plot(seconds, [kv.bytes / 1e6] * len(seconds), label=f"WAND, W = {kv.window}", color="tab:blue")
    _save(figure, axes, file)


def plot_latency(file: Path, document: dict[str, Any]) -> None:
    """Median step over position: flat under WAND, rising in the twin with full attention."""
    figure, axes = _figure("position, tokens", "decode step, ms (median)")
    ran = [a for a in document["artifacts"] if a["how"] == "ran"]
    for number, a in enumerate(ran):
        colour = f"C{number}"
        points = [a["step_ms"][name] for name in ("early", "middle", "late")]
        axes.plot([p["position"] for p in points], [p["p50"] for p in points], "o-", color=colour, label=a["target"])
        if a["twin_ms"]:
            tokens = [int(n) for n in a["twin_ms"]]
            axes.plot(tokens, list(a["twin_ms"].values()), "x--", color=colour, label=f"{a['target']}, full attention")
    axes.set_xscale("log")
    _save(figure, axes, file)


def _figure(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, axes: Any, file: Path) -> None:
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=110)
