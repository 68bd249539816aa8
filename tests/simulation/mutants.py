"""Rules of spec 10 switched off, one at a time: without each of them the simulation must find something lost."""

from __future__ import annotations

from collections.abc import Callable

from lafscli.storage.guard import FolderGuard


def _fence() -> None:
    """What is staged lies outside of the guard, so that a holder that was broken can still commit (§1.3)."""
    FolderGuard.staged = lambda self, shnum: f"staging/{self.token}.{shnum}"  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {"fence": _fence}


def switch_off(rule: str) -> None:
    """For the rest of this process."""
    MUTANTS[rule]()
