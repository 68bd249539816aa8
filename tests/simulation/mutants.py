"""Rules of spec 10 switched off, one at a time: without each of them the simulation must find something wrong.

Only what is called here is replaced; everything else is the real code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lafscli.mutable import attempt, publish
from lafscli.mutable.attempt import Attempt
from lafscli.mutable.entry import Entry
from lafscli.mutable.goal import goal
from lafscli.mutable.guards import Guards
from lafscli.mutable.survey import SlotMap
from lafscli.storage.guard import FolderGuard
from lafscli.storage.sight import Sight
from lafscli.storage.store import ShareStore


def _fence() -> None:
    """§1.3: what is staged lies outside of the guard, so that a holder that was broken can still commit."""
    _set(FolderGuard, "staged", lambda self, shnum: f"staging/{self.token}.{shnum}")


def _copies() -> None:
    """§2.6: no number is placed twice, so that some servers of H get none."""

    def sparing(
        n: int, deciding: Sequence[str], further: Sequence[str], held: Mapping[str, frozenset[int]]
    ) -> dict[str, list[int]]:
        given: dict[str, list[int]] = {}
        seen: set[int] = set()
        for name, numbers in goal(n, deciding, further, held).items():
            if fresh := [number for number in numbers if number not in seen]:
                given[name] = fresh
                seen |= set(fresh)
        return given

    _set(attempt, "goal", sparing)


def _survivors() -> None:
    """§2.8a: only what stands in place is counted."""
    _set(SlotMap, "counted", property(lambda self: tuple(one for one in self.found if one.file.kind == "place")))


def _unseen() -> None:
    """§2.8b: written also where half of H or more is unreachable or holds something newer than the base."""
    _set(Entry, "base", lambda self, found, lost, *, force: found.all_versions.best)


def _seqnum() -> None:
    """§2.8c: one more than the base, whatever else was seen."""
    _set(Attempt, "seqnum", property(lambda self: 1 if self.base is None else self.base.prefix.seqnum + 1))


def _staged() -> None:
    """§2.8d: committed however few servers have staged."""

    def staged(self: Attempt, said: Mapping[str, object], k: int, n: int) -> None:
        self.failed |= {name: error for name, error in said.items() if isinstance(error, Exception)}  # type: ignore[misc]

    _set(Attempt, "staged", staged)


def _committed() -> None:
    """§2.8e: acknowledged however few servers have committed."""
    commit = Attempt.commit

    def lax(self: Attempt, fronts: Mapping[int, bytes], k: int, n: int) -> dict[str, set[int]]:
        _set(self, "_enough", lambda placed, k, n: any(placed.values()))
        return commit(self, fronts, k, n)

    _set(Attempt, "commit", lax)


def _kept() -> None:
    """§2.8f: what was staged is deleted when a commit was sent and the attempt failed."""

    def close(self: Guards, *, done: bool = False, stopping: bool = False) -> None:
        self.sent = False
        original(self, done=done, stopping=stopping)

    def emptied(self: FolderGuard) -> None:
        self._aside.clear()
        self.release()

    original = Guards.close
    _set(Guards, "close", close)
    _set(FolderGuard, "set_aside", emptied)


def _again() -> None:
    """§2.8f: a change that is found to be there already is acknowledged as it is, wherever it stands."""
    _set(Attempt, "settled", True)
    tries = publish.tries
    _set(
        publish,
        "tries",
        lambda grid, cap, publishing, plain, work: tries(
            grid, cap, publishing, plain, lambda attempt, unsure: work(attempt, False)
        ),
    )


def _broken() -> None:
    """§2.8g: broken guards are removed by whoever sees them."""
    enter = Entry.enter

    def forgetful(self: Entry) -> SlotMap:
        found = enter(self)

        def forget(store: ShareStore) -> None:
            sights: list[Sight] = self.seen[store.server.name]
            for sight in sights:
                if sight.survivors is not None:
                    store.forget(sight.survivors)

        self._guards.each(dict.fromkeys(self.guarded, forget))
        return found

    _set(Entry, "enter", forgetful)


MUTANTS: dict[str, Callable[[], None]] = {
    "fence": _fence,
    "copies": _copies,
    "survivors": _survivors,
    "unseen": _unseen,
    "seqnum": _seqnum,
    "staged": _staged,
    "committed": _committed,
    "kept": _kept,
    "again": _again,
    "broken": _broken,
}


def switch_off(rule: str) -> None:
    """For the rest of this process."""
    MUTANTS[rule]()


def _set(owner: Any, name: str, value: object) -> None:
    setattr(owner, name, value)
