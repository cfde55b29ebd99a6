"""Broken challengers against a good champion: none may pass, on small and on large holdouts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.core import evaluation, gate, policy
from pipelines.core.evaluation import Cases, Scored
from pipelines.core.gate import Evidence, Results, Settings

U = np.array([[0.0, -1.0], [-10.0, 0.0]])
SETTINGS = Settings(alpha=0.05, margin=0.10, material={"log_loss": 0.01, "brier": 0.005, "v_information": 0.02})
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


def verdict(n: int, mutant: Mutant, seed: int = 0) -> gate.Verdict:
    labels, p, z = world(n, seed)
    calib = np.arange(n) < n // 3
    actions = policy.analytic_actions(p, U)
    gain = U[labels, actions][calib].mean() - U[labels[calib]].mean(axis=0).max()
    ours = results(*mutant(p, z, np.random.default_rng(seed + 1)), labels, calib)
    theirs = results(p, z, labels, calib)
    return gate.judge(Evidence(ours, theirs, labels[~calib], ("no", "yes"), 10.0, None, float(gain)), SETTINGS)


def results(p: np.ndarray, z: np.ndarray, labels: np.ndarray, calib: np.ndarray) -> Results:
    usable = np.isfinite(p).all(axis=1)
    actions = np.full(len(p), -1)
    actions[usable] = policy.analytic_actions(p[usable], U)
    held, n = ~calib, len(labels)
    cases = Cases(labels, np.arange(n), np.ones(n), U, -10.0, 0.0, 10.0)
    rows = evaluation.row_results(Scored(p, actions, z).take(held), cases.take(held), z[calib], cases.take(calib), neighbours=15)
    return Results(rows.utility, rows.log_loss, rows.brier, rows.bits)


@pytest.mark.parametrize("n", [150, 3000])
@pytest.mark.parametrize("mutant", [shuffled, negated, constant, overconfident, noise_embedding, one_nan, nan_embedding])
def test_a_mutant_never_passes(mutant: Mutant, n: int) -> None:
    assert verdict(n, mutant).verdict != gate.PASS


@pytest.mark.parametrize(
    ("mutant", "blamed"),
    [
        (noise_embedding, {"v_information": gate.FAIL}),
        (nan_embedding, {"v_information": gate.ERROR}),
        (one_nan, {"utility": gate.ERROR, "log_loss": gate.ERROR, "brier": gate.ERROR}),
    ],
)
def test_the_verdict_names_what_was_made_worse_and_nothing_else(mutant: Mutant, blamed: dict[str, str]) -> None:
    found = {item.criterion: item.verdict for item in verdict(3000, mutant).criteria if item.verdict != gate.PASS}
    assert found == blamed


def test_swapped_classes_are_not_a_matter_of_names() -> None:
    found = {item.criterion: item.verdict for item in verdict(3000, negated).criteria}
    assert found["utility"] == found["log_loss"] == found["brier"] == gate.FAIL
    assert found["v_information"] == gate.PASS  # the embedding knows as much as before


def test_the_model_itself_would_pass() -> None:
    assert verdict(3000, unchanged).verdict == gate.PASS
