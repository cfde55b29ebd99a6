"""Predict with another utility, hard counts and the batch's own class shares: what changes, what stays, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.cli.common import interruptible
from pipelines.bundle import Bundle, write_manifest
from pipelines.commands import rowfiles
from pipelines.commands.predict import Wishes, counts, predict
from pipelines.core import labelshift, priorshift
from pipelines.errors import ExpostError
from tests.stages.judging import edit
from tests.stages.shipped import mixed_table

PROBABILITIES = ["probability_good", "probability_bad"]
THREE = "unit: kr\nmatrix:\n  good: {pass: 0, ask: -1.5, stop: -4}\n  bad: {pass: -6, ask: -1.5, stop: 0}\n"


@pytest.fixture
def bundle(world: Path) -> Path:
    return world / "data/package/bundle"


@pytest.fixture
def run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[pl.DataFrame, list[str]]]:
    """Predict a table, in small batches; returns what was written and what was said."""
    monkeypatch.setattr(rowfiles, "BATCH", 64)

    def once(table: pl.DataFrame, wishes: Wishes | None = None, folder: Path = bundle) -> tuple[pl.DataFrame, list[str]]:
        said: list[str] = []
        table.drop("outcome", strict=False).write_parquet(tmp_path / "in.parquet")
        predict(tmp_path / "in.parquet", tmp_path / "out.parquet", folder, report=said.append, wishes=wishes)
        return pl.read_parquet(tmp_path / "out.parquet"), said

    return once


def test_another_utility_decides_and_the_probabilities_stay(run: Any, tmp_path: Path) -> None:
    table = mixed_table(200, seed=8)
    (tmp_path / "three.yaml").write_text(THREE)
    (tmp_path / "three.json").write_text(
        json.dumps(
            {
                "utility": {
                    "unit": "kr",
                    "matrix": {"bad": {"pass": -6, "ask": -1.5, "stop": 0}, "good": {"pass": 0, "ask": -1.5, "stop": -4}},
                }
            }
        )
    )
    plain, _ = run(table)
    other, _ = run(table, Wishes(utility=tmp_path / "three.yaml"))
    assert plain.select(PROBABILITIES).equals(other.select(PROBABILITIES))
    bad = other["probability_bad"].to_numpy()
    best = np.stack([-6 * bad, np.full(200, -1.5), -4 * (1 - bad)])
    np.testing.assert_allclose(other["expected_utility"], best.max(axis=0))
    assert other["action"].to_list() == np.array(["pass", "ask", "stop"])[best.argmax(axis=0)].tolist()
    assert run(table, Wishes(utility=tmp_path / "three.json"))[0].equals(other)


def test_costs_of_the_two_errors(run: Any) -> None:
    table = mixed_table(200, seed=8)
    found, _ = run(table, Wishes(cost_fn=1, cost_fp=3))
    bad = found["probability_bad"].to_numpy()
    assert found["action"].to_list() == np.where(bad > 3 / 4, "stop", "pass").tolist()
    assert run(table, Wishes(cost_fn=5))[0].equals(run(table)[0])


def test_a_hard_count_goes_to_the_rows_that_gain_most(run: Any) -> None:
    table = mixed_table(300, seed=9)
    plain, _ = run(table)
    found, said = run(table, Wishes(at_most={"stop": 40}))
    wanted = int((plain["action"] == "stop").sum())
    gain = 5 * found["probability_bad"] - found["probability_good"]
    taken = (found["action"] == "stop").to_numpy()
    assert taken.sum() == 40 < wanted
    np.testing.assert_array_equal(np.sort(np.argsort(-gain.to_numpy(), kind="stable")[:40]), np.flatnonzero(taken))
    assert found.select(PROBABILITIES).equals(plain.select(PROBABILITIES))
    np.testing.assert_allclose(found["expected_utility"], np.where(taken, -found["probability_good"], -5 * found["probability_bad"]))
    assert said == [
        f"stop: {wanted:,} of 300 rows wanted it, 40 have it (at most 40); to the last of them it is worth "
        f"{gain.filter(taken).min():.4g} euro more than the next best action"
    ]
    unbound, said = run(table, Wishes(at_most={"stop": 300, "pass": 300}))
    assert unbound.equals(plain)
    assert len(said) == 2 and not any("worth" in line for line in said)
    assert not any("worth" in line for line in run(table, Wishes(at_most={"stop": 40, "pass": 260}))[1])  # both are full


def test_ties_at_the_edge_go_to_the_first_rows(run: Any) -> None:
    table = mixed_table(1, seed=1).with_columns(number=pl.lit(3.0), heavy=pl.lit(0.01), colour=pl.lit("red"))
    found, _ = run(pl.concat([table] * 150), Wishes(at_most={"stop": 70}))
    assert found["action"].to_list() == ["stop"] * 70 + ["pass"] * 80


@pytest.mark.parametrize(
    ("at_most", "message"),
    [({"biopsy": 3}, r"action of \['pass', 'stop'\], however: got 'biopsy'"), ({"pass": 10, "stop": 19}, "leave 29 for 30 rows")],
)
def test_counts_that_cannot_be_met_are_refused(run: Any, at_most: dict[str, int], message: str) -> None:
    with pytest.raises(ExpostError, match=message):
        run(mixed_table(30), Wishes(at_most=at_most))


@pytest.mark.parametrize("option", ["stop", "stop=", "stop=-1", "stop=1.5", "stop=many"])
def test_counts_of_another_form_are_refused(option: str) -> None:
    with pytest.raises(ExpostError, match="ACTION=ROWS"):
        counts([option])


def test_counts_are_read() -> None:
    assert counts(["a=b=10", " stop =0"]) == {"a=b": 10, "stop": 0}
    with pytest.raises(ExpostError, match="'stop' is named twice"):
        counts(["stop=1", "stop=2"])


def of_costs(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle whose utility reads the column amount, which is no feature."""
    shutil.copytree(bundle, folder)
    edit(folder / "schema.json", lambda schema: schema["others"].append({"name": "amount", "role": "cost", "kind": "number"}))
    edit(folder / "policy.json", lambda policy: policy.update(matrix=[[0, -1], ["-amount", 0]], threshold=None))
    write_manifest(folder)
    return folder


