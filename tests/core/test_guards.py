"""Criteria that block only when significantly and materially worse, and the test of utility against several ways to decide the champion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.core import miscalibration, recalibration
from pipelines.core.evidence import ERROR, FAIL, INSUFFICIENT, PASS, Criterion, Evidence, Results, Rival, Slice
from pipelines.core.gate import judge
from tests.core.test_gate import SETTINGS, by_name, good


def named(evidence: Evidence, **changes: Any) -> dict[tuple[str, str | None], Criterion]:
    found = judge(evidence, replace(SETTINGS, **changes))
    return {(item.criterion, item.subject): item for item in found.criteria}


def blamed(evidence: Evidence, **changes: Any) -> dict[str, str]:
    found = judge(evidence, replace(SETTINGS, **changes))
    return {item.criterion: item.verdict for item in found.criteria if item.verdict != PASS}


def right(evidence: Evidence) -> Evidence:
    """The same with the columns of right actions: where nothing was lost."""
    assert evidence.champion is not None and evidence.challenger.utility is not None and evidence.champion.utility is not None
    ours, theirs = ((model.utility == 0).astype(float) for model in (evidence.challenger, evidence.champion))
    return replace(evidence, challenger=replace(evidence.challenger, right=ours), champion=replace(evidence.champion, right=theirs))


def calibrated(rows: int, seed: int, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose true log-odds are slope times their own plus shift, and labels drawn from these."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1.0, 1.5, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-(slope * odds + shift)))).astype(np.int64)
    positive = 1 / (1 + np.exp(-odds))
    return np.column_stack([1 - positive, positive]), labels


def judged_on(probability: np.ndarray, labels: np.ndarray, champion: np.ndarray | None = None) -> Evidence:
    """Two models of equal utility and scores whose probabilities are given."""
    n = labels.size
    zero = np.zeros(n)
    ours = Results(zero, zero, zero, zero, probability=probability)
    theirs = Results(zero, zero, zero, zero, probability=probability if champion is None else champion)
    return Evidence(ours, theirs, labels, ("no", "yes"), 1.0, None, 1.0, zero - 1.0, zero + 1.0)


def first_of(evidence: Evidence) -> Evidence:
    return replace(evidence, champion=None, challenger=replace(evidence.challenger, utility=evidence.reference_utility + 1.0))


@pytest.mark.parametrize("rows", [60, 400, 3000])
def test_a_calibrated_model_is_failed_for_calibration_at_most_one_time_in_twenty(rows: int) -> None:
    failed = 0
    for seed in range(200):
        found = blamed(first_of(judged_on(*calibrated(rows, seed))))
        failed += bool({"calibration_error", "slope", "intercept"} & {name for name, kind in found.items() if kind == FAIL})
    assert stats.binomtest(failed, 200, 0.05, alternative="greater").pvalue > 0.01, failed


@pytest.mark.parametrize(("slope", "shift", "expected"), [(0.4, 0.0, "slope"), (1.0, 0.9, "intercept"), (0.4, 0.6, "calibration_error")])
def test_a_miscalibrated_model_is_failed_by_name(slope: float, shift: float, expected: str) -> None:
    assert expected in blamed(first_of(judged_on(*calibrated(4000, 1, slope, shift))))


def test_what_the_champion_is_too_does_not_block() -> None:
    probability, labels = calibrated(4000, 2, slope=0.4)
    assert {"slope", "calibration_error"} <= set(blamed(first_of(judged_on(probability, labels))))
    assert blamed(judged_on(probability, labels, champion=probability)) == {}


@pytest.mark.parametrize(("slope", "shift"), [(1.5, 0.0), (1.0, 0.5), (0.6, 0.0), (1.3, 0.0)])
def test_two_equally_miscalibrated_models_are_equal(slope: float, shift: float) -> None:
    """Both see the same truth with noise of their own and say it in the same wrong way; neither is the worse one."""
    failed, draws = 0, 100
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        truth = rng.normal(-1.0, 1.5, 1500)
        labels = (rng.random(1500) < 1 / (1 + np.exp(-truth))).astype(np.int64)
        said = [1 / (1 + np.exp(-(slope * (truth + rng.normal(0, 0.3, 1500)) + shift))) for _ in range(2)]
        ours, theirs = (np.column_stack([1 - p, p]) for p in said)
        found = blamed(judged_on(ours, labels, champion=theirs))
        failed += bool({"calibration_error", "slope", "intercept"} & {name for name, kind in found.items() if kind == FAIL})
    assert stats.binomtest(failed, draws, 0.05, alternative="greater").pvalue > 0.01, failed


def test_with_few_rows_of_a_class_calibration_is_not_judged() -> None:
    probability, labels = calibrated(300, 3, slope=0.2)
    few = np.zeros(300, dtype=np.int64)
    few[:9] = 1
    shown = named(first_of(judged_on(probability, few)))["calibration_error", None]
    assert (shown.verdict, shown.gated) == (PASS, False)
    assert "9 independent rows" in shown.reason
    grouped = replace(first_of(judged_on(probability, np.sort(labels))), groups=np.arange(300) // 60)
    assert not named(grouped)["calibration_error", None].gated


def test_numbers_beyond_reason_never_pass() -> None:
    probability, labels = calibrated(2000, 4)
    spoilt = probability.copy()
    spoilt[5] = np.nan
    assert blamed(judged_on(spoilt, labels, champion=probability))["calibration_error"] == ERROR
    evidence = good()
    assert evidence.challenger.log_loss is not None
    huge = replace(evidence, challenger=replace(evidence.challenger, log_loss=evidence.challenger.log_loss + 1e200))
    assert blamed(huge)["log_loss"] in (FAIL, ERROR)


def test_a_loss_hidden_in_one_large_group_passes_at_most_one_time_in_twenty() -> None:
    """One group holds half of the rows and moves together; a bound for groups of equal size passed this in 15 % of draws and more."""
    passed, draws = 0, 300
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        groups = np.concatenate([np.zeros(500, dtype=np.int64), 1 + np.arange(500)])
        shift = np.where(groups == 0, rng.normal(), 0.0) * 0.2
        difference = np.clip(-0.075 + shift + rng.normal(0, 0.3, 1000), -10, 10)
        evidence = good(1000, seed)
        assert evidence.champion is not None
        zero = replace(evidence.champion, utility=np.zeros(1000))
        one = replace(
            evidence, champion=zero, challenger=replace(zero, utility=difference), groups=groups, reference_utility=difference - 0.1
        )
        passed += by_name(judge(one, SETTINGS))["utility"].verdict == PASS
    assert stats.binomtest(passed, draws, 0.05, alternative="greater").pvalue > 0.01, passed


def test_dependent_rows_do_not_look_like_miscalibration() -> None:
    """Each row stands five times: the groups say so, and the null band widens; without them the error would be called real."""
    called = {"with": 0, "without": 0}
    for seed in range(60):
        probability, labels = calibrated(120, seed)
        five, groups = (np.repeat(probability, 5, axis=0), np.repeat(labels, 5)), np.repeat(np.arange(120), 5)
        called["with"] += miscalibration.error_test(*five, groups=groups).p_value < 0.05
        called["without"] += miscalibration.error_test(*five).p_value < 0.05
    assert called["with"] <= 8 < called["without"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_slope_lies_outside_its_range_where_its_interval_does(seed: int) -> None:
    """One-sided p below alpha / 2 exactly where the two-sided interval of `check` at 1 - alpha lies beyond the range."""
    probability, labels = calibrated(500, seed, slope=0.75)
    groups = np.arange(500)
    interval = recalibration.check(probability, labels, groups, confidence=0.9)
    found = recalibration.outside(probability, labels, groups, slope=(0.9, 1.1), intercept=(-0.1, 0.1))
    assert found["slope"].estimate == pytest.approx(interval.slope, abs=1e-3)
    if abs(interval.slope_high - 0.9) > 1e-3 and interval.slope < 0.9:
        assert (found["slope"].p_value < 0.05) == (interval.slope_high < 0.9)
    if interval.intercept > 0.1 and abs(interval.intercept_low - 0.1) > 1e-3:
        assert (found["intercept"].p_value < 0.05) == (interval.intercept_low > 0.1)


def in_half(evidence: Evidence, loss: float, rows: slice, kind: str = "slice") -> Evidence:
    """The challenger loses `loss` per case on some rows, which are a slice of its own."""
    mask = np.zeros(evidence.labels.size, dtype=bool)
    mask[rows] = True
    assert evidence.challenger.utility is not None
    utility = np.maximum(evidence.challenger.utility - loss * mask, -10.0)
    return replace(evidence, challenger=replace(evidence.challenger, utility=utility), slices=(Slice(kind, "the few", mask),))


@pytest.mark.parametrize("kind", ["slice", "lesson"])
def test_a_slice_that_got_worse_blocks_although_the_whole_did_not(kind: str) -> None:
    evidence = in_half(good(), 0.6, slice(0, 120), kind)
    found = named(evidence)
    assert (found[kind, "the few"].verdict, found[kind, "the few"].rows, found[kind, "the few"].gated) == (FAIL, 120, True)
    assert by_name(judge(evidence, SETTINGS))["utility"].verdict == PASS
    assert judge(evidence, SETTINGS).verdict == FAIL


def test_a_slice_below_the_least_support_is_shown_and_blocks_nothing() -> None:
    found = named(in_half(good(), 5.0, slice(0, 40)))["slice", "the few"]
    assert (found.verdict, found.gated, found.rows) == (PASS, False, 40)
    assert found.estimate is not None and found.estimate < -4
    assert "fewer than 50 rows" in found.reason
    empty = named(in_half(good(), 5.0, slice(0, 0)))["slice", "the few"]
    assert (empty.verdict, empty.gated, empty.rows) == (PASS, False, 0)


def test_a_slice_that_is_surely_but_immaterially_worse_does_not_block() -> None:
    evidence = in_half(replace(good(), champion_gain=8.0), 0.5, slice(0, 2000))
    found = named(evidence)["slice", "the few"]
    assert found.p_value is not None and found.p_value < 0.05
    assert found.verdict == PASS


def test_negative_flips_block_only_when_surely_more_than_allowed() -> None:
    evidence = right(good())
    calm = named(evidence)["negative_flips", None]
    assert calm.verdict == PASS
    assert calm.estimate is not None and 0 < calm.estimate < 0.05
    flipped = np.where(np.arange(4000) % 3 == 0, 0.0, 1.0)
    worse = replace(evidence, challenger=replace(evidence.challenger, right=flipped))
    assert blamed(worse) == {"negative_flips": FAIL}
    assert blamed(worse, flips=0.5) == {}
    rng = np.random.default_rng(0)
    ours, theirs = ((rng.random(4000) < 0.5).astype(float) for _ in range(2))  # equal models that differ much
    assert evidence.champion is not None
    both = replace(evidence, challenger=replace(evidence.challenger, right=ours), champion=replace(evidence.champion, right=theirs))
    assert blamed(both) == {}


def test_flips_and_slices_are_against_the_redecided_champion_where_it_was() -> None:
    evidence = right(good())
    assert evidence.champion is not None
    all_wrong = replace(evidence, champion=replace(evidence.champion, right=np.ones(4000)))
    lost = named(replace(all_wrong, redecided=Rival(evidence.champion.utility, np.zeros(4000))))["negative_flips", None]
    assert lost.estimate == 0.0


def test_the_challenger_must_match_the_better_of_the_two_champions() -> None:
    """New costs: the champion as it reigns is poor, re-decided it is better than the challenger's network."""
    evidence = good()
    assert evidence.champion is not None and evidence.champion.utility is not None
    stale = replace(evidence.champion, utility=np.maximum(evidence.champion.utility - 0.3, -10.0))
    poor = replace(evidence, champion=stale)
    assert judge(poor, SETTINGS).verdict == PASS
    better = np.minimum(evidence.champion.utility + np.where(evidence.champion.utility < 0, 10.0, 0.0), 0.0)
    found = named(replace(poor, redecided=Rival(better)))
    assert found["utility", "as it reigns"].verdict == PASS
    assert found["utility", "re-decided"].verdict == FAIL
    same = named(replace(evidence, redecided=Rival(evidence.champion.utility)))
    assert ("utility", "re-decided") not in same


