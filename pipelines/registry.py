"""What MLflow remembers: one run per retraining, one version per result, and the aliases.

Files first: everything that is published here already lies on disk, so losing the registry never loses a training run.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import fresh, golden, provenance, publication, shipping
from pipelines.bundle import Bundle
from pipelines.errors import ExpostError, must, without_password
from pipelines.failpoints import reach
from pipelines.tracking import again, experiment, reached, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, CHAMPION = "challenger", "champion"
PACKAGED = Path("data/package")
DIGESTS = ("bundle_sha256", "weights_sha256", "policy_sha256")
#: Tags that a new verdict changes, in the order in which they are written.
JUDGED = ("files_sha256", "data_sha256", "gate_sha256", "verdict", "verdict_sha256")
LARGEST = 1 << 28
DISTRUST = "Do not use that version: something changed its files in the registry's store."


class AbsentError(ExpostError):
    """A version was registered without the file that was asked for."""


@dataclass(frozen=True)
class Registered:
    """A registered version; `created` is False where the same result had been registered before."""

    version: int
    run_id: str
    created: bool
    url: str


def run_key(facts: Mapping[str, str]) -> str:
    """Key of a result: data, code, configuration and seed, and the bundle that they gave; one key is one version, however often registered."""
    parts = [facts[name] for name in ("data_digest", "code_digest", "configuration_digest", "seed", "bundle_sha256")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _facts(folder: Path, data_digest: str, verdict: Mapping[str, Any]) -> dict[str, str]:
    """The tags of run, model and version."""
    manifest = Bundle.load(folder).manifest
    facts = {name: str(manifest[name]) for name in DIGESTS}
    facts |= {"data_digest": data_digest, **provenance.digests(), "golden_sha256": golden.digest(folder.parent)}
    pinned = {"files_sha256": hashlib.sha256(publication.listing().encode()).hexdigest()}
    return {**facts, "run_key": run_key(facts), **pinned, **publication.verdict_tags(verdict)}


def register(
    model: str, tracking_uri: str, *, data_digest: str, verdict: Mapping[str, Any], folder: Path = PACKAGED / "bundle"
) -> Registered:
    """Register what the stages left in the workspace as a run and a version with the alias `challenger`.

    Idempotent: a result that has a version keeps it, and only its verdict is brought up to date. Raises UnreachableError.
    """
    facts = _facts(folder, data_digest, verdict)
    with reached(tracking_uri) as client:
        place = experiment(client, tracking_uri, model)
        version, run_id = _version_of(client, model, facts["run_key"]), None
        if version is None:
            version, run_id = _publish(client, place, model, folder, facts)
        else:
            _finish(client, model, version, facts)
        reach("register.alias")
        _point(client, model, CHALLENGER, version.version)
        url = run_url(store_uri(tracking_uri), place, version.run_id)
        return Registered(int(version.version), version.run_id, version.run_id == run_id, url)


def run_url(uri: str, experiment: str, run_id: str) -> str:
    """Where the run's page is: on the server, or where `make ui` shows the local store."""
    base = without_password(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{experiment}/runs/{run_id}"


def _version_of(client: MlflowClient, model: str, key: str) -> Any:
    """The lowest version with this key, which is the live one; later ones, born of a repeated request, are tagged for who reads MLflow."""
    found = client.search_model_versions(f"name='{model}' and tags.run_key='{key}'", max_results=1000)
    versions = sorted(found, key=lambda version: int(version.version))
    for later in versions[1:]:
        if "duplicate" not in later.tags:
            again(partial(client.set_model_version_tag, model, later.version, "duplicate", str(versions[0].version)))
    return versions[0] if versions else None


def _publish(client: MlflowClient, place: str, model: str, folder: Path, facts: Mapping[str, str]) -> tuple[Any, str]:
    """Files, then the manifest, then the version; returns (the live version of this result, the run's id)."""
    run = client.create_run(place, run_name=f"retrain-{facts['bundle_sha256'][:8]}", tags=dict(facts))
    run_id = str(run.info.run_id)
    try:
        _abandon_lost(client, place, run_id, facts["run_key"])
        reach("register.run")
        shipping.log_run(client, run_id, int(run.info.start_time), facts)
        reach("register.files")
        source, model_id = shipping.upload(client, place, run_id, folder, facts)
        _create_version(client, model, (source, run_id, model_id), facts)
        reach("register.version")
    except BaseException:
        with suppress(Exception):  # the registry may be what failed; the first error is the one to tell
            client.set_terminated(run_id, "FAILED")
            shipping.abandon(client, place, run_id)
        raise
    client.set_terminated(run_id, "FINISHED")
    return _version_of(client, model, facts["run_key"]), run_id


def _abandon_lost(client: MlflowClient, place: str, run_id: str, key: str) -> None:
    """End what was killed on its way to this very result, and the twin of this run that a repeated request made."""
    for lost in client.search_runs([place], f"tags.run_key = '{key}' and attributes.status = 'RUNNING'"):
        if lost.info.run_id != run_id:
            client.set_terminated(lost.info.run_id, "KILLED")
            shipping.abandon(client, place, lost.info.run_id)


def _create_version(client: MlflowClient, model: str, origin: tuple[str, str, str], facts: Mapping[str, str]) -> None:
    from mlflow.exceptions import MlflowException

    source, run_id, model_id = origin
    try:
        client.create_registered_model(model, description="Trained with a symmetric loss; decides with the utility matrix (expost).")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(model, source, run_id, tags=dict(facts), description=publication.card(), model_id=model_id)


def _finish(client: MlflowClient, model: str, version: Any, facts: Mapping[str, str]) -> None:
    """Bring a registered result up to date: a run that was killed or failed before it could say that it ended, and the verdict."""
    if client.get_run(version.run_id).info.status != "FINISHED":  # everything but this had been done when its version was made
        client.set_terminated(version.run_id, "FINISHED")
    if any(version.tags.get(name) != facts.get(name) for name in JUDGED):
        _judge_again(client, model, version, facts)


def _judge_again(client: MlflowClient, model: str, version: Any, facts: Mapping[str, str]) -> None:
    """The same result under a new verdict: files, card, then tags follow; earlier verdicts stay with the run under their digests."""
    shipping.log_files(client, version.run_id, (publication.GOLDEN,))
    reach("register.files")
    client.update_model_version(model, version.version, publication.card())
    for name in JUDGED:
        if name in facts:
            client.set_model_version_tag(model, version.version, name, facts[name])


def crown(model: str, tracking_uri: str, version: int) -> None:
    """Point the alias `champion` at the version that the ledger says reigns."""
    with reached(tracking_uri) as client:
        _point(client, model, CHAMPION, str(version))


def crowned(model: str, tracking_uri: str) -> int | None:
    """The version that the alias `champion` points at; None where it is not set."""
    from mlflow.exceptions import MlflowException

    with reached(tracking_uri) as client:
        try:
            found = client.get_registered_model(model).aliases.get(CHAMPION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return None if found is None else int(found)


def _point(client: MlflowClient, model: str, alias: str, version: str) -> None:
    if client.get_registered_model(model).aliases.get(alias) not in (version, str(version)):
        again(lambda: client.set_registered_model_alias(model, alias, str(version)))


def fetch_bundle(model: str, tracking_uri: str, version: int, folder: Path, bundle_sha256: str | None = None) -> None:
    """Download the bundle of `version` into `folder` (replaced whole), verified against its manifest, its tag and `bundle_sha256`."""
    with reached(tracking_uri) as client:
        found = _known(client, model, version)
        digests = {str(digest) for digest in (found.tags.get("bundle_sha256"), bundle_sha256) if digest}
        if len(digests) != 1:
            got = "it has none" if not digests else f"its tag and the ledger differ: {', '.join(sorted(digest[:12] for digest in digests))}"
            remedy = "Do not use that version: expost did not register it as it is now."
            raise must(f"version {version} of model {model} must have one bundle_sha256", got, remedy)
        shipping.fetch(client, f"{found.source.rstrip('/')}/artifacts/bundle", folder, digests.pop())


def _known(client: MlflowClient, model: str, version: int) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(model, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = [str(one["version"]) for one in _versions(client, model)]
        remedy = f"Versions: {', '.join(known) or 'none'}; `expost status` shows them."
        raise must(f"the version must be one of model {model}", str(version), remedy) from error


def artifact(model: str, tracking_uri: str, version: int, path: str) -> bytes:
    """One file that was logged with `version`, e.g. "report/review.html", verified against the digests that its tag pins.

    Raises AbsentError where the version was registered without it, ExpostError where it is lost, changed, or too large to hold.
    """
    with reached(tracking_uri) as client:
        known = _known(client, model, version)
        pinned = known.tags.get("files_sha256")
        listed = json.loads(_verified(client, known, publication.listing_place(str(pinned)), str(pinned))) if pinned else {}
        if path not in listed:
            remedy = "Look at another version, or run `expost retrain`: what it registers has it where the stages wrote it."
            raise AbsentError(f"version {version} must have the file {path}, however: it was registered without it. {remedy}")
        return _verified(client, known, path, listed[path])


def _verified(client: MlflowClient, version: Any, path: str, sha256: str) -> bytes:
    """Content of a file logged with `version`; raises ExpostError where it is missing, too large, or has another digest."""
    folder = path.rpartition("/")[0]
    found = next((item for item in client.list_artifacts(version.run_id, folder) if item.path == path and not item.is_dir), None)
    rule = f"version {version.version} must have the file {path} as it was registered"
    if found is None:
        raise must(rule, "it is missing", DISTRUST)
    if (found.file_size or 0) > LARGEST:
        raise must(rule, f"it has {found.file_size} bytes", DISTRUST)
    with tempfile.TemporaryDirectory() as scratch:
        content = Path(client.download_artifacts(version.run_id, path, scratch)).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise must(rule, f"its digest is {digest[:12]} instead of {sha256[:12]}", DISTRUST)
    return content


def fetch_golden(model: str, tracking_uri: str, version: int, folder: Path) -> str:
    """Write the golden rows logged with `version` into `folder`; returns the digest that its tag says they have."""
    with reached(tracking_uri) as client:
        known = _known(client, model, version)
        pinned = known.tags.get("golden_sha256")
        if not pinned:
            got = "it has none: an earlier version of expost registered it"
            raise must(
                f"version {version} must have golden rows to prove itself", got, "Run `expost retrain`, which makes a version that has."
            )
        expected = _verified(client, known, f"{publication.GOLDEN}/{golden.EXPECTED}", str(pinned))
        inputs = _verified(client, known, f"{publication.GOLDEN}/{golden.INPUTS}", json.loads(expected)["inputs_sha256"])
        (folder / golden.EXPECTED).write_bytes(expected)
        (folder / golden.INPUTS).write_bytes(inputs)
        return str(pinned)


def prove(model: str, tracking_uri: str, version: int, seconds: float = 120) -> None:
    """Fetch `version` in a fresh process and score its golden rows with the bundle that ships; killed with its children after `seconds`.

    Raises ExpostError where a file is missing or changed, a figure differs by more than 1e-5, or it does not end in time.
    """
    with reached(tracking_uri) as client:
        _known(client, model, version)
    rule = f"version {version} of model {model} must prove itself in a fresh process"
    try:
        # by the environment, since an address may hold a password and everyone can read arguments
        code, said = fresh.run(
            [sys.executable, "-m", "pipelines.proof", model, str(version)], seconds, MLFLOW_TRACKING_URI=store_uri(tracking_uri)
        )
    except TimeoutError as error:
        raise must(
            rule, f"{error} and was killed", "Do not promote it; `expost predict --version` shows whether it scores at all."
        ) from error
    if code:
        lines = said.strip().splitlines() or [f"it ended with code {code}"]
        message = next((line for line in lines if line.startswith("error: ")), lines[-1])
        raise ExpostError(f"{rule}, however: {message.removeprefix('error: ')}")


def verdict(model: str, tracking_uri: str, version: int) -> dict[str, Any]:
    """The verdict on `version`; raises ExpostError where the file is not the one that its tag `verdict_sha256` names."""
    with reached(tracking_uri) as client:
        known = _known(client, model, version)
        named = str(known.tags.get("verdict_sha256"))
        judged: dict[str, Any] = json.loads(_verified(client, known, f"{publication.verdict_place(named)}/verdict.json", named))
        return judged


def versions(model: str, tracking_uri: str) -> list[dict[str, Any]]:
    """All live versions, newest first, each with `version`, `registered_at` (UTC) and its tags; of one result the lowest lives."""
    with reached(tracking_uri) as client:
        return _versions(client, model)


def _versions(client: MlflowClient, model: str) -> list[dict[str, Any]]:
    live: dict[str, Any] = {}
    for one in sorted(client.search_model_versions(f"name='{model}'", max_results=10_000), key=lambda one: int(one.version)):
        live.setdefault(one.tags.get("run_key", f"version {one.version}"), one)
    shown = [
        {**one.tags, "version": int(one.version), "registered_at": publication.moment(one.creation_timestamp), "run_id": one.run_id}
        for one in live.values()
    ]
    return sorted(shown, key=lambda one: -int(one["version"]))
