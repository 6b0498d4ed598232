"""What people see: progress on stderr, results as tables on stdout.

python -m wand_export.console verify.json bench.json        shows documents that `wand VERB --json` wrote
"""

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 200
"""Columns of a table that is not shown on a terminal."""


@contextmanager
def quietly(debug: bool) -> Iterator[None]:
    """Keep the warnings, logs and progress bars of libraries off stderr, unless debugging."""
    if debug:
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def stages(verb: str, debug: bool) -> Iterator[Callable[[str], None]]:
    """A function to call at the start of each stage: shown on a terminal, and as lines when debugging."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    start = time.monotonic()
    # Where there is no terminal the status would still write, and fail where that is full or closed.
    with console.status(f"{verb} ...") if console.is_terminal else nullcontext() as status:

        def report(stage: str) -> None:
            if status is not None:
                status.update(f"{verb}: {escape(stage)}")
            if console.is_terminal or debug:
                console.print(f"{time.monotonic() - start:7.1f} s  {stage}", style="dim", markup=False, highlight=False)

        yield report


@contextmanager
def progress_bar() -> Iterator[Callable[[float, float], None]]:
    """A function to call with the seconds of audio made so far and the fraction of the text, 0 to 1."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("speaking", total=1.0)

        def update(seconds: float, fraction: float) -> None:
            progress.update(task, completed=fraction, description=f"{seconds:.1f} s of audio")

        yield update


