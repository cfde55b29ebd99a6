"""Logistic regression beside the networks: scikit-learn's own figures in torch and in the file that ships, and nobody's own labels in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_info, threadpool_limits

from pipelines import store, train
from pipelines.core import encode
from pipelines.core.pool import pooled
from pipelines.core.words import ids
from pipelines.errors import ExpostError
from pipelines.facts import learners
from pipelines.network import logistic as module
from pipelines.network.data import Plan, Rows, tensors
from pipelines.network.export import export
from pipelines.network.logistic import fit_logistic
from pipelines.network.partners import Partner
from pipelines.network.stack import log_mean_probability
from pipelines.network.tabm import TabularNetwork
from pipelines.params import parse
from pipelines.params.train import Logistic, Train
from pipelines.scoring import Network
from tests.stages.shipped import params
from tests.stages.test_trees import TINY, folds

#: Codes of a category; codes and length of a text, and the code from which on they are pieces.
SIZES, TEXTS, PIECES = [5], [(30, 6), (8, 3)], [20, 8]


def rows_of(count: int = 300, classes: int = 3, *, seed: int = 0) -> Rows:
    """A number, a category and two texts, of words that tell of the class; some rows have no known word."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    numbers = (labels[:, None] + rng.normal(size=(count, 2))).astype(np.float32)
    category = rng.integers(0, SIZES[0], (count, 1))
    first = np.stack([rng.permutation(TEXTS[0][0] - 1)[: TEXTS[0][1]] + 1 for _ in range(count)])
    first[:, 0] = np.where(rng.random(count) < 0.5, 1 + labels, 0)
    first[:, 0] = np.where((first[:, 1:] == first[:, :1]).any(axis=1), 0, first[:, 0])
    first[rng.random(count) < 0.1] = 0
    second = np.stack([rng.permutation(TEXTS[1][0] - 1)[: TEXTS[1][1]] + 1 for _ in range(count)])
    text = np.concatenate([first, second], axis=1)
    return tensors({"numbers": numbers, "categories": category, "text": text}, labels, np.arange(count))


def fitted(rows: Rows, plan: Plan, classes: int = 3, *, seconds: float | None = None, **changed: Any) -> Partner:
    found = fit_logistic(rows, plan, Logistic(**changed), cardinalities=SIZES, texts=TEXTS, pieces=PIECES, classes=classes, seconds=seconds)
    assert found is not None
    return found


def reference(rows: Rows) -> np.ndarray:
    """The same terms by scikit-learn: TF-IDF of each text, of words and of pieces for themselves."""
    n = len(rows)
    columns = [rows.inputs["numbers"].numpy()]
    codes = rows.inputs["categories"].numpy()[:, 0]
    columns.append((codes[:, None] == np.arange(1, SIZES[0])).astype(float))
    for (count, length), piece, start in zip(TEXTS, PIECES, (0, TEXTS[0][1]), strict=True):
        counts = np.zeros((n, count))
        np.put_along_axis(counts, rows.inputs["text"].numpy()[:, start : start + length], 1, axis=1)
        blocks = [block for block in (counts[:, 1:piece], counts[:, piece:]) if block.shape[1]]
        columns += [TfidfTransformer().fit_transform(block).toarray() for block in blocks]
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learns_regression_on_its_tf_idf(classes: int) -> None:
    rows = rows_of(classes=classes)
    plan = folds(300)
    found = fitted(rows, plan, classes, strengths=(2.0,))
    X, labels = reference(rows), rows.labels.numpy()
    for network, (learn, held) in enumerate(zip(plan.learn, plan.held, strict=True)):
        theirs = LogisticRegression(C=2.0, max_iter=1000, tol=1e-8).fit(X[learn.numpy()], labels[learn.numpy()])
        with torch.inference_mode():
            ours = torch.log_softmax(found.module(rows.take(held).inputs)[:, network], dim=1)
        np.testing.assert_allclose(ours.exp().numpy(), theirs.predict_proba(X[held.numpy()]), atol=1e-4)
    losses = [log_loss(labels[held.numpy()], _probability(logits)) for held, logits in zip(plan.held, found.held, strict=True)]
    assert found.log_loss == pytest.approx(np.mean(losses), abs=1e-9)


def _probability(logits: np.ndarray) -> np.ndarray:
    return np.exp(pooled([logits], [1.0]))


def test_the_penalty_is_the_one_with_the_lowest_held_out_log_loss() -> None:
    rows, plan = rows_of(), folds(300)
    strengths = (0.001, 0.01, 0.1, 1.0, 10.0)
    found = fitted(rows, plan, strengths=strengths)
    alone = [fitted(rows, plan, strengths=(strength,)) for strength in strengths]
    best = int(np.argmin([one.log_loss for one in alone]))
    assert found.figures["strength"] == strengths[best] not in (strengths[0], strengths[-1])
    assert found.log_loss == pytest.approx(alone[best].log_loss, abs=1e-5)
    np.testing.assert_allclose(found.module(rows.inputs), alone[best].module(rows.inputs), atol=1e-2)
    np.testing.assert_allclose(np.concatenate(found.held), np.concatenate(alone[best].held), atol=1e-2)


