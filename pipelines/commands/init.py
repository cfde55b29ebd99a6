"""`expost init`: from a table to a workspace that can retrain; says what it assumed and writes all of it or nothing."""

from __future__ import annotations

import difflib
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipelines import pictures, store
from pipelines.commands.costs import about
from pipelines.commands.expectations import digest, propose, suite_text
from pipelines.commands.firstutility import Costs, check_costs, cost_columns, first_utility
from pipelines.commands.paramsfile import is_untouched, render
from pipelines.commands.proposals import Proposal, Wishes, propose_columns
from pipelines.errors import must
from pipelines.ingest import check_weights
from pipelines.params import PARAMS, parse
from pipelines.params.ingest import Ingest, Kind, Role
from pipelines.params.split import Split
from pipelines.params.train import Train
from pipelines.params.utility import Utility
from pipelines.suite import SUITE

if TYPE_CHECKING:
    import polars as pl

_ROW = "__row__"

#: Rows of a class with which the smallest part gets its minimum nearly always (97 in 100), as multiples of minimum / share, are about 2.3.
_SURE = 2.3


@dataclass(frozen=True)
class InitSummary:
    """What `init_workspace` made: the table's size, a proposal per column, the utility matrix, and what was assumed, one sentence each."""

    source: str
    target: str
    classes: tuple[str, ...]
    rows: int
    columns: tuple[Proposal, ...]
    utility: dict[str, dict[str, float | str]]
    assumptions: tuple[str, ...]
    files: tuple[str, ...]


def init_workspace(
    source: str,
    target: str,
    *,
    positive: str | None = None,
    cost_fn: float | str | None = None,
    cost_fp: float | str | None = None,
    cost_tp: float | str | None = None,
    cost_tn: float | str | None = None,
    utility_file: str | Path | None = None,
    group: str | None = None,
    time: str | None = None,
    key: str | None = None,
    weight: str | None = None,
    ignore: Sequence[str] = (),
    roles: Sequence[str] = (),
    model: str | None = None,
    force: bool = False,
    report: Callable[[str], None] = print,
    where: str | None = None,
) -> InitSummary:
    """Profile the table, write params.yaml and data/expectations.json, and put the table under DVC.

    `cost_fn` and `cost_fp` are what a missed `positive` and a false alarm cost, `cost_tp` and `cost_tn` what right decisions do: numbers, or
    expressions over columns, which get the role cost. More than two classes, or actions that are no classes, need `utility_file` (YAML:
    unit, matrix). `roles` are wishes like "amount=feature+cost". Raises ExpostError, having written nothing, where the target, the costs or the
    table do not do, or where params.yaml or data/expectations.json were edited and `force` is not given.
    """
    _refuse_overwriting(force)
    costs = Costs(positive, cost_fn, cost_fp, cost_tp, cost_tn, None if utility_file is None else Path(utility_file))
    frame, rows = _read(source, where)
    labels = _labels(frame, target)
    named = [("--group", "group", group), ("--time", "time", time), ("--key", "key", key), ("--weight", "weight", weight)]
    wished = _wishes(frame.columns, target, [*named, *(("--ignore", "ignored", name) for name in ignore), *map(_wish, roles)])
    classes, utility, assumed = first_utility(source, labels, costs, frame.columns)
    assumed += _check_counts(labels, classes)
    codes = labels.replace_strict({name: i for i, name in enumerate(classes)}).to_numpy()
    wishes = Wishes(wished, tuple(cost_columns(utility, classes, frame, target)))
    proposals = propose_columns(frame, target, codes, classes, wishes)
    proposals, parts = _declared(frame, proposals)
    split, said = _split(frame, proposals, time, parts)
    ingest = _ingest(source, target, classes, proposals, {"where": where, "image": next((p.form for p in proposals if p.form), None)})
    assumed = [f"{len(frame)} rows; {target} has {_counted(labels, classes)}.", *assumed, *said, *_sentences(proposals)]
    sections = _sections(ingest, split, utility, model or _model_name(source))
    schema = {"target": target, "classes": classes, "columns": [vars(p) for p in proposals if p.role != "ignored"]}
    table = _typed(frame, ingest)
    check_costs(utility, classes, table, {name: column.kind for name, column in ingest.columns.items()}, rows, costs=costs)
    if ingest.weight is not None:
        check_weights(table, ingest.weight, rows)
    suite = suite_text(propose(table, schema))
    _write({PARAMS: render(sections, _about(proposals, utility)), SUITE: suite}, report)
    from pipelines.commands.mirror import MIRROR

    shutil.rmtree(MIRROR, ignore_errors=True)  # it may hold another model's champion; the next sync fills it again
    for sentence in assumed:
        report(sentence)
    report("Written: params.yaml and data/expectations.json. Next: look at them, then `expost retrain`.")
    matrix = {name: dict(row) for name, row in utility.matrix.items()}
    files = (PARAMS.as_posix(), SUITE.as_posix(), "data/raw.dvc")
    return InitSummary(source, target, tuple(classes), len(frame), tuple(proposals), matrix, tuple(assumed), files)


