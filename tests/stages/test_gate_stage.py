"""Stage gate: what evaluate wrote becomes a verdict with reasons; whatever is missing or no number is an ERROR, never a PASS."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import champion, evaluate, gate, looks, store
from pipelines.params.gate import Gate
from tests.stages.judging import crown, edit, params, quick

ROWS = Path("data/evaluate/rows.parquet")
SETTINGS = gate.settings_of(Gate())


@pytest.fixture(scope="module")
def evaluated(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a champion that has another policy but acts alike, so that re-deciding it changes nothing, evaluated. Read only."""
    folder = Path(shutil.copytree(world, tmp_path_factory.mktemp("evaluated") / "copy"))
    crown(
        folder,
        folder / "data/package/bundle",
        lambda bundle: edit(bundle / "policy.json", lambda policy: policy.update(offsets=[0.0, 1e-9])),
    )
    quick(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        champion.main()
        evaluate.main()
    return folder


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(evaluated, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def run() -> dict[str, Any]:
    gate.main()
    return json.loads(Path("data/gate/verdict.json").read_text())


def named(verdict: dict[str, Any], kind: str) -> list[str]:
    return [item["criterion"] for item in verdict["criteria"] if item["verdict"] == kind]


def change_rows(change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(ROWS)).write_parquet(ROWS)


def test_the_verdict_has_its_criteria_reasons_and_digests(copy: Path) -> None:
    verdict = run()
    assert verdict["verdict"] in ("PASS", "INSUFFICIENT_DATA")
    assert [item["criterion"] for item in verdict["criteria"]] == [
        *("utility", "floor_trivial", "log_loss", "brier", "v_information", "calibration_error", "slope", "intercept"),
        *("lesson" for _ in store.read_json(Path("data/decide/lessons.json"))["lessons"]),
        *("negative_flips", "effective_rank", "support", "validity"),
    ]
    assert verdict["criteria"][0]["subject"] == "as it reigns"
    assert len(verdict["reasons"]) == len(verdict["criteria"])
    status = json.loads((copy / "data/champion/status.json").read_text())
    assert verdict["champion"] == {name: status[name] for name in verdict["champion"]}
    assert verdict["challenger"]["bundle_sha256"] != status["bundle_sha256"]
    assert verdict["challenger"]["weights_sha256"] == status["weights_sha256"]
    assert {"criterion", "verdict", "estimate", "low", "high", "bound", "margin", "rows", "rows_needed", "reason"} <= set(
        verdict["criteria"][0]
    )


def test_the_verdict_names_the_utility_that_it_holds_under(copy: Path) -> None:
    first = run()["utility_sha256"]
    params(copy, lambda values: values["evaluate"].update(resamples=101))
    assert run()["utility_sha256"] == first
    params(copy, lambda values: values["utility"].update(unit="another"))
    assert run()["utility_sha256"] != first


def test_the_same_rows_give_the_same_bytes(copy: Path) -> None:
    run()
    before = store.sha256(Path("data/gate/verdict.json"))
    run()
    assert store.sha256(Path("data/gate/verdict.json")) == before


@pytest.mark.parametrize("model", ["challenger", "champion"])
@pytest.mark.parametrize("name", ["utility", "log_loss", "brier", "v_information"])
@pytest.mark.parametrize("how", ["nan", "null", "column"])
def test_one_number_or_one_column_missing_is_an_error_of_that_criterion(copy: Path, model: str, name: str, how: str) -> None:
    column = f"{model}_{name}"

    def spoil(rows: pl.DataFrame) -> pl.DataFrame:
        if how == "column":
            return rows.drop(column)
        value = math.nan if how == "nan" else None
        return rows.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))

    change_rows(spoil)
    verdict = run()
    assert verdict["verdict"] == "ERROR"
    lessons = store.read_json(Path("data/decide/lessons.json"))["lessons"] if name == "utility" else []  # they compare utilities too
    assert named(verdict, "ERROR") == [name, *("lesson" for _ in lessons)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_nan_anywhere_in_the_rows_never_passes(copy: Path, data: st.DataObject) -> None:
    rows = pl.read_parquet(ROWS)
    status, found = store.read_json(Path("data/champion/status.json")), store.read_json(Path("data/evaluate/evaluation.json"))
    floats = [name for name, kind in rows.schema.items() if kind == pl.Float64 and not name.startswith(("trivial", "prior"))]
    name, row = data.draw(st.sampled_from(floats)), data.draw(st.integers(0, rows.height - 1))
    value = data.draw(st.sampled_from([math.nan, math.inf, -math.inf, None]))
    spoilt = rows.with_columns(pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(name)).alias(name))
    assert gate.verdict_of(spoilt, found, status, SETTINGS)[0].verdict == "ERROR"


