"""The command line: exit codes, one-line errors, and documents that are nothing but JSON."""

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wand_export.audio.bundled import Asked
from wand_export.cli import main
from wand_export.errors import BundleError, CheckpointError, InputError, ParityError, WandError

VERIFIED = {
    "schema": 1,
    "ok": True,
    "artifacts": [
        {"target": "onnx-fp32", "how": "ran", "steps": 48, "psnr_db": 101.5, "greedy_equal": True, "passed": True},
        {"target": "coreml-fp16", "how": "not_run", "passed": None},
    ],
}


class Verb:
    """Stands for a verb: remembers how it was called, then returns or raises what it was given."""

    def __init__(self) -> None:
        self.outcome: dict[str, Any] | BaseException = {"schema": 1}
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        self.args, self.options = args, options
        print("a library says something")
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    """One stand-in for all six verbs."""
    verb = Verb()
    for name in ("inspect", "export", "verify", "bench", "speak", "distill"):
        module = ModuleType(name)
        setattr(module, name, verb)
        monkeypatch.setitem(sys.modules, f"wand_export.commands.{name}", module)
    return verb


FAILURES = [
    (BundleError("b/manifest.json", "missing", "export it again"), 2, "b/manifest.json"),
    (CheckpointError("c/model.safetensors", "lacks a tensor", "check it"), 2, "c/model.safetensors"),
    (InputError("--window", "0", "at least 1"), 2, "--window"),
    (ParityError("onnx-int4", "20 dB", "use --allow-low-parity"), 1, "onnx-int4"),
    (WandError("graph", "is ours", "report it"), 3, "graph"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "gone.txt"), 2, "gone.txt"),
    (PermissionError(errno.EACCES, "Permission denied", "locked"), 2, "locked"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "folder"), 2, "folder"),
    (OSError(errno.EROFS, "Read-only file system", "cdrom"), 2, "cdrom"),
    (OSError(errno.ENOSPC, "No space left on device", "big.onnx"), 3, "big.onnx"),
    (OSError(errno.ENOTEMPTY, "Directory not empty", "out"), 2, "out"),
    (OSError(errno.ELOOP, "Too many levels of symbolic links", "loop"), 2, "loop"),
    (OSError(errno.EFBIG, "File too large", "long.wav"), 3, "long.wav"),
    (OSError(errno.EIO, "Input/output error", "card"), 3, "card"),
    (RuntimeError("write failed: No space left on device"), 3, "disk"),
    (RuntimeError("I/O error: File too large (os error 27)"), 3, "disk"),
    (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "torch"),
    (ModuleNotFoundError("No module named 'nowhere'", name="nowhere"), 3, "internal error"),
    (KeyError("several\nlines"), 3, "internal error"),
    (AssertionError(), 3, "internal error"),
]
IDS = [f"{type(error).__name__}-{file}" for error, _, file in FAILURES]


