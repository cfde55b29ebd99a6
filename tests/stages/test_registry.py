"""The registry on a real store: one version per result, files before version, and a mirror that follows the ledger."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from pipelines import registry, tracking
from pipelines.bundle import Bundle, write_manifest
from pipelines.commands import mirror, publish, status
from pipelines.errors import ExpostError
from pipelines.ledger import Ledger, UnreachableError
from tests.registering import DATA, MODEL, another_result, client, judge, silent, uri, versions
from tests.stages.judging import edit
from tests.stages.shipped import mixed_table

pytestmark = pytest.mark.usefixtures("proven")


def test_a_result_that_passes_is_registered_promoted_and_mirrored(ready: Path) -> None:
    outcome = publish.publish(DATA, silent)
    assert (outcome.version, outcome.created, outcome.promoted, outcome.looks, outcome.blocked) == (1, True, True, 1, False)
    found = client().get_model_version_by_alias(MODEL, "champion")
    manifest = Bundle.load("data/package/bundle").manifest
    assert {name: found.tags[name] for name in ("bundle_sha256", "weights_sha256", "policy_sha256", "data_digest", "verdict")} == {
        **{name: manifest[name] for name in ("bundle_sha256", "weights_sha256", "policy_sha256")},
        "data_digest": DATA,
        "verdict": "PASS",
    }
    assert found.description == "# Model card\n"
    assert client().get_model_version_by_alias(MODEL, "challenger").version == found.version
    assert Bundle.load(mirror.BUNDLE).manifest == manifest
    assert json.loads(mirror.STATUS.read_text())["version"] == 1
    assert Ledger(f"sqlite:///{ready}/mlflow/ledger.db").reign(MODEL).version == 1
    assert not (ready / "mlruns").exists()
    assert not [path for path in (ready / "mlflow").rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib")]


def test_the_run_holds_what_was_done(ready: Path) -> None:
    run = client().get_run(registry.register(MODEL, uri(), data_digest=DATA, verdict=judge("PASS")).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.max_epochs"] == "4"
    assert run.data.params["utility.matrix.bad.pass"] == "-5"
    assert run.data.metrics["holdout.challenger.utility.mean"] == -0.5
    assert len(client().get_metric_history(run.info.run_id, "valid_log_loss")) == 4
    (model,) = run.outputs.model_outputs
    assert client().get_logged_model(model.model_id).tags["bundle_sha256"] == run.data.tags["bundle_sha256"]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == DATA
    logged = {
        f"{folder}/{Path(item.path).name}"
        for folder in ("provenance", "report", "gate")
        for item in client().list_artifacts(run.info.run_id, folder)
    }
    assert logged >= {"provenance/params.yaml", "provenance/raw.dvc", "report/card.md", "report/gate.png", "gate/verdict.json"}


def test_the_same_result_is_one_version_and_a_new_verdict_on_it_is_noted(ready: Path) -> None:
    judge("INSUFFICIENT_DATA")
    first, again = publish.publish(DATA, silent), publish.publish(DATA, silent)
    assert (first.created, again.created, first.version, again.version, again.looks) == (True, False, 1, 1, 1)
    assert first.blocked and not first.promoted
    assert "champion" not in client().get_registered_model(MODEL).aliases

    judge("PASS")
    assert publish.publish(DATA, silent).promoted
    assert len(versions()) == 1
    assert versions()[0].tags["verdict"] == "PASS"

    judge("FAIL")
    assert publish.publish("f" * 32 + ".dir", silent).version == 2  # the same bundle from other data


def test_identical_to_the_champion_registers_nothing(ready: Path) -> None:
    judge("PASS", identical=True)
    outcome = publish.publish(DATA, silent)
    assert (outcome.identical, outcome.version, outcome.blocked) == (True, None, False)
    assert versions() == []


def test_changed_files_in_the_store_are_refused(ready: Path) -> None:
    publish.publish(DATA, silent)
    policy = next(Path("mlflow/artifacts").rglob("bundle/policy.json"))
    policy.write_text(policy.read_text().replace("0", "1", 1))
    with pytest.raises(ExpostError, match="must have the SHA-256"):
        mirror.fetched(1)
    assert not (ready / "mlflow/versions/tested/1").exists()


def test_another_bundle_with_a_manifest_of_its_own_is_refused(ready: Path) -> None:
    publish.publish(DATA, silent)
    stored = next(path.parent for path in Path("mlflow/artifacts").rglob("bundle/policy.json"))
    another_result()
    shutil.rmtree(stored)
    shutil.copytree("data/package/bundle", stored)
    with pytest.raises(ExpostError, match="the bundle in the registry must have the digest"):
        mirror.fetched(1)


def test_out_of_reach_is_one_message_and_the_mirror_stands(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish.publish(DATA, silent)
    another_result()
    judge("PASS")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UnreachableError, match=r"the registry must be within reach.*safe on disk"):
            publish.publish(DATA, silent)
        shutil.rmtree(mirror.BUNDLE)
        said: list[str] = []
        assert mirror.refresh_mirror(said.append)["version"] == 1
        assert "kept as it is (champion)" in said[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    mirror.refresh_mirror(silent)
    assert publish.publish(DATA, silent).promoted
    assert json.loads(mirror.STATUS.read_text())["version"] == 2


def test_a_damaged_mirror_is_fetched_again(ready: Path) -> None:
    publish.publish(DATA, silent)
    (mirror.BUNDLE / "model.onnx").write_bytes(b"damaged")
    mirror.refresh_mirror(silent)
    Bundle.load(mirror.BUNDLE)


def test_status_names_champion_challenger_and_verdict(ready: Path) -> None:
    assert status.status() == {
        "model": MODEL,
        "epoch": 0,
        "waiting": [],
        "drift": None,
        "champion": None,
        "challenger": None,
        "last_verdict": {"verdict": "PASS", "identical": False, "reasons": ["It was judged PASS."]},
    }
    publish.publish(DATA, silent)
    another_result()
    judge("INSUFFICIENT_DATA")
    publish.publish(DATA, silent)
    found = status.status()
    assert list(found["champion"]) == ["version", "data_digest", "weights_sha256", "policy_sha256", "verdict", "registered_at"]
    assert (found["champion"]["version"], found["champion"]["verdict"]) == (1, "PASS")
    assert (found["challenger"]["version"], found["challenger"]["verdict"]) == (2, "INSUFFICIENT_DATA")
    assert found["champion"]["weights_sha256"] == found["challenger"]["weights_sha256"]
    assert found["champion"]["policy_sha256"] != found["challenger"]["policy_sha256"]


def test_an_unknown_version_is_named(ready: Path) -> None:
    publish.publish(DATA, silent)
    with pytest.raises(ExpostError, match=r"must be one of model tested, however: 9\. Versions: 1"):
        mirror.fetched(9)


@pytest.mark.parametrize(("tag", "got"), [(None, "it has none"), ("0" * 64, "its tag and the ledger differ")])
def test_a_version_whose_digest_is_missing_or_another_is_not_fetched(ready: Path, tag: str | None, got: str) -> None:
    publish.publish(DATA, silent)
    client().delete_model_version_tag(MODEL, "1", "bundle_sha256")
    if tag:
        client().set_model_version_tag(MODEL, "1", "bundle_sha256", tag)
    known = json.loads(mirror.STATUS.read_text())["bundle_sha256"] if tag else None
    with pytest.raises(ExpostError, match=rf"must have one bundle_sha256, however: {got}"):
        registry.fetch_bundle(MODEL, f"sqlite:///{ready}/mlflow/mlflow.db", 1, Path("fetched"), known)
    assert not Path("fetched").exists()


def test_what_is_missing_in_a_served_row_is_missing_however_pandas_writes_it(ready: Path) -> None:
    from pipelines.serving import Served

    served = Served()
    manifest = json.loads(Path("data/package/bundle/manifest.json").read_text())
    served.load_context(SimpleNamespace(artifacts={"bundle": "data/package/bundle"}, model_config=manifest))
    none: dict[str, list[Any]] = {"number": [0.5, None], "heavy": [2.0, 0.1], "colour": ["red", None], "flag": ["true", None]}
    none |= {"day": ["2021-05-01", None], "note": ["Paid late", None]}
    nan = pd.DataFrame({name: [float("nan") if value is None else value for value in values] for name, values in none.items()})
    encoded = served.bundle.encode(pl.DataFrame(none))
    assert not encoded.unseen
    expected = served.bundle.probabilities(served.bundle.score(encoded.inputs).logits)
    for frame in (pd.DataFrame(none), nan):
        probability = served.predict(None, frame)[[f"probability_{name}" for name in served.bundle.classes]].to_numpy()
        np.testing.assert_allclose(probability, expected)


def test_another_bundle_than_the_one_registered_is_not_served(ready: Path) -> None:
    from pipelines.serving import Served

    registered = json.loads(Path("data/package/bundle/manifest.json").read_text())
    another_result()
    with pytest.raises(ExpostError, match="must have the digest"):
        Served().load_context(SimpleNamespace(artifacts={"bundle": "data/package/bundle"}, model_config=registered))


CHEAP = "matrix:\n  bad: {pass: -5, stop: 0, ask: -0.001}\n  good: {pass: 0, stop: -1, ask: -0.001}\n"


def test_the_models_signature_takes_a_utility_and_its_cost_columns(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(
        Path("data/package/bundle/schema.json"),
        lambda schema: schema["others"].append({"name": "amount", "role": "cost", "kind": "number"}),
    )
    write_manifest(Path("data/package/bundle"))
    registry.register(MODEL, uri(), data_digest=DATA, verdict=judge("PASS"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri())  # mlflow.set_tracking_uri would set it for every later test
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@challenger")
    rows = (
        mixed_table(40, seed=4)
        .drop("outcome", "key")
        .with_columns(pl.col("day").cast(pl.String), pl.col("flag").cast(pl.String))
        .to_pandas()
    )
    plain = model.predict(rows)
    names = ["probability_good", "probability_bad"]
    by_row = json.dumps({"matrix": {"good": {"pass": 0, "stop": -1}, "bad": {"pass": "-amount", "stop": 0}}})
    other = model.predict(rows.assign(amount=np.arange(40.0)), params={"utility": by_row})
    pd.testing.assert_frame_equal(plain[names], other[names])
    stop = np.arange(40) * other["probability_bad"] > other["probability_good"]
    assert other["action"].tolist() == np.where(stop, "stop", "pass").tolist()
    for text, message in (
        (by_row, "amount is missing"),
        ("matrix: {good: {a: 0, b: -1}}", "utility"),
        (CHEAP.replace("bad", "evil"), r"\['good', 'bad'\], however: its rows are \['evil', 'good'\]"),
    ):
        with pytest.raises(MlflowException, match=message):
            model.predict(rows, params={"utility": text})


def test_models_serve_answers_with_probabilities_action_and_utility(ready: Path) -> None:
    publish.publish(DATA, silent)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    binary = Path(sys.executable).parent
    command = [
        str(binary / "mlflow"),
        "models",
        "serve",
        "-m",
        f"models:/{MODEL}@champion",
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {
        **os.environ,
        "PATH": f"{binary}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": uri(),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    rows = [
        {"number": 0.5, "heavy": 2, "colour": "red", "flag": "true", "day": "2021-05-01", "note": "Paid in time, case 7!"},
        {"number": None, "heavy": 0.1, "colour": "never seen", "flag": None, "day": None, "note": "雪"},
    ]
    with Path("serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}/invocations"
        answer = json.loads(_post(url, {"dataframe_records": rows}, server))["predictions"]
        other = json.loads(_post(url, {"dataframe_records": rows, "params": {"utility": CHEAP}}, server))["predictions"]
        with pytest.raises(AssertionError, match="evil"):
            _post(url, {"dataframe_records": rows, "params": {"utility": CHEAP.replace("bad", "evil")}}, server)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    bundle = Bundle.load("data/package/bundle")
    encoded = bundle.encode(pl.DataFrame(rows))
    probability = bundle.probabilities(bundle.score(encoded.inputs).logits)
    for row, expected in zip(answer, probability, strict=True):
        assert row["probability_good"] == pytest.approx(expected[0], abs=1e-6)
        assert row["probability_good"] + row["probability_bad"] == pytest.approx(1)
        assert row["action"] in ("pass", "stop")
        best = {"pass": -5 * row["probability_bad"], "stop": -row["probability_good"]}
        assert row["expected_utility"] == pytest.approx(best[row["action"]], abs=1e-6)
    for row, cheap in zip(answer, other, strict=True):
        assert (cheap["action"], cheap["expected_utility"]) == ("ask", pytest.approx(-0.001))
        assert {name: cheap[name] for name in row if name.startswith("probability")} == {
            name: row[name] for name in row if name.startswith("probability")
        }


def _post(url: str, body: dict[str, Any], server: subprocess.Popen[bytes]) -> str:
    """The server's answer, once it listens."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            assert server.poll() is None, Path("serve.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_two_workspaces_in_one_process_have_two_stores_though_both_name_the_same_relative_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with tracking.reached("sqlite:///mlflow/mlflow.db") as client:
            assert not client.search_registered_models()
            client.create_registered_model(name)
