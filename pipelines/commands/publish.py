"""After the stages: count the look at the holdout, register the result, and promote it when the verdict is PASS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines import registry, reigns, store
from pipelines.commands.mirror import count_look, refresh_mirror, settle_looks
from pipelines.commands.promotion import LESSONS, VERDICT, carried_out, workspace_claim
from pipelines.errors import must
from pipelines.ledger import Ledger
from pipelines.params import load
from pipelines.params.registry import Registry

if TYPE_CHECKING:
    from pipelines.looks import Hashes

ROWS = store.stage_path("evaluate", "rows.parquet")
BUNDLE = store.stage_path("package", "bundle")


@dataclass(frozen=True)
class Outcome:
    """How a retraining ended; `version` and `url` are None where nothing was registered, `looks` counts looks at these holdout rows.

    `waiting`: the gate passed the version, and a person decides whether it reigns; the last of the reasons says why.
    """

    verdict: str
    identical: bool
    reasons: tuple[str, ...]
    looks: int | None = None
    version: int | None = None
    created: bool = False
    promoted: bool = False
    url: str | None = None
    waiting: bool = False

    @property
    def blocked(self) -> bool:
        """Whether the gate kept the result from being promoted."""
        return self.verdict != "PASS" and not self.identical

    def as_json(self) -> dict[str, Any]:
        """All fields and `blocked`, as plain types."""
        return {**asdict(self), "reasons": list(self.reasons), "blocked": self.blocked}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """The outcome that `as_json` wrote."""
        given = {name: value for name, value in values.items() if name != "blocked"}
        return cls(**{**given, "reasons": tuple(given["reasons"])})


def read_verdict() -> dict[str, Any]:
    """The verdict that the stage gate wrote; raises ExpostError where it is missing or has no known value."""
    verdict = store.read_json(VERDICT)
    if not isinstance(verdict, dict) or verdict.get("verdict") not in ("PASS", "FAIL", "INSUFFICIENT_DATA", "ERROR"):
        got = verdict.get("verdict") if isinstance(verdict, dict) else type(verdict).__name__
        raise must(f"{VERDICT} must hold a verdict", str(got), "Run `expost retrain` again.")
    return verdict


def publish(data_digest: str, report: Callable[[str], None]) -> Outcome:
    """Register and promote what the stages left in the workspace; may be repeated, the same result is published once.

    A result identical to the champion is not registered. With `registry.approval: manual`, and for a version or bundle that was rejected
    or rolled back from, a PASS waits for a person. Raises UnreachableError where the registry or the ledger is out of reach, OvertakenError where
    another champion came to reign since the verdict.
    """
    params, verdict = load(Registry), read_verdict()
    judged = Outcome(str(verdict["verdict"]), bool(verdict.get("identical")), tuple(verdict.get("reasons") or ()))
    if judged.identical:
        return judged
    ledger = Ledger(params.ledger_uri)
    looks = _count_look(params, ledger, verdict)
    done = registry.register(params.model, params.tracking_uri, data_digest=data_digest, verdict=verdict, folder=BUNDLE)
    ledger.note_registration(params.model, done.version, verdict, store.sha256(VERDICT))
    report(f"Registered version {done.version}." if done.created else f"This result is registered already, as version {done.version}.")
    held = None if judged.blocked else _held(params, ledger, done.version, verdict)
    promoted = not judged.blocked and held is None
    if promoted:
        _promote(params, ledger, done.version, verdict, report)
        report(f"Version {done.version} is the champion now.")
    else:
        refresh_mirror(report)  # the next run by DVC alone knows of this look
    reasons = (*judged.reasons, held) if held else judged.reasons
    return Outcome(judged.verdict, False, reasons, looks, done.version, done.created, promoted, done.url, held is not None)


def look(report: Callable[[str], None]) -> Outcome:
    """Count the look at the holdout that the verdict was, and publish nothing."""
    params, verdict = load(Registry), read_verdict()
    judged = Outcome(str(verdict["verdict"]), bool(verdict.get("identical")), tuple(verdict.get("reasons") or ()))
    report("Dry run: nothing is registered or promoted.")
    return judged if judged.identical else replace(judged, looks=_count_look(params, Ledger(params.ledger_uri), verdict))


def _count_look(params: Registry, ledger: Ledger, verdict: dict[str, Any]) -> int:
    """Count what was noted and this verdict's own look, which a verdict from DVC's cache has no note of; the most of any of its rows."""
    settle_looks(ledger, params.model)
    return count_look(ledger, params.model, str(verdict["evaluation_key"]), _row_hashes())


def _held(params: Registry, ledger: Ledger, version: int, verdict: dict[str, Any]) -> str | None:
    """Why a version that passed is not promoted by itself; None where it is."""
    bundle = (verdict.get("challenger") or {}).get("bundle_sha256")
    refusal = reigns.refusal(ledger.history(params.model), version, bundle)
    if refusal is not None:
        return f"Version {version} waits, since {reigns.told(refusal, version)}"
    if params.approval == "manual":
        return f"Version {version} waits for review, as registry.approval: manual asks."
    return None


def _promote(params: Registry, ledger: Ledger, version: int, verdict: dict[str, Any], report: Callable[[str], None]) -> None:
    claim = workspace_claim(params, verdict, BUNDLE)
    why = " ".join(["The gate passed it.", *(verdict.get("reasons") or [])[:1]])  # all of them stand in the verdict, which is kept
    lessons = store.read_json(LESSONS)["lessons"] if LESSONS.exists() else []
    ledger.examine(params.model, version, claim=claim, why=why)  # a proof takes seconds, and others may have been faster
    carried_out(params, ledger, version, lambda: ledger.promote(params.model, version, claim=claim, why=why, lessons=lessons), report)


def _row_hashes() -> Hashes:
    import polars as pl

    from pipelines.looks import hashes_of

    return hashes_of(pl.read_parquet(ROWS))