def show(verb: str, result: dict[str, Any]) -> None:
    """Print what a verb returned, in short."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for table in _TABLES.get(verb, _plain)(result):
        console.print(table)


def _export(result: dict[str, Any]) -> list["Table"]:
    cache = result.get("kv_cache") or {}
    about = {"family": result.get("family"), "window": cache.get("window"), "prefix": cache.get("prefix_capacity")}
    tables = [_pairs({**about, "kv_bytes": cache.get("bytes")})]
    if artifacts := result.get("artifacts"):
        table = _table("target", "file", "PSNR dB", "KL", "top-1", "result", title="artifacts")
        for target, artifact in artifacts.items():
            parity = artifact.get("parity") or {}
            quality = (_number(parity.get(key)) for key in ("psnr_db", "kl", "top1_agreement"))
            table.add_row(target, _bytes(artifact.get("bytes")), *quality, _PASSED[parity.get("passed")])
        tables.append(table)
    for warning in result.get("warnings", []):
        tables.append(_pairs({"note": warning}))
    return tables


def _audio(result: dict[str, Any]) -> list["Table"]:
    decoder = result.get("decoder") or {}
    told = {key: result.get(key) for key in ("title", "sample_rate")} | {
        key: decoder.get(key) for key in ("mode", "precision", "chunk", "look_back", "look_ahead")
    }
    graphs = _table("graph", "file", title="graphs")
    for name, size in (result.get("bytes") or {}).items():
        graphs.add_row(name, _bytes(size))
    parity = _table("units", "PSNR dB", "log-mel dB", title="against the codec's own code")
    for held in result.get("parity") or []:
        parity.add_row(str(held.get("units")), _number(held.get("psnr_db")), _number(held.get("log_mel_db")))
    notes = [_pairs({"note": warning}) for warning in result.get("warnings", [])]
    return [_pairs(told), graphs, parity, *notes]


def _inspect(result: dict[str, Any]) -> list["Table"]:
    kv, targets = result.get("kv_bytes") or {}, result.get("targets") or {}
    hidden = ("schema", "kv_bytes", "published_kv", "targets")
    tables = [_pairs({key: value for key, value in result.items() if key not in hidden})]
    if targets:
        table = _table("target", "file", "precision", title="artifacts")
        for target, artifact in targets.items():
            table.add_row(target, _bytes(artifact.get("bytes")), _cell("", artifact.get("precision")))
        tables.append(table)
    if kv:
        table = _table("generated tokens", "KV today", "KV with WAND", title=f"KV cache, {kv.get('dtype')}")
        for tokens, size in (kv.get("full") or {}).items():
            table.add_row(str(tokens), _bytes(size), _bytes(kv.get("wand")))
        tables.append(table)
    if published := result.get("published_kv"):
        table = _pairs(published)
        table.title = "KV cache as published, by our formula"
        tables.append(table)
    return tables


def _verify(result: dict[str, Any]) -> list["Table"]:
    table = _table(
        "target",
        "how",
        "steps",
        "PSNR dB",
        "max |dlogit|",
        "KL",
        "top-1",
        "greedy",
        "audio dB",
        "log-mel dB",
        "result",
        title="parity",
    )
    for row in result.get("artifacts", []):
        greedy = "equal" if row.get("greedy_equal") else f"differs at {_number(row.get('first_divergence'))}"
        table.add_row(
            row["target"],
            str(row.get("how")).replace("_", " "),
            _number(row.get("steps")),
            _number(row.get("psnr_db"), "identical" if row.get("max_abs_dlogit") == 0 else "-"),
            _number(row.get("max_abs_dlogit")),
            _number(row.get("kl")),
            _number(row.get("top1_agreement")),
            greedy if row.get("greedy_equal") is not None else "-",
            _number((row.get("audio") or {}).get("psnr_db"), "identical" if row.get("audio") else "-"),
            _number((row.get("audio") or {}).get("log_mel_db")),
            _PASSED[row.get("passed")],
        )
    return [table, *_texts(result.get("text") or {}), *_not_run(result)]


def _texts(text: dict[str, Any]) -> list["Table"]:
    return [_pairs({"text read otherwise": failed}) for failed in text.get("failed", [])]


def _not_run(result: dict[str, Any]) -> list["Table"]:
    return [_pairs({"not run": why}) for why in result.get("not_run", [])]


def _bench(result: dict[str, Any]) -> list["Table"]:
    machine = result.get("machine") or {}
    speed = machine.get("bandwidth_bytes_per_s")
    title = f"{machine.get('cpu', 'this machine')}, {machine.get('threads')} threads, {_bytes(speed)}/s"
    columns = "step ms early", "middle", "late", "late/early", "twin", "floor", "x floor"
    more = "first audio ms", "RTF", "RTF of LM", "of tokens", "audio ms/s", "peak", "file", "KV"
    table = _table("target", *columns, *more, title=title)
    for row in result.get("artifacts", []):
        steps = row.get("step_ms") or {}
        twin = row.get("twin_ms") or {}
        table.add_row(
            row["target"],
            *(_number((steps.get(where) or {}).get("p50")) for where in ("early", "middle", "late")),
            _number(row.get("late_over_early")),
            "\n".join(f"{_number(ms)} at {tokens}" for tokens, ms in twin.items()) or "-",
            _number(row.get("floor_ms")),
            _number(row.get("floor_ratio")),
            *(_number(row.get(key)) for key in ("first_audio_ms", "real_time_factor", "lm_real_time_factor")),
            *(_number(row.get(key)) for key in ("tokens_real_time_factor", "audio_ms_per_second")),
            *(_bytes(row.get(key)) for key in ("peak_bytes", "artifact_bytes", "kv_bytes")),
        )
    return [table, *_not_run(result)]


def _plain(result: dict[str, Any]) -> list["Table"]:
    tables = [_pairs({k: v for k, v in result.items() if k != "schema" and not _is_rows(v)})]
    for name, rows in result.items():
        if _is_rows(rows):
            columns = list(dict.fromkeys(key for row in rows for key in row if not isinstance(row[key], dict | list)))
            table = _table(*columns, title=name)
            for row in rows:
                table.add_row(*(_cell(key, row.get(key)) for key in columns))
            tables.append(table)
    return tables


def _table(*columns: str, **options: Any) -> "Table":
    from rich.table import Table

    return Table(*columns, **options)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _pairs(values: dict[str, Any]) -> "Table":
    table = _table(show_header=False, box=None)
    for key, value in values.items():
        table.add_row(key.replace("_", " "), _cell(key, value))
    return table


def _cell(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_cell("", item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell('', item)}" for name, item in value.items()) or "-"
    return _bytes(value) if key == "bytes" or key.endswith("_bytes") else _number(value)


def _number(value: Any, missing: str = "-") -> str:
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value).replace("[", r"\[")


def _bytes(value: Any) -> str:
    if value is None:
        return "-"
    size = float(value)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


_PASSED = {True: "passed", False: "[red]below threshold[/]", None: "not run"}
_TABLES: dict[str, Callable[[dict[str, Any]], list["Table"]]] = {
    "audio": _audio,
    "bench": _bench,
    "export": _export,
    "inspect": _inspect,
    "verify": _verify,
}


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:]):
        show(document.stem, json.loads(document.read_text(encoding="utf-8")))