def test_cost_columns_are_needed_only_where_the_utility_reads_them(run: Any, bundle: Path, tmp_path: Path) -> None:
    folder, table = of_costs(bundle, tmp_path / "costs"), mixed_table(150, seed=2)
    amount = np.random.default_rng(0).lognormal(size=150)
    found, _ = run(table.with_columns(amount=amount), None, folder)
    bad = found["probability_bad"].to_numpy()
    assert found["action"].to_list() == np.where(amount * bad > 1 - bad, "stop", "pass").tolist()
    limited, _ = run(table.with_columns(amount=amount), Wishes(at_most={"stop": 5}), folder)
    np.testing.assert_array_equal(np.flatnonzero(limited["action"] == "stop"), np.sort(np.argsort(-(amount * bad - (1 - bad)))[:5]))
    (tmp_path / "plain.yaml").write_text("matrix: {good: {pass: 0, stop: -1}, bad: {pass: -5, stop: 0}}")
    assert run(table, Wishes(utility=tmp_path / "plain.yaml"), folder)[0].equals(run(table)[0])
    (tmp_path / "half.yaml").write_text("matrix: {good: {pass: 0, stop: -1}, bad: {pass: -0.5 * amount, stop: 0}}")
    half, _ = run(table.with_columns(amount=2 * amount), Wishes(utility=tmp_path / "half.yaml"), folder)
    np.testing.assert_allclose(half["expected_utility"], found["expected_utility"])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, r"in\.parquet: .*amount is missing"),
        ([1.0] * 99 + [None], r"in\.parquet: .*row 100: missing"),
        ([1.0] * 70 + [float("inf")] * 30, r"in\.parquet: .*30 of \d+ rows|row 71"),
        (["1"] * 99 + ["much"], r"in\.parquet: .*row 100: 'much'"),
    ],
)
def test_costs_that_are_missing_name_file_column_and_row(run: Any, bundle: Path, tmp_path: Path, column: Any, message: str) -> None:
    table = mixed_table(100)
    given = table if column is None else table.with_columns(amount=pl.Series(column))
    with pytest.raises(ExpostError, match=message) as error:
        run(given, None, of_costs(bundle, tmp_path / "costs"))
    assert "change the kind" not in str(error.value) and "ingest.where" not in str(error.value)
    assert not (tmp_path / "out.parquet").exists()


