"""The command line: parses, calls a verb, prints what it returned. Verbs are imported when they are called."""

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, get_args

import typer

from wand_export import __version__
from wand_export.console import progress_bar, quietly, show, stages
from wand_export.errors import InputError, WandError
from wand_export.failures import as_wand_error
from wand_export.options import (
    Bundle,
    Code,
    Debug,
    Json,
    Lexicon,
    Recipe,
    Replace,
    SpeakCommand,
    Steps,
    Threads,
    examples,
)
from wand_export.process import (
    PIPE_CLOSED,
    OutputError,
    Stopped,
    complain,
    forget_unwritten,
    open_closed_streams,
    printing,
    read_text,
    stoppable,
)

if TYPE_CHECKING:
    from wand_export.audio.bundled import Asked


app = typer.Typer(
    name="wand",
    add_completion=False,
    rich_markup_mode=None,  # plain help is half of its start-up time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Put autoregressive text-to-speech on small devices: export a decoder with a fixed-capacity KV buffer, "
    "prove that it computes the same, measure it, and let it speak.",
    epilog=examples(
        "wand inspect models/wren/checkpoint",
        "wand export models/wren/checkpoint -o bundle --target onnx-int4",
        "wand speak bundle 'Hello there.' -o hello.wav",
        "wand VERB --help",
    ),
)


