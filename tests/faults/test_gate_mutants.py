"""Broken challengers against a good champion: none may pass, on small and on large holdouts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.core import evaluation, gate, policy, utility
from pipelines.core.evaluation import Cases, Scored
from pipelines.core.evidence import Evidence, Results, Settings

U = np.array([[0.0, -1.0], [-10.0, 0.0]])
SETTINGS = Settings(alpha=0.05, margin=0.10, material={"log_loss": 0.01, "brier": 0.005, "calibration_error": 0.02, "v_information": 0.02})
Mutant = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def world(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, calibrated probabilities and an embedding of a good model; the first third of the rows is calib."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    embedding = rng.normal(size=(n, 8))
    embedding[:, 0] += 3.0 * labels
    logit = 3.0 * embedding[:, 0] - 4.5
    return labels, np.column_stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))]), embedding


def shuffled(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What training on shuffled labels gives: probabilities and embedding that belong to other rows."""
    order = rng.permutation(len(p))
    return p[order], z[order]


def negated(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return p[:, ::-1], z


def constant(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.full_like(p, 0.5), np.zeros_like(z)


def overconfident(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    sharp = p**8
    return sharp / sharp.sum(axis=1, keepdims=True), z


def noise_embedding(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return p, rng.normal(size=z.shape)


def one_nan(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    spoilt = p.copy()
    spoilt[-1] = np.nan
    return spoilt, z


def nan_embedding(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    spoilt = z.copy()
    spoilt[-1, 0] = np.nan
    return p, spoilt


def unchanged(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return p, z


def cases_of(labels: np.ndarray, kind: str) -> Cases:
    """One matrix and weights of one; or weights from 1 to 9; or what a row costs from 2 to 18, where it is missed."""
    n, rng = labels.size, np.random.default_rng(7)
    weights = rng.integers(1, 10, n).astype(float) if kind == "weighted" else np.ones(n)
    if kind != "by row":
        return Cases(labels, np.arange(n), weights, U, -10.0, 0.0, 10.0)
    each = np.broadcast_to(U, (n, 2, 2)) * np.where([[False, False], [True, False]], rng.uniform(0.2, 1.8, n)[:, None, None], 1.0)
    return Cases(labels, np.arange(n), weights, each, -18.0, 0.0, 18.0)


def verdict(n: int, mutant: Mutant, seed: int = 0, kind: str = "plain") -> gate.Verdict:
    labels, p, z = world(n, seed)
    calib, cases = np.arange(n) < n // 3, cases_of(labels, kind)
    fit = cases.take(calib)
    obtained = evaluation.utility_rows(policy.analytic_actions(p[calib], fit.U), fit.labels, fit.U)
    gain = np.average(obtained, weights=fit.weights) - utility.trivial(fit.labels, fit.U, fit.weights).max()
    ours = results(*mutant(p, z, np.random.default_rng(seed + 1)), cases, calib)
    theirs = results(p, z, cases, calib)
    held = cases.take(~calib)
    always = utility.of_class(held.U, held.labels)
    blind = always[:, int(utility.trivial(fit.labels, fit.U, fit.weights).argmax())]
    evidence = Evidence(ours, theirs, held.labels, ("no", "yes"), held.reach, None, float(gain), blind, weights=held.unequal)
    return gate.judge(evidence, SETTINGS)


def results(p: np.ndarray, z: np.ndarray, cases: Cases, calib: np.ndarray) -> Results:
    usable = np.isfinite(p).all(axis=1)
    actions = np.full(len(p), -1)
    actions[usable] = policy.analytic_actions(p[usable], utility.take(cases.U, usable))
    held = ~calib
    rows = evaluation.row_results(Scored(p, actions, z).take(held), cases.take(held), z[calib], cases.take(calib), neighbours=15)
    return Results(rows.utility, rows.log_loss, rows.brier, rows.bits)


@pytest.mark.parametrize("kind", ["plain", "weighted", "by row"])
@pytest.mark.parametrize("n", [150, 3000])
@pytest.mark.parametrize("mutant", [shuffled, negated, constant, overconfident, noise_embedding, one_nan, nan_embedding])
def test_a_mutant_never_passes(mutant: Mutant, n: int, kind: str) -> None:
    assert verdict(n, mutant, kind=kind).verdict != gate.PASS


@pytest.mark.parametrize(
    ("mutant", "blamed"),
    [
        (noise_embedding, {"v_information": gate.FAIL}),
        (nan_embedding, {"v_information": gate.ERROR}),
        (one_nan, {"utility": gate.ERROR, "log_loss": gate.ERROR, "brier": gate.ERROR}),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "weighted", "by row"])
def test_the_verdict_names_what_was_made_worse_and_nothing_else(mutant: Mutant, blamed: dict[str, str], kind: str) -> None:
    found = {item.criterion: item.verdict for item in verdict(3000, mutant, kind=kind).criteria if item.verdict != gate.PASS}
    assert found == blamed


def test_swapped_classes_are_not_a_matter_of_names() -> None:
    found = {item.criterion: item.verdict for item in verdict(3000, negated).criteria}
    assert found["utility"] == found["log_loss"] == found["brier"] == gate.FAIL
    assert found["v_information"] == gate.PASS  # the embedding knows as much as before


@pytest.mark.parametrize("kind", ["plain", "weighted", "by row"])
def test_the_model_itself_would_pass(kind: str) -> None:
    assert verdict(3000, unchanged, kind=kind).verdict == gate.PASS
