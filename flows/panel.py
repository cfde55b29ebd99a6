"""The closing panel of a retraining: a table for the terminal and markdown for Prefect's page."""

from __future__ import annotations

from pipelines.commands.publish import Outcome


def markdown(outcome: Outcome) -> str:
    """X."""
    return str(outcome)


def show(outcome: Outcome, *, seconds: float, server_seconds: float) -> None:
    """X."""
    print(outcome)
