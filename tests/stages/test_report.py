"""Stage report: plots from JSON with the same bytes each time, the card, the panel's figures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from flows import panel as panels
from pipelines import champion, evaluate, facts, gate, plots, report, store
from pipelines.bundle import Bundle
from pipelines.commands.publish import Outcome
from pipelines.core.calibration import PRIOR_SD
from tests.stages.judging import edit

PNG = b"\x89PNG\r\n\x1a\n"
OUTCOME = Outcome("PASS", False, ("A reason.",))


def read(folder: Path, stage: str, name: str) -> Any:
    return json.loads((folder / "data" / stage / name).read_text())


def test_all_plots_are_pictures_and_the_card_shows_each(judged: Path) -> None:
    found = {path.name: path.read_bytes() for path in (judged / "data/report").glob("*.png")}
    assert set(found) == {
        "reliability.png",
        "utility_curve.png",
        "cost_curve.png",
        "utility_histogram.png",
        "training.png",
        "gate.png",
        "policy.png",
    }
    assert all(content.startswith(PNG) and len(content) > 5000 for content in found.values())
    text = (judged / "data/report/card.md").read_text()
    assert set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)) == set(found)


@pytest.mark.parametrize("names", [["offset of bad"], ["offset of bad", "price of refer"]])
def test_a_study_is_drawn_and_shown(copy: Path, names: list[str]) -> None:
    study = {
        "names": names,
        "points": [[0.0] * len(names), [-1.0] * len(names), [0.5] * len(names)],
        "values": [-0.5, -0.4, -0.6],
        "best_so_far": [-0.5, -0.4, -0.4],
        "sources": ["analytic", "exact", "tried"],
        "importance": {name: 1 / len(names) for name in names},
    }
    store.write_json(Path("data/decide/study.json"), study)
    report.main()
    assert Path("data/report/study.png").read_bytes() == plots.study(study, read(copy, "evaluate", "evaluation.json")["unit"]).png()
    assert "(study.png)" in Path("data/report/card.md").read_text()


def test_the_card_holds_the_slope_that_ships_beside_that_of_no_calibrator_and_of_one_fitted_on_held_out_logits(copy: Path) -> None:
    """Slopes by scikit-learn's logistic regression without penalty, on the holdout and on what calib is calibrated by."""

    def fitted(log_odds: np.ndarray, labels: np.ndarray) -> float:
        return float(LogisticRegression(C=np.inf).fit(log_odds[:, None], labels).coef_[0, 0])

    bundle, parts, labels = Bundle.load("data/package/bundle"), np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    held = bundle.encode(pl.read_parquet("data/ingest/table.parquet").filter(pl.Series(parts == 3)))
    logits = bundle.network.logits(held.inputs)
    evaluation, calibration = read(copy, "evaluate", "evaluation.json"), read(copy, "calibrate", "summary.json")
    plain = evaluation["slope_uncalibrated"]
    assert plain["mean"] == pytest.approx(fitted(logits[:, 1] - logits[:, 0], labels[parts == 3]), rel=1e-3)
    assert plain["low"] < plain["mean"] < plain["high"]
    calib, rows = np.load("data/calibrate/rows.npy"), np.load("data/train/rows.npy")
    unseen = np.load("data/train/logits.npy")[np.searchsorted(rows, calib)]
    factors = np.geomspace(0.05, 20, 4001)
    losses = [log_loss(labels[calib], softmax(factor * unseen, axis=1), normalize=False) for factor in factors]
    prior = (factors - 1) ** 2 / (2 * PRIOR_SD**2)
    assert calibration["temperature"] == pytest.approx(factors[np.argmin(losses + prior)], rel=0.01)
    ships = evaluation["challenger"]["calibration"]["slope"]["mean"]
    if calibration["method"] == "identity":
        assert ships == pytest.approx(plain["mean"])
    sentence = facts.slopes({"calibration": calibration, "evaluation": evaluation})
    assert [float(number) for number in re.findall(r"(-?[\d.]+) \[", sentence)] == pytest.approx(
        [plain["mean"], plain["mean"] / calibration["temperature"], ships], abs=6e-4
    )
    assert sentence in Path("data/report/card.md").read_text()


