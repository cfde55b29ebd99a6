"""The gate's truth table, its error rates by simulation, and that nothing broken ever passes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.core import gate, guards
from pipelines.core.evidence import ERROR, FAIL, INSUFFICIENT, PASS, Constraint, Criterion, Evidence, Results, Settings
from pipelines.core.gate import conclude, judge
from pipelines.core.guards import GUARDS, WORSE

MATERIAL = {"log_loss": 0.01, "brier": 0.005, "calibration_error": 0.02, "v_information": 0.02}
SETTINGS = Settings(alpha=0.05, margin=0.10, material=MATERIAL)
COLUMNS = ("utility", "log_loss", "brier", "v_information")
VERDICTS = (PASS, FAIL, INSUFFICIENT, ERROR)


def good(n: int = 4000, seed: int = 0) -> Evidence:
    """Two equally good models at 20 % prevalence: a missed positive -10, a needless action -1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.2).astype(np.int64)
    labels[:2] = (0, 1)

    def model() -> Results:
        wrong = rng.random(n) < 0.02
        utility = np.where(wrong, np.where(labels == 1, -10.0, -1.0), 0.0)
        loss = np.abs(rng.normal(0.2, 0.05, n))
        return Results(utility, loss, loss / 2, 0.6 - loss)

    trivial = np.where(labels == 1, 0.0, -1.0)
    prior = np.where(labels == 1, -np.log(0.2), -np.log(0.8))
    ours, theirs = model(), model()
    return Evidence(ours, theirs, labels, ("no", "yes"), 10.0, None, 0.75, trivial, prior)


def by_name(verdict: gate.Verdict) -> dict[str, Criterion]:
    return {item.criterion: item for item in verdict.criteria}


@pytest.mark.parametrize("first", VERDICTS)
@pytest.mark.parametrize("second", VERDICTS)
def test_truth_table(first: str, second: str) -> None:
    found = conclude([Criterion("a", first, "A."), Criterion("b", second, "B.")])
    worst = next(kind for kind in (ERROR, FAIL, INSUFFICIENT, PASS) if kind in (first, second))
    assert found.verdict == worst
    assert set(found.reasons) == {"A.", "B."}


def test_no_criterion_and_an_unknown_one_never_promote() -> None:
    assert conclude([]).verdict == ERROR
    assert conclude([Criterion("a", "FINE", "A.")]).verdict == ERROR
    assert conclude([Criterion("a", PASS, "A.")]).verdict == PASS


def test_an_equally_good_challenger_passes_on_many_rows() -> None:
    verdict = judge(good(), SETTINGS)
    assert verdict.verdict == PASS, verdict.reasons
    assert {item.criterion for item in verdict.criteria} == {*COLUMNS, "floor_trivial", "support", "validity"}
    assert all(reason.endswith(".") for reason in verdict.reasons)


def test_too_few_rows_name_how_many_are_needed() -> None:
    evidence = good(85)
    verdict = judge(evidence, SETTINGS)
    utility = by_name(verdict)["utility"]
    assert verdict.verdict == INSUFFICIENT
    assert utility.rows == 85
    assert utility.rows_needed is not None and utility.rows_needed > 85
    assert str(utility.rows_needed) in utility.reason


def test_the_rows_named_let_an_equally_good_challenger_pass_four_times_in_five() -> None:
    needed = by_name(judge(good(300, 5), SETTINGS))["utility"].rows_needed
    assert needed is not None
    passed = sum(by_name(judge(good(needed, seed), SETTINGS))["utility"].verdict == PASS for seed in range(150))
    assert passed / 150 > 0.7


