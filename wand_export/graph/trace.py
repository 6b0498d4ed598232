"""torch's ONNX exporter, without its chatter."""

import logging
import warnings
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

OPSET = 23
OLDEST_RUNTIME = "1.23.0"
"""Oldest onnxruntime that loads these files, found by trying: 1.22 refuses opset 23."""


def traced(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> ir.Model:
    """The ONNX model of a module called with `arguments`; options are those of torch.onnx.export."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module, arguments, dynamo=True, opset_version=OPSET, optimize=True, verbose=False, **options
        )
    assert program is not None
    return program.model