def test_a_rise_of_the_held_out_log_loss_does_not_end_the_search_before_words_have_their_weight() -> None:
    """Many numbers that are noise are learnt by heart as soon as anything is, words that tell much only with a weaker penalty."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    text = np.stack([rng.permutation(28)[:6] + 2 for _ in range(400)])
    text[:, 0] = np.where((rng.random(400) < 0.8) & (labels == 1), 1, text[:, 0])
    numbers = rng.normal(size=(400, 60)).astype(np.float32)
    rows = tensors({"numbers": numbers, "text": text}, labels, np.arange(400))
    found = fit_logistic(rows, folds(400), Logistic(), cardinalities=[], texts=[(30, 6)], pieces=[30], classes=2)
    assert found is not None
    assert found.curve[1] > found.curve[0] > found.log_loss
    assert len(found.curve) <= 1 + Logistic().strengths.index(found.figures["strength"]) + module.PATIENCE


def test_numbers_that_are_nearly_one_cancel_each_other_in_the_file_as_in_scikit_learn() -> None:
    """Coefficients of hundreds with opposite signs: sums in float32 differed by more than the file may."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=(3000, 1)), rng.normal(size=(3000, 6))
    numbers = (base + 0.005 * noise).astype(np.float32)
    labels = (noise @ rng.normal(size=6) + 0.3 * rng.normal(size=3000) > 0).astype(np.int64)
    rows, plan = tensors({"numbers": numbers}, labels, np.arange(3000)), folds(3000)
    found = fit_logistic(rows, plan, Logistic(strengths=(1e5,)), cardinalities=[], texts=[], pieces=[], classes=2)
    assert found is not None and float(found.module.coefficients.abs().max()) > 200
    networks = [TabularNetwork([[-1.0, 0.0, 1.0]] * 6, [], 2, TINY).eval() for _ in plan.held]
    assert export(networks, rows.take(slice(0, 256)).inputs, [(found.module, 0.9)])


