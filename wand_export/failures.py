"""What any exception means to the user of the command line: the file or value, what is wrong, what to do."""

import errno
import os

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
    "sentencepiece": "export",
    "tokenizers": "export",
    "torch": "export",
    "torchao": "executorch",
    "transformers": "export",
    "yaml": "export",
}
"""The extra of this package that brings each module that a base installation lacks."""

_UNWRITTEN = {
    errno.ENOSPC: ("no space left on the device", "free some space and run it again"),
    errno.EDQUOT: ("no space left in the quota", "free some space and run it again"),
    errno.EFBIG: ("more than a file may hold here", "raise the limit on file size (ulimit -f) and run it again"),
    errno.EIO: ("could not be read or written by the device", "check the device and run it again"),
}
"""What is nobody's fault but the disk's. Libraries tell the first and the third in words alone."""
_DO = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check its permissions, or name another place",
    errno.EPERM: "check its permissions, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "name another place, or remove it",
    errno.ENOTEMPTY: "name another place, or remove it",
    errno.ELOOP: "check its links",
    errno.ENAMETOOLONG: "use a shorter path",
}


def as_wand_error(error: Exception) -> WandError:
    """The error to report for any exception; one that nobody foresaw is ours, and says so."""
    if isinstance(error, WandError):
        return error
    if isinstance(error, typer.TyperException):
        return _usage(error)
    for number, (what, fix) in _UNWRITTEN.items():
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return WandError(getattr(error, "filename", None) or "disk", what, fix)
    if isinstance(error, OSError) and error.errno in _DO and error.filename is not None:
        return InputError(error.filename, error.strerror or type(error).__name__, _DO[error.errno])
    if isinstance(error, ImportError) and (missing := not_installed(error)):
        return missing
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return WandError("internal error", what, "run it again with --debug and report what it prints")


def not_installed(error: ImportError) -> InputError | None:
    """The error to report where a module is missing that an extra of this package brings; None for any other."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return InputError(error.name or "", "is not installed", f"pip install 'wand-export[{extra}]'") if extra else None


def _usage(error: typer.TyperException) -> InputError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "wand"
    return InputError(command, error.format_message().rstrip("."), f"see {command} --help")
