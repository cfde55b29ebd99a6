"""The benchmark on images: ways to act, the spread over seeds, its tables, and what is kept of an interrupted run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import images
from benchmarks.render_images import images as rendered

U = np.array([[0.0, -1.0], [-5.0, 0.0]])


def found(seed: int, epochs: int = 16, out_of_time: int = 0) -> dict[str, Any]:
    """One seed's figures, which grow a little with the seed."""

    def around(mean: float) -> dict[str, float]:
        return {"mean": mean + seed / 100, "low": mean - 0.01, "high": mean + 0.02}

    ways = (images.SHIPPED, images.LEAST, images.LIKELIEST, images.TRIVIAL)
    return {
        "rows": {"holdout": 624, "train": 3714},
        **{"auc": around(0.96), "accuracy": around(0.89), "log_loss": around(0.38)},
        "cost": {way: around(0.1 * place) for place, way in enumerate(ways, 1)},
        **{"epochs": epochs, "best_epoch": 8, "parameters": 307_042, "out_of_time": out_of_time, "train_seconds": 300.0 + seed},
    }


def result(seeds: int, name: str = "pneumoniamnist", minutes: float | None = None) -> dict[str, Any]:
    every = {str(seed): found(seed, out_of_time=seed % 2) for seed in range(seeds)}
    one = images.DATA[name]
    entry = {"seeds": every, "published": asdict(one.published), "minutes": minutes, "costs": one.task.fn is not None}
    return {"machine": {"cores": 2}, "data": {name: {**entry, "summary": images.summarise(every)}}}


def test_each_policy_acts_on_the_same_probabilities() -> None:
    probability = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    taken = images.policies(probability, np.array([0, 0, 1]), np.array([8.0, 2.0]), U)
    assert {name: actions.tolist() for name, actions in taken.items()} == {
        images.SHIPPED: [0, 0, 1],
        images.LEAST: [0, 1, 1],  # 5:1 moves the threshold to 1/6
        images.LIKELIEST: [0, 0, 1],
        images.TRIVIAL: [1, 1, 1],
    }


def test_seeds_and_their_spread_stand_beside_what_is_published() -> None:
    shown = rendered(result(3))
    assert "expost, seed 2 | 0.980 (0.950 to 0.980) |" in shown
    assert "expost, mean of 3 seeds | 0.970 (0.010) | 0.900 (0.010) | 0.390 (0.010) |" in shown
    assert "ResNet-18 at 28 pixels (MedMNIST v2, Yang et al. 2023) | 0.944 | 0.854 |" in shown
    assert f"| {images.SHIPPED} | {images.TRIVIAL} | {images.LEAST} | {images.LIKELIEST} |" in shown
    assert "| pneumoniamnist, mean of 3 seeds | 0.110 (0.010) | 0.410 (0.010) | 0.210 (0.010) | 0.310 (0.010) |" in shown


def test_one_seed_has_no_spread_and_right_or_wrong_is_no_cost() -> None:
    found = result(1, "cifar10", minutes=60)
    json.dumps(found, allow_nan=False)
    assert found["data"]["cifar10"]["summary"]["auc"]["sd"] is None
    shown = rendered(found)
    assert "mean of" not in shown and "cost" not in shown
    assert "Each training on cifar10 had 60 minutes on 2 cores" in shown
    assert "which cut 1 of 2 short" in rendered(result(2, "cifar10", minutes=60))


def test_an_interrupted_run_goes_on_and_other_minutes_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages are stand-ins: what is kept, and under which key, is the benchmark's own."""
    split = tmp_path / "data/split"
    split.mkdir(parents=True)
    for name in ("labels", "parts", "row_hash"):
        np.save(split / f"{name}.npy", np.arange(3))
    (tmp_path / "params.yaml").write_text("train: {seed: 0, max_minutes: null}\n")
    trained = list[int]()

    def stages(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
        trained.append(len(trained))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(images, "prepare", lambda name, temporary: (tmp_path, {}))
    monkeypatch.setattr(images, "measure_stages", stages)
    monkeypatch.setattr(images, "figures", lambda folder: found(len(trained)))
    monkeypatch.setattr(images, "spent", lambda folder, ran: {})
    arguments = ["pneumoniamnist", "--seeds", "2", "--results", str(tmp_path / "results.json")]
    with pytest.raises(KeyboardInterrupt):
        images.main(arguments)
    images.main(arguments)
    assert len(trained) == 3  # seed 0, seed 1 interrupted, seed 1
    images.main(arguments)
    assert len(trained) == 3
    images.main([*arguments, "--minutes", "5"])
    assert len(trained) == 5
    kept = json.loads((tmp_path / "results.json").read_text())["data"]["pneumoniamnist"]
    assert kept["summary"]["seeds"] == ["0", "1"] and kept["minutes"] == 5


def test_data_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "REAL_DATA", tmp_path)
    monkeypatch.setattr(images, "make_workspace", lambda folder: folder)
    with pytest.raises(SystemExit, match=r"pneumoniamnist.npz must exist, however: it is missing. Set EXPOST_DATA"):
        images.main(["pneumoniamnist", "--results", str(tmp_path / "results.json")])
