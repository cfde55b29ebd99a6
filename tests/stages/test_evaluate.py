"""Stage evaluate: what ships is what is measured, on the rows that were holdout for both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn import metrics as reference

from pipelines import champion, contest, evaluate, store
from pipelines.bundle import Bundle
from pipelines.errors import ExpostError
from tests.stages.judging import crown, edit, other_policy

U = np.array([[0.0, -1.0], [-5.0, 0.0]])


@pytest.fixture
def copy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(world, tmp_path / "copy"))
    monkeypatch.chdir(folder)
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
    probability = bundle.probabilities(bundle.score(encoded.numbers, encoded.categories).logits)
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
    assert evaluation["best_trivial"] == ("pass", "stop")[int(U[calib].mean(axis=0).argmax())]
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
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["utility"]["matrix"]["good"]["stop"] = -10
    Path("params.yaml").write_text(yaml.safe_dump(params))
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
    actions = bundle.decide(bundle.probabilities(bundle.score(encoded.numbers, encoded.categories).logits)).actions
    y = labels[calib]
    assert evaluation["champion_gain"]["gain"] == pytest.approx(U[y, actions].mean() - U[y].mean(axis=0).max())
    assert evaluation["champion_gain"]["rows"] == calib.sum()


def test_a_champion_of_another_split_is_compared_on_the_holdout_of_both_only(copy: Path) -> None:
    def other_split(folder: Path) -> None:
        other_policy(folder)
        edit(folder / "schema.json", lambda schema: schema["split"].update(salt="other"))

    crown(copy, copy / "data/package/bundle", other_split)
    rows, evaluation = run()
    meta = json.loads(Path("data/split/meta.json").read_text())
    table = contest.read_table()
    theirs = contest.parts_under({**meta["rule"], "salt": "other"}, table)
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
    assert (contest.parts_under({**table.rule, "note": "another object, the same rule"}, table) == table.parts).all()


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

    crown(copy, copy / "data/package/bundle", other_schema)
    _, evaluation = run()
    assert evaluation["champion"] is None
    assert set(evaluation["unavailable"]) == set(evaluate.CRITERIA)
    assert "ugly" in evaluation["unavailable"]["utility"] or "gone" in evaluation["unavailable"]["utility"]


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