def test_superiority_asks_for_a_surely_better_challenger() -> None:
    evidence = good()
    assert judge(evidence, SETTINGS).verdict == PASS
    equal = judge(evidence, replace(SETTINGS, superiority=True))
    assert equal.verdict == INSUFFICIENT
    better = replace(evidence, challenger=replace(evidence.challenger, utility=np.zeros(4000)))
    assert judge(better, replace(SETTINGS, superiority=True)).verdict == PASS


def test_an_uncertain_margin_widens_the_bound() -> None:
    evidence = good()
    sure, unsure = (by_name(judge(replace(evidence, gain_error=error), SETTINGS))["utility"] for error in (0.0, 0.2))
    assert sure.low is not None and unsure.low is not None
    assert unsure.low < sure.low
    assert unsure.high == sure.high


def test_looks_tighten_the_level_of_a_pass_and_all_of_them_together_stay_below_two_alpha() -> None:
    evidence, level = good(), SETTINGS.level
    assert level(0) == SETTINGS.alpha
    assert sum(level(k) for k in range(100_000)) < 1.65 * SETTINGS.alpha
    fresh, seen = (by_name(judge(replace(evidence, looks=looks), SETTINGS))["utility"] for looks in (0, 9))
    assert fresh.low is not None and seen.low is not None
    assert seen.low < fresh.low
    assert seen.high == fresh.high
    assert "look 10 at these rows" in seen.reason


