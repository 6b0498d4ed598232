"""Checkpoints by their Hugging Face id: only the files that the recipe names, in huggingface_hub's own cache."""

import re
from pathlib import Path

from wand_export.errors import InputError
from wand_export.graph.checkpoint import WAND_FILE
from wand_export.spec.recipe import Recipe, load_recipe

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def located(checkpoint: Path | str, recipe: str | None) -> Path:
    """The folder of a checkpoint: the path itself, or the fetched files of `org/name[@revision]`.

    Raises InputError where there is no such folder and no such id, or it cannot be fetched.
    """
    path = Path(checkpoint)
    match = _ID.fullmatch(str(checkpoint))
    if path.exists() or match is None:
        return path
    if recipe is None:
        fix = "check the path; an id on the Hugging Face hub needs --recipe"
        raise InputError(path, "no such checkpoint folder", fix)
    return fetch(match["repo"], match["revision"], load_recipe(recipe)[0])


def name_of(folder: Path) -> str:
    """What a checkpoint is called: its folder's name, or `org/name@commit` of one in the hub's cache."""
    folder = folder.resolve()
    repo = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repo.startswith("models--"):
        return f"{repo.removeprefix('models--').replace('--', '/')}@{folder.name}"
    return folder.name


def files_of(recipe: Recipe) -> list[str]:
    """Names and globs of all that the recipe reads of a checkpoint."""
    named = [*recipe.checkpoint.weights, recipe.checkpoint.config, *recipe.text.files, WAND_FILE]
    patterns = [name for name in named if name is not None]
    shards = [name.replace(".safetensors.index.json", "-*.safetensors") for name in patterns if "index.json" in name]
    return list(dict.fromkeys([*patterns, *shards]))


def fetch(repo: str, revision: str | None, recipe: Recipe) -> Path:
    """The folder of a model on the hub. Raises InputError, in one line, where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{repo}@{revision}" if revision else repo
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=files_of(recipe)))
    except GatedRepoError as error:
        raise InputError(name, "its authors want to be asked", "accept their terms, then hf auth login") from error
    except RevisionNotFoundError as error:
        raise InputError(name, "no such revision", "check it, or leave @revision out") from error
    except RepositoryNotFoundError as error:
        raise InputError(name, "no such model, or a private one", "check the id, or hf auth login") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(name, f"cannot be fetched: {reason}", "check the network, or give a folder") from error