def exact(bundle: Path, folder: Path, rows: int = 4000) -> Path:
    """A copy of the bundle that spreads its probabilities, with the reference of rows that are exactly as these say."""
    shutil.copytree(bundle, folder)
    edit(folder / "calibrator.json", lambda calibrator: calibrator.update(method="affine", slope=20.0, bias=[2.0, -2.0]))
    write_manifest(folder)
    rng = np.random.default_rng(0)
    p, _ = Bundle.load(folder).calibrated(mixed_table(rows, seed=20).drop("outcome"))
    labels = (rng.random(rows) < p[:, 1]).astype(int)
    made = labelshift.reference(p, labels)
    edit(folder / "calibrator.json", lambda calibrator: calibrator.update(reference=made))
    write_manifest(folder)
    return folder


def drawn(bundle: Path, share: float, rows: int, seed: int) -> pl.DataFrame:
    """Rows of which `share` are bad, if calib was exactly as the probabilities say."""
    rng, table = np.random.default_rng(seed), mixed_table(8 * rows, seed=seed)
    p, _ = Bundle.load(bundle).calibrated(table.drop("outcome"))
    bad = rng.random(len(p)) < p[:, 1]
    count = round(rows * share)
    chosen = np.concatenate([np.flatnonzero(bad)[:count], np.flatnonzero(~bad)[: rows - count]])
    return table[np.sort(chosen)]


def test_shares_that_moved_are_used_and_said(run: Any, bundle: Path, tmp_path: Path) -> None:
    folder = exact(bundle, tmp_path / "exact")
    table = drawn(folder, 0.1, 1000, 30)
    plain, _ = run(table, None, folder)
    found, said = run(table, Wishes(estimate_prior=True), folder)
    assert found["probability_bad"].mean() == pytest.approx(0.1, abs=0.05)
    assert plain["probability_bad"].mean() > found["probability_bad"].mean() + 0.02
    assert said[0].startswith("class shares, calib -> this batch (1,000 rows, 95% intervals")
    assert "bad 0." in said[0] and "->" in said[0]
    assert said[1].startswith("probabilities and decisions use this batch's shares")
    limited, said = run(table, Wishes(estimate_prior=True, at_most={"stop": 10}), folder)
    assert limited["probability_bad"].equals(found["probability_bad"])
    assert (limited["action"] == "stop").sum() == 10 and said[-1].startswith("stop: ")


def test_shares_that_did_not_move_or_are_not_believed_are_not_used(run: Any, bundle: Path, tmp_path: Path) -> None:
    folder = exact(bundle, tmp_path / "exact")
    reference = Bundle.load(folder).reference
    table = drawn(folder, reference["prior"][1], 800, 31)
    plain, _ = run(table, None, folder)
    found, said = run(table, Wishes(estimate_prior=True), folder)
    assert found.equals(plain)
    assert "no more than chance" in said[1] and said[1].endswith("the model's own are kept")
    few, said = run(table.head(20), Wishes(estimate_prior=True), folder)
    assert few.equals(plain.head(20))
    assert "not to be believed" in said[1] and "fewer than 50" in said[1]
    assert run(table.head(1), Wishes(estimate_prior=True), folder)[1][0].startswith("class shares, calib -> this batch (1 row, ")
    middle = mixed_table(800, seed=3).with_columns(number=pl.lit(0.4), heavy=pl.lit(1.0), flag=pl.lit(value=True), colour=pl.lit("blue"))
    assert "no class shares explain the batch's scores" in run(middle, Wishes(estimate_prior=True), folder)[1][1]


