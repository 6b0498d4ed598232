"""wand distill: a full-attention checkpoint, fine-tuned for a window."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wand_export.host.output import alone
from wand_export.spec.schema import read_toml


def distill(config: Path | str, out: Path | str | None = None) -> dict[str, Any]:
    """Train as CONFIG.toml says and write the WAND checkpoint `out` (default: `checkpoint` beside the config).

    A run that was interrupted goes on from `out`.state; one at a time. Returns {"schema", "checkpoint", "window",
    "steps", "final_loss", "held_out": {"teacher", "untuned", "student": {"loss", "accuracy"}}}. Raises InputError.
    """
    from wand_export.distill.train import DistillConfig, Trainer

    config = Path(config)
    out = config.parent / "checkpoint" if out is None else Path(out)
    settings = read_toml(config, DistillConfig)
    paths = {"teacher": config.parent / settings.teacher, "data": config.parent / settings.data}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with alone(out) as place:
        trainer = Trainer(settings.model_copy(update=paths), place.with_name(place.name + ".state"))
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("distill", total=settings.steps, completed=trainer.step)
            for record in trainer.train():
                told = f"window {record['window']}, loss {record['loss']:.3f}"
                progress.update(task, completed=record["step"], description=told)
        report = {
            "schema": 1,
            "checkpoint": str(out),
            "window": settings.window,
            "steps": trainer.step,
            "final_loss": trainer.last_loss,
            "held_out": trainer.scores(),
        }
        with (trainer.state / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"held_out": report["held_out"]}) + "\n")
        trainer.write(place)
    return report