def test_card_page_and_panel_say_what_learnt_beside_the_network(copy: Path) -> None:
    path = Path("data/train/metrics.json")
    beside = {"logistic_strength": 3, "logistic_share": 0.25, "logistic_log_loss": 0.5, "logistic_out_of_time": 0, "network_log_loss": 0.6}
    path.write_text(json.dumps({**json.loads(path.read_text()), **beside}))
    report.main()
    said = (
        "robabilities are pooled, with shares of 0.25 of logistic regression (strength: 3), 0.75 of the network; log loss on held-out rows"
    )
    for name in ("card.md", "review.html", "panel.json"):
        assert said in Path("data/report", name).read_text(), name


def test_the_same_inputs_give_the_same_bytes_without_date_or_version(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in Path("data/report").iterdir()}
    report.main()
    assert {path.name: path.read_bytes() for path in Path("data/report").iterdir()} == before
    assert not any(word in content for content in before.values() for word in (b"Matplotlib", b"tEXt", b"tIME"))


def test_the_panel_shows_the_figures_of_evaluate_and_the_verdict(judged: Path) -> None:
    panel, evaluation, verdict = (
        read(judged, "report", "panel.json"),
        read(judged, "evaluate", "evaluation.json"),
        read(judged, "gate", "verdict.json"),
    )
    shown = {item["policy"]: item for item in panel["utility"]}
    assert shown["expost (analytic)"]["mean"] == evaluation["challenger"]["utility"]["mean"]
    assert shown[facts.ARGMAX]["mean"] == evaluation["argmax"]["mean"]
    assert {"always pass", "always stop", "champion, version 1"} <= set(shown)
    assert all(item["low"] <= item["mean"] <= item["high"] for item in shown.values())
    assert panel["verdict"] == verdict["verdict"]
    assert panel["reasons"] == verdict["reasons"]
    assert [part["part"] for part in panel["parts"]] == ["train", "valid", "calib", "holdout"]
    assert sum(part["rows"] for part in panel["parts"]) + panel["excluded"] == panel["rows"]
    assert panel["calibration"]["sentence"]
    assert panel["policy"]["why"]


def test_limits_requirements_prior_and_costs_by_row_stand_on_the_card_and_in_the_panel(copy: Path) -> None:
    seen = {"mean": 0.25, "low": 0.2, "high": 0.3, "rows": 100}

    def constrained(found: dict[str, Any]) -> None:
        found.update(
            limits=[{"action": "stop", "at_most": 0.2, "share": seen, "champion": seen}],
            requirements=[{"class": "bad", "at_least": 0.9, "confidence": 0.9, "recall": seen, "rows": 40, "champion": None}],
            prior={"data": {"good": 0.5, "bad": 0.5}, "deployment": {"good": 0.98, "bad": 0.02}},
            matrix=[[0.0, -1.0], ["-heavy", 0.0]],
            effective_rows=61.3,
        )

    edit(Path("data/evaluate/evaluation.json"), constrained)
    edit(Path("data/decide/summary.json"), lambda summary: summary.update(thresholds=None, threshold=None))
    report.main()
    text, panel = Path("data/report/card.md").read_text(), read(copy, "report", "panel.json")
    assert "| share of stop | at most 20 % | 0.250 \\[0.200, 0.300\\] | 0.250 \\[0.200, 0.300\\] |" in text
    assert "| recall of bad | at least 90 % | 0.250 \\[0.200, 0.300\\] | n/a |" in text
    assert "| bad | 50 % | 2 % |" in text
    assert "| bad | -heavy | 0 |" in text
    assert "Costs differ by row" in text
    assert "which unequal weights make worth 61.3" in text
    assert "rows counted without their weights" in text
    assert "policy.png" not in text
    assert [item["wanted"] for item in panel["constraints"]] == ["at most 20 %", "at least 90 %"]
    shown = [section for section in panels.sections(OUTCOME, panel, None) if section.title == "Limits and requirements on the holdout"]
    assert shown[0].rows[0] == ("share of stop", "at most 20 %", "0.250", "[0.200, 0.300]")


