"""`expost retune`: another utility on the same weights, through the same gate; what it refuses, it refuses before anything is touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import yaml

from flows import graph, retrain
from flows.process import run_dvc
from pipelines.commands.costs import error_cells
from pipelines.commands.retune import plain, replaced, wanted, with_utility
from pipelines.errors import ExpostError
from pipelines.params import load, parse
from pipelines.params.utility import Utility
from pipelines.utilities import values
from tests.conftest import ROOT, run
from tests.flows.test_cli import one_message
from tests.flows.test_end_to_end import UPSTREAM, newest, status
from tests.flows.test_retrain import change

EVERYTHING = ("params.yaml", "dvc.lock", "data", "mlflow/champion")


def digest(workspace: Path, *names: str) -> str:
    """Names and bytes of files and folders; of all that a refused retune must leave alone where none is named."""
    roots = [workspace / name for name in names or EVERYTHING]
    files = sorted(path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file())
    found = hashlib.sha256()
    for path in files:
        found.update(path.relative_to(workspace).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def retuned(utility: dict[str, Any] | None = None) -> dict[str, Any]:
    """Outcome of the flow, run in this process."""
    return retrain.outcome_of(retrain.retune(utility, return_state=True)).as_json()


def test_a_new_utility_is_a_new_version_with_the_same_weights(workspace_copy: Path) -> None:
    before, untouched = status(workspace_copy), digest(workspace_copy, "params.yaml", "mlflow/champion")
    kept = {stage: graph.outs_digest(stage) for stage in UPSTREAM}
    outcome = retuned()
    assert (outcome["identical"], outcome["version"], outcome["looks"]) == (True, None, None)
    assert {stage: graph.outs_digest(stage) for stage in UPSTREAM} == kept
    assert digest(workspace_copy, "params.yaml", "mlflow/champion") == untouched

    text = Path("params.yaml").read_text()
    done = run("expost", "retune", "--cost-fn", "30", "--json", cwd=workspace_copy)
    assert done.returncode in (0, 3), done.stderr
    outcome, after = json.loads(done.stdout), newest(status(workspace_copy))
    assert (outcome["blocked"], outcome["version"], outcome["looks"]) == (done.returncode == 3, 2, 2)
    assert after["version"] == 2
    assert after["weights_sha256"] == before["champion"]["weights_sha256"]
    assert after["policy_sha256"] != before["champion"]["policy_sha256"]
    assert {stage: graph.outs_digest(stage) for stage in UPSTREAM} == kept
    assert "Running stage 'decide'" in done.stderr
    assert "Running stage 'train'" not in done.stderr
    assert load(Utility).matrix == {"benign": {"no biopsy": 0, "biopsy": -1}, "malignant": {"no biopsy": -30, "biopsy": 0}}
    now = Path("params.yaml").read_text()
    assert outside(now) == outside(text)

    chosen = ("--by", "Ana", "--why", "the costs have changed", "--override")  # too few rows to tell: a person decides
    promoted = run("expost", "promote", "2", *chosen, cwd=workspace_copy)
    assert promoted.returncode == 0, promoted.stderr
    found = status(workspace_copy)
    assert found["champion"]["version"] == 2
    mirrored = json.loads(Path("mlflow/champion/status.json").read_text())
    assert mirrored["policy_sha256"] == after["policy_sha256"]


def outside(text: str) -> str:
    """params.yaml without its section utility."""
    lines = text.splitlines()
    start, stop = (next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("utility:", "evaluate:"))
    return "\n".join(lines[:start] + lines[stop:])


def test_what_is_stale_upstream_or_fails_leaves_all_as_it_was(workspace_copy: Path) -> None:
    untouched = digest(workspace_copy)
    for bad in (
        ["--cost-fn", "-1"],
        ["--cost-fn", "nan"],
        ["--cost-fn", "abc"],
        ["--cost-fn", "5", "--utility", "u.yaml"],
        ["--utility", "absent.yaml"],
    ):
        one_message(run("expost", "retune", *bad, cwd=workspace_copy))
    assert digest(workspace_copy) == untouched

    (workspace_copy / "pipelines/core/threshold.py").write_text("raise SystemExit('broken')\n")
    untouched = digest(workspace_copy, "params.yaml", "data/decide", "mlflow/champion")
    with pytest.raises(ExpostError, match="stage decide must end well"):
        retuned(plain(load(Utility)) | {"unit": "euro"})
    assert digest(workspace_copy, "params.yaml", "data/decide", "mlflow/champion") == untouched

    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("learning_rate: 0.002", "learning_rate: 0.001"))
    untouched = digest(workspace_copy)
    message = one_message(run("expost", "retune", "--cost-fn", "5", cwd=workspace_copy))
    assert "stage train would run again, for section train of params.yaml (modified). Run `expost retrain`" in message
    assert digest(workspace_copy) == untouched


def test_every_stage_upstream_is_looked_at_and_none_beside_or_after(fake: Path) -> None:
    with pytest.raises(ExpostError, match="stage first has never run here"):
        graph.refuse_stale_before("third")
    graph.refuse_stale_before("first")
    run_dvc("repro", "--quiet")
    change(third_value=5)
    graph.refuse_stale_before("third")
    change(aside_value=5)
    graph.refuse_stale_before("second")
    with pytest.raises(ExpostError, match=r"stage aside would run again, for section aside of params\.yaml \(modified\)"):
        graph.refuse_stale_before("third")
    (fake / "data/first/out.txt").unlink()
    with pytest.raises(ExpostError, match=r"stage first would run again, for data/first \(modified\)"):
        graph.refuse_stale_before("third")


FILES = {
    "no row for a class": ("matrix: {benign: {a: 0, b: -1}, other: {a: -2, b: 0}}", "row 'malignant' is missing"),
    "a class too many": ("matrix: {benign: {a: 0, b: -1}, malignant: {a: -2, b: 0}, other: {a: 1, b: 2}}", "row 'other' is no class"),
    "nothing to decide": ("matrix: {benign: {a: 1, b: 0}, malignant: {a: 2, b: 0}}", "'a' is best for every true class"),
    "no such column": ("matrix: {benign: {a: 0, b: -1}, malignant: {a: -loss, b: 0}}", "there is no column 'loss'"),
    "an aggregate": ('matrix: {benign: {a: 0, b: -1}, malignant: {a: "-AVG(loss)", b: 0}}', "must be element-wise"),
    "a limit beyond one": ("matrix: {benign: {a: 0, b: -1}, malignant: {a: -2, b: 0}}\nlimits: {b: {at_most: 2}}", "less than 1"),
    "not YAML": ("matrix: {benign", "must be valid YAML"),
    "a number": ("5", "must hold a utility"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_utility_that_breaks_a_rule_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = FILES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "u.yaml").write_text(text)
    with pytest.raises(ExpostError, match=r"(?s)" + message):
        wanted(Path("u.yaml"), None, None)


def test_costs_change_their_cells_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["utility"] = {
        "unit": "euro",
        "matrix": {"benign": {"refer": -0.5, "leave": 1, "treat": -3}, "malignant": {"refer": -1, "leave": -40, "treat": 2}},
        "limits": {"refer": {"at_most": 0.3}},
        "prior": {"malignant": 0.1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    found = wanted(None, 20, None)
    assert found is not None
    assert found.matrix == values["utility"]["matrix"] | {"malignant": {"refer": -1, "leave": -18, "treat": 2}}
    assert (found.unit, found.prior, found.limits["refer"].at_most) == ("euro", {"malignant": 0.1}, 0.3)
    both = wanted(None, 20, 7)
    assert both is not None
    assert both.matrix["benign"] == {"refer": -0.5, "leave": 1, "treat": -6}
    assert wanted(None, None, None) is None
    values["utility"]["matrix"]["benign"]["treat"] = "-cost"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ExpostError, match="a cell is the expression '-cost'"):
        wanted(None, None, 7)
    with pytest.raises(ExpostError, match="--cost-fn must be for two classes, however: the model has 3"):
        error_cells({name: {"a": 0, "b": 1} for name in "xyz"}, "xyz", "--cost-fn", "Mend it.")


def test_classes_with_one_best_action_have_no_errors_to_cost() -> None:
    matrix: dict[str, dict[str, float | str]] = {"good": {"wait": 0, "act": -1}, "bad": {"wait": 2, "act": 1}}
    with pytest.raises(
        ExpostError, match=r"--cost-fn must be for classes with different best actions, however: 'wait' is best for both. Do"
    ):
        error_cells(matrix, ("good", "bad"), "--cost-fn", "Do otherwise.")
    matrix["bad"]["act"] = 3
    assert error_cells(matrix, ("good", "bad"), "--cost-fn", "Do otherwise.") == (("bad", "wait"), ("good", "act"))


def with_amounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["ingest"]["columns"] |= {name: {"role": "cost", "kind": "number"} for name in ("amount", "lost days")}
    values["utility"]["matrix"]["benign"] = {"no biopsy": 2, "biopsy": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))


def test_costs_may_be_expressions_as_for_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_amounts(tmp_path, monkeypatch)
    found = wanted(None, "0.75 * amount", "lost days")
    assert found is not None
    assert found.matrix == {
        "benign": {"no biopsy": 2, "biopsy": '2.0 - ("lost days")'},
        "malignant": {"no biopsy": "-(0.75 * amount)", "biopsy": 0},
    }
    assert values([["2.0 - (amount)"]], pl.DataFrame({"amount": [5.0, 0.5]})).ravel().tolist() == [-3, 1.5]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("-1", "--cost-fn must be a positive number, however: got -1. A cost is what an error loses"),
        ("nan", "--cost-fn must be a positive number, however: got nan"),
        ("1e999", "--cost-fn must be a positive number, however: got inf"),
        ("0", "--cost-fn must be a positive number, however: got 0"),
        ("amuont", "there is no column 'amuont'; did you mean amount"),
        ("SUM(amount)", "must be element-wise"),
    ],
)
def test_costs_that_are_none_are_told_apart(given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_amounts(tmp_path, monkeypatch)
    with pytest.raises(ExpostError, match=said):
        wanted(None, given, None)


@pytest.mark.parametrize("deployed", [True, False])
def test_a_deployed_run_that_fails_leaves_its_reason_in_the_log(deployed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command prints the message itself; of a run of the schedule nothing but the log is left."""
    said: list[str] = []
    logger = logging.getLogger("of the run")
    monkeypatch.setattr(logger, "error", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(retrain, "get_run_logger", lambda: logger)
    monkeypatch.setattr(retrain, "exclusive", contextlib.nullcontext)
    monkeypatch.setattr(retrain, "deployment", SimpleNamespace(id="one" if deployed else None))

    def work() -> Any:
        raise ExpostError("X must be Y, however: it is Z. Mend it.")

    state = retrain._ended(work)
    assert (state.is_failed(), state.message) == (True, "X must be Y, however: it is Z. Mend it.")
    assert said == ["X must be Y, however: it is Z. Mend it."] * deployed


def utility(**more: Any) -> Utility:
    matrix = {"benign": {"yes": 0, "no": -0.5}, "malignant": {"yes": -1e-7, "no": 3}}
    return parse(Utility, {"unit": "€", "matrix": matrix, **more}, "utility")


TEXTS = {
    "in the middle": "a: {b: 1}  # kept\n\nutility:  # old\n  unit: x\n  # inside\n  matrix: {y: 1}\n\n# of gate\ngate: {c: 2}  # kept too\n",
    "first": "utility:\n  unit: x\ngate:\n  c: 2\n",
    "last": "# top\ngate:\n  c: 2\nutility:\n  unit: x\n",
    "last, without an end of line": "gate:\n  c: 2\nutility:\n  unit: x",
    "on one line": "utility: {unit: x, matrix: {}}  # old\ngate: {c: 2}\n",
    "on one line at the end": "gate: {c: 2}\nutility: {unit: x, matrix: {}}",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_the_section_is_replaced(name: str, newline: str) -> None:
    text = TEXTS[name].replace("\n", newline)
    wished = utility(limits={"no": {"at_most": 0.2}}, prior={"malignant": 0.02}, require={"recall": {"class": "benign", "at_least": 0.9}})
    made = with_utility(text, wished)
    before, after = yaml.safe_load(text), yaml.safe_load(made)
    assert parse(Utility, after.pop("utility"), "utility") == wished
    before.pop("utility")
    assert after == before
    for line in text.split(newline):
        if "kept" in line or "of gate" in line or "top" in line:
            assert line in made.split(newline)
    assert "old" not in made
    assert (made.count("\n") == made.count("\r\n")) == (newline == "\r\n")
    assert with_utility(made, wished) == made


@pytest.mark.parametrize("text", ['{"utility": {"unit": "x"}, "gate": {"c": 2}}', "utility: &u\n  unit: x\ngate: *u\n"])
def test_a_section_that_cannot_be_cut_out_is_left_to_the_user(text: str) -> None:
    with pytest.raises(ExpostError, match=r"params\.yaml must hold the section utility as a block of its own lines"):
        with_utility(text, utility())


def test_a_failure_takes_the_utility_back_unless_someone_changed_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    text, wished = path.read_text(), plain(load(Utility)) | {"unit": "euro"}
    with pytest.raises(KeyboardInterrupt), replaced(wished):
        assert load(Utility).unit == "euro"
        raise KeyboardInterrupt
    assert path.read_text() == text
    with pytest.raises(ExpostError), replaced(wished):
        path.write_text(mine := path.read_text() + "# mine\n")
        raise ExpostError("a stage failed")
    assert path.read_text() == mine
    with (
        pytest.raises(ExpostError, match="row 'malignant' is missing"),
        replaced({"matrix": {"benign": {"a": 0, "b": 1}, "x": {"a": 1, "b": 0}}}),
    ):
        pass
    assert path.read_text() == mine
    with replaced(plain(load(Utility))):
        pass
    assert path.read_text() == mine
