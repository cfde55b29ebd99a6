"""Check the whole of `params.yaml` before anything runs: `python -m pipelines.commands.check`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pipelines import slices, usercode, utilities
from pipelines.errors import ExpostError, must
from pipelines.params import ASYMMETRIC, Section, parse, read_params, read_yaml
from pipelines.params.calibrate import Calibrate
from pipelines.params.decide import Decide
from pipelines.params.evaluate import Evaluate
from pipelines.params.gate import Gate
from pipelines.params.ingest import Ingest
from pipelines.params.registry import Registry
from pipelines.params.split import Split
from pipelines.params.train import Network, Own, Residual, Train
from pipelines.params.utility import Utility
from pipelines.params.validate import Validate
from pipelines.store import run_stage

SECTIONS: tuple[type[Section], ...] = (Ingest, Validate, Split, Train, Calibrate, Decide, Utility, Evaluate, Gate, Registry)


_DVC = Path("dvc.yaml")
_COSTS = "Put the costs under utility.matrix; the decision uses them after training (docs/why.md)."


def check_params(values: dict[str, Any] | None = None) -> None:
    """Check every section and what must agree between sections, of params.yaml or of `values` in its place.

    Raises ExpostError that lists all the rules broken.
    """
    values = read_params() if values is None else values
    models = {model.__name__.lower(): model for model in SECTIONS}
    faults = [_unknown_section(name, list(models)) for name in values if name not in models]
    sections: dict[str, Section] = {}
    for name, model in models.items():
        try:
            sections[name] = parse(model, {} if values.get(name) is None else values[name], name)
        except ExpostError as error:
            row = _missing_row(values, sections) if name == "utility" else ""
            faults.append(row or str(error))
    faults += _disagreements(sections)
    if faults:
        raise ExpostError("\n".join(faults))


def _missing_row(values: dict[str, Any], sections: dict[str, Section]) -> str:
    """What is wrong with a utility matrix that lacks the row of a declared class, or empty: said before what follows from it."""
    ingest, utility = sections.get("ingest"), values.get("utility")
    matrix = utility.get("matrix") if isinstance(utility, dict) else None
    if not isinstance(ingest, Ingest) or not isinstance(matrix, dict) or not all(isinstance(name, str) for name in matrix):
        return ""
    absent = next((name for name in ingest.classes if name not in matrix), None)
    rule, remedy = f"utility must have one row per class {list(ingest.classes)}", "Add it under utility.matrix in params.yaml."
    return "" if absent is None else str(must(rule, f"row {absent!r} is missing", remedy))


def _unknown_section(name: object, known: list[str]) -> str:
    if str(name) in ASYMMETRIC:
        reason = "costs in the loss can starve what the network learns"
        return f"params.yaml: section {name} is refused: training must be symmetric, however: {name} is given, and {reason}. {_COSTS}"
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"params.yaml must have known sections, however: {name!r} is unknown; {hint}Known sections: {', '.join(known)}."


def _disagreements(sections: dict[str, Section]) -> list[str]:
    faults: list[str] = []
    ingest, split, utility = sections.get("ingest"), sections.get("split"), sections.get("utility")
    validate = sections.get("validate")
    if isinstance(ingest, Ingest) and isinstance(utility, Utility):
        try:
            cells = utility.cells(ingest.classes)
            utilities.check_columns(cells, {name: column.role for name, column in ingest.columns.items()})
            utilities.check_kinds(cells, {name: column.kind for name, column in ingest.columns.items()})
        except ExpostError as error:
            faults.append(str(error))
    if isinstance(ingest, Ingest) and isinstance(split, Split):
        faults += _split_columns(ingest, split)
    train = sections.get("train")
    if isinstance(train, Train) and isinstance(train.network, Own):
        faults += _unwatched(train.network)
    if isinstance(ingest, Ingest) and isinstance(train, Train):
        faults += _network(ingest, train)
    evaluate = sections.get("evaluate")
    if isinstance(ingest, Ingest) and isinstance(evaluate, Evaluate) and evaluate.slices:
        kinds = {name: "ignored" if column.role == "ignored" else column.kind for name, column in ingest.columns.items()}
        faults += slices.check(slices.declared(evaluate), kinds, ingest.target)
    if isinstance(ingest, Ingest) and isinstance(validate, Validate):
        faults += [
            f"validate.allow_separating must name features, however: {name!r} is none. Remove it, or give the column the role feature."
            for name in validate.allow_separating
            if name not in ingest.features
        ]
    return faults


def _split_columns(ingest: Ingest, split: Split) -> list[str]:
    faults = []
    for name in split.columns:
        if name == ingest.target:
            faults.append(
                f"split.columns must not hold the target, however: it holds {name!r}. Remove it: parts may not depend on the outcome."
            )
        elif name == ingest.weight:
            got = f"{name!r} counts identical rows, and a row would change its part with its count"
            faults.append(f"split.columns must not hold the column with the role weight, however: {got}. Remove it there.")
        elif name not in ingest.columns or ingest.columns[name].role == "ignored":
            got = "is ignored" if name in ingest.columns else "stands not under ingest.columns"
            remedy = "Remove it there too, which gives rows new parts, or give it another role, such as key."
            faults.append(f"split.columns must name columns that are read, however: {name!r} {got}. {remedy}")
    if split.by == "column" and split.column is not None:
        faults += _declaring_column(ingest, split.column.name)
        if "holdout" not in split.column.parts.values() and ingest.holdout_source is None:
            faults.append(
                "split.column.parts must declare a holdout, however: no value stands for it. Declare one, or give ingest.holdout_source: "
                "without rows that training never saw nothing can be judged."
            )
    if split.by == "time" and not any(column.role == "time" for column in ingest.columns.values()):
        faults.append("split.by: time must have a column with the role time, however: none has. Give one that role under ingest.columns.")
    return faults


def _network(ingest: Ingest, train: Train) -> list[str]:
    """Whether the network reads what the columns hold."""
    faults, others = [], [name for name in ingest.features if name != ingest.picture]
    if ingest.picture is not None and isinstance(train.network, Network):
        got = f"ingest.columns.{ingest.picture} is of kind image, and TabM reads tables"
        faults.append(
            f"train.network must read images, however: {got}. Write network: {{kind: residual}} under train, or the class of a network of yours."
        )
    if isinstance(train.network, Residual) and (ingest.picture is None or others):
        got = "no column is of kind image" if ingest.picture is None else f"{', '.join(others[:5])} are features too"
        remedy = "Change the roles, or name the class of a network of yours."
        faults.append(f"train.network of kind residual must see one image and nothing else, however: {got}. {remedy}")
    if train.augment is not None and ingest.picture is None:
        faults.append("train.augment must have images to change, however: no column is of kind image. Write augment: null.")
    return faults


def _unwatched(network: Own) -> list[str]:
    """Files of the user's network that DVC does not watch: an edit of them would train nothing anew."""
    stages = (read_yaml(_DVC) if _DVC.exists() else None) or {}
    deps = (stages.get("stages") or {}).get("train", {}).get("deps") if isinstance(stages, dict) else None
    if deps is None:
        return []
    watched = [Path(next(iter(dep)) if isinstance(dep, dict) else str(dep)) for dep in deps]
    absent = [file for file in usercode.files(network.path) if not any(Path(file).is_relative_to(place) for place in watched)]
    if not absent:
        return []
    lines = ", ".join(f"`- {file}`" for file in absent)
    rule = f"the files of {network.path} must stand under deps of the stage train in dvc.yaml, so that an edit of them trains anew"
    return [str(must(rule, f"{', '.join(absent)} {'does' if len(absent) == 1 else 'do'} not", f"Add {lines} there."))]


def _declaring_column(ingest: Ingest, name: str) -> list[str]:
    column = ingest.columns.get(name)
    if column is not None and column.role != "ignored" and not column.is_feature:
        return []
    got = "stands not under ingest.columns" if column is None else "is ignored" if column.role == "ignored" else "is a feature"
    remedy = f"Set ingest.columns.{name} to {{role: part, kind: category}} in params.yaml, and leave it out of split.columns."
    return [
        f"split.column must name a column that is read and is no feature, for it tells only the part, however: {name!r} {got}. {remedy}"
    ]


if __name__ == "__main__":
    run_stage(check_params, checks=False)
