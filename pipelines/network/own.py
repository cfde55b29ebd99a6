"""A network of the user's: imported by its class path, built, tried on two rows, and exported once before any time is spent on training."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils.flop_counter import FlopCounterMode

from pipelines.errors import ExpostError, must
from pipelines.network.export import export
from pipelines.network.stack import Inputs
from pipelines.networkfile import RefusedError, TooLargeError
from pipelines.params import short
from pipelines.params.train import Own

WANTED = (
    "forward(inputs) must return (logits, embedding): finite float32 tensors (B, K) and (B, D), or (B, k, K) and (B, k, D) of k members"
)
EXPORT = (
    "Write it with other layers, such as those of torch.nn: no branch on values, no sizes but of B and of constants; what scoring reads is OPERATORS "
    "in pipelines/networkfile.py."
)


class Adapted(nn.Module):
    """A network that returns logits (B, K) and embedding (B, D) as one with a single member; one with members (B, k, ...) as it is."""

    def __init__(self, network: nn.Module, multiply_adds: int) -> None:
        super().__init__()
        self.network, self.multiply_adds = network, multiply_adds

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (member logits, embedding)."""
        logits, embedding = self.network(inputs)
        return (logits[:, None], embedding[:, None]) if logits.dim() == 2 else (logits, embedding)


def maker(own: Own, given: Mapping[str, Any], sample: Inputs) -> Callable[[], nn.Module]:
    """A function that builds the network with fresh weights; `given` are what its constructor may ask for by name, `sample` inputs of rows.

    Raises ExpostError where the class cannot be imported or built, returns what it must not, or cannot be exported to what scoring reads.
    """
    kind = _class(own.path)
    arguments = {**{name: value for name, value in given.items() if name in _parameters(kind)}, **own.arguments}

    def build() -> nn.Module:
        with _yours(f"{own.path} must be built from train.network.arguments", f"It got {short(arguments, 200)}.{_hint(kind, given)}"):
            return kind(**arguments)

    rows = {name: value[:1].repeat(2, *[1] * (value.dim() - 1)) if len(value) < 2 else value[:2] for name, value in sample.items()}
    with torch.random.fork_rng(devices=[]):
        network = build()
        _try(network, rows, int(given["classes"]), own.path)
        count = multiply_adds(network, rows)
        _try_export(Adapted(network, count).eval(), sample, own.path)
    return lambda: Adapted(build(), count)


def _class(path: str) -> Callable[..., nn.Module]:
    module, _, name = path.rpartition(".")
    place = str(Path.cwd())
    if place not in sys.path:
        sys.path.insert(0, place)
    with _yours(
        f"train.network must name a class that can be imported, such as {path}", "Put its file in the workspace, or install its package."
    ):
        found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        got = f"{module} has no {name}" if found is None else f"{path} is {short(repr(found))}"
        raise must("train.network must name a torch.nn.Module", got, "Mend train.network in params.yaml, or the class.")
    return found


def _parameters(kind: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter]:
    """The arguments that the constructor declares; all the names that we give are asked for one by one, never by `**options`."""
    try:
        return inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return {}


def _hint(kind: Callable[..., nn.Module], given: Mapping[str, Any]) -> str:
    """What to do where the constructor takes `*args` or `**kwargs` in the place of names."""
    declared = _parameters(kind)
    if not {parameter.kind for parameter in declared.values()} & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return ""
    named = ", ".join(name for name in given if name not in declared)
    return f" Let its constructor name what else it needs of {named}: *args and **kwargs get none of them."


@contextmanager
def _yours(rule: str, remedy: str) -> Iterator[None]:
    """Let whatever the user's code raises be one ExpostError that says where in it."""
    try:
        yield
    except ExpostError:
        raise
    except Exception as error:
        raise must(rule, f"{type(error).__name__}: {short(error, 300)}{_line(error)}", remedy) from error


