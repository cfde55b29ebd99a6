"""The network as one ONNX file: fp32, any batch size, no external data, the same bytes for the same weights."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import onnx
import torch
from torch import nn

from pipelines.errors import must
from pipelines.network.stack import Exported, Inputs
from pipelines.scoring import Network

TOLERANCE = 1e-5
#: Names while exporting -> final names: the exporter names inner values after operators, and `embedding` is one of these.
OUTPUTS = {"output_of_logits": "logits", "output_of_embedding": "embedding", "output_of_each": "each"}


def export(networks: Sequence[nn.Module], sample: Inputs, partners: Sequence[tuple[nn.Module, float]] = ()) -> bytes:
    """Export networks in evaluation mode, and what is pooled with them by what share, as one file.

    `sample` are inputs of rows on which it must agree with torch to 1e-5, else ExpostError.
    """
    inputs = {name: value for name, value in sample.items() if value.shape[1]}
    exported = Exported(networks, list(inputs), partners).eval()
    outputs = OUTPUTS if len(networks) > 1 else {key: name for key, name in OUTPUTS.items() if name != "each"}
    content = _export(exported, inputs, outputs)
    with torch.inference_mode():
        expected = [output.numpy() for output in exported(*inputs.values())]
    scores = Network(content).run({name: value.numpy() for name, value in inputs.items()}, list(outputs.values()))
    for name, torch_values, onnx_values in zip(outputs.values(), expected, scores, strict=True):
        difference = float(np.max(np.abs(torch_values - onnx_values) / (1 + np.abs(torch_values)), initial=0.0))
        if not difference <= TOLERANCE:
            raise must(
                f"model.onnx must reproduce torch's {name} to {TOLERANCE}", f"they differ by {difference:.2g}", "Report this as a bug."
            )
    return content


def _export(module: nn.Module, inputs: dict[str, torch.Tensor], outputs: dict[str, str]) -> bytes:
    # Two rows: a dimension of one would be taken as fixed.
    arguments = tuple(value[:1].repeat(2, *[1] * (value.dim() - 1)) for value in inputs.values())
    batch = torch.export.Dim("batch")
    with _silent(), torch.inference_mode():
        program = torch.onnx.export(
            module,
            arguments,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(tuple({0: batch} for _ in inputs),),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise must("torch.onnx.export must return a program", "it returned none", "Report this as a bug.")
    if not all(value.type.tensor_type.shape.dim[0].dim_param for value in program.model_proto.graph.input):
        remedy = "Write x.shape[0] or -1 in forward, not len(x), int(...) or a number of rows."
        raise must("a network must take any number of rows", "what was exported takes two alone", remedy)
    return bytes(_plain(program.model_proto).SerializeToString(deterministic=True))


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter's remarks are for its authors; what it raises is for ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what names source files and versions of the exporter: it differs between machines and says nothing about the weights."""
    for holder in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    model.ClearField("producer_version")
    inner = {name: f"v{number}" for number, name in enumerate(dict.fromkeys(name for node in model.graph.node for name in node.output))}
    names = inner | OUTPUTS
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for value in (*model.graph.output, *model.graph.value_info):
        value.name = names.get(value.name, value.name)
    return model