def _refuse_overwriting(force: bool) -> None:
    """Files that `init` wrote, the committed defaults among them, are its own to replace; edited ones are not."""
    edited = []
    if PARAMS.exists() and not is_untouched(PARAMS.read_text(encoding="utf-8")):
        edited.append(PARAMS)
    if SUITE.exists() and not _is_own_suite(SUITE):
        edited.append(SUITE)
    if edited and not force:
        names = " and ".join(str(path) for path in edited)
        raise must(
            "init must not overwrite your work", f"{names} was edited since init wrote it", "Keep a copy, then run init with --force."
        )


def _is_own_suite(path: Path) -> bool:
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
        return bool(suite["generated"] == digest(suite["expectations"]))
    except (ValueError, KeyError, TypeError):
        return False


def _read(source: str, where: str | None) -> tuple[pl.DataFrame, pl.Series]:
    """The table's rows that `where` accepts, and their numbers in it, from 1."""
    import polars as pl

    from pipelines.tables import read_table

    frame = read_table(source).with_row_index(_ROW, offset=1)
    if where:
        try:
            frame = frame.filter(pl.sql_expr(where))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            got = f"{where!r} gives: {' '.join(str(error).split())[:300]}"
            raise must(
                "--where must be an SQL condition over the table's columns", got, "Mend it; text stands in single quotes."
            ) from error
    if frame.is_empty():
        raise must(f"{source} must have rows", "it has none" + (" that --where accepts" if where else ""), "Check the file.")
    return frame.drop(_ROW), frame[_ROW]


def _wish(text: str) -> tuple[str, str, str]:
    """Option, role and column of a wish written as `column=role`."""
    name, equals, role = text.rpartition("=")
    if not equals or role not in get_args(Role):
        got = f"{role!r} is none of them" if equals else f"got {text!r}"
        raise must(
            f"--role must be COLUMN=ROLE, the role one of {', '.join(get_args(Role))}", got, "Write it like --role amount=feature+cost."
        )
    return "--role", role, name


def _wishes(columns: list[str], target: str, named: Sequence[tuple[str, str, str | None]]) -> dict[str, str]:
    """Column -> role asked for; raises ExpostError where the table lacks the column, it is the target, or two roles are asked for it."""
    wished: dict[str, str] = {}
    for option, role, name in named:
        if name is None:
            continue
        if name == target:
            raise must(f"{option} must not name the target", f"got {name!r}", "Name another column.")
        if name not in columns:
            raise must(f"{option} must name a column of the table", f"got {name!r}{_near(name, columns)}", "Mend the option.")
        if wished.setdefault(name, role) != role:
            raise must("a column must have one role", f"{wished[name]} and {role} are asked for {name!r}", "Leave one of them out.")
    return wished


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    lowered = [other for other in known if other.lower() == name.lower()]
    close = list(dict.fromkeys(lowered + close))
    return f"; the nearest names are {close}" if close else f"; it has {list(known)[:15]}"


def _labels(frame: pl.DataFrame, target: str) -> pl.Series:
    """The target as text; raises ExpostError where it is absent, constant, incomplete, or has as many values as a number."""
    from pipelines.tables import as_text, class_names

    if target not in frame.columns:
        raise must("--target must name a column of the table", f"got {target!r}{_near(target, frame.columns)}", "Mend --target.")
    labels = as_text(frame[target])
    if missing := labels.null_count():
        rows = ", ".join(str(row + 1) for row in labels.is_null().arg_true()[:5])
        remedy = f"Fill them in, or leave the rows out with --where '\"{target}\" IS NOT NULL'."
        raise must(f"the target {target!r} must be there in every row", f"{missing} of {len(labels)} rows have none (rows {rows})", remedy)
    names = class_names(frame[target])
    if len(names) < 2:
        raise must(f"the target {target!r} must have at least two classes", f"every row has {names[0]!r}", "Check --target and the table.")
    if len(names) > 100:
        got = f"{target!r} has {len(names)} distinct values, such as {names[:3]}"
        raise must("the target must have few classes (at most 100)", got, "Name a column of classes with --target.")
    return labels


