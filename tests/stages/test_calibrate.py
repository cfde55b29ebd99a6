import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import calibrate, store
from pipelines.core import calibration
from pipelines.errors import ExpostError

ROOT = Path(__file__).parents[2]


def write_upstream(*, n: int = 400, K: int = 2, slope: float = 1.0, seed: int = 0, rows_per_group: int = 1) -> None:
    """Write data/split and data/train of n rows in the four parts, whose true probabilities are softmax(slope * logits)."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // rows_per_group
    parts = rng.choice(4, size=groups.max() + 1, p=[0.4, 0.1, 0.3, 0.2]).astype(np.int8)[groups]
    logits = rng.normal(size=(n, K)) * 2
    truth = np.exp(slope * logits)
    labels = (rng.random((n, 1)) > (truth / truth.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(axis=1)
    rows = rng.permutation(np.flatnonzero(parts < 3))  # train may write its rows in any order
    for stage, arrays in {
        "split": {"parts": parts, "labels": labels, "groups": groups, "weights": np.ones(n)},
        "train": {"rows": rows, "logits": logits[rows].astype(np.float32)},
    }.items():
        store.stage_path(stage).mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            np.save(store.stage_path(stage, f"{name}.npy"), array)
    store.write_json(store.stage_path("split", "meta.json"), {"classes": [f"c{k}" for k in range(K)]})


def run(monkeypatch, folder: Path, params: str = "calibrate: {repeats: 1, methods: [identity, temperature, affine]}\n", **upstream) -> Path:
    monkeypatch.chdir(folder)
    write_upstream(**upstream)
    Path("params.yaml").write_text(params)
    calibrate.main()
    return Path("data/calibrate")


def array(name: str) -> np.ndarray:
    return np.load(f"data/calibrate/{name}.npy", allow_pickle=False)


@pytest.mark.parametrize(("K", "rows_per_group"), [(2, 1), (4, 3)])
def test_its_files_agree_with_each_other(monkeypatch, tmp_path, K, rows_per_group):
    out = run(monkeypatch, tmp_path, K=K, slope=0.5, rows_per_group=rows_per_group, params="calibrate: {}\n")
    rows, masks, crossfitted = array("rows"), array("folds"), array("crossfit")
    parts, groups = np.load("data/split/parts.npy"), np.load("data/split/groups.npy")
    np.testing.assert_array_equal(rows, np.flatnonzero(parts == 2))
    assert crossfitted.shape == (10, len(rows), K)
    assert (masks.reshape(2, 5, -1).sum(axis=1) == 1).all()
    assert all(not set(groups[rows[held]]) & set(groups[rows[~held]]) for held in masks)
    np.testing.assert_allclose(crossfitted.sum(axis=2), 1)
    train_rows, logits = np.load("data/train/rows.npy"), np.load("data/train/logits.npy")
    at = np.array([np.flatnonzero(train_rows == r)[0] for r in rows])
    calibrator = store.read_json(out / "calibrator.json")
    np.testing.assert_allclose(array("probabilities"), calibration.apply(calibrator, logits[at]), atol=1e-12)


def test_a_fold_is_calibrated_without_its_labels(monkeypatch, tmp_path):
    """Turning the labels of a held-out fold around changes neither choice nor fit of the calibrator that serves it."""
    run(monkeypatch, tmp_path, slope=0.5)
    rows, masks, before = array("rows"), array("folds"), array("crossfit")
    labels = np.load("data/split/labels.npy")
    labels[rows[masks[3]]] = 1 - labels[rows[masks[3]]]
    options = calibrate.load(calibrate.Calibrate)
    np.save("data/split/labels.npy", labels)
    _, logits, turned, groups, _ = calibrate.read_calib()
    rest = ~masks[3]
    fitted = calibrate.choose_and_fit(options.methods, logits[rest], turned[rest], groups[rest], folds=5, seed=options.seed)
    np.testing.assert_array_equal(calibration.apply(fitted, logits), before[3])


def test_over_confident_logits_are_found_mended_and_said(monkeypatch, tmp_path):
    out = run(monkeypatch, tmp_path, n=2000, slope=0.4)
    summary, metrics = (store.read_json(out / f"{name}.json") for name in ("summary", "metrics"))
    assert summary["before"]["check"] == "over-confident"
    assert summary["before"]["slope"]["high"] < 0.6
    assert summary["check"] == "calibrated"
    assert summary["method"] in ("temperature", "affine")
    assert metrics["log_loss_after"] < metrics["log_loss_before"] - 0.1
    assert summary["before"]["ece"]["mean"] > summary["before"]["ece"]["null_high"]
    assert summary["after"]["ece"]["mean"] < summary["before"]["ece"]["mean"]
    assert summary["candidates"][0]["excess"] > summary["candidates"][0]["error"]


def test_calibrated_logits_are_left_alone(monkeypatch, tmp_path):
    out = run(monkeypatch, tmp_path, n=2000, seed=2)
    summary = store.read_json(out / "summary.json")
    assert summary["method"] == "identity"
    assert "identity, the simplest candidate" in summary["why"] or "identity is the simplest candidate" in summary["why"]
    assert summary["before"]["check"] == "calibrated"


def test_with_few_rows_it_says_so(monkeypatch, tmp_path):
    out = run(monkeypatch, tmp_path, n=60)
    summary = store.read_json(out / "summary.json")
    assert summary["check"] == "too few rows to say"
    assert (
        summary["sentence"].startswith("too few rows to say: ") and f"slope {summary['after']['slope']['mean']:.2f}" in summary["sentence"]
    )


def test_the_same_inputs_give_the_same_bytes(monkeypatch, tmp_path):
    first = {p.name: p.read_bytes() for p in run(monkeypatch, tmp_path, slope=0.6).iterdir()}
    calibrate.main()
    second = {p.name: p.read_bytes() for p in Path("data/calibrate").iterdir()}
    assert first == second
    assert set(first) == {
        *(f"{n}.npy" for n in ("crossfit", "folds", "rows", "probabilities")),
        *(f"{n}.json" for n in ("calibrator", "summary", "metrics")),
        "reliability.csv",
    }
    assert all(isinstance(v, int | float) for v in json.loads(first["metrics.json"]).values())


def test_a_rare_class_reduces_the_folds_with_a_note(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_upstream()
    parts, labels = np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    parts[np.flatnonzero((parts == 2) & (labels == 1))[3:]] = 0
    np.save("data/split/parts.npy", parts)
    Path("params.yaml").write_text("calibrate: {}\n")
    calibrate.main()
    summary = store.read_json(Path("data/calibrate/summary.json"))
    assert summary["folds"] == 3
    assert "3 were used" in summary["notes"][0]


def test_too_few_rows_of_a_class_end_with_the_number_needed_and_leave_the_old_files(monkeypatch, tmp_path):
    out = run(monkeypatch, tmp_path)
    before = (out / "calibrator.json").read_bytes()
    parts, labels = np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    parts[np.flatnonzero((parts == 2) & (labels == 1))[2:]] = 0
    np.save("data/split/parts.npy", parts)
    with pytest.raises(ExpostError, match=r"at least 3 rows of each class.*'c1' has 2"):
        calibrate.main()
    assert (out / "calibrator.json").read_bytes() == before


def test_logits_that_are_missing_or_not_finite_are_refused(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path)
    logits, rows = np.load("data/train/logits.npy"), np.load("data/train/rows.npy")
    np.save("data/train/logits.npy", np.where(np.arange(len(rows))[:, None] >= 0, np.nan, logits))
    with pytest.raises(ExpostError, match="logits must be finite"):
        calibrate.main()
    np.save("data/train/logits.npy", logits[:-50])
    np.save("data/train/rows.npy", rows[:-50])
    with pytest.raises(ExpostError, match="logits of every calib row"):
        calibrate.main()


def first_party_imports(module: str) -> set[str]:
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.exists() else ROOT / module.replace(".", "/") / "__init__.py"
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        found |= {n for n in names if n.startswith("pipelines") and ((ROOT / (n.replace(".", "/") + ".py")).exists())}
    return found


def test_nothing_that_calibrate_imports_can_see_the_utility():
    seen, todo = set(), {"pipelines.calibrate"}
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= first_party_imports(module) - seen
    assert "pipelines.core.calibration" in seen
    assert not seen & {"pipelines.core.utility", "pipelines.core.policy", "pipelines.core.threshold", "pipelines.params.utility"}


def test_it_needs_neither_torch_nor_optuna(monkeypatch, tmp_path):
    for name in ("torch", "optuna", "mlflow", "prefect"):
        monkeypatch.setitem(sys.modules, name, None)
    run(monkeypatch, tmp_path)