def test_rows_that_were_left_out_are_named_and_without_others_fresh_ones_are_asked_for() -> None:
    empty = np.zeros(0)
    nothing = Results(empty, empty, empty, empty)
    evidence = replace(
        good(), challenger=nothing, champion=nothing, labels=np.zeros(0, dtype=np.int64), reference_utility=empty, retired=300
    )
    verdict = judge(evidence, SETTINGS)
    assert verdict.verdict == INSUFFICIENT
    assert any("300 rows were left out" in reason and "fresh rows" in reason for reason in verdict.reasons)


def test_small_losses_to_each_champion_are_stopped_by_the_first_one() -> None:
    evidence = good()
    assert evidence.challenger.utility is not None
    assert evidence.champion is not None and evidence.champion.utility is not None
    ours = np.where(evidence.champion.utility > -10, evidence.champion.utility - 0.06, -10.0)
    drifted = replace(evidence, challenger=replace(evidence.challenger, utility=ours))
    assert judge(drifted, SETTINGS).verdict == PASS  # within the margin of 0.075
    first = ours + 0.15
    assert blamed(replace(drifted, first=first)) == {"floor_first": FAIL}
    assert blamed(replace(drifted, first=ours + 0.05)) == {}
    shared = np.arange(4000) < 2000
    half = named(replace(drifted, first=np.where(shared, first, np.nan), first_rows=shared))["floor_first", None]
    assert (half.verdict, half.rows) == (FAIL, 2000)
    gone = named(replace(drifted, unavailable={"floor_first": "its classes are others"}))["floor_first", None]
    assert gone.verdict == INSUFFICIENT