@pytest.mark.parametrize("what", ["unknown action", "no action", "no distribution", "unknown class", "no probability"])
def test_rows_that_cannot_be_judged_are_an_error_of_validity(copy: Path, what: str) -> None:
    first = pl.int_range(pl.len()) == 0
    changes = {
        "unknown action": pl.when(first).then(pl.lit("shrug")).otherwise(pl.col("challenger_action")).alias("challenger_action"),
        "no action": pl.when(first).then(None).otherwise(pl.col("champion_action")).alias("champion_action"),
        "no distribution": (pl.col("challenger_probability_bad") + 0.1).alias("challenger_probability_bad"),
        "unknown class": pl.when(first).then(pl.lit("ugly")).otherwise(pl.col("label")).alias("label"),
    }
    change_rows(lambda rows: rows.with_columns(changes[what]) if what in changes else rows.drop("champion_probability_good"))
    verdict = run()
    assert verdict["verdict"] == "ERROR"
    assert named(verdict, "ERROR") == ["validity"]


def test_an_evaluation_against_another_champion_is_an_error(copy: Path) -> None:
    edit(copy / "data/champion/status.json", lambda status: status.update(bundle_sha256="0" * 64))
    assert named(run(), "ERROR") == ["validity"]
    edit(copy / "data/champion/status.json", lambda status: (status.clear(), status.update(state="none")))
    assert run()["verdict"] == "ERROR"


def test_rows_without_a_champion_that_reigns_are_an_error(copy: Path) -> None:
    change_rows(lambda rows: rows.drop([name for name in rows.columns if name.startswith("champion_")]))
    verdict = run()
    assert verdict["verdict"] == "ERROR"
    assert {"validity", "utility", "log_loss", "brier", "v_information"} <= set(named(verdict, "ERROR"))


def test_a_benign_reason_is_too_little_data(copy: Path) -> None:
    edit(copy / "data/evaluate/evaluation.json", lambda found: found.update(unavailable={"v_information": "class 1 has 1 rows"}))
    change_rows(lambda rows: rows.with_columns(pl.lit(None, dtype=pl.Float64).alias("challenger_v_information")))
    verdict = run()
    assert verdict["verdict"] == "INSUFFICIENT_DATA"
    assert "class 1 has 1 rows" in " ".join(verdict["reasons"])


def test_a_holdout_without_a_positive_is_too_little_data(copy: Path) -> None:
    change_rows(lambda rows: rows.filter(pl.col("label") == "good"))
    verdict = run()
    assert verdict["verdict"] == "INSUFFICIENT_DATA"
    assert "support" in named(verdict, "INSUFFICIENT_DATA")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0, -1.0])
def test_a_weight_that_is_none_is_an_error_of_validity(copy: Path, value: float | None) -> None:
    first = pl.int_range(pl.len()) == 0
    change_rows(lambda rows: rows.with_columns(pl.when(first).then(pl.lit(value)).otherwise(pl.col("weight")).alias("weight")))
    assert named(run(), "ERROR") == ["validity"]
    change_rows(lambda rows: rows.drop("weight"))
    assert named(run(), "ERROR") == ["validity"]


def test_a_missing_reach_is_an_error(copy: Path) -> None:
    edit(copy / "data/evaluate/evaluation.json", lambda found: found.pop("reach"))
    assert "validity" in named(run(), "ERROR")


def test_a_requirement_without_its_column_is_an_error_of_that_criterion_alone(copy: Path) -> None:
    required = [{"class": "bad", "at_least": 0.5, "confidence": 0.9}]
    edit(copy / "data/evaluate/evaluation.json", lambda found: found.update(requirements=required))
    change_rows(lambda rows: rows.drop("challenger_right"))
    assert named(run(), "ERROR") == ["negative_flips", "requirement"]


def test_the_order_of_rows_does_not_matter(copy: Path) -> None:
    first = run()
    looks.settle(first["evaluation_key"])  # else the shuffled rows would be a second look at them
    change_rows(lambda rows: rows.sample(fraction=1.0, shuffle=True, seed=3))
    second = run()
    assert second["verdict"] == first["verdict"]
    for one, other in zip(first["criteria"], second["criteria"], strict=True):
        assert other["low"] == (None if one["low"] is None else pytest.approx(one["low"], abs=1e-9))


def test_an_identical_champion_needs_no_comparison(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle")
    champion.main()
    evaluate.main()
    verdict = run()
    assert (verdict["verdict"], verdict["identical"], verdict["criteria"]) == ("PASS", True, [])
    assert "identical to the champion" in verdict["reasons"][0]


@pytest.mark.parametrize("state", ["unsynced", "none"])
def test_without_a_champion_the_absolute_criteria_judge_and_the_state_is_kept(copy: Path, state: str) -> None:
    shutil.rmtree(copy / "mlflow/champion")
    if state == "none":
        (copy / "mlflow/champion").mkdir()
        (copy / "mlflow/champion/status.json").write_text(json.dumps({"state": "none", "epoch": 0}))
    champion.main()
    evaluate.main()
    verdict = run()
    assert verdict["champion"]["state"] == state
    assert verdict["verdict"] in ("PASS", "INSUFFICIENT_DATA", "FAIL")
    assert "best trivial policy" in " ".join(verdict["reasons"])
