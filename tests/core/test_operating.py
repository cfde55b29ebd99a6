"""Both models along a range of costs: what each step holds, and when there is nothing to move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.core import operating, policy, utility
from pipelines.core.evaluation import Cases, Display, Scored

TWO, THREE = np.array([[0.0, -1.0], [-5.0, 0.0]]), np.array([[0.0, -1.0, -0.5], [-2.0, 0.0, -0.5], [-9.0, -4.0, -0.5]])


def world(U: np.ndarray, rows: int = 400, *, seed: int = 0, **given: Any) -> tuple[dict[str, Scored], Cases]:
    """Two models of `rows` rows under `U`, `(K, A)` or `(n, K, A)`; equal probabilities occur, and some lie at a threshold."""
    rng, (K, A) = np.random.default_rng(seed), U.shape[-2:]

    def model() -> Scored:
        p = rng.dirichlet(np.ones(K), rows).round(2) if K > 2 else np.round(rng.random(rows), 2)[:, None] * [-1, 1] + [1, 0]
        return Scored(p / p.sum(axis=1, keepdims=True), rng.integers(A, size=rows), np.zeros((rows, 1)))

    worst, best = utility.value_range(U)
    cases = Cases(rng.integers(K, size=rows), np.arange(rows), np.ones(rows), U, worst, best, utility.difference_range(U))
    return {"challenger": model(), "champion": model()}, replace(cases, **given)


def along(models: dict[str, Scored], cases: Cases) -> dict[str, Any]:
    K, A = cases.U.shape[-2:]
    return operating.along(
        models, cases, classes=[f"class {k}" for k in range(K)], actions=[f"do {a}" for a in range(A)], display=Display()
    )


@pytest.mark.parametrize("now", [1.0, 5.0, 0.3, 7.77, 3000.0, 1 / 800])
def test_steps_ascend_around_the_ratio_in_force_and_hold_it_once(now: float) -> None:
    sizes = operating.steps_around(now)
    assert sizes == sorted(set(sizes))
    assert sizes.count(now) == 1
    assert {2.0, 10.0, 0.5, 0.1} <= {round(size, 9) for size in sizes}
    assert (sizes[0] <= min(1 / 50, now / 5) and sizes[-1] >= max(50, 5 * now)) or 1 / 50 <= now <= 50
    assert 70 <= len(sizes) <= 130


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("U", [TWO, THREE, THREE * np.linspace(0.5, 2, 400)[:, None, None]], ids=["two", "three", "by row"])
def test_each_step_is_the_analytic_policy_under_its_costs(U: np.ndarray, weighted: bool) -> None:
    models, cases = world(U, **({"weights": np.random.default_rng(1).uniform(0.5, 2, 400)} if weighted else {}))
    found = along(models, cases)
    label = int(found["label"][-1])
    assert label == U.shape[-2] - 1
    for number, size in enumerate(found["sizes"]):
        moved = U.copy()
        best = U[..., label, :].max(axis=-1, keepdims=True)
        moved[..., label, :] = best - size / found["sizes"][found["now"]] * (best - U[..., label, :])
        for name, scored in models.items():
            actions = policy.analytic_actions(scored.probability, moved)
            result = found["models"][name][number]
            assert result["utility"] == pytest.approx(np.average(utility.obtained(cases.labels, actions, moved), weights=cases.weights))
            for k, row in enumerate(result["counts"]):
                assert row == pytest.approx([cases.weights[(cases.labels == k) & (actions == a)].sum() for a in range(U.shape[-1])])
        one, other = (found["models"][name][number]["utility"] for name in models)
        assert found["difference"][number]["mean"] == pytest.approx(one - other)
        assert found["ideal"][number] >= max(one, other)


def test_the_step_in_force_is_the_matrix_itself_and_its_threshold_elkans() -> None:
    models, cases = world(TWO)
    found = along(models, cases)
    assert operating.scaled(TWO, 1, 1.0) is TWO
    assert found["kind"] == "ratio"
    assert found["thresholds"][found["now"]] == pytest.approx(1 / 6, rel=1e-12)
    assert found["best"] == ["do 0", "do 1"]
    shipped = models["champion"].actions
    assert found["shipped"]["champion"]["utility"] == pytest.approx(utility.obtained(cases.labels, shipped, TWO).mean())


def test_rows_of_a_group_count_together_in_the_interval() -> None:
    models, cases = world(TWO)
    apart, together = along(models, cases), along(models, replace(cases, groups=cases.groups // 40))
    width = [found["difference"][found["now"]]["high"] - found["difference"][found["now"]]["low"] for found in (apart, together)]
    assert width[0] < width[1]


@pytest.mark.parametrize(
    ("U", "spoil", "reason"),
    [
        (TWO, lambda models: models["champion"].probability.__setitem__((3, 0), np.nan), "a probability is no number"),
        (TWO, lambda models: models["challenger"].actions.__setitem__(3, -1), "a probability is no number"),
        (np.array([[0.0, -1.0], [0.0, -2.0]]), None, "one action is best for every class"),
        (np.array([[0.0, -1.0], [-2.0, -2.0]]), None, "one action is best for every class"),
        (np.array([[-1.0, -1.0], [-2.0, 0.0]]), None, "both actions are worth the same"),
        (np.zeros((3, 140)) - np.arange(420).reshape(3, 140), None, "too many"),
    ],
)
def test_where_nothing_can_be_moved_the_reason_is_given(U: np.ndarray, spoil: Any, reason: str) -> None:
    models, cases = world(U)
    if spoil is not None:
        spoil(models)
    assert reason in along(models, cases)["reason"]


def test_without_a_shared_row_there_is_no_step() -> None:
    models, cases = world(TWO)
    none = np.zeros(400, dtype=bool)
    found = along({name: scored.take(none) for name, scored in models.items()}, cases.take(none))
    assert found == {"reason": "no row was holdout for both models"}
