"""One peer in a process of its own, so that its seconds and memory are its own: `python -m benchmarks.peer NAME FOLDER`.

FOLDER holds features.parquet (text as categories), labels.npy, held.npy (rows of the holdout) and utility.npy; result.json is written there.
A peer gets every row outside the holdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.core import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Features to probability (n, K) and action (n,).
Predict = Callable[[pd.DataFrame], tuple[Floats, Ints]]
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SEED = 0
INSIDE = 0.15  #: share of a peer's rows that stops its training
ROUNDS, WAIT = 1000, 50  #: boosting rounds at most, and without a better log loss before they stop
LEVELS = 254  #: values of a category that are told apart where a learner bounds them; the rest are one


def main(name: str, folder: str) -> None:
    data = Path(folder)
    X = pd.read_parquet(data / "features.parquet")
    y, held, U = (np.load(data / f"{part}.npy") for part in ("labels", "held", "utility"))
    started = time.perf_counter()
    predict = PEERS[name](X[~held], y[~held], U)
    seconds = time.perf_counter() - started
    probability, action = predict(X[held])
    result = {**figures(probability, y[held], action, U), "fit_seconds": seconds}
    (data / "result.json").write_text(json.dumps(result))


def figures(probability: Floats, labels: Ints, actions: Ints, U: Floats) -> dict[str, float]:
    """Mean cost per case, log loss, Brier score (summed over classes) and AUC (more than two classes: the mean of one against the rest)."""
    return {
        "cost": float(-U[labels, actions].mean()),
        "log_loss": float(metrics.log_loss_rows(probability, labels).mean()),
        "brier": float(metrics.brier_rows(probability, labels).mean()),
        "auc": float(metrics.auc(probability, labels)[0]),
    }


def class_weights(U: Floats) -> Floats:
    """Weight `(K,)` of each class: the mean of what its wrong actions cost beyond its best one. For two classes Elkan's weights."""
    return np.asarray((U.max(axis=1, keepdims=True) - U).sum(axis=1) / (U.shape[1] - 1))


def dearest(probabilities: Callable[[pd.DataFrame], Floats], U: Floats) -> Predict:
    """Take the action of highest expected utility: for two classes Elkan's threshold."""

    def predict(X: pd.DataFrame) -> tuple[Floats, Ints]:
        probability = probabilities(X)
        return probability, (probability @ U).argmax(axis=1)

    return predict


def likeliest(probabilities: Callable[[pd.DataFrame], Floats], U: Floats) -> Predict:
    """Take the best action for the likeliest class: for two classes the cut-off 0.5."""

    def predict(X: pd.DataFrame) -> tuple[Floats, Ints]:
        probability = probabilities(X)
        return probability, U.argmax(axis=1)[probability.argmax(axis=1)]

    return predict


def split_inside(y: Ints) -> tuple[Ints, Ints]:
    """Rows that fit and rows that stop the training, stratified."""
    from sklearn.model_selection import train_test_split

    fit, stop = train_test_split(np.arange(y.size), test_size=INSIDE, random_state=SEED, stratify=y)
    return fit, stop