@pytest.mark.parametrize(("error", "code", "file"), FAILURES, ids=IDS)
def test_a_failure_is_one_line(verb: Verb, capsys: Any, error: BaseException, code: int, file: str) -> None:
    verb.outcome = error
    assert main(["inspect", "x"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.removeprefix("a library says something\n").startswith(f"error: {file}: ")
    assert err.count("\n") == 2


@pytest.mark.parametrize(("error", "code", "file"), FAILURES, ids=IDS)
def test_a_failure_is_one_document(verb: Verb, capsys: Any, error: BaseException, code: int, file: str) -> None:
    verb.outcome = error
    assert main(["bench", "x", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "file", "value", "fix"}
    assert (document["error"]["code"], document["error"]["file"]) == (code, file)
    assert document["error"]["value"] and document["error"]["fix"]


def test_a_missing_extra_says_how_to_install_it(verb: Verb, capsys: Any) -> None:
    verb.outcome = ModuleNotFoundError("No module named 'coremltools.models'", name="coremltools.models")
    assert main(["inspect", "x"]) == 2
    assert "pip install 'wand-export[coreml]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "nothing"),
        (["inspect"], "CHECKPOINT|BUNDLE"),
        (["inspect", "x", "--wide"], "--wide"),
        (["export", "x", "-o", "y"], "--target"),
        (["export", "x", "--target", "onnx-fp32"], "--output"),
        (["bench", "x", "--threads", "0"], "threads"),
        (["bench", "x", "--steps", "many"], "--steps"),
        (["speak", "x"], "TEXT or --file"),
        (["speak", "x", "hello", "--file", "f.txt"], "TEXT or --file"),
        (["speak", "x", "--file", "no/such.txt"], "no/such.txt"),
    ],
)
def test_wrong_usage_is_one_line_too(verb: Verb, capsys: Any, arguments: list[str], told: str) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and told in err and err.count("\n") == 1

    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == 2
    assert err == ""


def test_traceback_only_when_debugging(verb: Verb, capsys: Any) -> None:
    verb.outcome = KeyError("odd")
    assert main(["inspect", "x"]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert main(["inspect", "x", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_interrupt(verb: Verb) -> None:
    verb.outcome = KeyboardInterrupt()
    assert main(["inspect", "x"]) == 130


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_verify_says_with_its_code_whether_it_passed(verb: Verb, capsys: Any, ok: bool, code: int) -> None:
    verb.outcome = {**VERIFIED, "ok": ok}
    assert main(["verify", "b", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == verb.outcome


def test_json_refuses_what_json_has_not(verb: Verb, capsys: Any) -> None:
    verb.outcome = {"psnr_db": float("inf")}
    assert main(["inspect", "x", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["file"] == "internal error"


def test_export_gets_every_option(verb: Verb) -> None:
    words = "export c -o out --target a --target b.toml --recipe r --window 32 --prefix 64 --with-twin --dry-run"
    more = "--allow-low-parity --voice v --voice w --audio-decoder d.onnx --audio e --code f --steps 4"
    more += " --lexicon l.tsv --replace r.tsv"
    assert main([*words.split(), *more.split()]) == 0
    assert verb.args == (Path("c"), Path("out"), ["a", "b.toml"])
    assert callable(verb.options.pop("report"))
    assert verb.options == {
        "recipe": "r",
        "window": 32,
        "prefix": 64,
        "random_weights": False,
        "layers": None,
        "voices": [Path("v"), Path("w")],
        "audio_decoder": Path("d.onnx"),
        "audio": Asked(Path("e"), "f", 4),
        "lexicon": Path("l.tsv"),
        "replace": Path("r.tsv"),
        "with_twin": True,
        "dry_run": True,
        "allow_low_parity": True,
    }


def test_export_of_random_weights_has_no_checkpoint(verb: Verb) -> None:
    assert main(["export", "--recipe", "r", "--random-weights", "--layers", "2", "-o", "out", "--target", "a"]) == 0
    assert verb.args == (None, Path("out"), ["a"])
    assert (verb.options["random_weights"], verb.options["layers"]) == (True, 2)


@pytest.mark.parametrize(
    ("words", "output", "tokens"),
    [
        ("", Path("out.wav"), None),
        ("-o a.wav --tokens-out t.npy", Path("a.wav"), Path("t.npy")),
        ("--tokens-out t.npy", None, Path("t.npy")),
        ("--hidden-out h.npy", None, None),
    ],
)
def test_speak_writes_out_wav_unless_only_tokens_are_wanted(
    verb: Verb, words: str, output: Path | None, tokens: Path | None
) -> None:
    assert main(["speak", "b", "Hello.", *words.split()]) == 0
    assert verb.args == (Path("b"), "Hello.", output)
    assert verb.options["tokens_out"] == tokens
    assert verb.options["hidden_out"] == (Path("h.npy") if "--hidden-out" in words else None)
    verb.options["progress"](0.5, 0.25)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("Hello.".encode("utf-16"), "is UTF-16 (save it as UTF-8)"),
        ("Hello.".encode("utf-16-be"), "a NUL character in line 1"),
        (b"a\nb\0c", "a NUL character in line 2"),
        (b"a\n\n\xe9t\xe9", "line 3 is not UTF-8"),
    ],
)
def test_text_files_that_are_not_utf8_are_told(
    verb: Verb, capsys: Any, tmp_path: Path, data: bytes, words: str
) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(data)
    assert main(["speak", "b", "--file", str(file)]) == 2
    assert words in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_a_text(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfHello.\r\nYou.\r")
    assert main(["speak", "b", "--file", str(tmp_path / "text.txt")]) == 0
    assert verb.args[1] == "Hello.\r\nYou.\r"


def test_sampling_and_what_cannot_be_said_are_options_of_speak(verb: Verb) -> None:
    words = "--temperature 0.3 --top-k 5 --top-p 0.9 --repetition-penalty 1.2 --skip-unsayable --lexicon l --replace r"
    assert main(["speak", "b", "Hello.", *words.split()]) == 0
    wanted = {"temperature": 0.3, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2, "skip_unsayable": True}
    wanted |= {"lexicon": Path("l"), "replace": Path("r")}
    assert wanted.items() <= verb.options.items()


def test_speak_reads_a_file_as_utf8(verb: Verb, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes("Schön.".encode())
    assert main(["speak", "b", "--file", str(file)]) == 0
    assert verb.args[1] == "Schön." and verb.options["text_file"] == file
    file.write_bytes(b"\xff\xfe")
    assert main(["speak", "b", "--file", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["b", "-5 degrees"], "-5 degrees"),
        (["b", "-5", "-o", "x.wav"], "-5"),
        (["-o", "x.wav", "b", "--seed", "3", "- Hello."], "- Hello."),
        (["b", "-.5 volts", "--json"], "-.5 volts"),
        (["--seed", "3", "--", "b", "-hello"], "-hello"),
        (["b", "--", "--json"], "--json"),
    ],
)
def test_a_text_may_begin_with_a_dash(verb: Verb, words: list[str], text: str) -> None:
    assert main(["speak", *words]) == 0
    assert verb.args[:2] == (Path("b"), text)


def test_an_option_does_not_become_a_text(verb: Verb, capsys: Any) -> None:
    for words, told in (["b", "hello", "--seed", "-5"], "seed"), (["b", "-wide"], "-w"), (["b", "a", "-5"], "-5"):
        assert main(["speak", *words]) == 2
        assert told in capsys.readouterr().err


def test_speak_streams_to_standard_output(verb: Verb, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["speak", "b", "Hello.", "-o", "-"]) == 0
    assert verb.args[2] is sys.stdout.buffer
    out, err = capsys.readouterr()
    assert out == "" and "schema" not in err
    assert main(["speak", "b", "Hello.", "-o", "-", "--json"]) == 2
    assert "standard output cannot hold" in json.loads(capsys.readouterr().out)["error"]["value"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["speak", "b", "Hello.", "-o", "-"]) == 2
    assert "is a terminal" in capsys.readouterr().err


def test_speak_reads_standard_input(verb: Verb, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Schön.".encode()), encoding="ascii"))
    assert main(["speak", "b", "--file", "-"]) == 0
    assert verb.args[1] == "Schön." and verb.options["text_file"] is None
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="ascii"))
    assert main(["speak", "b", "--file", "-"]) == 2


@pytest.mark.parametrize("words", ["inspect x", "inspect x --json"])
def test_a_result_that_standard_output_does_not_take(
    verb: Verb, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    assert main(words.split()) == 3
    assert "error: standard output: cannot be written" in capsys.readouterr().err


BENCHED = {
    "schema": 1,
    "machine": {"cpu": "a CPU", "threads": 2, "bandwidth_bytes_per_s": 2e10},
    "artifacts": [
        {
            "target": "onnx-int4",
            "step_ms": {"early": {"position": 64, "p50": 1.25, "p95": 1.5}, "late": None},
            "late_over_early": 1.01,
            "twin_ms": {"64": 1.5, "4096": 9.75},
            "artifact_bytes": 12_300_000,
        },
        {"target": "onnx-fp32", "twin_ms": None},
    ],
}
INSPECTED = {
    "family": "wren",
    "window": 32,
    "parameters": 12_345_678,
    "targets": {"onnx-int4": {"bytes": 5_000_000, "precision": {"mlp": "int4-b32"}, "files": ["decoder.onnx"]}},
    "kv_bytes": {"formula": "f", "dtype": "float32", "prefix_len": 96, "wand": 2_000_000, "full": {"1000": 16_000_000}},
}
EXPORTED = {
    "family": "wren",
    "kv_cache": {"window": 32, "prefix_capacity": 96, "bytes": 2_000_000},
    "artifacts": {"onnx-int4": {"bytes": 5_000_000, "parity": {"psnr_db": 31.25, "passed": False}}},
    "warnings": ["never tuned for [this] window"],
}


@pytest.mark.parametrize(
    ("words", "outcome", "shown"),
    [
        ("verify b", VERIFIED, ["onnx-fp32", "102", "passed", "not run"]),
        ("bench b", BENCHED, ["a CPU", "20 GB/s", "1.25", "9.75 at 4096", "12.3 MB"]),
        ("inspect b", INSPECTED, ["wren", "12,345,678", "5 MB", "mlp int4-b32", "1000", "2 MB", "16 MB"]),
        ("export c -o b --target t", EXPORTED, ["5 MB", "31.2", "below threshold", "never tuned for [this] window"]),
        ("speak b hello", {"seconds": 1.5, "sentences": [{"text": "hello", "seconds": 1.5}]}, ["1.5", "hello"]),
        ("distill c.toml", {"checkpoint": "x", "final_loss": None}, ["final loss", "-"]),
    ],
)
def test_results_are_shown_in_short(
    verb: Verb, capsys: Any, words: str, outcome: dict[str, Any], shown: list[str]
) -> None:
    verb.outcome = outcome
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    for text in shown:
        assert text in out
    assert "a library" not in out


@pytest.mark.parametrize("words", ["", "--help", "inspect -h", "export --help", "speak --help", "distill --help"])
def test_help_teaches_by_example(capsys: Any, words: str) -> None:
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert "Examples:\n  " in out.replace("\n    wand", "\n  wand").replace("  Examples", "Examples")
    assert err == ""


def test_importing_the_command_line_is_light() -> None:
    heavy = ["torch", "transformers", "onnxruntime", "onnx", "numpy", "pydantic", "tokenizers", "rich.console"]
    code = f"import sys, wand_export, wand_export.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