def test_fits_share_no_work_among_threads_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for each other (of 20 classes of text fifteen times as long), and add up in another order with each number of cores."""
    threads: set[int] = set()
    plain = LogisticRegression.fit

    def fit(self: Any, *given: Any, **named: Any) -> Any:
        threads.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return plain(self, *given, **named)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    with threadpool_limits(2, user_api="blas"):
        fitted(rows_of(), folds(300), strengths=(1.0,))
    assert threads == {1}


def test_rarity_is_counted_on_rows_learnt_from_alone() -> None:
    rows = rows_of()
    plan = Plan((torch.arange(200),), (torch.arange(200, 300),), ((0,),))
    changed = {**rows.inputs, "text": rows.inputs["text"].clone()}
    changed["text"][200:] = 0
    found = [fitted(Rows(inputs, rows.labels, rows.index), plan).module.terms.rarity for inputs in (rows.inputs, changed)]
    assert torch.equal(*found)


@pytest.mark.parametrize(("classes", "count"), [(2, 1), (3, 3)])
def test_the_file_pools_each_network_with_its_own_regression(classes: int, count: int) -> None:
    torch.manual_seed(0)
    rows = rows_of(classes=classes)
    plan = folds(300, 3) if count > 1 else Plan((torch.arange(200),), (torch.arange(200, 300),), ((0,),))
    found = fitted(rows, plan, classes)
    networks = [TabularNetwork([[-1.0, 0.0, 1.0]] * 2, SIZES, classes, TINY, TEXTS).eval() for _ in range(count)]
    content = export(networks, rows.inputs, [(found.module, 0.4)])
    with torch.inference_mode():
        alone = [log_mean_probability(network(rows.inputs)[0]).numpy() for network in networks]
        beside = found.module(rows.inputs).numpy()
    expected = np.exp([pooled([one, beside[:, network]], [0.6, 0.4]) for network, one in enumerate(alone)]).mean(axis=0)
    scores = Network(content)({name: value.numpy() for name, value in rows.inputs.items()})
    np.testing.assert_allclose(np.exp(scores.logits), expected, atol=1e-5)


def test_a_regression_of_a_fold_learns_nothing_from_the_labels_of_its_fold() -> None:
    rows, plan = rows_of(), folds(300)
    labels = rows.labels.clone()
    labels[plan.held[1]] = 2 - labels[plan.held[1]]
    flipped = Rows(rows.inputs, labels, rows.index)
    one, other = (fitted(given, plan, strengths=(1.0,)).module(rows.inputs).detach().numpy() for given in (rows, flipped))
    np.testing.assert_array_equal(one[:, 1], other[:, 1])
    assert np.abs(one[:, 0] - other[:, 0]).max() > 0.1


def test_a_weight_counts_as_that_many_rows_do() -> None:
    rows, plan = rows_of(120), folds(120)
    times = np.random.default_rng(1).integers(1, 4, 120)
    weighted = Rows(rows.inputs, rows.labels, rows.index, torch.from_numpy(times.astype(np.float32)))
    again = torch.from_numpy(np.repeat(np.arange(120), times))
    repeated = rows.take(again)
    many = Plan(
        tuple(torch.from_numpy(np.flatnonzero(np.isin(again, learn))) for learn in plan.learn),
        tuple(torch.from_numpy(np.flatnonzero(np.isin(again, held))) for held in plan.held),
        plan.judges,
    )
    # Rarity counts rows as they stand, so texts are left out.
    bare = [Rows({k: v for k, v in one.inputs.items() if k != "text"}, one.labels, one.index, one.weights) for one in (weighted, repeated)]
    shape = {"cardinalities": SIZES, "texts": [], "pieces": [], "classes": 3}
    first = fit_logistic(bare[0], plan, Logistic(strengths=(1.0,)), **shape)
    second = fit_logistic(bare[1], many, Logistic(strengths=(1.0,)), **shape)
    assert first is not None and second is not None
    np.testing.assert_allclose(first.module(bare[0].inputs).detach(), second.module(bare[0].inputs).detach(), atol=1e-3)
    assert first.log_loss == pytest.approx(second.log_loss, abs=1e-4)


def test_what_would_take_too_much_of_the_file_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 10)
    shape = {"cardinalities": SIZES, "texts": TEXTS, "pieces": PIECES, "classes": 3}
    assert fit_logistic(rows_of(), folds(300), Logistic(), **shape) is None
    assert "train.logistic is left out" in capsys.readouterr().err


def test_when_the_time_is_up_the_first_strength_stands() -> None:
    found = fitted(rows_of(), folds(300), seconds=0.0)
    assert (found.figures["strength"], found.out_of_time, len(found.curve)) == (Logistic().strengths[0], True, 1)
    assert not fitted(rows_of(), folds(300), seconds=0.0, strengths=(1.0,)).out_of_time, "nothing was left to try"


def test_of_equal_strengths_the_first_ships() -> None:
    """A number that is the same in all rows: no strength moves it."""
    labels = np.arange(120) % 4 // 2
    rows = tensors({"numbers": np.ones((120, 1), np.float32)}, labels, np.arange(120))
    found = fit_logistic(rows, folds(120, 2), Logistic(), cardinalities=[], texts=[], pieces=[], classes=2)
    assert found is not None
    assert found.figures["strength"] == Logistic().strengths[0] and float(found.module.coefficients.abs().max()) < 1e-6


def test_codes_of_pieces_begin_where_those_of_words_end() -> None:
    texts = ids(["win a prize now", "see you now then", "a prize for you", "then see a win"] * 5)
    fit = encode.fit(np.zeros((20, 0)), np.zeros((20, 0), np.int64), [], [], {}, texts={"text": texts[:-1]})
    (first,) = encode.first_pieces(fit)
    words = np.array(fit["texts"][0]["words"])
    assert 1 < first < len(words) and words[first - 2] < 1 << 15 <= words[first - 1]


def test_strengths_must_ascend() -> None:
    with pytest.raises(ExpostError, match=r"strengths must ascend, however: got \[1.0, 0.1\]\. Sort them"):
        parse(Train, {"logistic": {"strengths": [1.0, 0.1]}}, "train")


@pytest.fixture
def split(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with trees and a regression whose next stage is train."""
    folder = tmp_path / "split"
    shutil.copytree(world / "data/split", folder / "data/split")
    monkeypatch.chdir(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(params(trees={"rounds": 100}, logistic={})))
    return folder


def test_the_stage_pools_three_learners_and_says_what_each_is_worth(split: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main()
    said, metrics = capsys.readouterr().err, json.loads((split / "data/train/metrics.json").read_text())
    alone = [metrics[f"{name}_log_loss"] for name in ("network", "tree", "logistic")]
    assert metrics["valid_log_loss"] <= min(alone) + 1e-6
    assert metrics["logistic_share"] >= 0 and metrics["tree_share"] + metrics["logistic_share"] <= 1
    assert (
        f"a logistic regression of strength {metrics['logistic_strength']:g} with {metrics['logistic_log_loss']:.4f}, whose share is {metrics['logistic_share']:.2f}"
        in said
    )
    card = learners({"training": metrics})
    assert card is not None and f"trees {alone[1]:.4f}, logistic regression {alone[2]:.4f}, all together" in card
    before = {path.name: store.sha256(path) for path in sorted((split / "data/train").iterdir())}
    train.main()
    assert before == {path.name: store.sha256(path) for path in sorted((split / "data/train").iterdir())}
