"""What is installed: the lazy names of the package, shipped recipes and targets, and the alias in optimum."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wand_export
from wand_export import errors
from wand_export.spec.recipe import load_recipe
from wand_export.spec.schema import shipped
from wand_export.spec.target import load_target

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(file.parent.name for file in shipped("models").glob("*/recipe.toml"))
TARGETS = sorted(file.stem for file in shipped("targets").glob("*.toml"))


def test_lazy_names() -> None:
    assert wand_export.BundleError is errors.BundleError
    assert callable(wand_export.load_bundle)
    assert set(wand_export.__all__) <= set(dir(wand_export))
    with pytest.raises(AttributeError, match="nothing"):
        _ = wand_export.nothing


def test_a_session_leaves_nothing_in_the_users_folders(exported: Path, tmp_path: Path) -> None:
    """ONNX Runtime would keep an id of the device there, and events to be sent."""
    code = "import sys, wand_export; wand_export.load_bundle(sys.argv[1]).open('onnx-fp32').close()"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    folders = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(exported)], env=environment | folders, check=True)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("own", [None, "0"])
def test_a_setting_of_the_user_is_kept(own: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    code = "import os, wand_export; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment |= {} if own is None else {"ORT_DISABLE_TELEMETRY": own}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own or (own is None and done.stdout.strip() == "1")


def test_recipes_and_targets_are_there() -> None:
    assert "wren" in RECIPES
    assert {"onnx-fp32", "onnx-int8", "onnx-int4"} <= set(TARGETS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_its_folder(name: str) -> None:
    assert load_recipe(name)[0].family == name


@pytest.mark.parametrize("folder", ["host", "graph", "backends", "distill", "spec"])
def test_the_code_knows_no_family(folder: str) -> None:
    """A family is data: its name stands in its recipe alone."""
    names = re.compile(r"\b(" + "|".join(name.rstrip("2").replace("_", "[-_ ]?") for name in RECIPES) + r")", re.I)
    for file in (ROOT / "wand_export" / folder).rglob("*.py"):
        assert names.search(file.read_text(encoding="utf-8")) is None, file


def test_a_host_needs_no_tokenizers() -> None:
    """What reads text lives on tables: neither a tokenizer's library, nor regular expressions, nor Unicode data."""
    code = "import sys, wand_export.host.speech; print(*{'tokenizers', 'sentencepiece', 'torch'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert shown.stdout.split() == []
    for name in ("pieces", "tables", "normal", "words"):
        text = (ROOT / "wand_export" / "host" / f"{name}.py").read_text(encoding="utf-8")
        assert not re.search(r"import (re|regex|unicodedata)\b|\.(lower|upper|isspace|isalpha|strip)\(", text), name


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_named_as_its_file(name: str) -> None:
    assert load_target(name).name == name


def test_every_package_that_is_asked_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(version and "+" not in version for version in pins.values())
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {line.split("[")[0].split(">")[0].split("=")[0] for line in asked} - {"wand-export"}
    assert names - pins.keys() == set()


needs_optimum = pytest.mark.skipif(importlib.util.find_spec("optimum.commands.base") is None, reason="needs optimum")


@needs_optimum
def test_optimum_offers_the_alias() -> None:
    assert not list((ROOT / "optimum").rglob("__init__.py"))
    code = "from optimum.commands.optimum_cli import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", code, "export", "wand", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert shown.returncode == 0, shown.stderr
    assert "--target" in shown.stdout


@needs_optimum
def test_the_alias_is_the_same_export(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum.commands.optimum_cli import RootOptimumCLICommand

    from optimum.commands.register.register_wand import WandExportCommand

    calls = []
    monkeypatch.setattr("wand_export.cli.main", lambda arguments: calls.append(arguments) or 2)
    root = RootOptimumCLICommand("optimum-cli")
    WandExportCommand(root.subparsers)
    args = root.parser.parse_args(["wand", "folder", "--target", "a", "--target", "b", "-o", "out"])
    with pytest.raises(SystemExit, match="2"):
        args.func(args).run()
    assert calls == [["export", "-o", "out", "--target", "a", "--target", "b", "--", "folder"]]