def test_below_the_best_trivial_policy_nothing_passes() -> None:
    evidence = good()
    assert evidence.challenger.utility is not None
    above = replace(evidence, reference_utility=evidence.challenger.utility + 0.2)
    assert blamed(above) == {"floor_trivial": FAIL}


def test_the_knn_probe_confirms_or_withholds_the_block_of_the_linear_one() -> None:
    evidence = good()
    assert evidence.champion is not None and evidence.champion.v_information is not None
    ours = replace(evidence.challenger, v_information=evidence.champion.v_information - 0.2, knn=np.zeros(4000))
    for knn, expected in ((0.1, {"v_information": FAIL}), (-0.1, {})):
        theirs = replace(evidence.champion, knn=np.full(4000, knn))
        assert blamed(replace(evidence, challenger=ours, champion=theirs)) == expected


def test_holm_bounds_false_blocks_over_many_slices() -> None:
    """Twenty slices of two equal models: none is failed more often than the family's level allows."""
    failed, draws = 0, 150
    for seed in range(draws):
        evidence = good(1200, seed)
        rng = np.random.default_rng(seed)
        slices = tuple(Slice("slice", str(k), rng.random(1200) < 0.2) for k in range(20))
        failed += any(
            item.criterion == "slice" and item.verdict == FAIL for item in judge(replace(evidence, slices=slices), SETTINGS).criteria
        )
    assert stats.binomtest(failed, draws, 0.05, alternative="greater").pvalue > 0.01, failed


def test_the_effective_rank_warns_and_blocks_only_where_that_was_asked_for() -> None:
    fallen = replace(good(), ranks=(1.2, 4.0))
    shown = named(fallen)["effective_rank", None]
    assert (shown.verdict, shown.gated) == (PASS, False)
    assert "a warning" in shown.reason
    assert blamed(fallen, least_rank=0.5) == {"effective_rank": FAIL}
    assert "warning" not in named(replace(good(), ranks=(3.0, 4.0)))["effective_rank", None].reason
