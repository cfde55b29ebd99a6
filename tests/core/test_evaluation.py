"""Figures of a model on weighted rows with utilities of their own: by hand, as repeated rows, as rows drawn under another class prior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import evaluation, metrics, policy
from pipelines.core.evaluation import Cases, Display, Rows, Scored
from pipelines.core.utility import expected_utility, obtained

U = np.array([[0.0, -1.0], [-5.0, 0.0]])
DISPLAY = Display(resamples=100)


def judged(n: int = 300, seed: int = 0) -> tuple[Scored, Rows, Cases]:
    """A calibrated model of 30 % prevalence, decided analytically; every row counts once."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.6, 1.4, n)
    probability = np.column_stack([1 - p, p])
    labels = (rng.random(n) < p).astype(np.int64)
    scored = Scored(probability, policy.analytic_actions(probability, U), rng.normal(size=(n, 3)) + labels[:, None])
    cases = Cases(labels, np.arange(n), np.ones(n), U, -5.0, 0.0, 5.0)
    return scored, rows_of(scored, cases), cases


def rows_of(scored: Scored, cases: Cases) -> Rows:
    return evaluation.row_results(scored, cases, scored.embedding, cases, neighbours=5)


def figures(scored: Scored, rows: Rows, cases: Cases) -> dict[str, object]:
    return evaluation.summary(scored, rows, cases, classes=["no", "yes"], actions=["pass", "stop"], display=DISPLAY)


def test_whole_weights_give_the_estimates_of_repeated_rows_and_bounds_that_are_wider() -> None:
    scored, rows, cases = judged()
    times = np.random.default_rng(1).integers(1, 6, cases.labels.size)
    again = np.repeat(np.arange(cases.labels.size), times)
    weighted = figures(scored, rows, Cases(cases.labels, cases.groups, times.astype(float), U, -5.0, 0.0, 5.0))
    independent = Cases(cases.labels[again], np.arange(again.size), np.ones(again.size), U, -5.0, 0.0, 5.0)
    repeated = figures(scored.take(again), rows.take(again), independent)
    for name in ("utility", "regret", "log_loss", "brier", "auc", "v_information"):
        assert weighted[name]["mean"] == pytest.approx(repeated[name]["mean"], abs=1e-9), name
    for name in ("log_loss", "brier"):
        assert weighted["calibration"][name]["mean"] == pytest.approx(repeated["calibration"][name]["mean"], abs=1e-9)
    assert weighted["calibration"]["smece"]["mean"] == pytest.approx(repeated["calibration"]["smece"]["mean"], abs=1e-9)
    assert weighted["effective_rank"] == pytest.approx(repeated["effective_rank"], rel=1e-6)
    for name in ("utility", "log_loss"):
        assert weighted[name]["high"] - weighted[name]["low"] > 1.3 * (repeated[name]["high"] - repeated[name]["low"])
    assert sum(map(sum, (row.values() for row in weighted["confusion"].values()))) == cases.labels.size  # rows, not weights


def test_equal_weights_change_nothing() -> None:
    scored, rows, cases = judged()
    sevenfold = Cases(cases.labels, cases.groups, np.full(cases.labels.size, 7.0), U, -5.0, 0.0, 5.0)
    assert figures(scored, rows, sevenfold) == figures(scored, rows, cases)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 0.98), st.integers(0, 1000))
