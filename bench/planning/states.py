"""What state a run is in, and which runs a command takes up."""

from __future__ import annotations

from collections.abc import Mapping


def to_do(states: Mapping[str, str], retry_failed: bool) -> set[str]:
    """Ids of the runs that a command runs; diverged is a result, damaged is for the user."""
    again = ("missing", "failed", "blocked") if retry_failed else ("missing",)
    return {key for key, state in states.items() if state in again}