def _check_counts(labels: pl.Series, classes: list[str]) -> list[str]:
    """Raise ExpostError where a class is too rare for the parts whatever the split; warn where it depends on the draw."""
    split = Split()
    share = min(split.shares.train, split.shares.valid, split.shares.calib, split.shares.holdout)
    least = math.ceil(split.min_rows_per_class / share)
    sure = math.ceil(_SURE * least)
    counts = {name: int((labels == name).sum()) for name in classes}
    rare = {name: count for name, count in counts.items() if count < least}
    if rare:
        name = min(rare, key=lambda other: rare[other])
        got = ", ".join(f"{other!r} has {count}" for other, count in rare.items())
        others = f""", merge the class with another in the source, or leave it out with --where "\\"{labels.name}\\" <> '{name}'\""""
        remedy = (
            f"Each part needs {split.min_rows_per_class} rows of each class, and the smallest part has {share:.0%} of the rows: about {sure} "
            f"are needed. Add rows{others if len(classes) > 2 else ''}."
        )
        raise must(f"each class must have at least {least} rows", got, remedy)
    return [
        f"Class {name!r} has {count} rows, under {sure}: a part may get too few of it; another split.salt may then do."
        for name, count in counts.items()
        if count < sure
    ]


def _counted(labels: pl.Series, classes: list[str]) -> str:
    return ", ".join(f"{name!r} {int((labels == name).sum())}" for name in classes)


def _declared(frame: pl.DataFrame, proposals: list[Proposal]) -> tuple[list[Proposal], dict[str, str] | None]:
    """Where images come with official parts, the column that says so, and the part that each of its values stands for.

    The official test part is the holdout; the rest is drawn anew, for calibration needs a part of its own.
    """
    if not any(p.kind == "image" for p in proposals):
        return proposals, None
    column = next((p for p in proposals if p.name == "part" and p.role == "ignored"), None)
    values = [] if column is None else sorted(frame["part"].drop_nulls().unique().to_list())
    if "test" not in values or len(values) < 2:
        return proposals, None
    why = "official parts: test is the holdout, the others are drawn anew"
    changed = [replace(p, role="part", kind="category", why=why) if p is column else p for p in proposals]
    return changed, {value: "holdout" if value == "test" else "rest" for value in values}


def _ingest(source: str, target: str, classes: list[str], proposals: list[Proposal], more: dict[str, Any]) -> Ingest:
    if not any(proposal.is_feature for proposal in proposals):
        got = "; ".join(f"{p.name}: {p.role}, {p.why}" for p in proposals[:8]) or "the table has no other column"
        raise must("the table must have at least one column that can be a feature", got, "Add columns of numbers or categories.")
    columns = {p.name: {"role": p.role, "kind": p.kind} for p in proposals}
    return parse(Ingest, {"source": source, "target": target, "classes": classes, "columns": columns, **more}, "ingest")


def _split(frame: pl.DataFrame, proposals: list[Proposal], time: str | None, parts: dict[str, str] | None) -> tuple[Split, list[str]]:
    """Parts by hash of the features as they are now, by official ones, or by dates at the shares' quantiles of the column `time`."""
    images = any(p.kind == "image" for p in proposals)
    values: dict[str, Any] = {"columns": [p.name for p in proposals if p.is_feature], "folds": None if images else "auto"}
    if parts is not None and time is None:
        return parse(Split, {**values, "by": "column", "column": {"name": "part", "parts": parts}}, "split"), []
    if time is None:
        return parse(Split, values, "split"), []
    from datetime import date, timedelta

    import numpy as np

    from pipelines.tables import typed

    if next(p.kind for p in proposals if p.name == time) != "date":
        raise must("--time must name a column of dates (ISO 8601, like 2024-01-31)", f"{time!r} is none", "Convert it in the source.")
    shares = Split().shares
    days = typed(frame.select(time), {time: "date"})[time].drop_nulls().to_numpy()
    limits = np.cumsum([shares.train, shares.valid, shares.calib])
    # Whole days: rows of one day share a part.
    starts = [date(1970, 1, 1) + timedelta(days=math.ceil(day)) for day in np.quantile(days, limits)]
    if not starts[0] < starts[1] < starts[2]:
        got = f"its dates at {', '.join(f'{limit:.0%}' for limit in limits)} of the rows are {', '.join(map(str, starts))}"
        raise must(f"the dates in {time!r} must be spread enough for four parts", got, "Leave --time out; the parts then follow a hash.")
    names = ("valid_from", "calib_from", "holdout_from")
    values |= {"by": "time", "time": {name: start.isoformat() for name, start in zip(names, starts, strict=True)}}
    return parse(Split, values, "split"), [f"Parts follow {time}: rows from {starts[2]} on hold out."]


