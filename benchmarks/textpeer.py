"""Peers that read text, each in a process of its own as those of `benchmarks.peer` are: `python -m benchmarks.textpeer NAME FOLDER`.

They take tables with a column of free text, which the others do not read, and what else the table has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import peer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
WORDS = {"ngram_range": (1, 2), "sublinear_tf": True}
CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 4), "sublinear_tf": True}
STRENGTHS = tuple(np.geomspace(0.1, 1000, 9))  #: inverse penalties that compete, in cross-validation by log loss


def text_columns(X: pd.DataFrame) -> list[str]:
    """Columns of free text, which are strings where categories are categories."""
    return [str(name) for name in X.columns if pd.api.types.is_string_dtype(X[name].dtype)]


def logistic_words(X: pd.DataFrame, y: Ints, U: Floats) -> peer.Predict:
    return _logistic(X, y, U, WORDS)


def logistic_characters(X: pd.DataFrame, y: Ints, U: Floats) -> peer.Predict:
    return _logistic(X, y, U, WORDS, CHARACTERS)


def _logistic(X: pd.DataFrame, y: Ints, U: Floats, *bags: dict[str, object]) -> peer.Predict:
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder

    texts = text_columns(X)

    def filled(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{name: frame[name].fillna("").astype(object) for name in texts})

    columns = make_column_transformer(
        *((TfidfVectorizer(**bag), name) for name in texts for bag in bags),
        (make_pipeline(SimpleImputer(strategy="median", add_indicator=True), MaxAbsScaler()), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include="category")),
    )
    penalised = LogisticRegressionCV(Cs=list(STRENGTHS), l1_ratios=(0,), scoring="neg_log_loss", max_iter=1000, use_legacy_attributes=False)
    model = make_pipeline(columns, penalised).fit(filled(X), y)
    return peer.dearest(lambda frame: np.asarray(model.predict_proba(filled(frame))), U)


TEXT: dict[str, Callable[[pd.DataFrame, Ints, Floats], peer.Predict]] = {
    "TF-IDF of words and pairs, logistic regression, Elkan's threshold": logistic_words,
    "TF-IDF of words, pairs and 2 to 4 characters, logistic regression, Elkan's threshold": logistic_characters,
}
#: Every peer, those of tables without text first.
EVERY = peer.PEERS | TEXT
NEEDED = peer.PACKAGES | dict.fromkeys(TEXT, ("scikit-learn",))


def reading(X: pd.DataFrame) -> tuple[list[str], dict[str, str]]:
    """Names of the peers that read the features, and those that do not with the reason."""
    if not text_columns(X):
        return list(peer.PEERS), {}
    return list(TEXT), dict.fromkeys(peer.PEERS, "its text is not read by them")


if __name__ == "__main__":
    peer.PEERS.update(TEXT)
    peer.main(*sys.argv[1:])
