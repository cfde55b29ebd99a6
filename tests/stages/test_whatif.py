"""`expost whatif` on a workspace: it agrees with decide, works for any matrix, and refuses what it cannot mean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from pipelines import store
from pipelines.commands.whatif import check_plot, parse_range, save_plot, what_if
from pipelines.commands.whatifplot import plot
from pipelines.core import crossfit
from pipelines.errors import ExpostError
from tests.conftest import edit_params, run


@pytest.fixture
def decided(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world, as the current directory: classes good and bad, actions pass and stop, a miss costs 5, a false alarm 1."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    return folder


def test_the_utility_now_comes_out_as_decide_says(decided: Path) -> None:
    analytic = next(c for c in store.read_json(Path("data/decide/summary.json"))["candidates"] if c["policy"] == "analytic")
    found = what_if(cost_fn="1..50")
    (now,) = (point for point in found["points"] if point["now"])
    assert now["value"] == found["axis"]["now"] == 5
    assert now["threshold"] == pytest.approx(1 / 6)
    assert now["utility"] == pytest.approx({"mean": analytic["utility"], "low": analytic["low"], "high": analytic["high"]})
    values = [point["value"] for point in found["points"]]
    assert values == sorted(values)
    assert (values[0], values[-1], len(values)) == (1, 50, 22)
    for point in found["points"]:
        assert point["threshold"] == pytest.approx(1 / (1 + point["value"]))
        assert sum(point["shares"]) == pytest.approx(1)


def test_a_cost_and_its_cell_are_the_same_thing(decided: Path) -> None:
    costs, cells = what_if(cost_fn="1..9", steps=3), what_if(cells=["bad/pass=-9..-1"], steps=3)
    for point, other in zip(costs["points"], reversed(cells["points"]), strict=True):
        assert {**point, "value": -point["value"]} == other
    alarm = what_if(cost_fn="10", cost_fp="2..8", steps=2)
    half = what_if(cost_fn="5", cost_fp="1..4", steps=2)
    assert [point["threshold"] for point in alarm["points"]] == pytest.approx([2 / 12, 8 / 18])
    assert [point["shares"] for point in alarm["points"]] == [point["shares"] for point in half["points"]]


def test_what_differs_from_params_yaml_is_said(decided: Path) -> None:
    found = what_if(cost_fn="20", cost_fp="0.5..4")
    assert not any(point["now"] for point in found["points"])
    assert found["fixed"] == [{"option": "--cost-fn", "meaning": "cost of 'pass' where the truth is 'bad'", "value": 20, "now": 5}]
    assert "params.yaml has another cost of 'pass' where the truth is 'bad', 5" in found["notes"][0]
    assert what_if(cost_fn="6..7")["notes"] == ["In params.yaml it is 5, outside of this range."]
    edit_params(decided, lambda values: values["utility"].update(limits={"stop": {"at_most": 0.2}}, prior={"bad": 0.1}))
    found = what_if(cost_fn="1..50")
    assert ["Limits and requirements are left out" in found["notes"][0], "class prior" in found["notes"][1]] == [True, True]
    assert found["effective_rows"] < found["rows"]


def test_more_actions_and_cells_that_are_expressions(decided: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        matrix = {"good": {"pass": 0, "stop": -1, "refer": -0.4}, "bad": {"pass": "-1 - LEAST(heavy, 20)", "stop": 0, "refer": -0.4}}
        values["utility"]["matrix"] = matrix
        values["ingest"]["columns"]["heavy"]["role"] = "feature+cost"

    edit_params(decided, change)
    found = what_if(cells=["good/refer=-0.9..-0.1", "bad/refer=-0.4"], steps=5)
    assert all(point["threshold"] is None for point in found["points"])
    shares = [point["shares"][2] for point in found["points"]]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    (now,) = (point for point in found["points"] if point["now"])
    heavy = pl.read_parquet("data/ingest/table.parquet")["heavy"].to_numpy()[np.load("data/calibrate/rows.npy")]
    p = crossfit.out_of_fold(np.load("data/calibrate/crossfit.npy"), np.load("data/calibrate/folds.npy"))[0]
    expected = np.stack([-p[:, 1] * (1 + np.minimum(heavy, 20)), -p[:, 0], np.full(len(p), -0.4)], axis=1)
    assert now["shares"] == pytest.approx(np.bincount(expected.argmax(axis=1), minlength=3) / len(p))
    assert "expression" in what_if(cells=["bad/pass=-9..-1"], steps=2)["notes"][0]
    with pytest.raises(ExpostError, match="a cell is the expression"):
        what_if(cost_fn="1..5")


def _without_calibrate() -> None:
    shutil.rmtree("data/calibrate")


def _other_classes() -> None:
    edit_params(Path(), lambda values: values["utility"]["matrix"].update(worse=values["utility"]["matrix"].pop("bad")))


REFUSED: dict[str, tuple[dict[str, Any], Callable[[], None] | None, str]] = {
    "no range": ({"cost_fn": "5"}, None, "one option must be a range such as 1..50, however: there is none"),
    "two ranges": ({"cost_fn": "1..5", "cost_fp": "1..5"}, None, "there are 2: --cost-fn, --cost-fp"),
    "no cost": ({"cost_fn": "0..5"}, None, "--cost-fn must be a positive number"),
    "no such cell": ({"cells": ["bad/refer=1..5"]}, None, "Cells: good/pass, good/stop, bad/pass, bad/stop"),
    "no number": ({"cells": ["bad/pass=low..5"]}, None, "must be a number, or a range upwards"),
    "calibrate has not run": ({"cost_fn": "1..5"}, _without_calibrate, r"data/calibrate/\w+.npy must exist, however: it is missing. Run"),
    "other classes": ({"cost_fn": "1..5"}, _other_classes, "row 'bad' is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_mean_is_refused(name: str, decided: Path) -> None:
    options, change, message = REFUSED[name]
    if change is not None:
        change()
    with pytest.raises(ExpostError, match=message):
        what_if(**options)


@pytest.mark.parametrize("text", ["", "..", "5..1", "3..3", "1..nan", "inf", "1..2..3", "a..b"])
def test_ranges_run_upwards_between_finite_numbers(text: str) -> None:
    with pytest.raises(ExpostError, match="must be a number, or a range upwards"):
        parse_range("--cost-fn", text)
    for far in ("1e-300..1e300", "1..1e13", "1e-13", "-1e300..1"):
        with pytest.raises(ExpostError, match=r"--cost-fn must be 0 or, without its sign, between 1e-12 and 1e\+12, however: got -?1e"):
            parse_range("--cost-fn", far)
    assert parse_range("--cost-fn", "0..1e12") == (0, 1e12)
    assert parse_range("--cost-fn", "-1.5..2e3") == (-1.5, 2000)
    assert parse_range("--cost-fn", "7") == (7, 7)


def test_the_plot_is_a_function_of_the_json_and_replaces_only_plots(decided: Path) -> None:
    found = what_if(cells=["bad/pass=-50..-1"], steps=4)
    assert plot(json.loads(json.dumps(found))) == plot(found)
    save_plot(found, Path("range.png"))
    check_plot(Path("range.png"))
    for name in ("notes.png", "range.pdf", "absent/range.png"):
        Path("notes.png").write_text("mine")
        with pytest.raises(ExpostError, match="--plot must"):
            check_plot(Path(name))
    for options in ({"cost_fn": "1..3"}, {"cells": ["good/pass=-3..3"]}):
        assert plot(what_if(**options, steps=3))[:4] == b"\x89PNG"


def test_the_command_prints_a_table_of_eighty_columns_and_writes_the_plot(decided: Path) -> None:
    done = run("expost", "whatif", "--cost-fn", "1..50", cwd=decided, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "now 5     0.1667" in done.stdout
    assert (decided / "whatif.png").read_bytes() == plot(what_if(cost_fn="1..50"))
    (decided / "whatif.png").write_text("mine")
    refused = run("expost", "whatif", "--cost-fn", "1..50", "--json", cwd=decided)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--plot must not overwrite what is no PNG" in refused.stderr
    done = run("expost", "whatif", "--cost-fn", "1..50", "--json", "--no-plot", "--steps", "3", cwd=decided)
    assert [point["value"] for point in json.loads(done.stdout)["points"]] == [1, 5, 7.07, 50]
    assert yaml.safe_load(Path("params.yaml").read_text())["utility"]["matrix"]["bad"]["pass"] == -5
