import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV

from pipelines.core import policy, threshold, utility
from pipelines.core.calibration import softmax
from pipelines.core.sample import Sample

U = np.array([[0.0, -1.0], [-10.0, 0.0]])


def draw(n: int, K: int = 2, *, seed: int = 0, off: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are wrong by an offset of the last class, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)) * 2
    labels = (rng.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return softmax(logits + off * np.eye(K)[K - 1]), labels


@given(rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(-5, 5)), min_size=1, max_size=12), prefer=st.integers(-4, 4))
@settings(max_examples=300)
def test_brute_force_finds_nothing_better_and_equal_scores_stay_together(rows, prefer):
    score, gain = np.array(rows, dtype=float).T
    found = threshold.best_cutoff(score, gain, prefer=prefer)
    everywhere = [-np.inf, *(np.unique(score)), *(np.unique(score) + 0.5)]
    best = max(gain[score > t].sum() for t in everywhere)
    assert found.gain * len(score) == pytest.approx(best, abs=1e-9)
    assert gain[score > found.cutoff].sum() == pytest.approx(best, abs=1e-9)
    if gain[score > prefer].sum() == best:
        assert found.cutoff == prefer


@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=12),
    prefer=st.integers(-4, 4),
    bounds=st.tuples(st.integers(-4, 4), st.integers(-4, 4)).map(sorted),
)
@settings(max_examples=100)
def test_brute_force_finds_nothing_better_under_weights_and_within_an_interval(rows, prefer, bounds):
    score, gain, weights = np.array(rows, dtype=float).T
    found = threshold.best_cutoff(score, gain, prefer=prefer, weights=weights, low=bounds[0], high=bounds[1])
    best = max((gain * weights)[score > t].sum() for t in np.arange(bounds[0], bounds[1] + 0.25, 0.5))
    assert bounds[0] <= found.cutoff <= bounds[1]
    assert (gain * weights)[score > found.cutoff].sum() == pytest.approx(best, abs=1e-9)
    assert found.gain * weights.sum() == pytest.approx(best, abs=1e-9)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), distinct=st.sampled_from([3, 40, 10**6]), flat=st.booleans())
@settings(max_examples=100, deadline=None)
def test_leaving_out_rows_that_cannot_hold_the_optimum_changes_nothing(seed, n, distinct, flat):
    rng = np.random.default_rng(seed)
    score = np.round(rng.normal(size=n) * distinct) / distinct
    gain = rng.integers(-2, 3, n) if flat else rng.normal(size=n) + score
    whole = threshold.best_cutoff(score, gain, prefer=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "MANY", 1)
        patch.setattr(threshold, "BUCKETS", 16)
        part = threshold.best_cutoff(score, gain, prefer=0.1)
    assert (part.cutoff, part.low, part.high) == (whole.cutoff, whole.low, whole.high)
    assert part.gain == pytest.approx(whole.gain, abs=1e-12)


def test_the_cutoff_stands_midway_between_neighbours_or_beyond_the_extremes():
    assert threshold.best_cutoff([1.0, 2.0, 4.0], [-1, -1, 1]).cutoff == 3.0
    assert threshold.best_cutoff([1.0, 2.0], [1, 1], prefer=5.0).cutoff == -np.inf
    assert threshold.best_cutoff([1.0, 2.0], [-1, -1], prefer=-5.0).cutoff == np.inf
    assert threshold.best_cutoff([1.0, 2.0], [1, 1]).cutoff == 0.0  # the preferred one is as good
    assert threshold.best_cutoff([], []).cutoff == 0.0


def test_of_equally_good_cutoffs_the_nearest_to_the_preferred_one_is_taken():
    score, gain = [0.0, 1.0, 2.0, 3.0, 4.0], [-1, 1, -1, 1, -1]
    assert threshold.best_cutoff(score, [-1, 1, -1, 1, 0], prefer=2.1).cutoff == 2.1
    assert threshold.best_cutoff(score, gain, prefer=10.0).cutoff == 10.0  # never acting is worth as much as the two peaks
    assert threshold.best_cutoff(score, gain, prefer=1.4).cutoff == 0.5  # midway in the nearer one of the best intervals


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose probabilities are given."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        return np.hstack([1 - X, X])


