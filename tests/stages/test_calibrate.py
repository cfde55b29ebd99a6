import ast
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import calibrate, store
from pipelines.core import calibration, crossfit, labelshift, metrics
from pipelines.errors import ExpostError

ROOT = Path(__file__).parents[2]


def write_upstream(*, n: int = 400, K: int = 2, slope: float = 1.0, seed: int = 0, rows_per_group: int = 1, weights: Any = 1.0) -> None:
    """Write data/split and data/train of n rows in the four parts, whose true probabilities are softmax(slope * logits)."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // rows_per_group
    parts = rng.choice(4, size=groups.max() + 1, p=[0.4, 0.1, 0.3, 0.2]).astype(np.int8)[groups]
    logits = rng.normal(size=(n, K)) * 2
    truth = np.exp(slope * logits)
    labels = (rng.random((n, 1)) > (truth / truth.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(axis=1)
    rows = rng.permutation(np.flatnonzero(parts < 3))  # train may write its rows in any order
    for stage, arrays in {
        "split": {"parts": parts, "calib": parts == 2, "labels": labels, "groups": groups, "weights": np.ones(n)},
        "train": {"rows": rows, "logits": logits[rows].astype(np.float32)},
    }.items():
        store.stage_path(stage).mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            np.save(store.stage_path(stage, f"{name}.npy"), array)
    store.write_json(store.stage_path("split", "meta.json"), {"classes": [f"c{k}" for k in range(K)]})


def prepare(monkeypatch, folder: Path, params: str = "calibrate: {repeats: 1, methods: [identity, temperature, affine]}\n", **upstream):
    monkeypatch.chdir(folder)
    write_upstream(**upstream)
    Path("params.yaml").write_text(params)


def run(monkeypatch, folder: Path, **prepared) -> Path:
    prepare(monkeypatch, folder, **prepared)
    calibrate.main()
    return Path("data/calibrate")


def calib_and_folds(monkeypatch, folder: Path, **upstream) -> tuple[calibrate.Calib, np.ndarray]:
    prepare(monkeypatch, folder, **upstream)
    _, calib, _ = calibrate.read_calib()
    return calib, crossfit.folds_of(calib.labels, calib.groups, folds=5, repeats=1, seed=0)


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
    assert calibrator["reference"] == labelshift.reference(array("probabilities"), np.load("data/split/labels.npy")[rows])
    assert store.read_json(out / "summary.json")["notes"] == []  # whatever suits another number of classes was not asked for by name


def nested(calib: calibrate.Calib, masks: np.ndarray, *methods: str) -> tuple[np.ndarray, list[str]]:
    return calibrate.nested(methods or ("identity", "temperature", "affine"), calib, masks, folds=5, seed=0)


def test_what_fold_j_is_judged_by_has_seen_none_of_its_labels(monkeypatch, tmp_path):
    """Turning the labels of a held-out fold around changes nothing in its layer of crossfit.npy, inner folds included."""
    calib, masks = calib_and_folds(monkeypatch, tmp_path, slope=0.5)
    before = nested(calib, masks)[0]
    after = nested(dataclasses.replace(calib, labels=np.where(masks[3], 1 - calib.labels, calib.labels)), masks)[0]
    np.testing.assert_array_equal(after[3], before[3])
    assert all((after[j] != before[j]).any() for j in (0, 1, 2, 4))


def test_entries_of_the_rest_are_by_its_method_fitted_without_their_inner_fold(monkeypatch, tmp_path):
    calib, masks = calib_and_folds(monkeypatch, tmp_path, K=3, slope=0.5, rows_per_group=2, weights=np.arange(400) % 3 + 1)
    for held, values, method in zip(masks, *nested(calib, masks), strict=True):
        rest = calib.only(~held)
        np.testing.assert_array_equal(values[held], calibration.apply(rest.fit(method), calib.logits[held]))
        for inner in calibrate.inner_folds(rest, 5, 0):
            assert not set(rest.groups[inner]) & set(rest.groups[~inner])
            np.testing.assert_array_equal(values[~held][inner], calibration.apply(rest.only(~inner).fit(method), rest.logits[inner]))


def test_the_label_of_a_row_moves_all_entries_but_those_of_its_inner_fold(monkeypatch, tmp_path):
    """Two rows of one inner fold swap labels, and the folds stay as they are."""
    calib, masks = calib_and_folds(monkeypatch, tmp_path, slope=0.5)
    rest = calib.only(~masks[0])
    folds = calibrate.inner_folds(rest, 5, 0)
    one, two = (np.flatnonzero(folds[2] & (rest.labels == k))[0] for k in (0, 1))
    labels = rest.labels.copy()
    labels[[one, two]] = labels[[two, one]]
    before, after = (calibrate.crossfitted(["affine"], c, folds)[0][0, 0] for c in (rest, dataclasses.replace(rest, labels=labels)))
    np.testing.assert_array_equal((after == before).all(axis=1), folds[2])


def test_what_a_policy_is_tuned_on_is_as_honest_as_what_it_meets(monkeypatch, tmp_path):
    """Labels of pure noise and an isotonic curve, which learns them: on its own rows it seems to beat chance, as nested it never does."""
    calib, masks = calib_and_folds(monkeypatch, tmp_path, n=1000, slope=0.0)

    def loss(values: Any, where: np.ndarray) -> float:
        return float(np.mean([metrics.log_loss_rows(p[rows], calib.labels[rows]).mean() for p, rows in zip(values, where, strict=True)]))

    honest = nested(calib, masks, "isotonic")[0]
    naive = [calibration.apply(calib.only(~held).fit("isotonic"), calib.logits) for held in masks]
    assert loss(naive, ~masks) < np.log(2) - 0.01
    assert min(loss(honest, ~masks), loss(honest, masks)) > np.log(2)


def test_weights_reach_the_fit_the_choice_and_the_figures(monkeypatch, tmp_path):
    """Rows that are over-confident count a hundred times the others: weighted, they are most of the data."""
    prepare(monkeypatch, tmp_path, n=3000, params="calibrate: {repeats: 1, methods: [identity, temperature]}\n")
    labels, parts = np.load("data/split/labels.npy"), np.load("data/split/parts.npy")
    doubtful = np.arange(3000) % 2 == 0
    labels = np.where(doubtful, np.random.default_rng(0).integers(0, 2, size=3000), labels)
    np.save("data/split/labels.npy", labels)
    np.save("data/split/weights.npy", np.where(doubtful, 100.0, 1.0))
    calibrate.main()
    summary, calibrator = (store.read_json(Path(f"data/calibrate/{name}.json")) for name in ("summary", "calibrator"))
    assert summary["method"] == "temperature" and calibrator["slope"] < 0.05
    after = metrics.log_loss_rows(array("probabilities"), labels[parts == 2])
    weights = np.where(doubtful, 100.0, 1.0)[parts == 2]
    assert summary["candidates"][1]["log_loss"] == pytest.approx(np.average(after, weights=weights), abs=0.003)
    before = metrics.log_loss_rows(calibration.softmax(calibrate.read_calib()[1].logits), labels[parts == 2])
    assert summary["before"]["log_loss"]["mean"] == pytest.approx(np.average(before, weights=weights), rel=1e-6)
    assert summary["before"]["log_loss"]["mean"] > before.mean() + 0.1


def test_candidates_for_another_number_of_classes_are_left_out_with_a_note_where_they_were_named(monkeypatch, tmp_path):
    out = run(monkeypatch, tmp_path, K=3, params="calibrate: {repeats: 1, methods: [identity, beta, vector]}\n")
    summary = store.read_json(out / "summary.json")
    assert [c["method"] for c in summary["candidates"]] == ["identity", "vector"]
    assert summary["notes"] == ["calibrate.methods: beta left out, being for another number of classes."]
    with pytest.raises(ExpostError, match=r"one of \['identity', .*'beta', 'isotonic'\] for 2 classes, however: got \['vector'\]"):
        run(monkeypatch, tmp_path, params="calibrate: {methods: [vector]}\n")


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
    prepare(monkeypatch, tmp_path, params="calibrate: {}\n")
    parts, labels = np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    parts[np.flatnonzero((parts == 2) & (labels == 1))[3:]] = 0
    np.save("data/split/calib.npy", parts == 2)
    calibrate.main()
    summary = store.read_json(Path("data/calibrate/summary.json"))
    assert summary["folds"] == 3
    assert "3 were used" in summary["notes"][0]


def test_too_few_rows_of_a_class_end_with_the_number_needed_and_leave_the_old_files(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path)
    store.stage_path("calibrate").mkdir(parents=True)
    store.stage_path("calibrate", "calibrator.json").write_text("old")
    parts, labels = np.load("data/split/parts.npy"), np.load("data/split/labels.npy")
    parts[np.flatnonzero((parts == 2) & (labels == 1))[2:]] = 0
    np.save("data/split/calib.npy", parts == 2)
    with pytest.raises(ExpostError, match=r"at least 3 rows of each class.*'c1' has 2"):
        calibrate.main()
    assert store.stage_path("calibrate", "calibrator.json").read_text() == "old"


def test_logits_that_are_missing_or_not_finite_are_refused(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path)
    logits, rows = np.load("data/train/logits.npy"), np.load("data/train/rows.npy")
    np.save("data/train/logits.npy", np.where(np.arange(len(rows))[:, None] >= 0, np.nan, logits))
    with pytest.raises(ExpostError, match="logits must be finite"):
        calibrate.main()
    np.save("data/train/logits.npy", logits[:-50])
    np.save("data/train/rows.npy", rows[:-50])
    with pytest.raises(ExpostError, match="logits of every calib row"):
        calibrate.main()


def test_a_split_without_weights_is_sent_back(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path)
    Path("data/split/weights.npy").unlink()
    with pytest.raises(ExpostError, match=r"split/weights\.npy must exist"):
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
