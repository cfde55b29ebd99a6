"""lessons.json as decide writes it: where the policy fails on calib, with failures and the successes beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import decide, slices, store
from pipelines.core import crossfit, labelshift
from pipelines.core.calibration import softmax

N, FIRST = 1500, 100  #: calib rows, and the table's rows before them, which decide must not show
TWO = "{matrix: {c0: {a: 0, b: -1}, c1: {a: -4, b: 0}}}"
THREE = "{matrix: {c0: {a: 0, b: -2, c: -4}, c1: {a: -3, b: 0, c: -1}, c2: {a: -8, b: -2, c: 0}}}"
BY_ROW = '{matrix: {c0: {a: 0, b: -1}, c1: {a: "-fee", b: 0}}}'


def learned(folder: Path, monkeypatch: pytest.MonkeyPatch, utility: str, *, K: int = 2, seed: int = 0) -> dict[str, Any]:
    """Run decide on probabilities that are right, except that renters' classes are drawn by lot; returns lessons.json."""
    monkeypatch.chdir(folder)
    rng = np.random.default_rng(seed)
    housing = rng.choice(["rent", "own", "free"], FIRST + N)
    table = pl.DataFrame(
        {
            "id": [f"case {i}" for i in range(FIRST + N)],
            "age": rng.integers(18, 80, FIRST + N).astype(float),
            "day": rng.integers(18000, 20000, FIRST + N).astype(float),
            "housing": housing,
            "fee": rng.choice([2.0, 4.0], FIRST + N),
            "branch": rng.choice(["north", "south"], FIRST + N),
        }
    ).with_columns(pl.when(pl.col("age") > 75).then(None).otherwise(pl.col("age")).alias("age"))
    kinds = {"id": "key", "age": "feature", "day": "feature", "housing": "feature", "fee": "cost", "branch": "group"}
    types = {"age": "number", "day": "date", "fee": "number"}
    logits = rng.normal(size=(N, K)) * 4
    labels = (rng.random((N, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    lot = housing[FIRST:] == "rent"
    labels[lot] = rng.integers(0, K, int(lot.sum()))
    rows, p = np.arange(FIRST, FIRST + N), softmax(logits)
    whole = np.zeros(FIRST + N, dtype=np.int64)
    whole[FIRST:] = labels
    masks = crossfit.folds_of(labels, rows, folds=5, repeats=2, seed=seed)
    arrays = {
        "split": {"labels": whole, "groups": np.arange(FIRST + N), "weights": np.ones(FIRST + N)},
        "calibrate": {"rows": rows, "folds": masks, "crossfit": np.stack([p] * 10), "probabilities": p},
    }
    for stage, named in arrays.items():
        store.stage_path(stage).mkdir(parents=True)
        for name, array in named.items():
            np.save(store.stage_path(stage, f"{name}.npy"), array)
    store.stage_path("ingest").mkdir()
    table.write_parquet(store.stage_path("ingest", "table.parquet"))
    columns = [{"name": name, "role": role, "kind": types.get(name, "category")} for name, role in kinds.items()]
    store.write_json(store.stage_path("ingest", "schema.json"), {"columns": columns})
    store.write_json(store.stage_path("split", "meta.json"), {"classes": [f"c{k}" for k in range(K)]})
    store.write_json(store.stage_path("calibrate", "calibrator.json"), {"reference": labelshift.reference(p, labels)})
    Path("params.yaml").write_text(f"decide: {{policies: [analytic], seed: {seed}}}\nutility: {utility}\n")
    decide.main()
    found: dict[str, Any] = json.loads(Path("data/decide/lessons.json").read_text())
    return found


@pytest.mark.parametrize(("utility", "K"), [(TWO, 2), (THREE, 3), (BY_ROW, 2)])
def test_where_the_policy_fails_is_named_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utility: str, K: int) -> None:
    found = learned(tmp_path, monkeypatch, utility, K=K)
    lesson = found["lessons"][0]
    assert (lesson["name"], lesson["conditions"]) == ("housing is rent", [{"column": "housing", "op": "is", "value": "rent"}])
    calib = pl.read_parquet("data/ingest/table.parquet")[FIRST:]
    (mask,) = slices.masks(calib, slices.of_lessons(found)[:1])
    assert lesson["support"] == mask.sum() == (calib["housing"] == "rent").sum()
    assert lesson["share"] == pytest.approx(mask.mean())
    assert found["regret"] < lesson["regret"]["low"] < lesson["regret"]["mean"] < lesson["regret"]["high"]
    assert found["rows"] == N and found["regret"] == pytest.approx(json.loads(Path("data/decide/summary.json").read_text())["regret"])


def test_failures_are_of_the_lesson_and_successes_are_cases_decided_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = learned(tmp_path, monkeypatch, TWO)["lessons"][0]
    table, labels = pl.read_parquet("data/ingest/table.parquet"), np.load("data/split/labels.npy")
    assert len(lesson["failures"]) == 3 and len(lesson["successes"]) == 6
    for case in (*lesson["failures"], *lesson["successes"]):
        row = case["row"] - 1
        assert row >= FIRST and case["key"] == table["id"][row] and case["label"] == f"c{labels[row]}"
        assert set(case["inputs"]) == {"age", "day", "housing"}  # neither costs nor groups
        assert case["inputs"]["age"] == table["age"][row] and case["inputs"]["day"].startswith("20")
        assert sum(case["probability"].values()) == pytest.approx(1)
        assert case["action"] == ("b" if case["probability"]["c1"] > 0.2 else "a")
    assert all(case["regret"] > 0 and case["inputs"]["housing"] == "rent" for case in lesson["failures"])
    assert all(case["regret"] == 0 for case in lesson["successes"])
    beside = [case["beside"] for case in lesson["successes"]]
    assert beside[:3] == beside[3:] == [case["row"] for case in lesson["failures"]]  # the nearest of each first


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned(tmp_path, monkeypatch, TWO)
    before = Path("data/decide/lessons.json").read_bytes()
    decide.main()
    assert Path("data/decide/lessons.json").read_bytes() == before


def test_nothing_of_rows_outside_calib_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of other rows, the holdout's among them, may be anything."""
    learned(tmp_path, monkeypatch, TWO)
    before = Path("data/decide/lessons.json").read_bytes()
    table = pl.read_parquet("data/ingest/table.parquet")
    other = pl.int_range(pl.len()) < FIRST
    spoilt = table.with_columns(
        pl.when(other).then(pl.lit(-1e9)).otherwise(pl.col("age")).alias("age"),
        pl.when(other).then(pl.lit("elsewhere")).otherwise(pl.col("housing")).alias("housing"),
    )
    spoilt.write_parquet("data/ingest/table.parquet")
    decide.main()
    assert Path("data/decide/lessons.json").read_bytes() == before
