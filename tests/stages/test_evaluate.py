"""Stage evaluate: what ships is what is measured, on the rows that were holdout for both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as reference

from pipelines import champion, contest, decide, evaluate, gate, package, store
from pipelines.bundle import Bundle, write_manifest
from pipelines.errors import ExpostError
from tests.stages.judging import crown, edit, other_policy, params, quick, redone

U = np.array([[0.0, -1.0], [-5.0, 0.0]])


@pytest.fixture
def copy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(world, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    quick(folder)
    return folder


def run() -> tuple[pl.DataFrame, dict[str, Any]]:
    champion.main()
    evaluate.main()
    return pl.read_parquet("data/evaluate/rows.parquet"), json.loads(Path("data/evaluate/evaluation.json").read_text())


def test_figures_are_those_of_the_bundle_on_the_raw_holdout_rows(copy: Path) -> None:
    rows, evaluation = run()
    table, parts, labels = pl.read_parquet("data/ingest/table.parquet"), np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    bundle, held = Bundle.load("data/package/bundle"), parts == 3
    encoded = bundle.encode(table.filter(pl.Series(held)))
    probability = bundle.probabilities(bundle.score(encoded.inputs).logits)
    y = labels[held]
    utility = U[y, bundle.decide(probability).actions]
    assert rows.height == held.sum() == evaluation["rows"]["holdout"]
    assert rows["challenger_probability_bad"].to_numpy() == pytest.approx(probability[:, 1], abs=1e-9)
    assert rows["challenger_utility"].to_numpy() == pytest.approx(utility)
    assert (rows["row_hash"].to_numpy() == np.load("data/split/row_hash.npy")[held]).all()
    ours = evaluation["challenger"]
    assert ours["utility"]["mean"] == pytest.approx(utility.mean())
    assert ours["log_loss"]["mean"] == pytest.approx(reference.log_loss(y, probability))
    assert ours["auc"]["mean"] == pytest.approx(reference.roc_auc_score(y, probability[:, 1]))
    assert ours["regret"]["mean"] == pytest.approx(-utility.mean())  # the best attainable is 0 in every class
    assert sum(sum(row.values()) for row in ours["confusion"].values()) == held.sum()
    assert evaluation["argmax"]["mean"] == pytest.approx(U[y, probability.argmax(axis=1)].mean())
    assert evaluation["trivial"]["stop"]["mean"] == pytest.approx(U[y, 1].mean())
    calib = labels[parts == 2]
    assert evaluation["best_trivial"] == ("always pass", "always stop")[int(U[calib].mean(axis=0).argmax())]
    for item in (ours["utility"], ours["log_loss"], ours["auc"], ours["v_information"], evaluation["gain"]):
        assert item["low"] <= item["mean"] <= item["high"]


def test_without_a_champion_there_is_nothing_to_compare(copy: Path) -> None:
    rows, evaluation = run()
    assert not [name for name in rows.columns if name.startswith("champion")]
    assert (evaluation["champion"], evaluation["champion_gain"], evaluation["identical"]) == (None, None, False)


def test_the_same_inputs_give_the_same_bytes(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    run()
    before = {path.name: store.sha256(path) for path in Path("data/evaluate").iterdir()}
    run()
    assert {path.name: store.sha256(path) for path in Path("data/evaluate").iterdir()} == before


def test_an_identical_champion_is_recognised_by_its_digests(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle")
    rows, evaluation = run()
    assert evaluation["identical"] is True
    assert (rows["champion_utility"] == rows["challenger_utility"]).all()
    crown(copy, copy / "data/package/bundle", other_policy)
    assert run()[1]["identical"] is False


def test_both_are_judged_under_the_utility_now_in_params(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    params(copy, lambda values: values["utility"]["matrix"]["good"].update(stop=-10))
    rows, evaluation = run()
    for model in ("challenger", "champion"):
        needless = rows.filter((pl.col("label") == "good") & (pl.col(f"{model}_action") == "stop"))
        assert needless.height > 0
        assert set(needless[f"{model}_utility"]) == {-10.0}
    assert evaluation["reigning"] == "as it reigns"
    assert evaluation["redecided"]["mean"] > evaluation["champion"]["utility"]["mean"]


def test_the_margin_rests_on_the_champions_gain_on_calib(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    _, evaluation = run()
    bundle, parts, labels = Bundle.load("data/champion/bundle"), np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    calib = parts == 2
    encoded = bundle.encode(pl.read_parquet("data/ingest/table.parquet").filter(pl.Series(calib)))
    probability, y = bundle.probabilities(bundle.score(encoded.inputs).logits), labels[calib]
    assert Bundle.load("data/package/bundle").policy["kind"] == "analytic", "and so is the champion re-decided"
    ways = [bundle.decide(probability).actions, (probability @ U).argmax(axis=1)]
    gains = [U[y, actions].mean() - U[y].mean(axis=0).max() for actions in ways]
    assert evaluation["champion_gain"]["gain"] == pytest.approx(max(gains))
    assert evaluation["champion_gain"]["rows"] == calib.sum()


def test_a_champion_of_another_split_is_compared_on_the_holdout_of_both_only(copy: Path) -> None:
    def other_split(folder: Path) -> None:
        other_policy(folder)
        edit(folder / "schema.json", lambda schema: schema["split"].update(salt="other"))

    crown(copy, copy / "data/package/bundle", other_split)
    rows, evaluation = run()
    meta = json.loads(Path("data/split/meta.json").read_text())
    table = contest.read_table()
    theirs = contest.placed_under({**meta["rule"], "salt": "other"}, table).parts
    both = (table.parts == 3) & (theirs == 3)
    assert 0 < evaluation["rows"]["compared"] == both.sum() < (table.parts == 3).sum()
    assert (rows["champion_utility"].is_not_null().to_numpy() == both[table.parts == 3]).all()
    assert evaluation["calib_rows"] == ((table.parts == 2) & (theirs == 2)).sum()


def test_a_champion_that_shares_no_holdout_row_is_left_out_of_the_curves(copy: Path) -> None:
    def all_trained(folder: Path) -> None:
        other_policy(folder)
        shares = {"train": 0.8, "valid": 0.1, "calib": 0.1, "holdout": 0.0}
        edit(folder / "schema.json", lambda schema: schema["split"].update(salt="none", shares=shares))

    crown(copy, copy / "data/package/bundle", all_trained)
    _, evaluation = run()
    curves = json.loads(Path("data/evaluate/curves.json").read_text())
    assert evaluation["rows"]["compared"] == 0
    assert "champion" not in curves
    assert curves["challenger"]["utility_curve"]


def test_the_rule_in_the_bundle_gives_the_parts_that_split_wrote(copy: Path) -> None:
    table = contest.read_table()
    placed = contest.placed_under({**table.rule, "note": "another object, the same rule"}, table)
    for name in ("parts", "calib", "unseen"):
        np.testing.assert_array_equal(getattr(placed, name), getattr(table, name))


def test_a_champion_with_the_classes_in_another_order_scores_the_same(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    first, _ = run()

    def reversed_actions(folder: Path) -> None:
        def swap(policy: dict[str, Any]) -> None:
            policy["actions"] = policy["actions"][::-1]
            policy["matrix"] = [row[::-1] for row in policy["matrix"]]
            policy["offsets"] = [0.0, 0.3]

        edit(folder / "policy.json", swap)

    crown(copy, copy / "data/package/bundle", reversed_actions)
    second, _ = run()
    assert second["champion_action"].to_list() == first["champion_action"].to_list()


def test_a_champion_with_other_actions_is_redecided_and_that_is_noted(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", lambda folder: edit(folder / "policy.json", lambda p: p.update(actions=["let go", "stop"])))
    _, evaluation = run()
    assert evaluation["reigning"] == "re-decided analytically"
    assert "let go" in evaluation["notes"][0]


@pytest.mark.parametrize("what", ["classes", "columns"])
def test_a_champion_that_the_table_no_longer_fits_is_a_reason_not_a_crash(copy: Path, what: str) -> None:
    def change(schema: dict[str, Any]) -> None:
        if what == "classes":
            schema["classes"] = ["good", "ugly"]
        else:
            schema["columns"].append({"name": "gone", "kind": "number"})

    def other_schema(folder: Path) -> None:
        other_policy(folder)
        edit(folder / "schema.json", change)
        if what == "classes":
            edit(folder / "policy.json", change)

    crown(copy, copy / "data/package/bundle", other_schema)
    _, evaluation = run()
    assert evaluation["champion"] is None
    assert set(evaluation["unavailable"]) == set(evaluate.CRITERIA)
    assert "ugly" in evaluation["unavailable"]["utility"] or "gone" in evaluation["unavailable"]["utility"]


@pytest.mark.parametrize("how", ["network", "digest"])
def test_a_champion_that_is_broken_is_an_error_and_not_a_lack_of_data(copy: Path, how: str) -> None:
    crown(copy, copy / "data/package/bundle", lambda folder: (folder / "model.onnx").write_bytes(b"no network"))
    champion.main()
    if how == "digest":
        (copy / "data/champion/bundle/model.onnx").write_bytes(b"another one")
    evaluate.main()
    gate.main()
    evaluation, verdict = (json.loads(Path(f"data/{name}.json").read_text()) for name in ("evaluate/evaluation", "gate/verdict"))
    assert evaluation["champion"] is None
    assert verdict["verdict"] == "ERROR"
    assert verdict["reasons"][0].startswith("The rows cannot be judged: the champion cannot be used: ")
    assert {"network": "must load in ONNX Runtime", "digest": "SHA-256"}[how] in verdict["reasons"][0]
    assert verdict["criteria"][-1]["criterion"] == "validity"


BY_ROW = [[0.0, -1.0], ["-heavy", 0.0]]


def by_row(copy: Path) -> None:
    """What a miss costs stands in each row's column `heavy`."""
    params(copy, lambda values: values["utility"]["matrix"]["bad"].update({"pass": "-heavy"}))
    redone(copy / "data/package/bundle", matrix=BY_ROW, threshold=None)


