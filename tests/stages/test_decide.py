import csv
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from pipelines import candidates, decide, decision, search, store
from pipelines.core import constraints, crossfit, labelshift, policy, threshold, utility
from pipelines.core.calibration import softmax
from pipelines.core.constraints import Constraints, Recall
from pipelines.core.sample import Sample
from pipelines.errors import ExpostError
from pipelines.params.decide import Decide
from pipelines.params.utility import Utility

FREE = Constraints({}, ())
FEW = "decide: {trials: 10}\n"
BINARY = "utility: {matrix: {c0: {no biopsy: 0, biopsy: -1}, c1: {no biopsy: -10, biopsy: 0}}}\n"
REFER = "utility: {matrix: {c0: {a: 0, b: -1, refer: -0.3}, c1: {a: -10, b: 0, refer: -0.8}}}\n"
FOUR = "utility: {matrix: {c0: {a: 0, b: -2, c: -4}, c1: {a: -3, b: 0, c: -1}, c2: {a: -8, b: -2, c: 0}, c3: {a: -9, b: -9, c: 0}}}\n"
TWO_OF_THREE = "utility: {matrix: {c0: {keep: 0, act: -1}, c1: {keep: -2, act: 0}, c2: {keep: -9, act: 0}}}\n"


def write_upstream(*, n: int = 300, K: int = 2, off: float = 0.0, seed: int = 0, weights=None) -> None:
    """Write what ingest, split and calibrate do for n calib rows, whose probabilities are wrong by `off` on the last class's log-odds."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)) * 2
    labels = (rng.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    masks = crossfit.folds_of(labels, np.arange(n), folds=5, repeats=2, seed=seed)
    wrong = logits + off * np.eye(K)[K - 1]
    crossfitted = np.stack([softmax(wrong * (1 + 0.01 * j)) for j in range(10)])
    for stage, arrays in {
        "split": {"labels": labels, "groups": np.arange(n), "weights": np.ones(n) if weights is None else weights},
        "calibrate": {"rows": np.arange(n), "folds": masks, "crossfit": crossfitted, "probabilities": softmax(wrong)},
    }.items():
        store.stage_path(stage).mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            np.save(store.stage_path(stage, f"{name}.npy"), array)
    store.stage_path("ingest").mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"amount": rng.lognormal(0, 1, n), "fee": np.ones(n)}).write_parquet(store.stage_path("ingest", "table.parquet"))
    columns = [{"name": "amount", "role": "feature+cost", "kind": "number"}, {"name": "fee", "role": "cost", "kind": "number"}]
    store.write_json(store.stage_path("ingest", "schema.json"), {"columns": columns})
    store.write_json(store.stage_path("split", "meta.json"), {"classes": [f"c{k}" for k in range(K)]})
    reference = labelshift.reference(softmax(wrong), labels, weights=weights)
    store.write_json(store.stage_path("calibrate", "calibrator.json"), {"reference": reference})


def run(monkeypatch, folder: Path, params: str, **upstream) -> dict:
    monkeypatch.chdir(folder)
    write_upstream(**upstream)
    Path("params.yaml").write_text(params)
    decide.main()
    return store.read_json(Path("data/decide/summary.json"))


def read_csv(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(f"data/decide/{name}.csv").read_text().splitlines()))


def sample(p, labels, U) -> Sample:
    return Sample(p, labels, U, np.ones(len(labels)), np.arange(len(labels)))


def by_name(summary: dict) -> dict:
    return {c["policy"]: c for c in summary["candidates"]}


def test_calibrated_probabilities_keep_the_analytic_policy(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, FEW + BINARY)
    shipped = store.read_json(Path("data/decide/policy.json"))
    assert summary["chosen"] == shipped["kind"] == "analytic"
    assert shipped["threshold"] == pytest.approx(1 / 11)
    assert shipped["offsets"] == [0, 0]
    assert "surely" in summary["why"]
    found = summary["thresholds"]
    assert found["analytic"] == found["chosen"] == shipped["threshold"]
    assert found["exact"]["low"] <= found["exact"]["value"] == found["optuna"] <= found["exact"]["high"]
    p, labels = np.load("data/calibrate/probabilities.npy"), np.load("data/split/labels.npy")
    np.testing.assert_array_equal(policy.apply(shipped, p), (p[:, 1] > 1 / 11).astype(int))
    always = {t["action"]: t["utility"] for t in summary["trivial"]}
    assert always["biopsy"] == pytest.approx(-(labels == 0).mean())
    assert summary["utility"]["mean"] - max(always.values()) == pytest.approx(summary["gain"]["mean"])
    assert summary["utility"]["mean"] > summary["argmax"]["mean"]
    assert summary["regret"] == pytest.approx(-summary["utility"]["mean"])


def test_probabilities_wrong_by_an_offset_let_the_exact_policy_win(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, FEW + BINARY, n=1500, off=3.0)
    shipped = store.read_json(Path("data/decide/policy.json"))
    assert summary["chosen"] == shipped["kind"] == "exact"
    assert by_name(summary)["exact"]["gain_low"] > 0
    assert shipped["threshold"] == pytest.approx(1 / (1 + 10 * np.exp(-3.0)), abs=0.15)  # 1/11, moved by the same offset
    assert "surely gains" in summary["why"]


def test_more_classes_than_two_let_optuna_win_where_probabilities_are_wrong(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, "decide: {trials: 60}\n" + FOUR, n=1500, K=4, off=3.0)
    assert summary["chosen"] == "optuna"
    assert set(by_name(summary)) == {"analytic", "optuna"}
    assert by_name(summary)["optuna"]["offsets"][3] < -1
    assert "two actions" in summary["notes"][0]
    study = store.read_json(Path("data/decide/study.json"))
    assert study["names"] == ["offset of c1", "offset of c2", "offset of c3"]
    assert sum(study["importance"].values()) == pytest.approx(1)
    assert study["best_so_far"][-1] == max(study["values"]) > study["values"][0]


@pytest.mark.parametrize(("params", "K"), [(REFER, 2), (TWO_OF_THREE, 3), (FOUR, 4)])
def test_any_number_of_classes_and_actions(monkeypatch, tmp_path, params, K):
    summary = run(monkeypatch, tmp_path, "decide: {trials: 15}\n" + params, K=K)
    shipped = store.read_json(Path("data/decide/policy.json"))
    assert np.array(shipped["matrix"]).shape == (K, len(summary["actions"]))
    assert shipped["threshold"] is None
    assert Path("data/decide/utility_curve.csv").read_text() == "threshold,utility\n"
    actions = policy.apply(shipped, np.load("data/calibrate/probabilities.npy"))
    assert set(actions) <= set(range(len(summary["actions"])))
    assert summary["gain"]["mean"] > 0


def test_a_policy_is_judged_on_rows_that_it_was_not_tuned_on(monkeypatch, tmp_path):
    """With labels that are noise, tuning looks good on its own rows and must not look good in the summary."""
    monkeypatch.chdir(tmp_path)
    write_upstream(n=80)
    np.save("data/split/labels.npy", np.arange(80) % 2)
    calib, _ = decide.read_calib(Utility(matrix={"c0": {"a": 0, "b": -1}, "c1": {"a": -1, "b": 0}}))
    tuner, pooled = candidates.Tuner(Decide(trials=20), FREE), calib.pooled()
    on_its_rows = pooled.value(tuner.tune("exact", pooled, pooled).tuned)
    crossfitted = candidates.utility_of(tuner.crossfitted_actions("exact", calib), calib).mean()
    assert crossfitted < on_its_rows - 0.03
    expected = np.zeros(80)
    for j, held in enumerate(calib.masks):  # by hand
        found = threshold.exact(calib.crossfitted[j][~held], calib.labels[~held], calib.U)[0]
        actions = policy.decide(calib.crossfitted[j][held], calib.U, found)
        expected[held] += utility.obtained(calib.labels[held], actions, calib.U) / 2
    assert crossfitted == pytest.approx(expected.mean())


@pytest.mark.parametrize("seed", range(3))
def test_with_only_the_analytic_policy_enqueued_the_study_reaches_the_exact_optimum(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2000, 2)) * 2
    labels = (rng.random((2000, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    p, U = softmax(logits + np.array([0, 1.5])), np.array([[0.0, -1.0], [-10.0, 0.0]])
    study = search.search(rows := sample(p, labels, U), rows, FREE, trials=200, seed=seed, enqueue=("analytic",))
    offsets, _, _ = threshold.exact(p, labels, U)
    exact = utility.obtained(labels, policy.decide(p, U, offsets), U).mean()
    gain = exact - utility.trivial(labels, U).max()
    assert study.sources[:2] == ("analytic", "tpe")
    assert exact - 0.01 * gain <= study.values.max() <= exact + 1e-12
    assert study.values[0] < exact - 0.01 * gain  # the analytic policy alone does not reach it


def test_the_study_is_never_worse_than_what_was_enqueued_even_with_one_trial():
    rng = np.random.default_rng(0)
    labels = np.ones(40, dtype=int)  # always acting is the optimum, at an infinite offset
    p = softmax(rng.normal(size=(40, 2)) * 5)
    rows = sample(p, labels, np.array([[0.0, -1.0], [-1.0, 0.0]]))
    study = search.search(rows, rows, FREE, trials=1, seed=0)
    assert study.values.max() == 0.0
    assert (policy.decide(p, [[0, -1], [-1, 0]], study.fitted.tuned.offsets) == 1).all()


def test_the_same_inputs_give_the_same_bytes(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, FEW + BINARY)
    first = {p.name: p.read_bytes() for p in Path("data/decide").iterdir()}
    decide.main()
    assert first == {p.name: p.read_bytes() for p in Path("data/decide").iterdir()}
    assert set(first) == {"policy.json", "summary.json", "lessons.json", "metrics.json", "trials.csv", "study.json", "utility_curve.csv"}
    metrics = json.loads(first["metrics.json"])
    assert {"utility", "utility_low", "utility_high", "gain", "utility_argmax", "utility_always_biopsy", "utility_always_no_biopsy"} <= set(
        metrics
    )
    assert all(isinstance(v, int | float) for v in metrics.values())


def test_the_trials_and_the_curve_hold_what_the_summary_says(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, "decide: {trials: 30}\n" + BINARY)
    trials = read_csv("trials")
    assert [t["source"] for t in trials[:3]] == ["analytic", "exact", "tpe"]
    assert len(trials) == 30
    assert float(trials[0]["utility"]) == pytest.approx(by_name(summary)["analytic"]["utility"])
    assert max(float(t["utility"]) for t in trials) == float(trials[1]["utility"])
    curve = read_csv("utility_curve")
    thresholds = [float(c["threshold"]) for c in curve]
    assert len(curve) <= 200 and thresholds == sorted(thresholds)
    at = min(curve, key=lambda c: abs(float(c["threshold"]) - 1 / 11))
    assert float(at["utility"]) == pytest.approx(by_name(summary)["analytic"]["utility"], abs=1e-5)


def test_scaling_the_utility_scales_the_figures_and_moves_no_threshold(monkeypatch, tmp_path):
    one = run(monkeypatch, tmp_path, FEW + BINARY, off=3.0)
    scaled = "utility: {matrix: {c0: {no biopsy: 0, biopsy: -100}, c1: {no biopsy: -1000, biopsy: 0}}}\n"
    hundred = run(monkeypatch, tmp_path, FEW + scaled, off=3.0)
    assert hundred["chosen"] == one["chosen"] and hundred["threshold"] == pytest.approx(one["threshold"])
    assert hundred["utility"]["mean"] == pytest.approx(100 * one["utility"]["mean"])
    assert hundred["gain"]["low"] == pytest.approx(100 * one["gain"]["low"])


@pytest.mark.parametrize(("policies", "chosen"), [("[analytic]", "analytic"), ("[exact]", "exact"), ("[exact, optuna]", "exact")])
def test_only_the_policies_that_were_asked_for_may_ship(monkeypatch, tmp_path, policies, chosen):
    summary = run(monkeypatch, tmp_path, f"decide: {{policies: {policies}, trials: 10}}\n" + BINARY)
    assert summary["chosen"] == chosen
    assert "analytic" in by_name(summary)  # the yardstick is always there


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("utility: {matrix: {c0: {a: 0, b: -1}, other: {a: -1, b: 0}}}\n", "row 'c1' is missing"),
        ("utility: {matrix: {c0: {a: 0, b: -1}, c1: {a: 0, b: -1}}}\n", "'a' is best for every true class"),
        ("utility: {matrix: {c0: {a: 0, b: -1}, c1: {a: .nan, b: 0}}}\n", "finite"),
    ],
)
def test_a_utility_that_does_not_fit_is_refused_and_nothing_is_written(monkeypatch, tmp_path, params, message):
    with pytest.raises(ExpostError, match=message):
        run(monkeypatch, tmp_path, params)
    assert not Path("data/decide").exists()


BY_ROW = 'utility: {matrix: {c0: {pass: 0, stop: "-fee"}, c1: {pass: "-3 * amount", stop: 0}}}\n'


def test_utilities_of_each_row_come_from_the_cost_columns_of_the_table(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, FEW + BY_ROW)
    shipped, amount = store.read_json(Path("data/decide/policy.json")), pl.read_parquet("data/ingest/table.parquet")["amount"].to_numpy()
    assert summary["matrix"] == shipped["matrix"] == [[0, "-fee"], ["-3 * amount", 0]]
    assert shipped["threshold"] is None and summary["thresholds"] is None
    p, labels = np.load("data/calibrate/probabilities.npy"), np.load("data/split/labels.npy")
    U = np.zeros((300, 2, 2))
    U[:, 0, 1], U[:, 1, 0] = -1, -3 * amount
    np.testing.assert_array_equal(policy.apply(shipped, p, U), (p[:, 1] > 1 / (1 + 3 * amount)).astype(int))
    always = {t["action"]: t["utility"] for t in summary["trivial"]}
    assert always["pass"] == pytest.approx(-(3 * amount * labels).mean())
    assert summary["utility"]["mean"] > max(always.values())
    assert by_name(summary)["optuna"]["utility"] == by_name(summary)["exact"]["utility"]


def test_an_expression_over_a_column_that_the_table_lacks_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ExpostError, match="'price' is not in it"):
        run(monkeypatch, tmp_path, FEW + BY_ROW.replace("amount", "price"))


def test_costs_with_the_wrong_sign_leave_nothing_to_decide_and_nothing_is_written(monkeypatch, tmp_path):
    with pytest.raises(
        ExpostError, match=r"'pass' is best for every true class in every row, so there is nothing to decide. Check the signs"
    ):
        run(monkeypatch, tmp_path, FEW + BY_ROW.replace("-3 * amount", "3 * amount"))
    assert not Path("data/decide").exists()


def test_a_row_of_weight_three_counts_as_three_in_every_mean_but_not_as_three_witnesses(monkeypatch, tmp_path):
    heavy = np.where(np.arange(300) % 3 == 0, 3.0, 1.0)
    summary = run(monkeypatch, tmp_path, FEW + BINARY, weights=heavy)
    labels = np.load("data/split/labels.npy")
    always = {t["action"]: t["utility"] for t in summary["trivial"]}
    assert always["biopsy"] == pytest.approx(-np.average(labels == 0, weights=heavy))
    even = run(monkeypatch, tmp_path, FEW + BINARY, weights=np.full(300, 3.0))
    once = run(monkeypatch, tmp_path, FEW + BINARY)
    for key in ("utility", "gain"):
        assert even[key] == pytest.approx(once[key])
    assert even["thresholds"]["exact"] == pytest.approx(once["thresholds"]["exact"])


def test_a_prior_corrects_the_probabilities_and_weighs_the_rows(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, FEW + BINARY.replace("}}}", "}}, prior: {c1: 0.05}}"))
    shipped, labels = store.read_json(Path("data/decide/policy.json")), np.load("data/split/labels.npy")
    share = labels.mean()
    assert shipped["prior"]["data"] == pytest.approx([1 - share, share]) and shipped["prior"]["deployment"] == pytest.approx([0.95, 0.05])
    assert summary["prior"]["deployment"] == pytest.approx({"c0": 0.95, "c1": 0.05})
    weights = np.where(labels == 1, 0.05 / share, 0.95 / (1 - share))
    assert summary["prior"]["rows"] == 300
    assert summary["prior"]["effective_rows"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    always = {t["action"]: t["utility"] for t in summary["trivial"]}
    assert always == pytest.approx({"no biopsy": -10 * 0.05, "biopsy": -0.95})
    p = np.load("data/calibrate/probabilities.npy")
    odds = p[:, 1] / p[:, 0] * (0.05 / share) / (0.95 / (1 - share))
    np.testing.assert_array_equal(policy.apply(shipped, p), (odds > 0.1).astype(int))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_data_prior_of_the_policy_is_the_one_that_the_calibrator_took_down(monkeypatch, tmp_path, weighted):
    weights = np.random.default_rng(0).lognormal(0, 2, 300) if weighted else None
    run(monkeypatch, tmp_path, FEW + BINARY.replace("}}}", "}}, prior: {c1: 0.05}}"), weights=weights)
    shipped, labels = store.read_json(Path("data/decide/policy.json")), np.load("data/split/labels.npy")
    assert shipped["prior"]["data"] == store.read_json(Path("data/calibrate/calibrator.json"))["reference"]["prior"]
    assert shipped["prior"]["data"] == pytest.approx(np.bincount(labels, weights=weights) / (300 if weights is None else weights.sum()))
    other = store.read_json(Path("data/calibrate/calibrator.json"))
    store.write_json(Path("data/calibrate/calibrator.json"), {**other, "reference": {**other["reference"], "prior": [0.75, 0.25]}})
    decide.main()
    assert store.read_json(Path("data/decide/policy.json"))["prior"]["data"] == [0.75, 0.25]


def entry(name, *, utility, meets=True, gain=-5.9e-19) -> dict:
    return {"policy": name, "utility": utility, "gain_over_analytic": gain, "gain_low": -0.1, "meets_requirements": meets}


def test_without_the_analytic_policy_one_that_meets_the_requirements_ships_before_a_better_one_that_misses_them():
    given = [entry("analytic", utility=-1.0), entry("exact", utility=-2.0), entry("optuna", utility=-1.5, meets=False)]
    options = Decide(policies=("exact", "optuna"))
    assert candidates.choose(given, options, "points")[0] == "exact"
    chosen, why = candidates.choose([{**c, "meets_requirements": False} for c in given], options, "points")
    assert chosen == "analytic" and "meets utility.require" in why


def test_a_gain_of_nothing_has_no_negative_sign():
    _, why = candidates.choose([entry("analytic", utility=-1.0), entry("exact", utility=-1.0)], Decide(), "points")
    assert "+0.0000 points" in why and "-0.0000" not in why


def test_actions_whose_names_differ_in_signs_alone_have_figures_of_their_own():
    names = ("a b", "a-b", "a_b_2", "c")
    figure = {"mean": 1.0, "low": 0.0, "high": 2.0}
    trivial = [{"action": name, "utility": float(i)} for i, name in enumerate(names)]
    summary = {"utility": figure, "gain": figure, "regret": 0.0, "argmax": figure, "trivial": trivial, "threshold": None}
    found = {key: value for key, value in decision.flat(summary).items() if key.startswith("utility_always_")}
    assert sorted(found.values()) == [0, 1, 2, 3] and found["utility_always_a_b"] == 0 and found["utility_always_c"] == 3


def test_a_limit_holds_on_calib_its_share_has_an_interval_and_the_action_is_no_yardstick(monkeypatch, tmp_path):
    summary = run(monkeypatch, tmp_path, FEW + BINARY.replace("}}}", "}}, limits: {biopsy: {at_most: 0.3}}}"))
    shipped, p = store.read_json(Path("data/decide/policy.json")), np.load("data/calibrate/probabilities.npy")
    assert policy.apply(shipped, p).mean() <= 0.3 < policy.analytic_actions(p, shipped["matrix"]).mean()
    (limit,) = summary["limits"]
    assert (limit["action"], limit["at_most"]) == ("biopsy", 0.3) and limit["price"] == shipped["prices"][1] > 0
    assert limit["share"]["low"] < limit["share"]["mean"] < limit["share"]["high"] and limit["share"]["mean"] == pytest.approx(
        0.3, abs=0.03
    )
    assert [t["allowed"] for t in summary["trivial"]] == [True, False]
    always = {t["action"]: t["utility"] for t in summary["trivial"]}
    assert summary["best_trivial"] == "70 % no biopsy, 30 % biopsy, at random"
    assert summary["gain"]["mean"] == pytest.approx(summary["utility"]["mean"] - 0.7 * always["no biopsy"] - 0.3 * always["biopsy"])
    assert shipped["threshold"] == summary["thresholds"]["chosen"] > summary["thresholds"]["analytic"]


def test_a_limit_below_a_block_of_equal_rows_is_spoken_of_with_the_share_that_would_do(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_upstream(n=200)
    for name in ("crossfit", "probabilities"):
        p = np.load(f"data/calibrate/{name}.npy")
        p[..., :30, 1], p[..., :30, 0] = 1 - 1e-12, 1e-12
        np.save(f"data/calibrate/{name}.npy", p)
    found = {}
    for at_most in (0.1, 0.3):
        Path("params.yaml").write_text(FEW + BINARY.replace("}}}", f"}}}}, limits: {{biopsy: {{at_most: {at_most}}}}}}}"))
        decide.main()
        found[at_most] = [note for note in store.read_json(Path("data/decide/summary.json"))["notes"] if "at_most" in note]
    (said,) = found[0.1]
    assert said.startswith("The limit of 0.1 leaves 'biopsy' to 0.0% of the rows: the next 30 rows of calib are worth exactly the same")
    assert "Raise at_most to 0.15, or" in said
    assert not found[0.3]


def test_a_requirement_raises_the_offset_of_its_class_and_says_what_it_reached(monkeypatch, tmp_path):
    even = "utility: {matrix: {c0: {no biopsy: 0, biopsy: -1}, c1: {no biopsy: -1, biopsy: 0}}, require: {recall: {class: c1, at_least: 0.9}}}\n"
    summary = run(monkeypatch, tmp_path, FEW + even)
    shipped, p, labels = (
        store.read_json(Path("data/decide/policy.json")),
        np.load("data/calibrate/probabilities.npy"),
        np.load("data/split/labels.npy"),
    )
    (found,) = summary["requirements"]
    assert found["offset"] == shipped["offsets"][1] > 0 and found["rows"] == labels.sum() and found["rows_needed"] == 22
    caught = (policy.apply(shipped, p) == 1)[labels == 1]
    assert binomtest(int(caught.sum()), len(caught), alternative="greater").proportion_ci(0.9).low >= 0.9
    assert 0.85 < found["recall"]["low"] < found["recall"]["mean"] < found["recall"]["high"]
    assert by_name(summary)["exact"]["meets_requirements"] in (True, False)
    assert [t["allowed"] for t in summary["trivial"]] == [False, True]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "limits: {biopsy: {at_most: 0.1}}, require: {recall: {class: c1, at_least: 0.9}}",
            r"under utility.limits: .*the best reachable recall is 0\.\d",
        ),
        (
            "require: {recall: {class: c1, at_least: 0.999, confidence: 0.99}}",
            r"needs 4603 independent rows of the class, however: calib has \d+",
        ),
    ],
)
def test_a_requirement_that_cannot_be_met_is_refused_and_nothing_is_written(monkeypatch, tmp_path, extra, message):
    with pytest.raises(ExpostError, match=message):
        run(monkeypatch, tmp_path, FEW + BINARY.replace("}}}", "}}, " + extra + "}"))
    assert not Path("data/decide").exists()


def test_limits_and_requirements_hold_for_more_classes_in_every_trial(monkeypatch, tmp_path):
    extra = ", limits: {b: {at_most: 0.2}}, require: {recall: {class: c3, at_least: 0.6}}}\n"
    summary = run(monkeypatch, tmp_path, "decide: {trials: 12}\n" + FOUR.replace("}}}\n", "}}" + extra), n=400, K=4, off=1.5)
    shipped, p = store.read_json(Path("data/decide/policy.json")), np.load("data/calibrate/probabilities.npy")
    assert np.mean(policy.apply(shipped, p) == 1) <= 0.2
    assert {float(t["missed"]) for t in read_csv("trials")} == {0.0}
    assert summary["limits"][0]["price"] == shipped["prices"][1] and summary["requirements"][0]["offset"] == shipped["offsets"][3]


def test_an_action_that_is_never_taken_is_said(monkeypatch, tmp_path):
    dear = "utility: {matrix: {c0: {a: 0, b: -1, refer: -9}, c1: {a: -10, b: 0, refer: -9}}}\n"
    summary = run(monkeypatch, tmp_path, FEW + dear)
    assert "The policy takes 'refer' for no row of calib." in summary["notes"]
    assert by_name(summary)["analytic"]["action_shares"][2] == 0


def test_a_fold_without_a_class_decides_all_the_same(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_upstream(n=60, K=3)
    labels = np.where(np.arange(60) % 2, 1, 0)
    labels[np.load("data/calibrate/folds.npy")[0]] = 2  # all rows of the class lie in the first fold
    np.save("data/split/labels.npy", labels)
    extra = ", require: {recall: {class: c2, at_least: 0.5, confidence: 0.6}}}\n"
    Path("params.yaml").write_text(FEW + TWO_OF_THREE.replace("}}}\n", "}}" + extra))
    decide.main()
    assert store.read_json(Path("data/decide/summary.json"))["requirements"][0]["rows"] == (labels == 2).sum()


def test_the_rows_that_prove_a_requirement_have_no_part_in_the_search():
    """The best of many trials on rows that also prove it kept a confidence of 0.9 in 83 % of 150 draws; with rows of its own in 94 % of 200."""
    rng, U = np.random.default_rng(0), np.array([[0, -1, -2], [-1, 0, -1], [-2, -1, 0.0]])
    labels = np.repeat([0, 1, 2], 80)
    p = softmax(rng.normal(size=(240, 3)) + np.eye(3)[labels])
    rules = Constraints({}, (Recall(2, "c2", 0.8, 0.9),))
    rows = sample(p, labels, U)
    proof = constraints.proof_rows(rows, rules, seed=1)
    assert proof.sum() == 40 and (labels[proof] == 2).all()
    other = sample(np.where(proof[:, None], p[:, ::-1], p), labels, U)
    found, turned = (search.search(given, given, rules, trials=12, seed=1) for given in (rows, other))
    np.testing.assert_array_equal(found.points, turned.points)
    np.testing.assert_array_equal(found.values, turned.values)
    assert turned.fitted.tuned.offsets[2] > found.fitted.tuned.offsets[2]  # but they prove it
    left = constraints.without(rows, proof)
    np.testing.assert_allclose(np.bincount(left.labels, weights=left.weights), [80, 80, 80])
    assert not constraints.proof_rows(rows, FREE, seed=1).any()


def journal() -> Path:
    (found,) = Path(".checkpoints").glob("decide-*.journal")
    return found


def outputs() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path("data/decide").iterdir()}


def test_a_study_that_was_killed_goes_on_to_the_same_bytes_and_tries_nothing_twice(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, "decide: {trials: 30}\n" + REFER, n=120)
    whole, lines = outputs(), journal().read_bytes().splitlines(keepends=True)
    tried = []
    judged = search.judged
    monkeypatch.setattr(search, "judged", lambda *given: tried.append(1) or judged(*given))
    decide.main()
    assert outputs() == whole and not tried
    kept = len(lines) // 2
    journal().write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])  # cut short within a line
    decide.main()
    assert outputs() == whole and len(tried) == sum(b'"op_code":4' in line for line in lines[kept:])


def test_more_trials_go_on_from_the_earlier_ones_and_fewer_are_the_first_of_them(monkeypatch, tmp_path):
    found = {}
    for trials, fresh in ((110, True), (120, False), (120, True), (110, False)):
        if fresh:
            shutil.rmtree(tmp_path / ".checkpoints", ignore_errors=True)
        rows = sample(*few_rows(), np.array([[0.0, -1.0, -0.3], [-10.0, 0.0, -0.8]]))
        keeping = search.Keeping(search.journal(tmp_path / ".checkpoints/one.journal"))
        study = search.search(rows, rows, FREE, trials=trials, seed=3, keeping=keeping)
        found[trials, fresh] = study
    np.testing.assert_array_equal(found[120, True].points, found[120, False].points)
    np.testing.assert_array_equal(found[110, True].values, found[110, False].values)
    np.testing.assert_array_equal(found[110, True].points, found[120, True].points[:110])
    assert {"analytic", "tpe", "refined"} == set(found[120, True].sources)


def few_rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(150, 2)) * 2
    return softmax(logits + np.array([0, 1.0])), (rng.random((150, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)


def test_other_inputs_have_another_journal_and_the_number_of_trials_has_not(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, "decide: {trials: 5}\n" + BINARY, n=100)
    run(monkeypatch, tmp_path, "decide: {trials: 6}\n" + BINARY, n=100)
    first = journal()
    run(monkeypatch, tmp_path, "decide: {trials: 6}\n" + BINARY.replace("-10", "-11"), n=100)
    assert len([*Path(".checkpoints").glob("decide-*.journal")]) == 2 and first.exists()