def test_the_panels_heads_say_what_their_columns_are(judged: Path) -> None:
    panel = read(judged, "report", "panel.json")
    found = {section.title: section for section in panels.sections(OUTCOME, panel, None)}
    calibration = found["Calibration on calib, cross-fitted"]
    assert calibration.head == ("probabilities", "log loss", "Brier", "ECE")
    assert [row[0] for row in calibration.rows] == ["as trained", f"cross-fitted choice; ships: {panel['calibration']['method']}"]
    assert calibration.lines[1] == f"holdout: {read(judged, 'evaluate', 'evaluation.json')['challenger']['calibration']['sentence']}"
    assert "Limits and requirements on the holdout" not in found
    assert any(line.startswith("analytic threshold 0.167, exact ") for line in found["Policy"].lines)


def test_a_reference_that_draws_its_action_has_a_row_of_its_own(copy: Path) -> None:
    edit(Path("data/evaluate/evaluation.json"), lambda found: found.update(best_trivial="30 % stop, 70 % pass, at random"))
    report.main()
    text, panel = Path("data/report/card.md").read_text(), read(copy, "report", "panel.json")
    assert text.count("30 % stop, 70 % pass, at random") == 2
    assert panel["utility"][-1]["policy"] == panel["best_trivial"]


def test_figures_show_no_negative_zero_and_names_of_actions_are_quoted(judged: Path) -> None:
    assert facts.interval({"mean": -1e-5, "low": -0.2, "high": -0.0}, 4) == "0.0000 [-0.2000, 0.0000]"
    assert facts.worth(-0.0) == "0"
    text = (judged / "data/report/card.md").read_text()
    assert "takes one of the actions 'pass', 'stop'." in text
    assert "| debiased calibration error (L2) |" in text
    assert "-0.0000" not in text


def test_a_champion_that_had_to_be_redecided_stands_on_the_card_both_ways(copy: Path) -> None:
    own = {"mean": -0.1, "low": -0.2, "high": -0.05, "rows": 100}
    said = "The champion is re-decided under the limits now in force."
    comparator = {"possible": True, "sentence": said, "as_it_reigns": own}
    edit(Path("data/evaluate/evaluation.json"), lambda found: found.update(comparator=comparator, notes=[said]))
    report.main()
    text = Path("data/report/card.md").read_text()
    assert "| champion, version 1, re-decided |" in text
    assert "| champion, version 1, as it reigns (not allowed) | -0.100 | -0.200 | -0.050 | 100 |" in text
    assert said in text


def test_the_gates_plot_of_an_identical_challenger_says_so() -> None:
    assert plots.forest([], "PASS", identical=True).png() != plots.forest([], "PASS").png()


def test_the_card_says_the_verdict_first_and_escapes_what_comes_from_the_data(copy: Path) -> None:
    text = Path("data/report/card.md").read_text()
    verdict = read(copy, "gate", "verdict.json")["verdict"]
    assert text.splitlines()[2].startswith(f"**Verdict: {verdict}**")
    edit(Path("data/ingest/schema.json"), lambda schema: schema.update(target="<script>|x"))
    report.main()
    text = Path("data/report/card.md").read_text()
    assert "<script>|" not in text
    assert "\\<script\\>\\|x" in text


