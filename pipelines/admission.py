"""What a promotion must carry: a verdict on this very bundle, data and gate, against the champion that reigns. No database, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipelines.errors import ExpostError, must

DIGESTS = ("bundle_sha256", "weights_sha256", "policy_sha256")
RETRAIN = "Run `expost retrain`, which judges anew."


class OvertakenError(ExpostError):
    """Another promotion came in between: the champion that the verdict was given against no longer reigns."""


@dataclass(frozen=True)
class Claim:
    """What who promotes knows of the version, against which its verdict is held.

    data_sha256: what the version was evaluated on; gate_sha256, utility_sha256: the sections as they are now; registered_at: when the version was
    registered, where the ledger does not know; expires_after: days that a verdict lasts from then, None for ever.
    """

    digests: Mapping[str, str]
    verdict: Mapping[str, Any]
    verdict_sha256: str
    data_sha256: str
    gate_sha256: str
    utility_sha256: str = ""
    registered_at: datetime | None = None
    expires_after: float | None = None


def admitted(claim: Claim) -> tuple[int, str | None]:
    """Epoch and bundle digest of the champion that the verdict was given against; raises ExpostError where it is no verdict on this claim.

    Whether the verdict is PASS is another question: a person may override that, but not a verdict on something else.
    """
    verdict = claim.verdict
    champion, challenger = verdict.get("champion") or {}, verdict.get("challenger") or {}
    if champion.get("state") not in ("none", "champion"):
        remedy = "Run `expost retrain`, which mirrors the champion before it judges."
        raise must(
            "a promotion must be judged against the champion that reigns", f"the verdict's champion is {champion.get('state')}", remedy
        )
    for name in DIGESTS:
        if not claim.digests.get(name) or challenger.get(name) != claim.digests[name]:
            got = f"{name} is {str(challenger.get(name))[:12]} in the verdict and {str(claim.digests.get(name))[:12]} in the version"
            raise must("a promotion must be of the very bundle that was judged", got, RETRAIN)
    for name, what in (("data_sha256", "on the data of its version"), ("gate_sha256", "by the section gate of params.yaml as it is now")):
        given, wanted = str(verdict.get(name) or "missing"), str(getattr(claim, name) or "unknown")
        if given != wanted:
            got = f"its {name} is {given[:12]} and should be {wanted[:12]}"
            raise must(f"a promotion must be judged {what}", got, RETRAIN)
    if verdict.get("utility_sha256") not in (None, claim.utility_sha256):  # verdicts of an earlier program do not name it
        got = f"its utility_sha256 is {str(verdict['utility_sha256'])[:12]} and should be {claim.utility_sha256[:12] or 'unknown'}"
        rule = "a promotion must be judged by the section utility of params.yaml as it is now"
        raise must(rule, got, "Run `expost gate`, which judges by today's costs, or put the section back.")
    return champion.get("epoch") or 0, champion.get("bundle_sha256")


def against(word: object, refused: str | None) -> ExpostError | None:
    """The error that only an override passes over; `word` is the verdict's, `refused` says who rejected the version or rolled back from it."""
    if word != "PASS":
        remedy = "See the reasons in data/gate/verdict.json; a person may promote it nevertheless with `expost promote N --override`."
        return must("a promotion must have the verdict PASS", f"it is {word}", remedy)
    if refused is not None:
        remedy = "A person may promote it nevertheless with `expost promote N --override`."
        return must("a promotion must be of a version that was neither rejected nor rolled back from", refused, remedy)
    return None


def expired(claim: Claim, registered_at: datetime | None, now: datetime) -> ExpostError | None:
    """The error to raise where the verdict is too old at `now`, or its age unknown."""
    if claim.expires_after is None:
        return None
    rule = f"a verdict must be at most {claim.expires_after:g} days old to promote (registry.expires_after)"
    since = registered_at or claim.registered_at
    if since is None:
        return must(rule, "nobody knows when its version was registered", RETRAIN)
    age = now - since
    if age > timedelta(days=claim.expires_after):
        return must(rule, f"its version was registered with it {age / timedelta(days=1):.1f} days ago", RETRAIN)
    return None


def overtaken(found: int, expected: int) -> OvertakenError:
    """The error of a verdict whose champion no longer reigns."""
    remedy = "Run `expost retrain` again: it judges against the champion that reigns now."
    error = must(
        "a promotion must follow the champion that it was judged against", f"epoch {found} reigns, epoch {expected} was judged", remedy
    )
    return OvertakenError(str(error))
