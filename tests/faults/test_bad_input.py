"""Bad input through the real commands: one message that names rule, value and remedy, exit code 1, nothing lost, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.datasets import load_breast_cancer

from tests.conftest import edit_params, make_workspace, run

#: What commands may write to without changing what a user has: locks, DVC's own temporary files, byte code.
PASSING = (".git", ".venv", ".dvc/tmp", ".dvc/cache", ".expost.lock", ".expost/failed_validation")
Done = subprocess.CompletedProcess[str]


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file that is a user's or a result, by its path; folders too, so that a new empty one is seen."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(PASSING) or "__pycache__" in name or path.is_symlink():
            continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def message(done: Done, *patterns: str) -> str:
    """The one message on stderr of a refused command, which must match the `patterns` in this order."""
    assert done.returncode == 1, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("error: ") == 1
    assert len(done.stderr) < 1500
    for part in ("however: ", *patterns):
        assert re.search(part, done.stderr), f"{part!r} is not in: {done.stderr}"
    return done.stderr


def refused(workspace: Path, command: str | list[str], *patterns: str) -> str:
    """Run a command that must be refused by a message and leave every file as it was."""
    before = snapshot(workspace)
    said = message(run(*(command.split() if isinstance(command, str) else command), cwd=workspace), *patterns)
    assert snapshot(workspace) == before
    return said


def table(rows: int = 600) -> pl.DataFrame:
    """A number x and a category c that tell something of y, and a number z that does not."""
    rng = np.random.default_rng(0)
    x, z, c = rng.normal(size=rows).round(3), rng.normal(size=rows).round(3), rng.choice(["a", "b", "d"], rows)
    return pl.DataFrame({"x": x, "z": z, "c": c, "y": np.where(x + (c == "a") + rng.normal(size=rows) > 1, "yes", "no")})


def leak(frame: pl.DataFrame) -> pl.Series:
    """A number that gives the target away, and is no copy of it."""
    return (frame["y"] == "yes").cast(pl.Float64) + frame["z"].abs() / 100


INIT = "expost init t.parquet --target y --positive yes --cost-fn 5 --cost-fp 1"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace as cloned, with the default configuration. Read only."""
    folder = tmp_path_factory.mktemp("fresh") / "workspace"
    folder.mkdir()
    return make_workspace(folder)