@pytest.mark.parametrize("state", ["none", "unsynced"])
def test_without_a_champion_the_card_says_so(copy: Path, state: str) -> None:
    shutil.rmtree(copy / "mlflow")
    if state == "none":
        (copy / "mlflow/champion").mkdir(parents=True)
        (copy / "mlflow/champion/status.json").write_text('{"state": "none"}')
    for stage in (champion, evaluate, gate, report):
        stage.main()
    text = Path("data/report/card.md").read_text()
    assert {"none": "No champion reigns", "unsynced": "never mirrored"}[state] in text
    assert "champion, version" not in json.dumps(read(copy, "report", "panel.json"))


def test_an_error_verdict_is_still_reported(copy: Path) -> None:
    edit(Path("data/gate/verdict.json"), lambda verdict: verdict.update(verdict="ERROR", criteria=[], reasons=["A number is missing."]))
    edit(
        Path("data/evaluate/evaluation.json"),
        lambda found: found["challenger"].update(utility={"mean": None, "low": None, "high": None, "rows": 1}),
    )
    report.main()
    text = Path("data/report/card.md").read_text()
    assert "**Verdict: ERROR**" in text
    assert "n/a" in text


def test_without_two_classes_the_threshold_plots_are_left_out(copy: Path) -> None:
    def three(curves: dict[str, Any]) -> None:
        for name in ("challenger", "champion"):
            curves[name].update(utility_curve=None, cost_curve=None)

    edit(Path("data/evaluate/curves.json"), three)
    edit(Path("data/decide/summary.json"), lambda summary: summary.update(thresholds=None))
    report.main()
    assert {path.name for path in Path("data/report").glob("*.png")} == {
        "reliability.png",
        "utility_histogram.png",
        "training.png",
        "gate.png",
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that plots draw."""
    found: list[Figure] = []
    honest = plots.png

    def kept(draw: plots.Draw, **options: float) -> bytes:
        return honest(lambda figure: (draw(figure), found.append(figure)), **options)

    monkeypatch.setattr(plots, "png", kept)
    return found


def test_a_study_names_no_policy_that_was_left_out(drawn: list[Figure]) -> None:
    study = {"names": ["offset"], "points": [[0.0], [1.0]], "values": [-0.5, -0.4], "best_so_far": [-0.5, -0.4]}
    plots.study({**study, "sources": ["analytic", "tried"]}, "euro").png()
    said = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert said == ["tried", "analytic", "best so far"]


@pytest.mark.parametrize("kind", ["utility_curve", "cost_curve"])
def test_a_champion_that_coincides_with_the_challenger_is_seen(drawn: list[Figure], judged: Path, kind: str) -> None:
    curves = read(judged, "evaluate", "curves.json")
    curves["champion"] = curves["challenger"]
    if kind == "utility_curve":
        plots.utility_curve(curves, threshold=0.2, trivial={}, unit="euro", what="bad").png()
    else:
        plots.cost_curve(curves, "bad").png()
    lines = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    assert lines["champion"].get_zorder() > lines["challenger"].get_zorder()
    assert lines["champion"].is_dashed()


def test_tick_labels_are_rounded_and_tell_each_value_from_the_next() -> None:
    assert plots.tick_labels([-5.0, -1.0, 0.0]) == ["-5", "-1", "0"]
    assert plots.tick_labels([-1000.5, -1 / 3, -0.0]) == ["-1,000.5", "-0.33", "0"]
    assert plots.tick_labels([-1372.4813, -1145.5]) == ["-1,372", "-1,146"]
    assert len(set(plots.tick_labels([0.1234561, 0.1234562]))) == 2


def test_plots_do_not_start_a_window_system(judged: Path) -> None:
    import matplotlib

    before = matplotlib.rcParams["font.size"]
    plots.training([{"epoch": 0.0, "train_loss": float("nan"), "valid_log_loss": 0.5}], None).png()
    assert matplotlib.rcParams["font.size"] == before


def test_a_missing_stage_is_named(copy: Path) -> None:
    Path("data/gate/verdict.json").unlink()
    with pytest.raises(store.ExpostError, match=r"verdict\.json must exist"):
        report.main()
