"""What the verbs of the command line share: options, examples in the help, and a text that begins with a dash."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, warnings and every stage.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that wand export wrote.", show_default=False)]
Recipe = Annotated[
    str | None,
    typer.Option(metavar="R", help="Recipe name or .toml path. Default: the one whose files the checkpoint has."),
]
Code = Annotated[
    str | None,
    typer.Option(metavar="PACKAGE|DIR", help="The codec's published code, where it is built from that. It is run."),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Steps of a codec that takes some (cosyvoice2). Default: the family's own."),
]
Lexicon = Annotated[
    Path | None,
    typer.Option(metavar="F.tsv", help="Your pronunciations: a word, a tab, its phonemes a line. Lexicon voices only."),
]
Replace = Annotated[
    Path | None,
    typer.Option(
        metavar="F.tsv", help="Words to read otherwise: a word, a tab, what to say a line. See models/README.md."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Threads. Default: one a big core; the runtime's choice if all are."),
]


def examples(*lines: str) -> str:
    """An epilog whose lines the help keeps as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class SpeakCommand(TyperCommand):
    """Takes "-5 degrees" for the text that it is: no option has anything but a letter behind its dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        takes_value = {name for option in self.params if not getattr(option, "is_flag", True) for name in option.opts}
        texts = [i for i in range(end) if re.match(r"-[^-a-zA-Z]", args[i]) and not (i and args[i - 1] in takes_value)]
        kept = [args[i] for i in range(end) if i not in texts]
        return super().parse_args(ctx, [*kept, "--", *(args[i] for i in texts), *args[end + 1 :]])