@pytest.mark.parametrize("seed", range(4))
def test_at_least_as_good_as_scikit_learns_tuned_threshold(seed):
    p, labels = draw(500, seed=seed)
    scorer = make_scorer(lambda y, a: U[y, a].mean())
    model = Given().fit(None, None)
    tuned = TunedThresholdClassifierCV(model, scoring=scorer, cv="prefit", refit=False, thresholds=100).fit(p[:, [1]], labels)
    offsets, _, found = threshold.exact(p, labels, U)
    ours = utility.obtained(labels, policy.decide(p, U, offsets), U).mean()
    assert ours >= tuned.best_score_ - 1e-12
    assert ours == pytest.approx(utility.trivial(labels, U)[0] + found.gain)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("flip", [False, True])
@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_exact_policy_is_never_worse_than_analytic_or_trivial_on_its_rows(K, flip, seed):
    p, labels = draw(60, K, seed=seed)
    matrix = np.array([[0.0, -1.0], [-1.0, 0.0], [-6.0, 0.0]])[-K:] if K == 3 else U
    matrix = matrix[:, ::-1] if flip else matrix
    offsets, prices, _ = threshold.exact(p, labels, matrix)
    exact = utility.obtained(labels, policy.decide(p, matrix, offsets, prices), matrix).mean()
    analytic = utility.obtained(labels, policy.analytic_actions(p, matrix), matrix).mean()
    assert exact >= max(analytic, *utility.trivial(labels, matrix)) - 1e-9


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_swapping_the_actions_moves_no_cutoff(seed):
    p, labels = draw(60, seed=seed)
    np.testing.assert_array_equal(threshold.exact(p, labels, U)[0], threshold.exact(p, labels, U[:, ::-1])[0])


def test_a_known_offset_is_found_again():
    p, labels = draw(50_000, off=0.8)
    offsets, _, _ = threshold.exact(p, labels, U)
    assert offsets[1] == pytest.approx(-0.8, abs=0.3)  # the optimum is flat


@pytest.mark.parametrize("K", [2, 3])
@given(seed=st.integers(0, 1000), flip=st.booleans())
@settings(max_examples=15, deadline=None)
def test_with_one_matrix_per_row_brute_force_finds_no_better_policy_of_the_same_form(K, flip, seed):
    rng = np.random.default_rng(seed)
    p, labels = draw(25, K, seed=seed)
    costs = rng.lognormal(0, 1.5, size=(25, K, 2)).round(2)
    by_row = -costs * (np.arange(2) != (np.arange(K) == K - 1)[:, None])  # some classes ask for the first action, the last for the second
    by_row[rng.random(25) < 0.2] *= -1  # in some rows the other way round
    by_row[0], by_row[1] = 0.0, [[0.0, -1.0]] * K  # rows where nothing matters, and where one action is best whatever happens
    by_row = by_row[..., ::-1] if flip else by_row
    weights = rng.integers(1, 4, 25).astype(float)

    def value(offsets, prices):
        return np.average(utility.obtained(labels, policy.decide(p, by_row, offsets, prices), by_row), weights=weights)

    offsets, prices, _ = threshold.exact(p, labels, by_row, weights=weights)
    if K == 2:
        tried = [value([0, b], [0, 0]) for b in [*np.linspace(-12, 12, 241), -60, 60]]
    else:
        tried = [value(np.zeros(K), [0, c]) for c in np.linspace(-12, 12, 241)]
    assert value(offsets, prices) >= max(tried) - 1e-9


def test_utilities_that_are_the_same_in_every_row_give_the_policy_of_one_matrix():
    p, labels = draw(400)
    one, _, found = threshold.exact(p, labels, U)
    many, _, other = threshold.exact(p, labels, np.tile(U, (400, 1, 1)))
    np.testing.assert_allclose(many, one)
    assert other.gain == pytest.approx(found.gain)


def test_a_weight_counts_as_so_many_rows():
    p, labels = draw(200)
    weights = np.random.default_rng(0).integers(1, 5, 200)
    np.testing.assert_array_equal(
        threshold.exact(p, labels, U, weights=weights)[0], threshold.exact(np.repeat(p, weights, axis=0), np.repeat(labels, weights), U)[0]
    )


def test_bootstrapped_cutoffs_surround_the_optimum_and_narrow_with_rows():
    spread = []
    for n in (300, 30_000):
        p, labels = draw(n)
        sample = Sample(p, labels, U, np.ones(n), np.arange(n))
        found = threshold.bootstrap_cutoffs(sample, resamples=100, seed=0)
        np.testing.assert_array_equal(found, threshold.bootstrap_cutoffs(sample, resamples=100, seed=0))
        low, high = np.quantile(found, [0.025, 0.975])
        assert low <= -threshold.exact(p, labels, U)[0][1] <= high
        spread.append(high - low)
    assert spread[1] < spread[0] / 2