def test_weights_give_the_classes_their_declared_shares(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, weights = rng.integers(2, size=50), rng.integers(1, 9, 50).astype(float)
    labels[:2] = (0, 1)
    found = evaluation.under_shares(weights, labels, np.array([1 - share, share]))
    assert np.bincount(labels, weights=found) / found.sum() == pytest.approx([1 - share, share])
    assert found.sum() == pytest.approx(weights.sum())
    same = labels == labels[0]
    assert found[same] / weights[same] == pytest.approx(found[0] / weights[0])  # within a class nothing moves


def test_an_absent_class_and_no_declared_shares_leave_the_weights() -> None:
    labels, weights = np.zeros(4, dtype=np.int64), np.array([1.0, 2.0, 3.0, 4.0])
    assert (evaluation.under_shares(weights, labels, None) == weights).all()
    assert np.isfinite(evaluation.under_shares(weights, labels, np.array([0.5, 0.5]))).all()


def test_a_declared_prior_gives_the_estimates_of_rows_drawn_under_it() -> None:
    """The same class-conditional scores at 30 % and at 5 %: correction and weights on the one estimate what the other shows."""
    data, deployment = np.array([0.7, 0.3]), np.array([0.95, 0.05])

    def draw(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = (rng.random(n) < prior[1]).astype(np.int64)
        odds = np.exp(2.0 * rng.normal(size=n) + 4.0 * labels - 2.0) * data[1] / data[0]  # exact under `data`: shift 2d, variance 2d
        return np.column_stack([1 / (1 + odds), odds / (1 + odds)]), labels

    def per_row(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p = policy.under_prior(probability, data, deployment)
        worth = obtained(labels, policy.analytic_actions(p, U), U)
        return np.stack([worth, metrics.log_loss_rows(p, labels), metrics.brier_rows(p, labels)])

    p, labels = draw(data, 40_000, 0)
    weights = evaluation.under_shares(np.ones(labels.size), labels, deployment)
    here, there = per_row(p, labels), per_row(*draw(deployment, 40_000, 1))
    mean = np.average(here, axis=1, weights=weights)
    error = np.sqrt(((weights * (here - mean[:, None])) ** 2).sum(axis=1)) / weights.sum() + there.std(axis=1) / np.sqrt(40_000)
    assert (np.abs(mean - there.mean(axis=1)) < 3 * error).all()
    assert abs(here.mean(axis=1)[1] - there.mean(axis=1)[1]) > 10 * error[1]  # without the weights it is another figure


def test_utilities_of_each_row_by_hand() -> None:
    each = np.array([[[0.0, -1.0], [-2.0, 0.0]], [[0.0, -1.0], [-9.0, 0.0]], [[0.0, -4.0], [-3.0, -1.0]]])
    labels, actions = np.array([1, 1, 0]), np.array([0, 1, 1])
    cases = Cases(labels, np.arange(3), np.array([1.0, 2.0, 1.0]), each, -9.0, 0.0, 9.0)
    worth = evaluation.utility_rows(actions, labels, each)
    assert worth.tolist() == [-2.0, 0.0, -4.0]
    assert evaluation.right_rows(worth, cases).tolist() == [0.0, 1.0, 0.0]
    assert evaluation.utility_interval(worth, cases, DISPLAY).mean == pytest.approx((-2.0 + 0.0 - 4.0) / 4)
    assert cases.take([1, 2]).U.shape == (2, 2, 2)
    assert np.isnan(evaluation.utility_rows(np.array([-1, 0, 0]), labels, each)[0])
    assert np.isnan(evaluation.right_rows(np.array([np.nan, 0.0, 0.0]), cases)[0])
    probability = np.array([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5]])
    best = [-0.4, -0.8, -1.5]  # by hand: 0.2 x 2 beats 0.8 x 1; 0.8 x 1 beats 0.2 x 9; 0.5 x 3 beats 0.5 x 4 + 0.5 x 1
    assert expected_utility(probability, each).max(axis=1) == pytest.approx(best)
    assert policy.analytic_actions(probability, each).tolist() == [0, 1, 0]


def test_one_matrix_repeated_for_each_row_is_that_matrix() -> None:
    scored, rows, cases = judged()
    each = Cases(cases.labels, cases.groups, cases.weights, np.broadcast_to(U, (cases.labels.size, 2, 2)), -5.0, 0.0, 5.0)
    again = rows_of(scored, each)
    assert (again.utility == rows.utility).all()
    assert figures(scored, again, each) == figures(scored, rows, cases)


def test_the_histogram_counts_each_row_once_in_values_or_in_bins() -> None:
    scored, rows, cases = judged()
    few = evaluation.curves({"challenger": (scored, rows, cases)}, 0.95)
    assert few["utility_values"] == [-5.0, -1.0, 0.0]
    assert sum(few["challenger"]["utility_rows"]) == 300
    assert few["challenger"]["utility_curve"] is not None
    cost = np.random.default_rng(0).lognormal(0, 2, 300)
    each = np.zeros((300, 2, 2))
    each[:, 0, 1], each[:, 1, 0] = -1.0, -cost
    dear = Cases(cases.labels, cases.groups, cases.weights, each, -cost.max(), 0.0, cost.max())
    careless = Scored(scored.probability, np.zeros(300, dtype=np.int64), scored.embedding)
    many = evaluation.curves({"challenger": (careless, rows_of(careless, dear), dear)}, 0.95)
    assert many["utility_values"] is None
    assert sum(many["challenger"]["utility_rows"]) == 300
    assert len(many["utility_edges"]) == len(many["challenger"]["utility_rows"]) + 1
    assert many["challenger"]["utility_curve"] is None  # no threshold decides rows whose costs differ


def test_more_than_eight_values_of_a_matrix_and_values_that_differ_by_row_are_binned() -> None:
    labels, obtained = np.zeros(9, dtype=np.int64), np.arange(9.0)
    rows = Rows(obtained, obtained, obtained, obtained, obtained, None)

    def scale(matrix: np.ndarray) -> tuple[object, object]:
        cases = Cases(labels, np.arange(9), np.ones(9), matrix, 0.0, 8.0, 8.0)
        return evaluation.histogram_scale([(Scored(np.zeros((9, 2)), labels, np.zeros((9, 1))), rows, cases)])

    assert scale(np.arange(9.0).reshape(1, 9))[0] is None
    assert scale(np.arange(8.0).reshape(1, 8))[0] == list(range(8))
    assert scale(np.broadcast_to(np.array([[0.0, 1.0]]), (9, 1, 2)))[0] is None