def bounded_levels(X: pd.DataFrame) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Keep the commonest `LEVELS` values that `X` has of each category; the other ones become one value more."""
    kept = {name: X[name].value_counts().loc[lambda n: n > 0].index[:LEVELS].astype(str) for name in X.select_dtypes("category").columns}

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame.copy()
        for name, levels in kept.items():
            text = frame[name].astype("string")
            common = text.where(text.isna() | text.isin(levels), "other values")
            changed[name] = pd.Categorical(common, categories=[*levels.difference(["other values"]), "other values"])
        return changed

    return change


def logistic(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_exclude="category")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include="category")),
    )
    return dearest(make_pipeline(columns, LogisticRegression(max_iter=3000)).fit(X, y).predict_proba, U)


def lightgbm(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from lightgbm import LGBMClassifier

    return dearest(LGBMClassifier(random_state=SEED, verbose=-1, n_jobs=THREADS).fit(X, y).predict_proba, U)


def lightgbm_stopped(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from lightgbm import LGBMClassifier, early_stopping

    options = {"random_state": SEED, "verbose": -1, "n_jobs": THREADS}
    fit, stop = split_inside(y)
    first = LGBMClassifier(n_estimators=ROUNDS, **options).fit(
        X.iloc[fit], y[fit], eval_set=[(X.iloc[stop], y[stop])], callbacks=[early_stopping(WAIT, verbose=False)]
    )
    return dearest(LGBMClassifier(n_estimators=max(1, first.best_iteration_), **options).fit(X, y).predict_proba, U)


def lightgbm_weighted(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(random_state=SEED, verbose=-1, n_jobs=THREADS).fit(X, y, sample_weight=class_weights(U)[y])
    return likeliest(model.predict_proba, U)


def histogram(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import TunedThresholdClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    boosted = HistGradientBoostingClassifier(random_state=SEED, categorical_features="from_dtype")
    model = make_pipeline(FunctionTransformer(bounded_levels(X)), boosted)
    if len(U) > 2:
        return dearest(model.fit(X, y).predict_proba, U)
    best = U.argmax(axis=1)
    scorer = make_scorer(lambda truth, act: U[np.asarray(truth), best[np.asarray(act)]].mean())
    tuned = TunedThresholdClassifierCV(model, scoring=scorer, cv=5, random_state=SEED).fit(X, y)
    return lambda frame: (tuned.predict_proba(frame), best[tuned.predict(frame)])


def catboost(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from catboost import CatBoostClassifier

    categories = list(X.select_dtypes("category").columns)

    def as_text(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{name: frame[name].astype("string").fillna("missing").astype(object) for name in categories})

    loss = "Logloss" if len(U) == 2 else "MultiClass"
    options = {"loss_function": loss, "random_seed": SEED, "verbose": False, "allow_writing_files": False, "thread_count": THREADS}
    fit, stop = split_inside(y)
    text = as_text(X)
    first = CatBoostClassifier(iterations=ROUNDS, early_stopping_rounds=WAIT, cat_features=categories, **options)
    first.fit(text.iloc[fit], y[fit], eval_set=(text.iloc[stop], y[stop]))
    # The learning rate that CatBoost chooses depends on the number of rounds, so the second fit is told the first one's.
    rounds = {"iterations": max(1, first.tree_count_), "learning_rate": first.learning_rate_}
    model = CatBoostClassifier(**rounds, cat_features=categories, **options).fit(text, y)
    return dearest(lambda frame: model.predict_proba(as_text(frame)), U)


def tabm_weighted(X: pd.DataFrame, y: Ints, U: Floats) -> Predict:
    from benchmarks.weighted_tabm import fit

    inside, stop = split_inside(y)
    levels = bounded_levels(X)
    probabilities = fit(levels(X), y, class_weights(U)[y], inside, stop, seed=SEED)
    return likeliest(lambda frame: probabilities(levels(frame)), U)


PEERS: dict[str, Callable[[pd.DataFrame, Ints, Floats], Predict]] = {
    "logistic regression, Elkan's threshold": logistic,
    "LightGBM, Elkan's threshold": lightgbm,
    "LightGBM early-stopped, Elkan's threshold": lightgbm_stopped,
    "LightGBM weighted, cut 0.5": lightgbm_weighted,
    "HistGradientBoosting, TunedThresholdClassifierCV": histogram,
    "CatBoost, Elkan's threshold": catboost,
    "TabM weighted, cut 0.5": tabm_weighted,
}
STOPPED = "LightGBM early-stopped, Elkan's threshold"
#: Their probabilities are of classes weighted by cost, so log loss and Brier score are not what they were fitted for.
WEIGHTED = ("LightGBM weighted, cut 0.5", "TabM weighted, cut 0.5")
#: Packages that a peer needs, whose versions are part of what its figures belong to.
PACKAGES = {
    "logistic regression, Elkan's threshold": ("scikit-learn",),
    "LightGBM, Elkan's threshold": ("lightgbm",),
    "LightGBM early-stopped, Elkan's threshold": ("lightgbm", "scikit-learn"),
    "LightGBM weighted, cut 0.5": ("lightgbm",),
    "HistGradientBoosting, TunedThresholdClassifierCV": ("scikit-learn",),
    "CatBoost, Elkan's threshold": ("catboost", "scikit-learn"),
    "TabM weighted, cut 0.5": ("tabm", "torch", "rtdl_num_embeddings", "scikit-learn"),
}


if __name__ == "__main__":
    main(*sys.argv[1:])
