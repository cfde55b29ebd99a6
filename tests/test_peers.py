"""The comparison with peers: how the best one is chosen, the interval of a ratio, and the facts of a table."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from benchmarks import peers as benchmark
from benchmarks.comparison import EXPOST, HALVED, SEEDS, TRIVIAL, best_peer, overall, summarise
from benchmarks.peer import PEERS, bounded_levels, class_weights
from benchmarks.peers import trivial
from benchmarks.render import pages
from benchmarks.render_peers import peers, peers_page
from benchmarks.repeated import feature_frame, paired, ratio
from benchmarks.tasks import TASKS, given, init_arguments, merged, read_task
from benchmarks.textpeer import TEXT, reading
from pipelines.errors import ExpostError

LOGISTIC, LIGHTGBM, *_ = PEERS


def results(salts: range, cost: dict[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """The same figures on every salt but for a little that grows with the salt."""
    base = {"brier": 0.3, "auc": 0.8, "fit_seconds": 1.0, "seconds": 2.0, "peak_mb": 200.0, "holdout_rows": 150, "rows_outside": 850}
    return {
        str(salt): {name: {**base, "cost": value + salt / 1e4, "log_loss": 1 - value, "epochs": 8} for name, value in cost.items()}
        for salt in salts
    }


def test_another_seed_of_an_older_pipeline_is_not_compared_with_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"x": [1.0]}).to_parquet(tmp_path / "features.parquet")
    table = SimpleNamespace(inputs=tmp_path, rows=5, U=np.eye(2))
    monkeypatch.setattr(benchmark, "prepare", lambda *_: table)
    monkeypatch.setattr(benchmark, "summarise", lambda reported, _: sorted(reported["1"]))
    monkeypatch.setattr(benchmark, "repetition", lambda table, salt, wanted, kept: [(EXPOST, {"cost": 1.0})] if EXPOST in wanted else [])
    before = {"reported": {"1": {EXPOST: {}, HALVED: {}, **{name: {} for name in SEEDS}, TRIVIAL: {}}}}
    one = SimpleNamespace(name="a table", task=TASKS["german_credit"])
    assert [*benchmark.compare(one, before, 1, 0, 0)][-1]["summary"] == sorted([EXPOST, TRIVIAL])


def test_the_best_peer_is_that_of_the_other_salts_and_need_not_be_best_on_those_reported() -> None:
    selection, reported = results(range(101, 104), {LOGISTIC: 0.4, LIGHTGBM: 0.5}), results(range(1, 4), {LOGISTIC: 0.6, LIGHTGBM: 0.3})
    assert best_peer(selection, reported, "cost") == LOGISTIC
    assert best_peer(selection, reported, "log_loss") == LIGHTGBM


def test_a_salt_must_not_both_choose_and_report() -> None:
    with pytest.raises(ValueError, match=r"other salts than those reported, however: \['3'\]"):
        best_peer(results(range(3, 5), {LOGISTIC: 0.4}), results(range(1, 4), {LOGISTIC: 0.4}), "cost")


def test_a_peer_without_a_result_on_every_salt_is_not_chosen() -> None:
    selection = results(range(101, 104), {LOGISTIC: 0.4, LIGHTGBM: 0.5})
    del selection["102"][LOGISTIC]
    assert best_peer(selection, results(range(1, 4), {LOGISTIC: 0.1, LIGHTGBM: 0.1}), "cost") == LIGHTGBM
    with pytest.raises(ValueError, match="none has"):
        best_peer({}, {}, "cost")


def test_a_ratio_does_not_depend_on_the_unit_and_turns_with_its_sides() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = 1 + rng.random(10), 2 + rng.random(10)
    found, scaled, turned = ratio(ours, theirs, 0.2), ratio(7 * ours, 7 * theirs, 0.2), ratio(theirs, ours, 0.2)
    assert found["ratio"] == pytest.approx(ours.mean() / theirs.mean())
    assert found == pytest.approx(scaled)
    assert (found["low"], found["high"]) == pytest.approx((1 / turned["high"], 1 / turned["low"]))


def test_the_interval_of_a_ratio_is_that_of_the_difference_where_the_other_is_constant_and_near() -> None:
    ours = 1 + np.linspace(-0.01, 0.01, 10)
    found, difference = ratio(ours, np.ones(10), 0.2), paired(ours - 1, 0.2)
    assert found["low"] - 1 == pytest.approx(difference["low"], abs=1e-4)
    assert found["high"] - 1 == pytest.approx(difference["high"], abs=1e-4)


def test_a_ratio_covers_the_true_one_over_independent_splits() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.1, (2000, 10))
    ours, theirs = 0.9 + shared + rng.normal(0, 0.05, (2000, 10)), 1 + shared + rng.normal(0, 0.05, (2000, 10))
    found = [ratio(a, b, 0.0) for a, b in zip(ours, theirs, strict=True)]
    assert 0.93 < np.mean([entry["low"] <= 0.9 <= entry["high"] for entry in found]) < 0.97


def test_a_ratio_to_nothing_is_not_known() -> None:
    assert all(np.isnan(value) for value in ratio(np.ones(3), np.zeros(3), 0.2).values())
    assert np.isnan(ratio(np.ones(1), np.ones(1), 0.2)["low"])


def test_summary_and_its_tables() -> None:
    costs = {EXPOST: 0.4, HALVED: 0.41, TRIVIAL: 0.7, **dict.fromkeys(PEERS, 0.5)}
    summary = summarise(results(range(1, 4), costs), results(range(101, 104), costs))
    entry = {"summary": summary, "rows": 1000, "classes": 2, "left_out": {}}
    assert summary["ratio"]["cost"]["ratio"] == pytest.approx(0.4002 / 0.5002)
    assert summary["halved"]["cost"]["mean"] == pytest.approx(0.01)
    result = {"tables": {"a": entry, "unfinished": {"left_out": {}}}, "left_out": {"b": "a reason"}, "overall": overall({"a": entry})}
    json.dumps(result, allow_nan=False)
    assert result["overall"]["cost"]["above"] == []
    assert result["overall"]["log_loss"]["above"] == ["a"]
    assert "| geometric mean | | | | 0.800 (aim: 0.97) |" in peers(result)
    assert "b (a reason)" in peers(result)
    assert "## a: 1,000 rows, 2 classes, 3 salts" in peers_page(result)


def test_the_spread_of_seeds_is_the_pooled_one_within_splits() -> None:
    """Splits differ by far more than seeds do; that difference has no part in it."""
    one, two = SEEDS
    found = results(range(1, 4), {EXPOST: 0.4, **dict.fromkeys(PEERS, 0.5)})
    for salt, level, step in (("1", 0.4, 0.01), ("2", 9.0, 0.02)):
        for name, place in ((EXPOST, 0), (one, 1), (two, 2)):
            found[salt][name] = {**found[salt][EXPOST], "cost": level + place * step, "log_loss": level}
    seeds = summarise(found, results(range(101, 104), dict.fromkeys(PEERS, 0.5)))["seeds"]
    assert (seeds["splits"], seeds["seeds"]) == (2, 3)
    assert seeds["cost"] == pytest.approx(np.sqrt((0.01**2 + 0.02**2) / 2))
    assert seeds["log_loss"] == pytest.approx(0, abs=1e-12)


def test_a_table_with_text_has_peers_of_its_own() -> None:
    """Learnt from twenty messages, judged on as many others."""
    messages = [f"{'win cash now' if i % 2 else 'see you at home'} {i}" for i in range(40)]
    table = pd.DataFrame({"message": [*messages[:39], None], "sender": ["a", "b"] * 20, "label": ["ham", "spam"] * 20})
    columns = {"message": {"role": "feature", "kind": "text"}, "sender": {"role": "feature", "kind": "category"}}
    X, y = feature_frame(table, columns), np.arange(40) % 2
    names, left_out = reading(X)
    assert names == [*TEXT] and left_out.keys() == PEERS.keys()
    assert reading(X[["sender"]]) == ([*PEERS], {})
    for fit in TEXT.values():
        probability, action = fit(X[:20], y[:20], np.array([[0.0, -10.0], [-1.0, 0.0]]))(X[20:])
        assert ((probability[:, 1] > 0.5) == y[20:]).mean() > 0.9
        np.testing.assert_array_equal(action, probability[:, 1] > 10 / 11)


def test_a_table_with_text_is_shown_beside_its_own_peers() -> None:
    tables, entries = {"plain": PEERS, "text": TEXT}, {}
    for table, peers_of in tables.items():
        costs = {EXPOST: 0.4, HALVED: 0.41, TRIVIAL: 0.7, **dict.fromkeys(peers_of, 0.5)}
        summary = summarise(results(range(1, 4), costs), results(range(101, 104), costs))
        left_out = {} if table == "plain" else dict.fromkeys(PEERS, "not read")
        entries[table] = {"summary": summary, "rows": 1000, "classes": 2, "left_out": left_out}
    result = {"tables": entries, "left_out": {}, "overall": overall(entries)}
    shown = peers(result)
    assert f"{len(PEERS)} peers on text (not read)" in shown
    assert "| text | 0.400 | 0.500 | 0.500 | 0.700 |" in shown
    assert "| text | 1.0 | 2.0 | left out |" in shown
    assert result["overall"]["cost"]["tables"] == 2


def test_one_salt_has_no_interval() -> None:
    summary = summarise(
        results(range(1, 2), {EXPOST: 0.4, **dict.fromkeys(PEERS, 0.5)}), results(range(101, 102), dict.fromkeys(PEERS, 0.5))
    )
    assert summary["ratio"]["cost"]["low"] is None
    json.dumps(summary, allow_nan=False)


def test_pages_are_those_of_the_results() -> None:
    assert {path.name: path.read_text() == text for path, text in pages().items()} == {"peers.md": True}, (
        "run `python -m benchmarks.render`"
    )


def test_weights_of_classes_are_elkans_for_two_and_means_for_more() -> None:
    assert class_weights(np.array([[0.0, -1.0], [-5.0, 0.0]])).tolist() == [1.0, 5.0]
    assert class_weights(np.array([[0.0, -1.0, -1.0], [-4.0, 0.0, -1.0], [-10.0, -3.0, 0.0]])).tolist() == [1.0, 2.5, 6.5]


def test_the_trivial_policy_is_chosen_outside_the_holdout() -> None:
    labels, held = np.array([0] * 9 + [1] + [1] * 5), np.array([False] * 10 + [True] * 5)
    assert trivial(np.array([[0.0, -1.0], [-5.0, 0.0]]), labels, held)["cost"] == 5.0


def test_rare_and_unseen_values_of_a_category_become_one() -> None:
    seen = pd.DataFrame({"a": pd.Categorical([f"v{i}" for i in range(300)] + ["v0"] * 5 + [None]), "b": range(306)})
    changed = bounded_levels(seen)(pd.DataFrame({"a": pd.Categorical(["v0", "new", None]), "b": [1, 2, 3]}))
    assert changed["a"].tolist()[:2] == ["v0", "other values"]
    assert changed["a"].isna().tolist() == [False, False, True]
    assert len(changed["a"].cat.categories) == 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pl.DataFrame({"x": [1, 2, 3], "y": ["a", "b", "c"]}).write_csv(tmp_path / "table.csv")
    return tmp_path


def test_a_directory_with_a_task_is_a_table(folder: Path) -> None:
    cost = {"a": {"leave": 0, "act": 1}, "b": {"leave": 5, "act": 0}, "c": {"leave": 2, "act": 0}}
    (folder / "task.json").write_text(json.dumps({"target": "y", "cost": cost, "ignore": ["x"]}))
    one = given(str(folder))
    assert (one.source.name, one.name) == ("table.csv", folder.name)
    arguments = init_arguments(one, folder)
    assert arguments[1:5] == ["--target", "y", "--ignore", "x"]
    assert "leave: -5.0" in (folder / "utility.yaml").read_text()


def test_merged_classes_are_written_beside_and_must_exist(folder: Path) -> None:
    task = TASKS["german_credit"].model_copy(update={"target": "y", "merge": {"rest": ("b", "c")}})
    assert merged(pl.read_csv(folder / "table.csv"), task)["y"].to_list() == ["a", "rest", "rest"]
    with pytest.raises(ExpostError, match=r"classes of the target, however: \['d'\]"):
        merged(pl.read_csv(folder / "table.csv"), task.model_copy(update={"merge": {"rest": ("d",)}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"must hold a task.json, however: it has none. Write one, such as"),
        ("{", r"must be JSON in UTF-8, however: "),
        ("[]", r"must describe a task, however: "),
        ("{}", r"target: Field required"),
        ('{"target": "y"}', r"costs must be positive, fn and fp, or cost, however: none of them given"),
        ('{"target": "y", "positive": "a", "fn": 5}', r"however: \['positive', 'fn'\] given"),
        ('{"target": "y", "positive": "a", "fn": "5", "fp": 1}', r"fn: Input should be a valid number"),
        ('{"target": "y", "positive": "a", "fn": 5, "fp": 1, "costs": {}}', r"costs: Extra inputs are not permitted"),
        ('{"target": "y", "cost": {"a": {"u": 0}, "b": {"v": 0}}}', r"same actions for every class"),
        ('{"target": "y", "positive": "a", "cost": {"a": {"u": 0}, "b": {"u": 0}}}', r"cost and positive are given"),
    ],
)
def test_a_task_that_will_not_do_says_why(folder: Path, text: str | None, message: str) -> None:
    if text is not None:
        (folder / "task.json").write_text(text)
    with pytest.raises(ExpostError, match=message):
        read_task(folder)


def test_a_directory_must_hold_one_table(folder: Path) -> None:
    (folder / "task.json").write_text('{"target": "y", "positive": "a", "fn": 5, "fp": 1}')
    (folder / "second.csv").write_text("x,y\n1,a\n")
    with pytest.raises(ExpostError, match=r"found \['second.csv', 'table.csv'\]"):
        given(str(folder))
    with pytest.raises(ExpostError, match="known name or a directory, however: got 'nothing'"):
        given("nothing")
