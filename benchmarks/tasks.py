"""The tables of the comparison with peers: per table its target, what decisions cost, and which columns are no features.

Any directory that holds one table and a `task.json` with the fields of `Task` is one more; see `read_task`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl
import yaml
from pydantic import Field, ValidationError, model_validator

from benchmarks.common import REAL_DATA
from pipelines.errors import must
from pipelines.params import Section
from pipelines.tables import as_text, read_table

TASK = "task.json"
SUFFIXES = (".parquet", ".csv", ".tsv")


class Task(Section):
    """What `expost init` is told of a table, as its users would.

    `target` is the column to predict. What decisions cost is either `positive` (a class) with `fn` (a missed positive) and `fp` (a false
    alarm), or `cost[true class][action]`. `ignore` are columns that are no features, `group` is a column whose equal values stay in one part.
    `merge[new class]` lists classes of the target that become one. `table` names the file where a directory has several. `left_out` is a
    reason not to run the table.
    """

    target: str
    positive: str | None = None
    fn: float | None = None
    fp: float | None = None
    cost: dict[str, dict[str, float]] | None = None
    ignore: tuple[str, ...] = ()
    group: str | None = None
    merge: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    table: str | None = None
    left_out: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_cost(self) -> Self:
        given = [name for name in ("positive", "fn", "fp") if getattr(self, name) is not None]
        if self.cost is None and len(given) < 3:
            raise ValueError(f"costs must be positive, fn and fp, or cost, however: {given or 'none of them'} given")
        if self.cost is not None and given:
            raise ValueError(f"costs must come from one place, however: cost and {', '.join(given)} are given")
        if len({tuple(sorted(row)) for row in (self.cost or {}).values()}) > 1:
            raise ValueError("cost must have the same actions for every class, however: they differ")
        return self


#: Facts and costs as given with each table: official for german_credit, customary for the others.
TASKS: dict[str, Task] = {
    "adult": Task(target="income", positive=">50K", fn=5, fp=1, ignore=("fnlwgt", "split")),
    "ai4i2020": Task(target="Machine failure", positive="1", fn=20, fp=1, ignore=("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF")),
    "bank_additional_full": Task(target="y", positive="yes", fn=8, fp=1, ignore=("duration",)),
    "cardiotocography": Task(
        target="NSP",
        cost={
            "1": {"normal": 0, "suspect": 1, "pathologic": 1},
            "2": {"normal": 4, "suspect": 0, "pathologic": 1},
            "3": {"normal": 10, "suspect": 3, "pathologic": 0},
        },
        ignore=("FileName", "Date", "SegFile", "b", "e", "LBE", *"ABCDE", "AD", "DE", "LD", "FS", "SUSP", "CLASS"),
    ),
    "diabetes_readmission": Task(
        target="readmitted",
        positive="<30",
        fn=8,
        fp=1,
        merge={"later or never": (">30", "NO")},
        group="patient_nbr",
        ignore=("encounter_id",),
    ),
    "german_credit": Task(target="credit_risk", positive="2", fn=5, fp=1),
    "hypothyroid": Task(
        target="Class",
        positive="hypothyroid",
        fn=10,
        fp=1,
        merge={"hypothyroid": ("compensated_hypothyroid", "primary_hypothyroid", "secondary_hypothyroid")},
    ),
    "sms_spam": Task(target="label", positive="spam", fn=1, fp=10),
    "telco_churn": Task(target="Churn", positive="Yes", fn=5, fp=1, ignore=("customerID",)),
    "uci_default_credit": Task(target="default payment", positive="1", fn=5, fp=1),
}

#: Tables of the real data that other benchmarks measure, with the reason.
ELSEWHERE = {
    "bank_full_costs": "costs differ by row: benchmarks.savings",
    "tv_churn_costs": "costs differ by row: benchmarks.savings",
    "kdd99_intrusion": "its official test file is scored once: benchmarks.kdd99",
}


@dataclass(frozen=True)
class Given:
    """A table to compare on: the name it goes by in the results, its facts, its file."""

    name: str
    task: Task
    source: Path


def given(name: str) -> Given:
    """A known table by its name, else a directory with a `task.json`; raises ExpostError where it is neither."""
    if name in TASKS:
        return Given(name, TASKS[name], _table_in(REAL_DATA / name, TASKS[name].table))
    folder = Path(name)
    if not folder.is_dir():
        raise must("a table must be a known name or a directory", f"got {name!r}", f"Known names: {', '.join(TASKS)}.")
    task = read_task(folder)
    return Given(folder.resolve().name, task, _table_in(folder, task.table))


def read_task(folder: Path) -> Task:
    """The facts in `task.json` of a directory; raises ExpostError where it is missing, no JSON, or breaks a rule of `Task`."""
    path = folder / TASK
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        return Task.model_validate_json(text)
    except FileNotFoundError as error:
        example = json.dumps({"target": "outcome", "positive": "yes", "fn": 5, "fp": 1, "ignore": ["id"]})
        raise must(f"{folder} must hold a {TASK}", "it has none", f"Write one, such as {example}") from error
    except ValidationError as error:
        raise must(f"{path} must describe a task", "; ".join(map(_fault, error.errors())), f"Mend it: {Task.__doc__}") from error
    except ValueError as error:
        raise must(f"{path} must be JSON in UTF-8", str(error), "Mend it.") from error


def _fault(detail: Any) -> str:
    place = ".".join(map(str, detail["loc"]))
    return f"{place}: {detail['msg']}" if place else detail["msg"].removeprefix("Value error, ")


def _table_in(folder: Path, name: str | None) -> Path:
    """The file called `name`, or the only table of the folder."""
    if not folder.is_dir():
        raise must(f"{folder} must exist", "it is missing", "Set EXPOST_DATA to the folder that holds the tables.")
    found = [folder / name] if name else sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1 or not found[0].is_file():
        rule = f"{folder} must hold one table ({', '.join(SUFFIXES)})"
        raise must(rule, f"found {[path.name for path in found] or 'none'}", f"Name the file under table in {TASK}.")
    return found[0]


def init_arguments(one: Given, folder: Path) -> list[str]:
    """What `expost init` is called with; writes the table with merged classes and the utility's file into `folder` where they are needed."""
    task, source = one.task, one.source
    if task.merge:
        source = folder / f"{one.name}.parquet"
        merged(read_table(str(one.source)), task).write_parquet(source)
    options = [str(source), "--target", task.target]
    options += [text for column in task.ignore for text in ("--ignore", column)]
    options += ["--group", task.group] if task.group else []
    if task.cost is None:
        return [*options, "--positive", str(task.positive), "--cost-fn", str(task.fn), "--cost-fp", str(task.fp)]
    matrix = {name: {action: -cost for action, cost in row.items()} for name, row in task.cost.items()}
    path = folder / "utility.yaml"
    path.write_text(yaml.safe_dump({"unit": "cost", "matrix": matrix}, sort_keys=False))
    return [*options, "--utility", str(path)]


def merged(frame: pl.DataFrame, task: Task) -> pl.DataFrame:
    """The table with the classes of `task.merge` made one; raises ExpostError where one of them is no class of the target."""
    labels = as_text(frame[task.target])
    known = {old: new for new, olds in task.merge.items() for old in olds}
    if absent := sorted(set(known) - set(labels.unique())):
        raise must("classes to merge must be classes of the target", f"{absent} are none of {task.target!r}", "Mend merge.")
    return frame.with_columns(labels.replace(known).alias(task.target))