def _sections(ingest: Ingest, split: Split, utility: Utility, model: str) -> dict[str, Any]:
    """Every section in its order; those that the data says nothing about with their defaults."""
    from pipelines.commands.check import SECTIONS
    from pipelines.params.registry import Registry

    images = {"network": {"kind": "residual"}, "augment": {}, "patience": 8, "batch_size": 64, "learning_rate": 0.001}
    kinds = set(_feature_kinds(ingest))
    tables: dict[str, Any] = {"logistic": {}} | ({"trees": {}} if kinds - {"text"} else {})
    tables |= {"learning_rate": 0.0007} if "text" in kinds else {}
    given = {
        "ingest": ingest,
        "split": split,
        "train": parse(Train, tables if ingest.picture is None else images, "train"),
        "utility": utility,
        "registry": parse(Registry, {"model": model}, "registry"),
    }
    return {cls.__name__.lower(): given.get(cls.__name__.lower()) or cls() for cls in SECTIONS}


def _feature_kinds(ingest: Ingest) -> list[str]:
    return [column.kind for column in ingest.columns.values() if column.role.startswith("feature")]


def _model_name(source: str) -> str:
    """The last part of the source's path that is no pattern, without its suffixes, in the letters that a registered model may have."""
    parts = [part for part in re.split(r"[/:\\]", source) if part and not any(mark in part for mark in "*?[")]
    name = parts[-1] if parts else "expost"
    name = re.sub(r"(\.(parquet|pq|csv|tsv|tab|gz))+$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-") or "expost"


def _typed(frame: pl.DataFrame, ingest: Ingest) -> pl.DataFrame:
    """The table as ingest will write it."""
    from pipelines.tables import as_text, typed

    kinds: dict[str, str] = {name: column.kind for name, column in ingest.columns.items() if column.role != "ignored"}
    picture = ingest.picture
    table = typed(frame, {name: kind for name, kind in kinds.items() if name != picture})
    if picture is not None:  # a name of each image, of its bytes as they came: what it is decoded to, and whether, ingest will say
        table = pictures.placed(table, pictures.named(frame[picture]).alias(picture), list(kinds))
    return table.with_columns(as_text(frame[ingest.target]).alias(ingest.target))


def _about(proposals: list[Proposal], utility: Utility) -> dict[str, str]:
    comments = {f"ingest.columns.{p.name}": p.about + (f"; {p.why}" if p.why else "") for p in proposals}
    comments |= {f"split.columns.{p.name}": p.kind for p in proposals}
    comments |= about(utility)
    return {key: " ".join(text.split()) for key, text in comments.items()}


def _sentences(proposals: list[Proposal]) -> list[str]:
    """What was assumed of the columns: the plain ones counted, each other one named with the reason."""
    features = [p for p in proposals if p.is_feature]
    kinds = {kind: sum(p.kind == kind for p in features) for kind in get_args(Kind)}
    counted = ", ".join(f"{count} of kind {kind}" for kind, count in kinds.items() if count)
    said = [f"{len(features)} columns are features: {counted}."]
    said += [f"{p.name} is {'the ' if p.role in ('key', 'group') else ''}{p.role}: {p.why}." for p in proposals if p.role != "feature"]
    return said + [f"{p.name} is a feature of kind {p.kind}: {p.why}." for p in features if p.why and p.role == "feature"]


def _write(texts: dict[Path, str], report: Callable[[str], None]) -> None:
    """Write the files and put the source under DVC; on any failure the files stand as they were."""
    from pipelines.commands.source import sync_source

    before = {path: path.read_bytes() if path.exists() else None for path in texts}
    try:
        with ExitStack() as stack:
            for path, text in texts.items():
                stack.enter_context(store.atomic_file(path)).write_text(text, encoding="utf-8")
        sync_source(report)
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != content:
                with store.atomic_file(path) as temporary:
                    temporary.write_bytes(content)
        raise
