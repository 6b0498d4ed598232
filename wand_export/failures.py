"""What any exception means to the user of the command line: the file or value, what is wrong, what to do."""

import errno

import typer

from wand_export.errors import InputError, WandError

EXTRAS = {
    "coremltools": "coreml",
    "executorch": "executorch",
    "huggingface_hub": "export",
    "matplotlib": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "optimum": "export",
    "torch": "export",
    "torchao": "executorch",
    "transformers": "export",
    "yaml": "export",
}
"""The extra of this package that brings each module that a base installation lacks."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DO = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check its permissions, or name another place",
    errno.EPERM: "check its permissions, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "name another place, or remove it",
    errno.ENAMETOOLONG: "use a shorter path",
}


def as_wand_error(error: Exception) -> WandError:
    """The error to report for any exception; one that nobody foresaw is ours, and says so."""
    if isinstance(error, WandError):
        return error
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error):
        place = getattr(error, "filename", None) or "disk"
        return WandError(place, "no space left on the device", "free some space and run it again")
    if isinstance(error, OSError) and error.errno in _DO and error.filename is not None:
        return InputError(error.filename, error.strerror or type(error).__name__, _DO[error.errno])
    if isinstance(error, ImportError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
        return InputError(error.name or "", "is not installed", f"pip install 'wand-export[{extra}]'")
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return WandError("internal error", what, "run it again with --debug and report what it prints")


def _usage(error: typer.TyperException) -> InputError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "wand"
    return InputError(command, error.format_message().rstrip("."), f"see {command} --help")