def test_the_shares_that_probabilities_mean_are_what_is_divided_out(run: Any, bundle: Path, tmp_path: Path) -> None:
    """An isotonic calibrator's mean probability is not calib's class shares; Bayes's rule then holds for the former."""
    folder = exact(bundle, tmp_path / "exact")
    table = drawn(folder, 0.1, 1000, 30)
    prior = Bundle.load(folder).reference["prior"]
    implied = [prior[0] - 0.005, prior[1] + 0.005]  # near enough for the checks to believe both estimates
    edit(folder / "calibrator.json", lambda calibrator: calibrator["reference"].update(implied=implied))
    write_manifest(folder)
    p = run(table, None, folder)[0][PROBABILITIES].to_numpy()
    shares = priorshift.estimate(p, Bundle.load(folder).reference).smoothed
    odds = p * shares / implied
    found, said = run(table, Wishes(estimate_prior=True), folder)
    assert said[1].startswith("probabilities and decisions use")
    np.testing.assert_allclose(found[PROBABILITIES].to_numpy(), odds / odds.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_folder_that_a_killed_run_left_is_replaced(run: Any, tmp_path: Path) -> None:
    left = tmp_path / ".out.parquet.held"
    left.mkdir()
    (left / "probability").write_bytes(b"half")
    found, _ = run(mixed_table(50), Wishes(at_most={"stop": 3}))
    assert (found["action"] == "stop").sum() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_nothing_half_written(bundle: Path, tmp_path: Path, how: signal.Signals) -> None:
    mixed_table(300, seed=9).drop("outcome").write_parquet(tmp_path / "in.parquet")

    def interrupted(text: str) -> None:
        assert {path.name for path in tmp_path.iterdir()} > {"in.parquet"}
        signal.raise_signal(how)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ExpostError, match="interrupted; nothing half-written was left"):
        interruptible(predict)(
            tmp_path / "in.parquet", tmp_path / "out.csv", bundle, report=interrupted, wishes=Wishes(at_most={"stop": 40})
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_weights_of_rows_count_for_the_estimate(run: Any, bundle: Path, tmp_path: Path) -> None:
    folder = exact(bundle, tmp_path / "exact")
    edit(folder / "schema.json", lambda schema: schema["others"].append({"name": "times", "role": "weight", "kind": "number"}))
    write_manifest(folder)
    table = drawn(folder, 0.1, 500, 32)
    said = run(table.with_columns(times=pl.lit(3)), Wishes(estimate_prior=True), folder)[1]
    assert "500 effective rows" in said[0]
    with pytest.raises(ExpostError, match=r"'times' counts identical rows.*row 65 holds 0"):
        run(table.with_columns(times=pl.when(pl.int_range(pl.len()) == 64).then(0).otherwise(1)), Wishes(estimate_prior=True), folder)


def test_nothing_is_left_where_a_second_pass_is_refused(run: Any, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ExpostError, match="must have rows"):
        run(mixed_table(30).head(0), Wishes(at_most={"stop": 3}))
    with pytest.raises(ExpostError, match="output's folder must exist"):
        predict(tmp_path / "in.parquet", tmp_path / "new" / "out.csv", bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_bundle_that_is_another_than_its_digest_says_is_refused(bundle: Path) -> None:
    digest = Bundle.load(bundle).manifest["bundle_sha256"]
    assert Bundle.load(bundle, digest).classes == ["good", "bad"]
    with pytest.raises(ExpostError, match="must have the digest 0000"):
        Bundle.load(bundle, "0" * 64)