@pytest.fixture(scope="module")
def made(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose own table went through `expost init` and the stage split. Read only."""
    folder = tmp_path_factory.mktemp("made") / "workspace"
    shutil.copytree(fresh, folder, symlinks=True)
    table().write_parquet(folder / "t.parquet")
    assert run(*INIT.split(), cwd=folder).returncode == 0
    done = run("dvc", "repro", "split", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def clone(fresh: Path, tmp_path: Path) -> Path:
    """A copy of `fresh`, free to change."""
    return Path(shutil.copytree(fresh, tmp_path / "workspace", symlinks=True))


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`, free to change."""
    return Path(shutil.copytree(made, tmp_path / "workspace", symlinks=True))


# The table given to `init`.


def damaged(content: bytes) -> bytes:
    return content[:200] + bytes(300) + content[500:]


def parquet(change: Callable[[bytes], bytes] = bytes, frame: pl.DataFrame | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (table() if frame is None else frame).write_parquet(path)
        path.write_bytes(change(path.read_bytes()))

    return write


def content(text: str | bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return write


#: name of the table, what writes it, further arguments of init, what the message must say
TABLES: dict[str, tuple[str, Callable[[Path], None] | None, str, tuple[str, ...]]] = {
    "missing file": ("nope.csv", None, "--target y", (r"nope\.csv is missing", "Check the file")),
    "empty parquet file": ("t.parquet", content(b""), "--target y", (r"t\.parquet must be a readable table", "truncated")),
    "truncated parquet": ("t.parquet", parquet(lambda b: b[:-50]), "--target y", (r"t\.parquet must be a readable table", "put the whole")),
    "damaged parquet": ("t.parquet", parquet(damaged), "--target y", (r"t\.parquet must be a readable table",)),
    "parquet without rows": ("t.parquet", parquet(frame=table()[:0]), "--target y", (r"t\.parquet must have rows",)),
    "cut csv": ("t.csv", content("a,b,y\n1,2,no\n3,4,yes\n5,6"), "--target y", (r"line 4 has 2 of 3 fields", "truncated")),
    "short line in a csv": ("t.csv", content("a,b,y\n1,2,no\n3,yes\n5,6,no\n"), "--target y", ("line 3 has 2 of 3 fields",)),
    "long line in a csv": ("t.csv", content("a,y\n1,no\n3,4,yes\n"), "--target y", ("more fields",)),
    "quote left open in a csv": ("t.csv", content('a,y\n1,"no\n3,yes\n'), "--target y", (r"t\.csv must be a readable table",)),
    "csv that is not UTF-8": ("t.csv", content(b"a,y\n1,\xff\n"), "--target y", ("can't decode byte 0xff", "UTF-8")),
    "empty csv": ("t.csv", content(""), "--target y", (r"t\.csv must be a readable table, however: empty",)),
    "spreadsheet": ("t.xlsx", content(b"PK\3\4\x14\0\6\0"), "--target y", (r"t\.xlsx must be a readable table", "no text")),
    "two columns of one name": ("t.csv", content("a,a ,y\n1,2,no\n"), "--target y", ("distinct names", "'a' occurs twice")),
    "server that does not answer": ("http://127.0.0.1:9/t.csv", None, "--target y", ("must be readable", "network")),
    "target absent": ("t.parquet", parquet(), "--target Y", ("--target must name a column", r"'Y'; the nearest names are \['y'")),
    "target constant": ("t.parquet", parquet(frame=table().with_columns(y=pl.lit("no"))), "--target y", ("at least two classes", "'no'")),
    "target a number": ("t.parquet", parquet(), "--target x", (r"few classes \(at most 100\)", "distinct values")),
    "positive unknown": ("t.parquet", parquet(), "--target y --positive maybe", (r"one of the classes \['no', 'yes'\]", "'maybe'")),
    "too few rows": (
        "t.parquet",
        parquet(frame=table(120)),
        "--target y",
        (r"at least 50 rows, however: 'yes' has \d+", "about 115 are needed"),
    ),
    "option that names no column": ("t.parquet", parquet(), "--target y --group zz", ("--group must name a column", "'zz'")),
    "cost of zero": ("t.parquet", parquet(), "--target y --cost-fn 0", ("--cost-fn must be a positive number, however: got 0",)),
}


@pytest.mark.parametrize("case", TABLES)
def test_init_refuses_a_table(clone: Path, case: str) -> None:
    name, write, options, patterns = TABLES[case]
    if write is not None:
        write(clone / name)
    refused(clone, f"expost init {name} {options}", *patterns)


UTILITIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "missing row": ('matrix: {"no": {"no": 0, "yes": -1}, "maybe": {"no": -1, "yes": 0}}', (r"one row per class \['no', 'yes'\]", "'yes'")),
    "NaN": ('matrix: {"no": {"no": 0, "yes": -1}, "yes": {"no": .nan, "yes": 0}}', ("finite numbers, however: yes/no is nan",)),
    "nothing to decide": ('matrix: {"no": {"no": 0, "yes": 1}, "yes": {"no": -5, "yes": 0}}', ("'yes' is best for every", "signs")),
    "unquoted": ("matrix: {no: {no: 0, yes: -1}, yes: {no: -5, yes: 0}}", ("must be strings, however: got False, as YAML reads", "Quote")),
    "class twice": ('matrix:\n  "no": {"a": 0, "b": 1}\n  "no": {"a": 1, "b": 0}', (r"key 'no' stands twice.*lines 2 and 3",)),
    "no YAML": ("matrix: [", ("valid YAML",)),
}


@pytest.mark.parametrize("case", UTILITIES)
def test_init_refuses_a_utility_file(clone: Path, case: str) -> None:
    text, patterns = UTILITIES[case]
    table().write_parquet(clone / "t.parquet")
    (clone / "u.yaml").write_text(text)
    refused(clone, "expost init t.parquet --target y --utility u.yaml", r"u\.yaml|utility", *patterns)


def test_init_ignores_and_names_what_teaches_nothing_or_too_much(clone: Path) -> None:
    frame = table()
    more = {"gone": pl.Series([None] * len(frame), dtype=pl.Float64), "same": ["k"] * len(frame), "TSH": leak(frame)}
    frame.with_columns(**{name: pl.Series(values) for name, values in more.items()}).write_parquet(clone / "t.parquet")
    done = run(*INIT.split(), cwd=clone)
    assert done.returncode == 0, done.stderr
    for said in (
        "gone is ignored: all values are missing",
        "same is ignored: constant",
        "TSH is ignored: separates the classes on its own",
    ):
        assert said in done.stdout
    assert len(re.findall(r'"(?:gone|same|TSH)": \{role: ignored', (clone / "params.yaml").read_text())) == 3


# params.yaml.

BENIGN, SEED = '    "benign": {"no biopsy": 0, "biopsy": -1}', "  seed: 0  # seed of weights"

DECLARED = (r'by: "hash"([\s\S]*?)column: null', r'by: "column"\1column: {name: mean radius, parts: {a: rest, b: holdout}}')

#: pattern in the default params.yaml -> what stands in its place, and what the message must say
PARAMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key": ("  gradient_clip: ", "  gradient_clop: ", (r"train\.gradient_clop", "did you mean gradient_clip", "Known keys: seed")),
    "unknown key further down": ("    width: ", "    widht: ", (r"train\.network\.widht", "did you mean width")),
    "unknown section": ("gate:  #", "gates:  #", ("'gates' is unknown; did you mean gate",)),
    "class_weight": (SEED, f"  class_weight: balanced\n{SEED}", (r"train\.class_weight is refused: .*symmetric", r"docs/why\.md")),
    "class_weight as a section": ("train:  #", "class_weight: {a: 1}\ntrain:  #", ("class_weight is refused", r"utility\.matrix", r"docs/why\.md")),
    "pos_weight of the network": ("    k: ", "    pos_weight: 3\n    k: ", (r"train\.network\.pos_weight is refused", r"docs/why\.md")),
    "type": (r"max_epochs: \d+", 'max_epochs: "many"', (r"train\.max_epochs must be a valid integer, however: got 'many'", r"params\.yaml")),
    "range": (r"max_epochs: \d+", "max_epochs: 0", (r"train\.max_epochs must be greater than or equal to 1, however: got 0",)),
    "choice": ('"cross_entropy"', '"focal"', ("must be 'cross_entropy', 'brier' or 'cross_entropy.brier', however: got 'focal'",)),
    "role": (r"\{role: feature", "{role: featur", (r"ingest\.columns\.mean radius\.role must be 'feature', .* however: got 'featur'",)),
    "shares": (r"train: 0\.6", "train: 0.7", ("shares must sum to 1, however: they sum to 1.1",)),
    "classes read as booleans": (r'\["benign", "malignant"\]', "[no, yes]", (r"ingest\.classes\.0 must be a string", "unquoted yes, no", "Quote")),
    "classes read as numbers": (r'\["benign", "malignant"\]', "[1, 2]", (r'ingest\.classes\.1 must be a string, however: got 2', r'Quote .*"2"')),
    "row of the matrix read as a boolean": (re.escape(BENIGN), BENIGN.replace('"benign"', "No"), (r"names under utility\.matrix must be strings", "Quote")),
    "key twice": (r"  gradient_clip: \d+", "  gradient_clip: 1\n  gradient_clip: 2", (r"key 'gradient_clip' stands twice.*on lines \d+ and \d+",)),
    "section twice": ("gate:  #", "train: {}\ngate:  #", ("key 'train' stands twice",)),
    "row missing": (re.escape(BENIGN), "    # none", (r"one row per class \['benign', 'malignant'\], however: row 'benign' is missing", r"utility\.matrix")),
    "row of no class": (re.escape(BENIGN), BENIGN.replace("benign", "beningn"), ("row 'benign' is missing",)),
    "cell missing": (re.escape(BENIGN), '    "benign": {"no biopsy": 0}', ("the same actions, however: row 'malignant' has .*biopsy",)),
    "cell NaN": (re.escape(BENIGN), BENIGN.replace("-1", ".nan"), ("finite numbers, however: benign/biopsy is nan",)),
    "cell empty": (re.escape(BENIGN), BENIGN.replace("-1", ""), ("must be a number, or an expression over columns as text, however: benign/biopsy is empty",)),
    "cell read as a boolean": (re.escape(BENIGN), BENIGN.replace("-1", "no"), ("must be a number, .*however: benign/biopsy is False. Write one",)),
    "nothing to decide": (re.escape(BENIGN), BENIGN.replace("-1", "1"), ("'biopsy' is best for every true class", "Check the signs")),
    "no such feature to allow": (r"allow_separating: \[\]", "allow_separating: [TSH]", ("must name features, however: 'TSH' is none",)),
    "hashed column ignored": (r'"mean radius": \{role: feature', '"mean radius": {role: ignored', ("columns that are read, however: 'mean radius' is ignored",)),
    "parts not declared": ('by: "hash"', 'by: "column"', (r"split\.column, however: it is missing. Add it, such as column: \{name",)),
    "declared by a feature": (DECLARED[0], DECLARED[1], ("'mean radius' is a feature. .*role: part",)),
    "no declared holdout": (DECLARED[0], DECLARED[1].replace("holdout", "rest"), ("split.column.parts must declare a holdout", "holdout_source")),
    "no declared train": (DECLARED[0], DECLARED[1].replace("rest", "calib"), ('no value stands for train, valid. .*"rest"',)),
    "no YAML": (SEED, "\tseed: 0", (r"params\.yaml must be valid YAML", r"line \d+")),
}  # fmt: skip


@pytest.mark.parametrize("case", PARAMS)
def test_check_refuses_params(clone: Path, case: str) -> None:
    old, new, patterns = PARAMS[case]
    path = clone / "params.yaml"
    changed, count = re.subn(old, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(changed)
    refused(clone, "expost check", *patterns)


ACT = {"limits": {"biopsy": {"at_most": 0.2}}}
RECALL = {"class": "malignant", "at_least": 0.95}

#: what the section `utility` is changed by ("cell": what a missed malignancy costs), and what the message must say
DECISIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "cell of no column": ({"cell": "-C_FM"}, ("columns with a cost role, however: there is no column 'C_FM'; did you mean C_FN", "role cost")),
    "cell of a feature": ({"cell": '-"mean area"'}, ("'mean area' has the role feature", r"role cost or feature\+cost")),
    "cell that names no column": ({"cell": "-2 * 5"}, ("must name a column, however: '-2 \\* 5' names none", "without quotes")),
    "cell that aggregates": ({"cell": "C_FN - AVG(C_FN)"}, ("element-wise, .* however: .* calls AVG", "Compute such a column beforehand")),
    "cell over a window": ({"cell": "SUM(C_FN) OVER ()"}, ("element-wise", "Allowed")),
    "cell with a subquery": ({"cell": "(SELECT a FROM read_csv('t.csv'))"}, ("element-wise, .* has SELECT, which looks beyond the row",)),
    "cell that is Python": ({"cell": "__import__('os').getcwd()"}, ("calls __IMPORT__, which is not allowed",)),
    "cell that is no SQL": ({"cell": "-C_FN *"}, ("a cell must be a number or an SQL expression over columns", "Mend the cell")),
    "cell of text": ({"cell": "-shop"}, ("must give a number, however: arithmetic on dtypes", "kinds of its columns")),
    "cell that rounds a quotient": ({"cell": "-1/2 * C_FN"}, ("written as a decimal, .* however: got '-1/2", "Write 0.5")),
    "limit below zero": ({"limits": {"biopsy": {"at_most": -0.2}}}, (r"utility\.limits\.biopsy\.at_most must be greater than 0, however: got -0.2",)),
    "limit of no action": ({"limits": {"biopsie": {"at_most": 0.2}}}, (r"must name actions of .*, however: 'biopsie' is none", "Mend the name")),
    "limits on all actions": ({"limits": {a: {"at_most": 0.4} for a in ("biopsy", "no biopsy")}}, ("however: all actions are limited, to 0.8",)),
    "limit that YAML reads as a boolean": ({"limits": {False: {"at_most": 0.2}}}, ("must be strings, however: got False, as YAML reads", "Quote")),
    "recall of no class": ({"require": {"recall": {**RECALL, "class": "malign"}}}, ("must name classes of .*, however: 'malign' is none",)),
    "recall of one": ({"require": {"recall": {**RECALL, "at_least": 1.0}}}, (r"recall\.0\.at_least must be less than 1, however: got 1",)),
    "recall of a number": ({"require": {"recall": {**RECALL, "class": 1}}}, (r"recall\.0\.class must be a string, however: got 1", "Quote")),
    "recall twice": ({"require": {"recall": [RECALL, RECALL]}}, ("must name each class once, however: 'malignant' stands twice", "Keep")),
    "prior of no class": ({"prior": {"malign": 0.02}}, ("must name classes of .*, however: 'malign' is none",)),
    "prior below zero": ({"prior": {"malignant": -0.02}}, ("must lie between 0 and 1, however: 'malignant' has -0.02",)),
    "prior that does not sum to one": ({"prior": {"malignant": 0.3, "benign": 0.6}}, ("must sum to 1, however: they sum to 0.9",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def costly(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose table has a number and a text with cost roles; tests may overwrite its params.yaml."""
    folder = Path(shutil.copytree(fresh, tmp_path_factory.mktemp("costly") / "workspace", symlinks=True))
    edit_params(
        folder, lambda p: p["ingest"]["columns"].update(C_FN={"role": "cost", "kind": "number"}, shop={"role": "cost", "kind": "category"})
    )
    (folder / "good.yaml").write_bytes((folder / "params.yaml").read_bytes())
    return folder


@pytest.mark.parametrize("case", DECISIONS)
def test_check_refuses_a_utility(costly: Path, case: str) -> None:
    changes, patterns = DECISIONS[case]
    shutil.copy(costly / "good.yaml", costly / "params.yaml")

    def change(values: dict[str, Any]) -> None:
        values["utility"].update({name: value for name, value in changes.items() if name != "cell"})
        values["utility"]["matrix"]["malignant"]["no biopsy"] = changes.get("cell", -10)

    edit_params(costly, change)
    refused(costly, "python -m pipelines.commands.check", *patterns)


def test_check_takes_expressions_limits_requirements_and_a_prior(costly: Path) -> None:
    shutil.copy(costly / "good.yaml", costly / "params.yaml")
    cell = "CASE WHEN shop = 'a' THEN -C_FN ELSE -2.5 * GREATEST(C_FN, 1) END"
    edit_params(costly, lambda p: p["utility"]["matrix"]["malignant"].update({"no biopsy": cell}))
    edit_params(costly, lambda p: p["utility"].update(**ACT, require={"recall": RECALL}, prior={"malignant": 0.02}))
    done = run("expost", "check", cwd=costly)
    assert (done.returncode, done.stderr) == (0, "")


#: roles of columns, and what the message must say
ROLES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "weight of text": ({"mean area": {"role": "weight", "kind": "category"}}, ("kind number, however: 'mean area' is category", "Change its kind")),
    "two weights": ({n: {"role": "weight", "kind": "number"} for n in ("a", "b")}, ("at most one column may have the role weight",)),
    "weight that is hashed": ({"mean area": {"role": "weight", "kind": "number"}}, ("split.columns must not hold the column with the role weight",)),
}  # fmt: skip


@pytest.mark.parametrize("case", ROLES)
def test_check_refuses_a_weight(costly: Path, case: str) -> None:
    changes, patterns = ROLES[case]
    shutil.copy(costly / "good.yaml", costly / "params.yaml")
    edit_params(costly, lambda p: p["ingest"]["columns"].update(changes))
    refused(costly, "python -m pipelines.commands.check", *patterns)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", "it is empty"),
        (b"- a\n", "it holds a list"),
        (b"\xff\xfe", "must be UTF-8 text"),
        (b"utility: {unit: 2026-13-45}\n", "params.yaml must be valid YAML, however: line 1 needs a date .*'2026-13-45' is none"),
        (b"utility: " + b"[" * 3000, "nested deeper than 32 levels"),
        (b"utility: {matrix: {x: {y: " + b"9" * 5000 + b"}}}", "line 1 needs a whole number"),
    ],
)
def test_a_params_file_that_is_none(clone: Path, written: bytes, said: str) -> None:
    (clone / "params.yaml").write_bytes(written)
    refused(clone, "expost check", said)
    (clone / "params.yaml").unlink()
    refused(clone, "expost retrain", r"params\.yaml must exist", "expost init TABLE --target COLUMN")


def test_all_faults_are_said_at_once(clone: Path) -> None:
    edit_params(clone, lambda p: (p["gate"].update(alpha=2.0, beta=1), p["train"].update(batch_size=-1)))
    said = refused(clone, "expost retrain", r"train\.batch_size", r"gate\.alpha", r"gate\.beta")
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("command", ["expost retrain", "expost sync", "expost schedule --cron @daily", "python -m pipelines.ingest"])
def test_a_wrong_gate_key_stops_every_command_before_it_does_anything(clone: Path, command: str) -> None:
    edit_params(clone, lambda p: p["gate"].update(margn=0.2))
    refused(clone, command, r"gate\.margn must be a known key", "did you mean margin")


def repro(workspace: Path, *stages: str) -> tuple[Done, str]:
    """`dvc repro` that must fail; returns the process and the stage's own message without DVC's line below it."""
    done = run("dvc", "repro", *stages, cwd=workspace)
    assert done.returncode not in (0, 1), "DVC's own code of a failed stage"
    own, dvc = done.stderr.split("ERROR: failed to reproduce ")
    assert re.search(r"exited with 1$", dvc.strip()), dvc
    stage = subprocess.CompletedProcess(done.args, 1, "", own)
    return done, message(stage)


def outputs(workspace: Path, *stages: str) -> dict[str, str]:
    return {name: digest for name, digest in snapshot(workspace).items() if name.startswith(tuple(f"data/{stage}/" for stage in stages))}


def nothing_half_written(workspace: Path) -> None:
    assert not [path for path in workspace.rglob("*") if path.name.endswith((".writing", ".old"))]


def test_dvc_repro_checks_the_whole_of_params_before_whichever_stage_is_first(own: Path) -> None:
    before = outputs(own, "ingest", "validate")
    edit_params(own, lambda p: (p["gate"].update(margn=0.2), p["split"].update(salt="2")))
    done, said = repro(own)
    assert "gate.margn must be a known key" in said
    assert "Running stage 'split'" in done.stdout and "Running stage 'train'" not in done.stdout

    edit_params(own, lambda p: (p["ingest"].update(where="x < 100"), p["split"].update(salt="1")))
    assert "gate.margn" in repro(own)[1]
    assert not (own / "data/train").exists()
    nothing_half_written(own)

    edit_params(own, lambda p: (p["gate"].pop("margn"), p["ingest"].update(where=None)))
    assert run("dvc", "repro", "split", cwd=own).returncode == 0
    assert outputs(own, "ingest", "validate") == before


# A source that has changed for the worse since `init`.


def sync(workspace: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(workspace / "t.parquet")
    done = run("expost", "sync", "--data-only", cwd=workspace)
    assert done.returncode == 0, done.stderr


def first(rows: int) -> pl.Expr:
    return pl.int_range(pl.len()) < rows


NEWLY: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], tuple[str, ...]]] = {
    "feature all missing": (lambda t: t.with_columns(x=pl.lit(None, pl.Float64)), ("'x' must vary, however: every value is missing", "ignored")),
    "feature constant": (lambda t: t.with_columns(c=pl.lit("a")), ("'c' must vary, however: every row has 'a'", "ignored")),
    "feature absent": (lambda t: t.rename({"z": "zz"}), (r"must have column 'z', however: .*nearest names are \['zz'\]", r"ingest\.columns\.z")),
    "feature of words": (lambda t: t.with_columns(z=pl.col("z").cast(pl.String) + " kg"), ("'z' must hold values of kind number", "row 1: '.* kg'")),
    "feature infinite": (lambda t: t.with_columns(z=pl.lit(float("inf"))), ("'z' must hold finite numbers, however: 600 are infinite",)),
    "target absent": (lambda t: t.rename({"y": "Y"}), (r"the target 'y', however: .*nearest names are \['Y'", r"ingest\.target")),
    "target constant": (lambda t: t.with_columns(y=pl.lit("no")), ("'y' must not be constant, however: every row has 'no'",)),
    "target missing": (lambda t: t.with_columns(y=pl.when(~first(3)).then("y")), ("in every row, however: 3 of 600 rows have none", "where")),
    "class undeclared": (
        lambda t: t.with_columns(y=pl.when(first(3)).then(pl.lit("maybe")).otherwise("y")),
        (r"classes \['no', 'yes'\], however: it also has 'maybe' \(3 rows\)", "Declare"),
    ),
    "no rows": (lambda t: t[:0], ("must have rows, however: it has none",)),
}  # fmt: skip


@pytest.mark.parametrize("case", NEWLY)
def test_ingest_refuses_a_source_that_went_bad(own: Path, case: str) -> None:
    change, patterns = NEWLY[case]
    sync(own, change(table()))
    refused(own, "python -m pipelines.ingest", *patterns)


@pytest.mark.parametrize("spoil", ["gone", "truncated"])
def test_an_unreadable_source_leaves_the_last_good_data(own: Path, spoil: str) -> None:
    path = own / "t.parquet"
    path.unlink() if spoil == "gone" else path.write_bytes(path.read_bytes()[:-40])
    refused(own, "expost sync", r"t\.parquet is missing" if spoil == "gone" else r"t\.parquet must be a readable table")


def test_a_feature_that_newly_separates_stops_the_pipeline_until_it_is_allowed(own: Path) -> None:
    sync(own, table().with_columns(x=leak(table())))
    split = outputs(own, "split")
    done, said = repro(own)
    assert re.search(r"column 'x': one feature alone does not separate the classes.*however: AUC 1\.0", said)
    assert "allow_separating" in said
    assert "Running stage 'split'" not in done.stdout
    assert outputs(own, "split") == split
    nothing_half_written(own)

    edit_params(own, lambda p: p["validate"].update(allow_separating=["x"]))
    assert run("dvc", "repro", "split", cwd=own).returncode == 0


def test_too_few_rows_of_a_class_names_how_many_are_needed(own: Path) -> None:
    edit_params(own, lambda p: p["split"].update(min_rows_per_class=60))
    few = int((table()["y"] == "yes").sum())
    rule = r"at least 60 rows of each class \(split\.min_rows_per_class\), however: valid has \d+ rows of class 'yes'"
    refused(own, "python -m pipelines.split", rule, rf"About \d+ rows of class 'yes' are needed in total, there are {few}: add rows")


# What the machine lacks, or another run holds.


def test_a_gpu_asked_for_and_not_there(own: Path) -> None:
    edit_params(own, lambda p: p["train"].update(accelerator="gpu"))
    before = snapshot(own)
    done = run("python", "-m", "pipelines.train", cwd=own, CUDA_VISIBLE_DEVICES="")
    message(done, r"train\.accelerator: gpu must find a GPU", r"accelerator: auto in params\.yaml")
    assert snapshot(own) == before


@pytest.mark.parametrize("command", ["expost retrain", "expost sync", "expost init sklearn:breast_cancer --target diagnosis"])
def test_outside_a_git_repository_one_message_says_git_init(clone: Path, command: str) -> None:
    shutil.rmtree(clone / ".git")
    refused(clone, command, "must be a git repository", "Run `git init` here")


@pytest.mark.parametrize("command", ["expost retrain", "expost sync", "expost init sklearn:breast_cancer --target diagnosis"])
def test_a_second_run_in_a_workspace_is_refused(clone: Path, command: str) -> None:
    from filelock import FileLock

    with FileLock(clone / ".expost.lock"):
        refused(clone, command, "one run at a time may use a workspace, however: process .* uses this one", "Wait until it ends")


@pytest.mark.parametrize("command", ["check", "retrain", "sync", "status", "predict a.csv b.csv", "init a.csv --target y", "schedule --cron @daily"])  # fmt: skip
def test_outside_a_workspace(tmp_path: Path, command: str) -> None:
    refused(tmp_path, f"expost {command}", r"params\.yaml must exist|must run in a workspace|must be a CSV", "root|path")


# The whole flow, and the champion that must outlive it.


def test_bad_data_ends_retrain_and_leaves_champion_and_results(workspace_copy: Path) -> None:
    source = pl.read_csv(next((workspace_copy / "data/raw/table").glob("*.csv")))
    edit_params(workspace_copy, lambda p: p["ingest"].update(source="t.parquet"))
    status = run("expost", "status", "--json", cwd=workspace_copy).stdout
    kept = snapshot(workspace_copy / "mlflow/champion") | outputs(workspace_copy, "split", "train", "gate")

    known = (source["diagnosis"] == "malignant").cast(pl.Float64)
    source.with_columns(known.alias("mean area")).write_parquet(workspace_copy / "t.parquet")
    done = run("expost", "retrain", cwd=workspace_copy)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the data must meet data/expectations.json" in said
    assert "column 'mean area'" in done.stderr.partition(said)[2]
    assert "Running stage 'split'" not in done.stdout + done.stderr

    assert run("expost", "status", "--json", cwd=workspace_copy).stdout == status
    assert snapshot(workspace_copy / "mlflow/champion") | outputs(workspace_copy, "split", "train", "gate") == kept
    nothing_half_written(workspace_copy)


# New rows to score.


@pytest.fixture(scope="module")
def scoring(retrained: Path, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the champion's mirror and no registry at all, and 40 rows to score. Read only."""
    folder = tmp_path_factory.mktemp("scoring") / "workspace"
    shutil.copytree(fresh, folder, symlinks=True)
    shutil.copytree(retrained / "mlflow/champion", folder / "mlflow/champion")
    rows().write_csv(folder / "in.csv")
    rows().write_parquet(folder / "in.parquet")
    return folder


@pytest.fixture
def champion(scoring: Path, tmp_path: Path) -> Path:
    """A copy of `scoring`, free to change."""
    return Path(shutil.copytree(scoring, tmp_path / "workspace", symlinks=True))


def rows() -> pl.DataFrame:
    data = load_breast_cancer()
    return pl.DataFrame(data.data[:40], schema=[str(name) for name in data.feature_names]).with_columns(id=pl.Series(range(40, 0, -1)))


COLUMNS = ["probability_benign", "probability_malignant", "action", "expected_utility"]


def test_predict_reads_and_writes_both_formats_in_the_order_of_the_rows(champion: Path) -> None:
    found = []
    (champion / "other").mkdir()
    for source, target in (("in.csv", "out.parquet"), ("in.parquet", "other/out.csv")):
        done = run("expost", "predict", source, target, "--keep", "id", cwd=champion)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
        path = champion / target
        found.append(pl.read_parquet(path) if target.endswith("parquet") else pl.read_csv(path))
        assert found[-1].columns == ["id", *COLUMNS]
        assert [int(name) for name in found[-1]["id"]] == list(range(40, 0, -1))
    assert_frame_equal(*(frame.select(COLUMNS) for frame in found), abs_tol=1e-6)
    one = rows()[7:8]
    one.write_csv(champion / "one.csv")
    assert run("expost", "predict", "one.csv", "one.parquet", cwd=champion).returncode == 0
    assert_frame_equal(pl.read_parquet(champion / "one.parquet"), found[0][7:8].select(COLUMNS), abs_tol=1e-6)


def test_predict_ignores_a_target_and_says_so(champion: Path) -> None:
    rows().with_columns(diagnosis=pl.lit("benign")).write_csv(champion / "labelled.csv")
    done = run("expost", "predict", "labelled.csv", "labelled.out.csv", cwd=champion)
    assert done.returncode == 0
    assert done.stderr == "the input's column diagnosis is the target: it was not used for scoring\n"
    assert run("expost", "predict", "in.csv", "out.csv", cwd=champion).stderr == ""
    assert (champion / "labelled.out.csv").read_bytes() == (champion / "out.csv").read_bytes()


def text(change: Callable[[str], str]) -> Callable[[Path], None]:
    return raw("b.csv", lambda content: change(content.decode()).encode())


def raw(name: str, change: Callable[[bytes], bytes], source: str = "in.csv") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / source).read_bytes()))

    return write


INPUTS: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "missing": (lambda _: None, "b.csv out.csv", (r"b\.csv is missing",)),
    "folder": (lambda _: None, "data out.csv", ("data is a folder",)),
    "empty": (text(lambda _: ""), "b.csv out.csv", (r"b\.csv must have rows, however: it is empty", "Nothing was written")),
    "header only": (text(lambda t: t.splitlines()[0] + "\n"), "b.csv out.csv", (r"b\.csv must have rows, however: it has none",)),
    "feature absent": (
        text(lambda t: t.replace("mean radius", "mean radios", 1)),
        "b.csv out.csv",
        (r"every feature column .* however: mean radius is missing \(nearest: mean radios",),
    ),
    "cut": (text(lambda t: t[:-60]), "b.csv out.csv", (r"b\.csv must be a readable table, however: line 41 has \d+ of 31 fields",)),
    "short line": (text(lambda t: t + "1,2,3\n"), "b.csv out.csv", ("line 42 has 3 of 31 fields",)),
    "long line": (text(lambda t: t + ",".join(["1"] * 40) + "\n"), "b.csv out.csv", ("more fields",)),
    "words": (text(lambda t: t.replace("20.57", "abc", 1)), "b.csv out.csv", (r"'mean radius' must hold values of kind number.*row 2: 'abc'",)),
    "infinite": (text(lambda t: t.replace("20.57", "inf", 1)), "b.csv out.csv", (r"'mean radius' must hold finite numbers.*row 2 holds inf",)),
    "UTF-16": (raw("b.csv", lambda b: b.decode().encode("utf-16")), "b.csv out.csv", (r"b\.csv must be a readable table",)),
    "truncated": (raw("b.parquet", lambda b: b[:-30], "in.parquet"), "b.parquet out.csv", (r"b\.parquet must be a readable table",)),
    "format of the input": (raw("b.xlsx", bytes), "b.xlsx out.csv", (r"it is named b\.xlsx", r"\.csv, \.tsv or \.parquet")),
    "format of the output": (lambda _: None, "in.csv out.xlsx", (r"it is named out\.xlsx", r"\.csv, \.tsv or \.parquet")),
    "output is the input": (lambda _: None, "in.csv ./in.csv", ("another file than the input",)),
    "column to keep": (lambda _: None, "in.csv out.csv --keep idd", ("idd is not; the nearest are id",)),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_predict_refuses_and_leaves_the_old_output(champion: Path, case: str) -> None:
    write, arguments, patterns = INPUTS[case]
    write(champion)
    (champion / "out.csv").write_text("an older result\n")
    refused(champion, f"expost predict {arguments}", *patterns)


def test_predict_refuses_a_champion_that_was_tampered_with(champion: Path) -> None:
    path = champion / "mlflow/champion/bundle/policy.json"
    policy = json.loads(path.read_text())
    policy["offsets"] = [0.0, 9.0]
    path.write_text(json.dumps(policy))
    refused(champion, "expost predict in.csv out.csv", r"policy\.json must have the SHA-256 that manifest\.json lists")


def test_predict_scores_and_counts_unseen_categories(own: Path) -> None:
    """The champion here is a bundle of the table with a category, so that a value can be unseen."""
    edit_params(own, lambda p: p["train"].update(max_epochs=1, network={"k": 2, "blocks": 1, "width": 8}))
    done = run("dvc", "repro", "package", cwd=own)
    assert done.returncode == 0, done.stderr
    (own / "mlflow/champion").mkdir(parents=True)
    shutil.copytree(own / "data/package/bundle", own / "mlflow/champion/bundle")
    manifest = json.loads((own / "data/package/bundle/manifest.json").read_text())
    status: dict[str, Any] = {"state": "champion", "version": 1, "bundle_sha256": manifest["bundle_sha256"]}
    (own / "mlflow/champion/status.json").write_text(json.dumps(status))
    table(20).with_columns(c=pl.when(first(3)).then(pl.lit("new")).otherwise("c")).drop("y").write_csv(own / "in.csv")
    done = run("expost", "predict", "in.csv", "out.csv", cwd=own)
    assert done.returncode == 0
    assert done.stderr == "3 of 20 rows hold a value of c that training never saw; they were scored with a neutral one\n"
    out = pl.read_csv(own / "out.csv")
    assert len(out) == 20
    assert set(out["action"]) <= {"no", "yes"}
    np.testing.assert_allclose(out["probability_no"] + out["probability_yes"], 1)