def test_a_worse_policy_fails_for_utility_only() -> None:
    evidence = good()
    assert evidence.challenger.utility is not None
    utility = np.where((evidence.labels == 1) & (np.arange(4000) % 3 == 0), -10.0, evidence.challenger.utility)
    found = by_name(judge(replace(evidence, challenger=replace(evidence.challenger, utility=utility)), SETTINGS))
    assert [name for name, item in found.items() if item.verdict != PASS] == ["utility"]
    assert found["utility"].verdict == FAIL


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_blocks_when_significantly_and_materially_worse(name: str) -> None:
    evidence = good()
    column = getattr(evidence.challenger, name) + WORSE[name] * 0.2
    found = by_name(judge(replace(evidence, challenger=replace(evidence.challenger, **{name: column})), SETTINGS))
    assert [key for key, item in found.items() if item.verdict != PASS] == [name]
    assert found[name].verdict == FAIL


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_lets_immaterial_and_insignificant_losses_through(name: str) -> None:
    evidence = good()
    slight = getattr(evidence.champion, name) + WORSE[name] * SETTINGS.material[name] / 2
    immaterial = replace(evidence, challenger=replace(evidence.challenger, **{name: slight}))
    assert by_name(judge(immaterial, SETTINGS))[name].verdict == PASS
    assert by_name(judge(immaterial, SETTINGS))[name].p_value == pytest.approx(0.0, abs=1e-6)
    noisy = getattr(evidence.champion, name) + WORSE[name] * (0.05 + np.where(np.arange(4000) % 2 == 0, 8.0, -8.0))
    insignificant = replace(evidence, challenger=replace(evidence.challenger, **{name: noisy}))
    assert by_name(judge(insignificant, SETTINGS))[name].verdict == PASS
    assert by_name(judge(insignificant, SETTINGS))[name].estimate * WORSE[name] > SETTINGS.material[name]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["challenger", "champion"]),
    st.sampled_from(COLUMNS),
    st.integers(0, 3999),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_one_number_that_is_none_is_an_error_of_exactly_that_criterion(model: str, name: str, row: int, value: float) -> None:
    evidence = good()
    column = getattr(getattr(evidence, model), name).copy()
    column[row] = value
    broken = replace(evidence, **{model: replace(getattr(evidence, model), **{name: column})})
    verdict = judge(broken, SETTINGS)
    assert verdict.verdict == ERROR
    assert [item.criterion for item in verdict.criteria if item.verdict == ERROR] == [name]