@app.callback(invoke_without_command=True)
def _wand(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        with printing():
            print(f"wand-export {__version__}")
        raise typer.Exit


@app.command(epilog=examples("wand inspect models/wren/checkpoint", "wand inspect bundle --json"))
def inspect(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT|BUNDLE", help="Folder to look at; with --recipe alone, the recipe itself."),
    ] = None,
    recipe: Recipe = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what a checkpoint, a bundle or a recipe holds.

    Sizes, window, and the KV memory with and without WAND.
    """
    if path is None and recipe is None:
        raise InputError("CHECKPOINT|BUNDLE", "missing", "give one, or --recipe R alone")
    from wand_export.commands.inspect import inspect as verb

    return _print("inspect", _call(verb, path, recipe=recipe), as_json)


@app.command(
    epilog=examples(
        "wand export models/wren/checkpoint -o bundle --target onnx-int4 --target onnx-fp32",
        "wand export --recipe orpheus --random-weights --layers 2 -o trial --target onnx-int4",
        "wand export Llasa-1B --recipe llasa --window 64 --audio xcodec2 -o bundle --target onnx-int4",
    )
)
def export(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Bundle to write.", show_default=False)],
    targets: Annotated[
        list[str],
        typer.Option("--target", metavar="T", help="Target name or .toml path; repeat for more.", show_default=False),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Folder of weights, or org/name[@revision] on the Hugging Face hub. Left out with --random-weights.",
        ),
    ] = None,
    recipe: Recipe = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="W", help="Window in tokens. Default: the checkpoint's own.")
    ] = None,
    prefix: Annotated[
        int | None, typer.Option(min=1, metavar="P", help="Prefix capacity in tokens. Default: the recipe's.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="True size, seeded random weights: try before owning weights.")
    ] = False,
    layers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --random-weights: only this many layers.")
    ] = None,
    voice: Annotated[
        list[Path] | None,
        typer.Option("--voice", metavar="DIR", help="Voice preset to carry; repeat for more. See models/README.md."),
    ] = None,
    audio_decoder: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="The family's own audio decoder, to carry along.")
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Checkpoint of the family's codec, made to stream: see wand audio."),
    ] = None,
    code: Code = None,
    steps: Steps = None,
    lexicon: Lexicon = None,
    replace: Replace = None,
    with_twin: Annotated[
        bool, typer.Option("--with-twin", help="Also write the decoder without its window, for wand bench (ONNX).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    allow_low_parity: Annotated[
        bool, typer.Option("--allow-low-parity", help="Write artifacts below their target's thresholds, marked so.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a bundle from a checkpoint.

    One artifact for each target, each compared with the reference as saved on disk before the bundle is kept.
    """
    from wand_export.commands.export import export as verb

    with stages("export", debug) as report:
        result = _call(
            verb,
            checkpoint,
            output,
            targets,
            recipe=recipe,
            window=window,
            prefix=prefix,
            random_weights=random_weights,
            layers=layers,
            voices=voice or (),
            audio_decoder=audio_decoder,
            audio=_asked(audio, code, steps),
            lexicon=lexicon,
            replace=replace,
            with_twin=with_twin,
            dry_run=dry_run,
            allow_low_parity=allow_low_parity,
            report=report,
        )
    return _print("export", result, as_json)


@app.command(epilog=examples("wand verify bundle", "wand verify bundle --checkpoint models/wren/checkpoint --json"))
def verify(
    bundle: Bundle,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Its weights: run the whole parity ladder.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Check a bundle, and that it still computes the same.

    Hashes and self-test; with the checkpoint also parity with the reference. Exits with 1 below a threshold.
    """
    from wand_export.commands.verify import verify as verb

    with stages("verify", debug) as report:
        result = _call(verb, bundle, checkpoint, report=report)
    _print("verify", result, as_json)
    return 0 if result["ok"] else 1


@app.command(epilog=examples("wand bench bundle", "wand bench bundle --threads 2 -o measured --json"))
def bench(
    bundle: Bundle,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads. Default: one for each of the fastest cores.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Steps measured at each position.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for report.md and its plots.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Measure a bundle on this machine.

    Step time early and late, memory, time to first audio. Let nothing else run meanwhile.
    """
    from wand_export.commands.bench import bench as verb

    with stages("bench", debug) as report:
        result = _call(verb, bundle, threads=threads, steps=steps, output=output, report=report)
    return _print("bench", result, as_json)


@app.command(
    cls=SpeakCommand,
    epilog=examples(
        "wand speak bundle 'Hello there.' -o hello.wav",
        "wand speak bundle --file chapter.txt -o chapter.wav --target onnx-int4",
        "wand speak bundle 'Ask Nguyen about SQL.' --replace my-words.tsv",
        "echo 'Hello there.' | wand speak bundle --file - -o - | aplay",
        "wand speak bundle --file chapter.txt --plan --json",
    ),
)
def speak(
    bundle: Bundle,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to say; or --file.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="F", help="Text file (UTF-8) to read aloud; - is standard input.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="WAV",
            help="Default: out.wav; none where only --tokens-out is given. - streams to standard output.",
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="T", help="Target or runtime. Default: the first.")] = None,
    voice: Annotated[str | None, typer.Option(metavar="V", help="Voice preset. Default: the first.")] = None,
    tokens_out: Annotated[
        Path | None, typer.Option(metavar="F.npy", help="Also write the generated token ids here.")
    ] = None,
    hidden_out: Annotated[
        Path | None, typer.Option(metavar="F.npy", help="Also write the vectors that some audio decoders read.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same seed says it the same way.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="0 always picks the likeliest token. Default of this and the next: the voice's."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Pick among the K likeliest; 0 among all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Pick among the likeliest that make up this part of 1.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="R", help="Above 1: tokens that were said are less likely again.")
    ] = None,
    skip_unsayable: Annotated[
        bool, typer.Option("--skip-unsayable", help="Leave out what the voice cannot say, and report it.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only tell the sentences, their ids and what would be refused; open no model."),
    ] = False,
    lexicon: Lexicon = None,
    replace: Replace = None,
    rate: Annotated[float, typer.Option(min=0.5, max=3.0, metavar="R", help="Speed, 0.5 to 3; the pitch stays.")] = 1.0,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Say a text and write the audio."""
    if (text is None) == (file is None):
        raise InputError("wand speak", "give TEXT or --file, one of them", "see wand speak --help")
    words = text if file is None else read_text(file)
    if plan:
        if (output, tokens_out, hidden_out) != (None, None, None):
            raise InputError("--plan", "it writes no file", "leave -o, --tokens-out and --hidden-out out")
        from wand_export.commands.plan import plan as planned

        own = {"lexicon": lexicon, "replace": replace}
        result = _call(planned, bundle, words, voice=voice, skip_unsayable=skip_unsayable, **own)
        return _print("plan", result, as_json)
    if output is None and tokens_out is None and hidden_out is None:
        output = Path("out.wav")
    streamed = output == Path("-")
    from wand_export.commands.speak import speak as verb

    with progress_bar() as progress:
        result = _call(
            verb,
            bundle,
            words,
            _audio_stream(as_json) if streamed else output,
            target=target,
            voice=voice,
            tokens_out=tokens_out,
            hidden_out=hidden_out,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            skip_unsayable=skip_unsayable,
            lexicon=lexicon,
            replace=replace,
            rate=rate,
            threads=threads,
            text_file=None if file == Path("-") else file,
            progress=progress,
        )
    if streamed:
        with redirect_stdout(sys.stderr):
            show("speak", result)
        return 0
    return _print("speak", result, as_json)


@app.command(epilog=examples("wand distill models/wren/distill.toml -o checkpoint-w32"))
def distill(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to train, and how.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Checkpoint to write. Default: the config's.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Tune a checkpoint to its window.

    The teacher is the same model without the window.
    """
    from wand_export.commands.distill import distill as verb

    return _print("distill", _call(verb, config, output), as_json)


@app.command(
    epilog=examples(
        "wand audio descript-dac --codec dac -o decoder",
        "wand audio snac_24khz --codec snac --code snac -o decoder --precision int8",
        "wand audio Spark-TTS-0.5B --codec bicodec --code path/to/Spark-TTS -o decoder",
    )
)
def audio(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Folder, or file, that its authors published.", show_default=False),
    ],
    codec: Annotated[
        str, typer.Option(metavar="NAME", help="Which codec it is of: see models/README.md.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.", show_default=False)],
    code: Code = None,
    precision: Annotated[
        str, typer.Option(metavar="P", help="How weights are stored: float32, float16, int8 or mixed.")
    ] = "float16",
    steps: Steps = None,
    allow_low_parity: Annotated[
        bool, typer.Option("--allow-low-parity", help="Write graphs below their thresholds, marked so.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Make a codec's decoder stream.

    Reads its checkpoint as its own code does, rewrites what no runtime takes, and writes ONNX graphs with audio.json,
    the words by which a host streams them. Every graph is held to the codec's own code as saved on disk. That code is
    never fetched, and runs only where --code names it.
    """
    from wand_export.commands.audio import audio as verb

    with stages("audio", debug) as report:
        result = _call(
            verb,
            checkpoint,
            output,
            codec,
            code=code,
            precision=_precision(precision),
            steps=steps,
            allow_low_parity=allow_low_parity,
            report=report,
        )
    return _print("audio", result, as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Every failure becomes one line, or one document with --json."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug, as_json = "--debug" in flags, "--json" in flags
    open_closed_streams()
    try:
        with stoppable(), quietly(debug):
            code: int | None = typer.main.get_command(app).main(arguments, "wand", standalone_mode=False)
        return code or 0
    except KeyboardInterrupt:
        return 130
    except Stopped as end:
        return end.exit_code
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # where typer meets a closed pipe
            raise
        return PIPE_CLOSED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(as_wand_error(error), as_json)
    finally:
        forget_unwritten()


def _fail(failure: WandError, as_json: bool) -> int:
    if as_json and not isinstance(failure, OutputError):
        try:
            with printing():
                print(json.dumps({"error": _document(failure)}, indent=2))
            return failure.exit_code
        except OutputError as unwritten:
            failure = unwritten
        except Stopped as end:
            return end.exit_code
    complain(" ".join(f"error: {failure}".split()))
    return failure.exit_code


def _call(verb: Callable[..., dict[str, Any]], *args: Any, **options: Any) -> dict[str, Any]:
    """Run a verb with stdout kept free for its result: whatever a library prints goes to stderr."""
    with redirect_stdout(sys.stderr):
        return verb(*args, **options)


def _print(verb: str, result: dict[str, Any], as_json: bool) -> int:
    document = json.dumps(result, indent=2, allow_nan=False) if as_json else None
    with printing():
        if document is not None:
            print(document)
        else:
            show(verb, result)
    return 0


def _audio_stream(as_json: bool) -> BinaryIO:
    """Standard output for a WAV. Raises InputError where it has another use, or is a terminal."""
    if as_json:
        raise InputError("-o -", "standard output cannot hold the WAV and --json's document", "leave one of them out")
    if sys.stdout.isatty():
        raise InputError("-o -", "standard output is a terminal", "send it to a player or a file, as by | aplay")
    return sys.stdout.buffer


def _document(failure: WandError) -> dict[str, Any]:
    return {"code": failure.exit_code, "file": failure.file, "value": failure.value, "fix": failure.fix}


def _asked(audio: Path | None, code: str | None, steps: int | None) -> "Asked | None":
    from wand_export.audio.bundled import Asked

    if audio is None and (code, steps) != (None, None):
        raise InputError("--code/--steps", "they are for --audio", "name the codec's checkpoint with it")
    return None if audio is None else Asked(audio, code, steps)


def _precision(name: str) -> str:
    from wand_export.spec.target import AudioPrecision

    known = get_args(AudioPrecision)
    if name not in known:
        raise InputError("--precision", f"no such precision {name!r}", f"there are: {', '.join(known)}")
    return name


if __name__ == "__main__":
    sys.exit(main())
