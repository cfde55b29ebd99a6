"""Boosted trees beside the networks: LightGBM on the same folds with the same symmetric loss, stopped by the same held-out rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import must
from pipelines.network.data import Plan, Rows
from pipelines.network.partners import MOST_BYTES, Partner, must_agree, search, two_or_more
from pipelines.network.trees import Features, Trees, bytes_of
from pipelines.params.train import Boosting
from pipelines.scoring import cores

Floats = NDArray[np.float64]


def boost(
    rows: Rows, plan: Plan, params: Boosting, *, cardinalities: Sequence[int], classes: int, seed: int, seconds: float | None = None
) -> Partner:
    """Grow trees for each network of the plan side by side, from the rows that it learns from.

    All have the number of rounds at which the mean of their held-out log losses was lowest. Each is grown by one thread, so the result does
    not depend on the number of cores; a single one by all of them, under LightGBM's `deterministic`, but for macOS, where the OpenMP of torch
    and LightGBM's may clash. `rows.weights` count in the loss. There are fewer rounds than asked for where all trees would take more than
    `MOST_BYTES`. Raises ExpostError where LightGBM cannot be loaded.
    """
    _need_library()
    taught = torch.unique(torch.cat(plan.learn))
    features = Features({name: array[taught] for name, array in rows.inputs.items() if name == "categories"}, cardinalities)
    X = features(rows.inputs).numpy()
    outputs = 1 if classes == 2 else classes
    options = _options(params, classes, seed, threads=cores() if len(plan) == 1 and sys.platform != "darwin" else 1)
    rounds = max(1, min(params.rounds, MOST_BYTES // (bytes_of(params.depth) * len(plan) * outputs)))
    started = time.monotonic()
    with ThreadPoolExecutor(min(len(plan), cores())) as pool:
        boosters = list(pool.map(lambda m: _begin(X, rows, plan, m, options), range(len(plan))))
        curve, kept, out_of_time = _grow(boosters, rounds, params.patience, pool.map, None if seconds is None else started + seconds)
        count = 1 + int(np.argmin(curve))
        each = list(zip(boosters, kept[count - 1], plan.held, strict=True))
        dumps = pool.map(lambda one: one[0].dump_model(num_iteration=one[1])["tree_info"], each)
        trees = Trees(features, [[tree["tree_structure"] for tree in dump] for dump in dumps], outputs).eval()
        raw = list(pool.map(lambda one: two_or_more(one[0].predict(X[one[2].numpy()], raw_score=True, num_iteration=one[1])), each))
    for network, (held, logits) in enumerate(zip(plan.held, raw, strict=True)):
        must_agree(trees, network, rows.take(held[:256]).inputs, logits[:256], "LightGBM's")
    return Partner("tree", trees, raw, curve, out_of_time, {"rounds": count}, f"{count} rounds of trees")


def _options(params: Boosting, classes: int, seed: int, threads: int) -> dict[str, Any]:
    loss = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    return {
        **loss,
        "learning_rate": params.learning_rate,
        "num_leaves": params.leaves,
        "max_depth": params.depth,
        "min_data_in_leaf": params.rows_per_leaf,
        "feature_fraction": params.feature_share,
        "lambda_l2": params.leaf_penalty,
        "use_missing": False,  # there are none: a missing number has an indicator beside it
        "seed": seed % 2**31,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }


def _need_library() -> None:
    """Load LightGBM, which needs the machine's OpenMP; raises ExpostError where that fails."""
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:
        got = str(error).splitlines()[0][:200]
        remedy = "Install OpenMP (macOS: `brew install libomp`, Debian: `apt install libgomp1`), or write trees: null under train in params.yaml."
        raise must("train.trees must be able to load LightGBM", got, remedy) from error


def _begin(X: NDArray[np.float32], rows: Rows, plan: Plan, network: int, options: Mapping[str, Any]) -> Any:
    """A booster without a tree, which knows its network's rows and those that judge it."""
    import lightgbm

    learn, held = plan.learn[network].numpy(), plan.held[network].numpy()
    labels = rows.labels.numpy()
    weights = None if rows.weights is None else rows.weights.numpy() / rows.weights.numpy().mean()
    given = [
        {"data": X[chosen], "label": labels[chosen], "weight": None if weights is None else weights[chosen]} for chosen in (learn, held)
    ]
    data = lightgbm.Dataset(**given[0], params=dict(options))
    booster = lightgbm.Booster(dict(options), data)
    booster.add_valid(lightgbm.Dataset(**given[1], reference=data, params=dict(options)), "held")
    return booster


def _grow(
    boosters: list[Any], rounds: int, patience: int, each: Callable[..., Any], deadline: float | None
) -> tuple[list[float], list[list[int]], bool]:
    """Mean held-out log loss after each round, how many iterations each booster holds by then, and whether the time was up.

    Ends `patience` rounds after the lowest. A round in which a booster finds no split leaves it no iteration.
    """
    kept: list[list[int]] = []

    def step(booster: Any) -> tuple[float, int]:
        booster.update()
        return float(booster.eval_valid()[0][2]), booster.current_iteration()

    def losses() -> Iterator[float]:
        for _ in range(rounds):
            found, iterations = zip(*each(step, boosters), strict=True)
            kept.append(list(iterations))
            yield float(np.mean(found))

    curve, late = search(losses(), rounds, patience, deadline, lambda done: f"trees, round {done}/{rounds}")
    return curve, kept, late