def _line(error: BaseException) -> str:
    """The place in the user's code that raised it: the deepest frame of a file of the workspace."""
    here, found, frame = str(Path.cwd()), "", error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file.startswith(here) and "site-packages" not in file and not file.startswith(str(Path(__file__).parents[1])):
            found = f" ({Path(file).relative_to(here)}, line {frame.tb_lineno})"
        frame = frame.tb_next
    return found


def _try(network: nn.Module, rows: Inputs, classes: int, path: str) -> None:
    """Run two rows forward, as in training and as in scoring, and look at what comes back."""
    shapes = ", ".join(f"{name} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for name, value in rows.items())
    remedy = f"Mend forward of {path}; two rows came as {shapes}, and there are {classes} classes."
    with _yours(WANTED, remedy):
        found = network.train()(dict(rows))
    wrong = _wrong(found, classes)
    if wrong is None and not found[0].requires_grad:
        wrong = "no weight of it can be trained"
    if wrong is not None:
        raise must(WANTED, wrong, remedy)
    with _yours(WANTED, remedy), torch.no_grad():
        together = network.eval()(dict(rows))
        alone = [network({name: value[row : row + 1] for name, value in rows.items()}) for row in range(2)]
    if (wrong := _not_finite(together)) is not None:
        raise must(WANTED, wrong, remedy)
    for which, name in enumerate(("logits", "embedding")):
        try:
            same = torch.allclose(together[which], torch.cat([one[which] for one in alone]), rtol=1e-3, atol=1e-4)
        except (IndexError, RuntimeError, TypeError):
            same = False
        if not same:
            got = f"{name} of a row in evaluation mode are others alone than beside another row, or have another shape"
            raise must("a network must score each row by itself, in any batch", got, remedy)


def _wrong(found: Any, classes: int) -> str | None:
    """What is wrong with the outputs for two rows, or None."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        return f"it returned {_said(found)}"
    for name, value in zip(("logits", "embedding"), found, strict=True):
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.dim() not in (2, 3) or len(value) != 2:
            return f"{name} are {_said(value)}"
    logits, embedding = found
    if logits.shape[-1] != classes:
        return f"logits are {_said(logits)}, where the last size must be the {classes} classes"
    if logits.shape[:-1] != embedding.shape[:-1] or 0 in embedding.shape:
        return f"logits are {_said(logits)} and embedding is {_said(embedding)}"
    return _not_finite(found)


def _not_finite(found: Any) -> str | None:
    """Which output has values that are not finite, or None."""
    for name, value in zip(("logits", "embedding"), found if isinstance(found, tuple | list) else (), strict=False):
        if isinstance(value, Tensor) and not value.isfinite().all():
            return f"{name} have values that are NaN or infinite"
    return None


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: " + ", ".join(map(_said, value[:4]))
    return f"a {type(value).__name__}"


def multiply_adds(network: nn.Module, rows: Inputs) -> int:
    """Multiply-adds of a row in a forward step, found on two rows, convolutions counted at each place; what a number of threads is chosen by."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.train()(dict(rows))  # in evaluation mode fused kernels hide what they count
    return max(1, int(counter.get_total_flops()) // 4)


def _try_export(network: nn.Module, sample: Inputs, path: str) -> None:
    """Export the untrained network; an operator that cannot be exported, or that scoring refuses, costs no training."""
    rule = f"{path} must be exportable to ONNX, as the file that ships"
    try:
        export([network], sample)
    except RefusedError as error:
        raise must(rule, error.reason, error.remedy if isinstance(error, TooLargeError) else EXPORT) from error
    except ExpostError as error:
        raise ExpostError(f"{path}: {error}") from error
    except Exception as error:
        raise must(rule, _unexportable(error), EXPORT) from error


def _unexportable(error: BaseException) -> str:
    """The operator that the exporter has no form for, or the first cause of its error on one line."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for said in map(str, causes):
        if named := re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", said):
            return f"the operator {named[1]} has no ONNX form"
    root = causes[-1]
    if isinstance(root, GuardOnDataDependentSymNode):
        return f"what it computes is chosen by values of the rows{_line(root)}; torch.where chooses row by row"
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {short(lines[0] if lines else root, 300)}"