def test_utilities_that_differ_by_row_are_each_rows_own(copy: Path) -> None:
    by_row(copy)
    crown(copy, copy / "data/package/bundle", other_policy)
    rows, evaluation = run()
    held = np.load("data/split/parts.npy") == 3
    cost = pl.read_parquet("data/ingest/table.parquet")["heavy"].to_numpy()
    bad, p = rows["label"].to_numpy() == "bad", rows["challenger_probability_bad"].to_numpy()
    stop = p * cost[held] > 1 - p  # Elkan's rule with each row's own cost
    assert ((rows["challenger_action"] == "stop").to_numpy() == stop).all()
    worth = np.where(bad, np.where(stop, 0.0, -cost[held]), np.where(stop, -1.0, 0.0))
    assert rows["challenger_utility"].to_numpy() == pytest.approx(worth)
    assert evaluation["challenger"]["utility"]["mean"] == pytest.approx(worth.mean())
    assert evaluation["trivial"]["pass"]["mean"] == pytest.approx(np.where(bad, -cost[held], 0.0).mean())
    assert evaluation["reach"] == pytest.approx(cost.max())
    assert evaluation["matrix"] == BY_ROW
    assert evaluation["redecided"]["mean"] == pytest.approx(worth.mean())  # the same network, decided as the challenger was
    calib = np.load("data/split/labels.npy")[np.load("data/split/parts.npy") == 2] == 1
    always = [np.where(calib, -cost[np.load("data/split/parts.npy") == 2], 0.0).mean(), np.where(calib, 0.0, -1.0).mean()]
    assert evaluation["best_trivial"] == ("always pass", "always stop")[int(np.argmax(always))]
    curves = json.loads(Path("data/evaluate/curves.json").read_text())
    assert curves["challenger"]["utility_curve"] is None
    assert sum(curves["challenger"]["utility_rows"]) == held.sum()
    gate.main()
    assert json.loads(Path("data/gate/verdict.json").read_text())["verdict"] != "ERROR"