@pytest.mark.parametrize("model", ["challenger", "champion"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_metric_is_an_error_of_exactly_that_criterion(model: str, name: str) -> None:
    evidence = good()
    broken = replace(evidence, **{model: replace(getattr(evidence, model), **{name: None})})
    verdict = judge(broken, SETTINGS)
    assert verdict.verdict == ERROR
    assert [item.criterion for item in verdict.criteria if item.verdict == ERROR] == [name]


def test_a_benign_reason_is_too_little_data_not_an_error() -> None:
    evidence = good()
    blank = replace(evidence.challenger, v_information=np.full(4000, np.nan))
    verdict = judge(replace(evidence, challenger=blank, unavailable={"v_information": "the probe separates"}), SETTINGS)
    assert verdict.verdict == INSUFFICIENT
    assert "the probe separates" in verdict.reasons[0]


def test_a_part_without_a_positive_is_too_little_data() -> None:
    verdict = judge(replace(good(), labels=np.zeros(4000, dtype=np.int64)), SETTINGS)
    assert verdict.verdict == INSUFFICIENT
    assert by_name(verdict)["support"].verdict == INSUFFICIENT
    assert "class 'yes'" in verdict.reasons[0]


def test_no_shared_row_is_too_little_data() -> None:
    empty = np.zeros(0)
    nothing = Results(empty, empty, empty, empty)
    evidence = replace(good(), challenger=nothing, champion=nothing, labels=np.zeros(0, dtype=np.int64), reference_utility=empty)
    assert judge(evidence, SETTINGS).verdict == INSUFFICIENT


def test_invalid_rows_are_an_error() -> None:
    verdict = judge(replace(good(), invalid=("an action is unknown in 1 row",)), SETTINGS)
    assert verdict.verdict == ERROR
    assert "an action is unknown" in verdict.reasons[0]


def test_a_missing_margin_is_an_error() -> None:
    for gain in (None, math.nan):
        found = by_name(judge(replace(good(), champion_gain=gain), SETTINGS))
        assert [name for name, item in found.items() if item.verdict != PASS] == ["utility"]
        assert found["utility"].verdict == ERROR


@pytest.mark.parametrize("gain", [0.0, -0.3])
def test_a_champion_without_gain_must_be_beaten(gain: float) -> None:
    equal = replace(good(), champion_gain=gain)
    assert by_name(judge(equal, SETTINGS))["utility"].verdict == INSUFFICIENT
    better = replace(equal.challenger, utility=np.zeros(4000))
    assert by_name(judge(replace(equal, challenger=better), SETTINGS))["utility"].verdict == PASS


def test_a_slightly_but_surely_worse_challenger_within_the_margin_passes() -> None:
    evidence = good()
    assert evidence.champion is not None and evidence.champion.utility is not None
    utility = evidence.champion.utility - np.where(np.arange(4000) % 50 == 0, 1.0, 0.0)
    found = by_name(judge(replace(evidence, challenger=replace(evidence.challenger, utility=utility)), SETTINGS))["utility"]
    assert found.high is not None and found.high < 0
    assert found.verdict == PASS


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    evidence = replace(good(500), groups=np.arange(500) // 2)
    order = np.random.default_rng(seed).permutation(500)

    def shuffled(model: Results | None) -> Results:
        return Results(*(getattr(model, name)[order] for name in COLUMNS))

    other = replace(
        evidence,
        challenger=shuffled(evidence.challenger),
        champion=shuffled(evidence.champion),
        labels=evidence.labels[order],
        groups=evidence.groups[order],
        reference_utility=evidence.reference_utility[order],
    )
    first, second = judge(evidence, SETTINGS), judge(other, SETTINGS)
    assert first.verdict == second.verdict
    assert [item.low for item in first.criteria] == pytest.approx([item.low for item in second.criteria], abs=1e-9)


def weighted(evidence: Evidence, seed: int = 0) -> Evidence:
    """The same rows, one in ten of which stands for twenty."""
    rng = np.random.default_rng(10_000 + seed)
    return replace(evidence, weights=np.where(rng.random(evidence.labels.size) < 0.1, 20.0, 1.0))


def test_weights_count_in_the_estimates_and_reasons_name_the_effective_rows() -> None:
    evidence = weighted(good(150))
    verdict = judge(evidence, SETTINGS)
    utility, weights = by_name(verdict)["utility"], evidence.weights
    assert evidence.challenger.utility is not None and evidence.champion.utility is not None and weights is not None
    assert utility.estimate == pytest.approx(np.average(evidence.challenger.utility - evidence.champion.utility, weights=weights))
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert f"On 150 rows (effective {effective:.1f}) the challenger's utility" in utility.reason
    assert f"(effective {effective:.1f})" in by_name(verdict)["log_loss"].reason
    assert "effective" not in " ".join(judge(good(150), SETTINGS).reasons)


def even(n: int, seed: int) -> Evidence:
    """Two models whose utilities differ evenly by up to 1 per row, none of them better."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    ours, theirs = (Results(values, *(np.zeros(n) for _ in GUARDS)) for values in (rng.uniform(-1, 1, n), np.zeros(n)))
    return Evidence(ours, theirs, labels, ("no", "yes"), 1.0, None, 1.0)


def test_the_weighted_rows_named_are_more_and_let_an_equally_good_challenger_pass_four_times_in_five() -> None:
    plain, heavy = (by_name(judge(evidence, SETTINGS))["utility"] for evidence in (even(60, 0), weighted(even(60, 0))))
    assert plain.rows_needed is not None and heavy.rows_needed is not None
    assert heavy.rows_needed > 2 * plain.rows_needed
    for rows, weigh in ((plain.rows_needed, lambda evidence, seed: evidence), (heavy.rows_needed, weighted)):
        passed = sum(by_name(judge(weigh(even(rows, seed), seed), SETTINGS))["utility"].verdict == PASS for seed in range(1, 201))
        assert stats.binomtest(passed, 200, 0.75, alternative="less").pvalue > 0.01, passed


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_equal_weights_are_no_weights(scale: float) -> None:
    evidence = good(400)
    same = judge(replace(evidence, weights=np.full(400, scale)), SETTINGS)
    for one, other in zip(judge(evidence, SETTINGS).criteria, same.criteria, strict=True):
        assert one.verdict == other.verdict
        for name, close in (("estimate", 1e-12), ("low", 1e-12), ("high", 1e-12), ("rows_needed", 20)):
            found = getattr(one, name)
            assert getattr(other, name) == (None if found is None else pytest.approx(found, abs=close))


def test_a_weighted_loss_of_one_margin_passes_at_most_one_time_in_twenty() -> None:
    """As below, where one row in five stands for ten."""
    rng, draws, gain, n = np.random.default_rng(3), 600, 0.5, 1000
    generous = replace(SETTINGS, margin=0.4)
    positive, difference = rare(rng, n, draws, 0.4 * gain)
    weights = np.where(rng.random((draws, n)) < 0.2, 10.0, 1.0)
    passed = sum(verdict_of(positive[r], difference[r], gain, generous, weights=weights[r]) == PASS for r in range(draws))
    assert stats.binomtest(passed, draws, 0.05, alternative="greater").pvalue > 0.01, passed


def kept(kind: str, level: float, hits: int, rows: int, seed: int = 0) -> Evidence:
    values = np.random.default_rng(seed).permutation(np.where(np.arange(rows) < hits, 1.0, 0.0))
    return replace(good(), constraints=(Constraint(kind, "yes", level, values, np.arange(rows)),))


@pytest.mark.parametrize(
    ("kind", "level", "hits", "found"),
    [("requirement", 0.95, 160, FAIL), ("requirement", 0.95, 188, PASS), ("limit", 0.2, 60, FAIL), ("limit", 0.2, 42, PASS)],
)
def test_a_limit_or_requirement_fails_where_the_holdout_clearly_shows_it(kind: str, level: float, hits: int, found: str) -> None:
    verdict = judge(kept(kind, level, hits, 200), SETTINGS)
    criterion = by_name(verdict)[kind]
    assert (criterion.verdict, criterion.subject, criterion.estimate, criterion.margin) == (found, "yes", hits / 200, level)
    assert [item.criterion for item in verdict.criteria if item.verdict != PASS] == ([kind] if found == FAIL else [])
    assert f"{hits / 200:.3f}" in criterion.reason and "yes" in criterion.reason


@pytest.mark.parametrize("kind", ["limit", "requirement"])
def test_what_is_just_kept_fails_at_most_one_time_in_twenty(kind: str) -> None:
    rng, draws, rows, level = np.random.default_rng(0), 400, 150, 0.9
    hits = rng.binomial(rows, level, draws)
    failed = sum(by_name(judge(kept(kind, level, int(hits[r]), rows), SETTINGS))[kind].verdict == FAIL for r in range(draws))
    assert stats.binomtest(failed, draws, 0.05, alternative="greater").pvalue > 0.01, failed


def test_a_constraint_without_its_numbers_is_an_error_and_without_rows_too_little_data() -> None:
    for values, expected in ((None, ERROR), (np.array([1.0, math.nan]), ERROR), (np.zeros(0), INSUFFICIENT)):
        verdict = judge(replace(good(), constraints=(Constraint("requirement", "yes", 0.9, values, None),)), SETTINGS)
        assert [(item.criterion, item.verdict) for item in verdict.criteria if item.verdict != PASS] == [("requirement", expected)]


def test_holm_agrees_with_scipy_style_by_hand() -> None:
    assert guards.holm({1: 0.01, 2: 0.04, 3: 0.03}) == {1: 0.03, 3: 0.06, 2: 0.06}
    assert guards.holm({}) == {}


def rare(rng: np.random.Generator, n: int, draws: int, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Paired differences at 3 % prevalence and 20:1 whose mean is -loss; both kinds of discordance occur."""
    positive = rng.random((draws, n)) < 0.03
    u = rng.random((draws, n))
    base = 0.05
    extra = loss / (0.03 * 20)
    return positive, np.where(
        positive,
        np.where(u < base + extra, -20.0, np.where(u > 1 - base, 20.0, 0.0)),
        np.where(u < 0.02, -1.0, np.where(u > 0.98, 1.0, 0.0)),
    )


@pytest.mark.parametrize("n", [200, 1000])
def test_a_loss_of_one_margin_passes_at_most_one_time_in_twenty(n: int) -> None:
    """R = 1000 draws of the real gate at 3 % prevalence and 20:1; the champion gains 0.5 of the 0.6 per case at stake."""
    rng, draws, gain = np.random.default_rng(n), 1000, 0.5
    generous = replace(SETTINGS, margin=0.4)  # a margin of 0.2 per case, so that passing is possible at this size
    positive, difference = rare(rng, n, draws, 0.4 * gain)
    passed = sum(verdict_of(positive[r], difference[r], gain, generous) == PASS for r in range(draws))
    assert stats.binomtest(passed, draws, 0.05, alternative="greater").pvalue > 0.01, passed


@pytest.mark.parametrize("n", [200, 1000])
def test_no_difference_fails_at_most_one_time_in_ten(n: int) -> None:
    rng, draws = np.random.default_rng(n + 1), 500
    positive, difference = rare(rng, n, draws, 0.0)
    failed = 0
    for r in range(draws):
        guards = {name: rng.standard_t(4, n) * 0.1 for name in GUARDS}
        failed += verdict_of(positive[r], difference[r], 0.5, SETTINGS, guards) == FAIL
    assert stats.binomtest(failed, draws, 0.10, alternative="greater").pvalue > 0.01, failed


def verdict_of(
    positive: np.ndarray,
    difference: np.ndarray,
    gain: float,
    chosen: Settings,
    guards: dict[str, np.ndarray] | None = None,
    weights: np.ndarray | None = None,
) -> str:
    zero = np.zeros(difference.size)
    ours = Results(difference, *((guards or {}).get(name, zero) for name in GUARDS))
    labels = positive.astype(np.int64)
    labels[:2] = (0, 1)
    evidence = Evidence(
        ours, Results(zero, zero, zero, zero), labels, ("no", "yes"), 20.0, None, gain, np.clip(difference - gain, -20, 20), weights=weights
    )
    return judge(evidence, chosen).verdict


def first(n: int = 400) -> Evidence:
    return replace(good(n), champion=None, champion_gain=None)


def test_a_first_champion_must_beat_the_best_trivial_policy() -> None:
    assert judge(first(), SETTINGS).verdict == PASS
    evidence = first()
    assert evidence.reference_utility is not None
    equal = replace(evidence, challenger=replace(evidence.challenger, utility=evidence.reference_utility))
    assert by_name(judge(equal, SETTINGS))["utility"].verdict == INSUFFICIENT
    worse = replace(
        evidence, challenger=replace(evidence.challenger, utility=evidence.reference_utility - np.where(evidence.labels == 1, 5.0, 1.0))
    )
    assert by_name(judge(worse, SETTINGS))["utility"].verdict == FAIL


def test_a_first_champion_must_beat_the_class_prior() -> None:
    evidence = first()
    assert evidence.reference_log_loss is not None
    worse = replace(evidence, challenger=replace(evidence.challenger, log_loss=evidence.reference_log_loss + 0.2))
    found = by_name(judge(worse, SETTINGS))
    assert [name for name, item in found.items() if item.verdict != PASS] == ["log_loss"]
    assert found["log_loss"].verdict == FAIL


@pytest.mark.parametrize("name", COLUMNS)
def test_a_first_champion_with_a_nan_is_an_error(name: str) -> None:
    evidence = first()
    column = getattr(evidence.challenger, name).copy()
    column[7] = math.nan
    verdict = judge(replace(evidence, challenger=replace(evidence.challenger, **{name: column})), SETTINGS)
    assert [item.criterion for item in verdict.criteria if item.verdict == ERROR] == [name]


def test_identical_models_pass_and_say_so() -> None:
    verdict = gate.identical("version 3")
    assert (verdict.verdict, verdict.identical) == (PASS, True)
    assert "identical to the champion (version 3)" in verdict.reasons[0]


def test_the_reason_says_how_the_champion_is_compared_and_without_a_comparator_the_absolute_criterion_decides() -> None:
    evidence = replace(good(), comparison="The champion is re-decided under the limits now in force.")
    redecided = by_name(judge(evidence, SETTINGS))["utility"]
    assert "the re-decided champion's" in redecided.reason
    assert redecided.reason.endswith(". The champion is re-decided under the limits now in force.")
    alone = by_name(judge(replace(evidence, comparable=False), SETTINGS))
    first = by_name(judge(replace(good(), champion=None), SETTINGS))
    assert replace(alone["utility"], reason="") == replace(first["utility"], reason="")
    assert alone["log_loss"] == by_name(judge(good(), SETTINGS))["log_loss"]  # the network is compared all the same
    asked_for_nothing = by_name(judge(replace(evidence, comparable=False), replace(SETTINGS, beats_trivial=False)))
    assert asked_for_nothing["utility"] == alone["utility"]  # something must be shown of the utility, whatever is configured