def test_a_champion_of_one_matrix_is_redecided_with_each_rows_own_costs(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    by_row(copy)
    rows, evaluation = run()
    held = np.load("data/split/parts.npy") == 3
    cost, bad = pl.read_parquet("data/ingest/table.parquet")["heavy"].to_numpy()[held], rows["label"].to_numpy() == "bad"
    p, acted = rows["champion_probability_bad"].to_numpy(), (rows["champion_action"] == "stop").to_numpy()
    stop = p * cost > 1 - p
    assert (acted == (np.log(p / (1 - p)) > np.log(1 / 5) - 0.3)).all()  # it reigns with the costs that it was made for
    assert rows["champion_utility"].to_numpy() == pytest.approx(np.where(bad, np.where(acted, 0.0, -cost), np.where(acted, -1.0, 0.0)))
    assert evaluation["redecided"]["mean"] == pytest.approx(np.where(bad, np.where(stop, 0.0, -cost), np.where(stop, -1.0, 0.0)).mean())


def test_a_champion_whose_costs_the_table_lacks_is_a_reason_not_a_crash(copy: Path) -> None:
    redone(copy / "data/package/bundle", matrix=[[0.0, -1.0], ["-gone", 0.0]], threshold=None)
    crown(copy, copy / "data/package/bundle")
    redone(copy / "data/package/bundle", matrix=[[0.0, -1.0], [-5.0, 0.0]])
    _, evaluation = run()
    assert "gone" in evaluation["unavailable"]["utility"]
    assert evaluation["broken"] == []


def test_rows_count_by_their_weights(copy: Path) -> None:
    weights = np.random.default_rng(0).integers(1, 30, len(np.load("data/split/labels.npy"))).astype(float)
    np.save("data/split/weights.npy", weights)
    crown(copy, copy / "data/package/bundle", other_policy)
    rows, evaluation = run()
    w = rows["weight"].to_numpy()
    assert (w == weights[np.load("data/split/parts.npy") == 3]).all()
    for name in ("utility", "log_loss", "brier"):
        assert evaluation["challenger"][name]["mean"] == pytest.approx(np.average(rows[f"challenger_{name}"].to_numpy(), weights=w))
    y, p = rows["label"].to_numpy() == "bad", rows["challenger_probability_bad"].to_numpy()
    assert evaluation["challenger"]["auc"]["mean"] == pytest.approx(reference.roc_auc_score(y, p, sample_weight=w))
    assert evaluation["effective_rows"] == pytest.approx(w.sum() ** 2 / (w**2).sum())
    calib = np.load("data/split/parts.npy") == 2
    labels = np.load("data/split/labels.npy")
    always = np.average(U[labels[calib]], axis=0, weights=weights[calib])
    assert evaluation["best_trivial"] == ("always pass", "always stop")[int(always.argmax())]
    gate.main()
    verdict = json.loads(Path("data/gate/verdict.json").read_text())
    utility = verdict["criteria"][0]
    assert utility["estimate"] == pytest.approx(np.average((rows["challenger_utility"] - rows["champion_utility"]).to_numpy(), weights=w))
    assert f"(effective {evaluation['effective_rows']:.1f})" in utility["reason"]


def test_a_declared_prior_corrects_the_probabilities_and_weights_the_rows_of_both(copy: Path) -> None:
    _, before = run()
    crown(copy, copy / "data/package/bundle", other_policy)
    data = Bundle.load("data/package/bundle").calibrator["reference"]["prior"]
    params(copy, lambda values: values["utility"].update(prior={"bad": 0.18}))
    redone(copy / "data/package/bundle", prior={"data": data, "deployment": [0.82, 0.18]})
    rows, evaluation = run()
    w, bad = rows["weight"].to_numpy(), rows["label"].to_numpy() == "bad"
    assert np.average(bad, weights=w) == pytest.approx(0.18)
    p = rows["challenger_probability_bad"].to_numpy()
    assert np.average(p, weights=w) == pytest.approx(0.18, abs=0.04)
    assert before["prevalence"][1] / before["rows"]["holdout"] > 0.5
    assert rows["champion_probability_bad"].to_numpy() == pytest.approx(p)  # the same network, judged under the same shares
    assert ((rows["challenger_action"] == "stop").to_numpy() == (p > 1 / 6)).all()
    assert 0 < (p > 1 / 6).sum() < len(p)
    odds = np.log(p / (1 - p)) - np.log(0.18 / 0.82) + np.log(data[1] / data[0])
    assert ((rows["champion_action"] == "stop").to_numpy() == (odds > np.log(1 / 5) - 0.3)).all()  # it decides as it reigns
    assert evaluation["prior"]["deployment"] == {"good": 0.82, "bad": 0.18}
    assert evaluation["trivial"]["pass"]["mean"] == pytest.approx(-5 * 0.18)
    assert evaluation["trivial"]["stop"]["mean"] == pytest.approx(-0.82)
    assert evaluation["best_trivial"] == "always stop"
    assert evaluation["effective_rows"] < evaluation["rows"]["holdout"]
    assert rows["prior_log_loss"].to_numpy()[bad] == pytest.approx(-np.log(0.18), rel=0.1)


def test_limits_and_requirements_are_measured_and_the_gate_reads_them(copy: Path) -> None:
    redone(copy / "data/package/bundle", offsets=[0.0, -np.log(6)])  # it stops above 6 / 11
    crown(copy, copy / "data/package/bundle", other_policy)
    recall = [{"class": "bad", "at_least": 0.999, "confidence": 0.9}, {"class": "good", "at_least": 0.05, "confidence": 0.9}]
    params(copy, lambda values: values["utility"].update(limits={"stop": {"at_most": 0.05}}, require={"recall": recall}))
    rows, evaluation = run()
    stop, bad = (rows["challenger_action"] == "stop").to_numpy(), (rows["label"] == "bad").to_numpy()
    (limit,), (strict, lax) = evaluation["limits"], evaluation["requirements"]
    assert limit["share"]["mean"] == pytest.approx(stop.mean())
    assert limit["champion"]["mean"] == pytest.approx((rows["champion_action"] == "stop").to_numpy().mean())
    assert strict["recall"]["mean"] == pytest.approx(stop[bad].mean())
    assert lax["recall"]["mean"] == pytest.approx((~stop[~bad]).mean())
    assert (strict["rows"], lax["rows"]) == (bad.sum(), (~bad).sum())
    assert rows["challenger_right"].to_numpy() == pytest.approx(np.where(bad, stop, ~stop).astype(float))
    gate.main()
    verdict = json.loads(Path("data/gate/verdict.json").read_text())
    kept = [item for item in verdict["criteria"] if item["criterion"] in ("limit", "requirement")]
    found = [(item["criterion"], item["subject"], item["verdict"]) for item in kept]
    assert found == [("limit", "stop", "FAIL"), ("requirement", "bad", "FAIL"), ("requirement", "good", "PASS")]
    assert verdict["verdict"] == "FAIL"


def test_a_trivial_policy_that_a_requirement_forbids_is_no_reference(copy: Path) -> None:
    _, before = run()
    best = before["best_trivial"].removeprefix("always ")
    other = next(name for name in before["trivial"] if name != best)
    required = {"pass": "good", "stop": "bad"}[other]  # always the other action is what gets this class right
    params(copy, lambda values: values["utility"].update(require={"recall": {"class": required, "at_least": 1.0 - 1e-9}}))
    _, evaluation = run()
    assert evaluation["best_trivial"] == f"always {other}"
    assert {name: item["allowed"] for name, item in evaluation["trivial"].items()} == {other: True, best: False}


def test_where_a_limit_divides_the_rows_the_reference_draws_its_action(copy: Path) -> None:
    _, before = run()
    assert before["best_trivial"] == "always stop"
    params(copy, lambda values: values["utility"].update(limits={"stop": {"at_most": 0.3}}))
    crown(copy, copy / "data/package/bundle", other_policy)
    rows, evaluation = run()
    assert evaluation["best_trivial"] == "70 % pass, 30 % stop, at random"
    bad = rows["label"].to_numpy() == "bad"
    assert rows["trivial_utility"].to_numpy() == pytest.approx(np.where(bad, 0.7 * -5, 0.3 * -1))
    assert evaluation["reference"]["mean"] == pytest.approx(rows["trivial_utility"].mean())
    y = np.load("data/split/labels.npy")[np.load("data/split/parts.npy") == 2]
    assert evaluation["champion_gain"]["trivial"] == pytest.approx(U[y].mean(axis=0) @ [0.7, 0.3])


def redone_under(copy: Path, **utility: Any) -> None:
    """The challenger becomes the same network under this utility, as `retune` makes it; the champion is what it was before."""
    crown(copy, copy / "data/package/bundle")
    params(copy, lambda values: values["utility"].update(utility))
    for stage in (decide, package):
        stage.main()


def verdict_now() -> dict[str, Any]:
    gate.main()
    found: dict[str, Any] = json.loads(Path("data/gate/verdict.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["limit", "requirement"])
def test_a_champion_that_breaks_a_rule_now_in_force_is_compared_as_redecided_under_it(copy: Path, kind: str) -> None:
    recall = {"class": "good", "at_least": 0.8, "confidence": 0.8}
    redone_under(copy, **({"limits": {"stop": {"at_most": 0.3}}} if kind == "limit" else {"require": {"recall": [recall]}}))
    rows, evaluation = run()
    assert rows["champion_action"].to_list() == rows["challenger_action"].to_list()  # the same network, decided by the same means
    named = {"limit": "the limits now in force, since it breaks the limit on 'stop'", "requirement": "requirement on class 'good'"}[kind]
    assert named in evaluation["reigning"]
    assert evaluation["notes"] == [evaluation["comparator"]["sentence"]]
    assert evaluation["comparator"]["possible"]
    assert evaluation["comparator"]["as_it_reigns"]["mean"] > evaluation["champion"]["utility"]["mean"]
    verdict = verdict_now()
    utility = verdict["criteria"][0]
    assert verdict["verdict"] in ("PASS", "INSUFFICIENT_DATA")
    assert (utility["criterion"], utility["estimate"]) == ("utility", 0.0)
    assert evaluation["comparator"]["sentence"] in utility["reason"]


def test_a_worse_network_under_a_new_limit_fails_against_the_redecided_champion(copy: Path) -> None:
    redone_under(copy, limits={"stop": {"at_most": 0.3}})
    calibrator = copy / "data/package/bundle/calibrator.json"
    edit(calibrator, lambda found: found.update(method="affine", slope=-1.0, bias=[0.0, 0.0]))
    write_manifest(calibrator.parent)
    _, evaluation = run()
    assert evaluation["reigning"].startswith("re-decided under the limits now in force")
    verdict = verdict_now()
    assert (verdict["verdict"], verdict["criteria"][0]["verdict"]) == ("FAIL", "FAIL")


def test_a_champion_that_cannot_keep_a_rule_leaves_utility_to_the_absolute_criterion(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    recall = [{"class": "good", "at_least": 0.9, "confidence": 0.9}]
    params(copy, lambda values: values["utility"].update(limits={"pass": {"at_most": 0.2}}, require={"recall": recall}))
    _, evaluation = run()
    assert not evaluation["comparator"]["possible"]
    assert "cannot keep them" in evaluation["reigning"]
    utility = verdict_now()["criteria"][0]
    assert "from the best trivial policy's" in utility["reason"]
    assert evaluation["comparator"]["sentence"] in utility["reason"]


def test_a_champion_that_keeps_what_is_in_force_is_compared_as_it_reigns(copy: Path) -> None:
    crown(copy, copy / "data/package/bundle", other_policy)
    params(copy, lambda values: values["utility"].update(limits={"pass": {"at_most": 0.5}}))
    _, evaluation = run()
    assert (evaluation["reigning"], evaluation["comparator"]) == ("as it reigns", None)


def test_numbers_that_are_none_are_shown_not_hidden(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Bundle.probabilities

    def broken(self: Bundle, logits: np.ndarray) -> np.ndarray:
        probability = honest(self, logits)
        probability[-1] = np.nan
        return probability

    monkeypatch.setattr(Bundle, "probabilities", broken)
    rows, evaluation = run()
    last = rows.filter(pl.col("challenger_probability_bad").is_nan())
    assert last.height == 1
    assert last["challenger_action"].to_list() == [None]
    assert last["challenger_utility"].is_nan().all()
    assert evaluation["challenger"]["utility"]["mean"] is None


def test_a_changed_bundle_is_refused(copy: Path) -> None:
    champion.main()
    edit(copy / "data/package/bundle/policy.json", lambda policy: policy.update(offsets=[0.0, 9.0]))
    with pytest.raises(ExpostError, match="SHA-256"):
        evaluate.main()
    assert not Path("data/evaluate").exists()
