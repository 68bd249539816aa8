"""Changing the list of a grid's servers, on a majority of them (spec 10 §2.7).

The list is written as a slot is: guards on every server that can be reached, the newest list is the base, the change
is applied to it, staged, put in place, read back. It stands when more than half of the new list have it, and more than
half of each list that still counts. Of two who change it at once the second one changes what the first one wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from lafscli.errors import Conflict, GuardHeld, GuardLost, LafsError, NotHappy, ServerError, Unreachable, UsageError
from lafscli.storage.grid import Grid
from lafscli.storage.membership import Members, Membership, most_of
from lafscli.storage.standing import TOO_MANY, Standing, missed, standing
from lafscli.storage.store import ListGuard, ShareStore

T = TypeVar("T")

Edit = Callable[[Membership | None], Membership]
"""Gives the list that is wanted, from the newest that there is; None: there is none yet. The same one: it is only
brought to those that have it not."""

PATIENCE = 60.0
"""Seconds for which another one who changes the list is waited for: longer than a dead one's guard lasts."""
_HINT = "try again when they answer; lafs server remove NAME gives up one that is lost"
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Changed:
    """The list that stands now, the node ids of the servers that have it, and why others did not answer, by name."""

    membership: Membership
    reached: frozenset[bytes]
    silent: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Changing:
    """How a list is changed. `lost`: node ids of servers that are given up, so that their silence counts for nothing.
    `force`: also where no majority can be had; lists of which there is none count no more then."""

    random_bytes: Callable[[int], bytes]
    lost: frozenset[bytes] = frozenset()
    force: bool = False
    patience: float = PATIENCE
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def change_list(grid: Grid, known: Membership | None, edit: Edit, changing: Changing) -> Changed:
    """Change the list on its servers. `known`: what this home knows of it.

    NotHappy where too few answered, and nothing was changed; UsageError where a server is of another grid; Conflict
    where another one kept changing it; what `edit` raises.
    """
    until = changing.monotonic() + changing.patience
    pause = _FIRST_PAUSE
    while True:
        attempt = _Attempt(grid, changing)
        try:
            return attempt.run(known, edit)
        except (GuardHeld, GuardLost) as error:
            if changing.monotonic() >= until:
                raise Conflict(
                    f"the list of the grid's servers is being changed by another one ({error.message})",
                    hint="try again",
                ) from error
        finally:
            attempt.release()
        # random, doubling (spec 10 §2.6): two that wait for each other must not stay in step
        changing.sleep(pause * (0.5 + changing.random_bytes(1)[0] / 512))
        pause = min(2 * pause, _LONGEST_PAUSE)


def newest(found: Collection[Membership]) -> Membership | None:
    """The list that counts of those that were found, all of one grid.

    The highest epoch wins. An earlier list that one of its copies keeps no more was dropped. Two lists of one epoch
    were made by two who could not see each other, at least one of whom failed: then a server that is on either is a
    member, and both count as earlier ones.
    """
    if not found:
        return None
    epoch = max(each.epoch for each in found)
    tops = sorted((each for each in found if each.epoch == epoch), key=lambda each: each.members)
    first = tops[0]
    kept = tuple(members for members in first.earlier if all(members in each.earlier for each in tops))
    if all(each.same_list(first) for each in tops):
        return replace(first, earlier=kept)
    lists = dict.fromkeys([*(each.members for each in tops), *(members for each in tops for members in each.earlier)])
    union = {member.node_id: member for each in tops for member in each.members}
    return Membership(first.grid, epoch + 1, tuple(sorted(union.values())), tuple(lists))


@dataclass(frozen=True, slots=True)
class Dropped:
    """The list that stands now, and why earlier ones are still kept; None: there are none."""

    membership: Membership
    kept: str | None


def drop_earlier(
    grid: Grid,
    changed: Changed,
    changing: Changing,
    *,
    n: int,
    most: int | None = None,
) -> Dropped:
    """Drop the earlier lists if nothing depends on them any more (standing.py). `changed`: the list as it was written
    to the servers last. `most`: objects on a server that are looked at; with more of them the lists are kept."""
    membership = changed.membership
    if not membership.earlier:
        return Dropped(membership, None)
    everybody = {member.node_id for each in membership.lists for member in each}
    found: dict[bytes, Standing] = {}
    for answer in grid.ask(
        lambda store: standing(store, most) if store.membership() == membership else None,
        [store for store in grid.stores if store.server.node_id in everybody],
    ):
        if isinstance(answer.value, Standing):
            found[answer.store.server.node_id] = answer.value
        elif answer.value is TOO_MANY:
            return Dropped(membership, "there are many objects, and not all of them were looked at")
    kept = missed(membership, found, n=n)
    if kept is not None:
        return Dropped(membership, kept)

    def drop(base: Membership | None) -> Membership:
        assert base is not None, "this home knows one"
        return base.without_earlier() if base == membership else base

    after = change_list(grid, membership, drop, changing).membership
    return Dropped(after, "the list was changed meanwhile" if after.earlier else None)


class _Attempt:
    """One try; `release` must follow."""

    def __init__(self, grid: Grid, changing: Changing) -> None:
        self._grid = grid
        self._changing = changing
        self._guards: dict[ShareStore, ListGuard] = {}
        self._found: dict[bytes, Membership | None] = {}
        self._silent: dict[str, str] = {}

    def run(self, known: Membership | None, edit: Edit) -> Changed:
        self._take()
        self._read()
        base = self._base(known)
        wanted = edit(base)
        counting = dict.fromkeys((*wanted.lists, *(() if base is None else base.lists)))
        if self._changing.force:
            some = self._node_ids(self._guards)
            if not any(member.node_id in some for members in counting for member in members):
                raise Unreachable(f"none of the grid's servers answered ({_reasons(self._silent)})", hint=_HINT)
            counting = dict.fromkeys(each for each in counting if self._most(each, some))
            wanted = replace(wanted, earlier=tuple(each for each in wanted.earlier if each in counting))
        everybody = frozenset(member.node_id for each in counting for member in each) | wanted.node_ids
        self._insist(counting, self._guards, "answered")
        self._do(lambda store, guard: None if self._has(store, wanted) else guard.stage(wanted), everybody)
        self._insist(counting, self._guards, "have room for it")
        done = self._do(lambda store, guard: None if self._has(store, wanted) else guard.commit(), everybody)
        reached = self._node_ids(done)
        if not all(self._most(members, reached) for members in counting):
            # Somebody else may see what was written of it: only the next attempt tells what stands.
            raise GuardLost(f"only {len(reached)} servers took the new list ({_reasons(self._silent)})")
        return Changed(wanted, reached, self._silent)

    # ---- steps

    def _take(self) -> None:
        """Take the guards: the first server's first, so that of many one goes on, then those of all others."""
        stores = [store for store in self._grid.stores if store.server.takes_mutable]
        stores.sort(key=lambda store: store.server.node_id)
        self._grid.connect(stores)
        while stores and not self._guards:
            self._ask([stores.pop(0)])
        self._ask(stores)

    def _ask(self, stores: Sequence[ShareStore]) -> None:
        held: GuardHeld | None = None
        for answer in self._grid.ask(lambda store: store.guard_list(), stores):
            if isinstance(answer.value, GuardHeld):
                held = answer.value
            elif isinstance(answer.value, LafsError):
                self._silent[answer.store.server.name] = answer.value.message
            else:
                self._guards[answer.store] = answer.value
        if held is not None:
            raise held

    def _read(self) -> None:
        self._found = {
            store.server.node_id: found for store, found in self._do(lambda _store, guard: guard.read()).items()
        }

    def _base(self, known: Membership | None) -> Membership | None:
        for node_id, each in self._found.items():
            if each is not None and node_id not in each.node_ids and (known is None or each.grid != known.grid):
                self._found[node_id] = None  # its grid has let it go
        listed = [each for each in self._found.values() if each is not None]
        grids = {each.grid for each in ([known] if known is not None else listed)}
        if len(grids) > 1:
            raise UsageError(
                "the servers belong to different grids: " + ", ".join(sorted(grid.decode() for grid in grids)),
                hint="keep those of one grid in a home, and make another home for the others (lafs --home DIR)",
            )
        return newest([each for each in (known, *listed) if each is not None and each.grid in grids])

    def _has(self, store: ShareStore, wanted: Membership) -> bool:
        found = self._found.get(store.server.node_id)
        if found is not None and found.grid != wanted.grid:
            raise UsageError(
                f"server {store.server.name} belongs to another grid ({found.grid.decode()})",
                hint=f"lafs server remove {store.server.name} forgets it here",
            )
        return found == wanted

    def _do(
        self, call: Callable[[ShareStore, ListGuard], T], among: Collection[bytes] | None = None
    ) -> dict[ShareStore, T]:
        """Have each server whose guard we hold do something; one that fails drops out. GuardLost is raised."""
        asked: dict[ShareStore, Future[T]] = {}
        for store, guard in self._guards.items():
            if among is None or store.server.node_id in among:
                asked[store] = self._grid.submit(store, lambda store, guard=guard: call(store, guard))  # type: ignore[misc]
        done: dict[ShareStore, T] = {}
        lost: GuardLost | None = None
        for store, future in asked.items():
            try:
                done[store] = future.result()
            except GuardLost as error:
                lost = error
            except ServerError as error:
                self._silent[store.server.name] = error.message
                self._drop(store)
        if lost is not None:
            raise lost
        return done

    def _insist(self, counting: Collection[Members], reached: Collection[ShareStore], what: str) -> None:
        some = self._node_ids(reached)
        for members in counting:
            if not self._most(members, some):
                if not some:
                    raise Unreachable(f"none of the grid's servers {what} ({_reasons(self._silent)})", hint=_HINT)
                count = sum(member.node_id in some for member in members)
                others = _reasons(self._silent) or "the others are not configured here"
                raise NotHappy(
                    f"the list of the grid's servers can't be changed: {count} of {len(members)} servers {what},"
                    f" and more than half are needed ({others})",
                    hint=_HINT,
                )

    def _most(self, members: Members, node_ids: frozenset[bytes]) -> bool:
        lost = self._changing.lost
        left = tuple(member for member in members if member.node_id not in lost or member.node_id in node_ids)
        return most_of(left, node_ids)

    def _node_ids(self, stores: Collection[ShareStore]) -> frozenset[bytes]:
        return frozenset(store.server.node_id for store in stores)

    # ---- the end

    def _drop(self, store: ShareStore) -> None:
        guard = self._guards.pop(store)
        with suppress(LafsError):
            self._grid.submit(store, lambda _: guard.__exit__(None, None, None)).result()

    def release(self) -> None:
        """Give all guards back; what fails is cleared away by whoever comes next."""
        ending = [
            self._grid.submit(store, lambda _, guard=guard: guard.__exit__(None, None, None))  # type: ignore[misc]
            for store, guard in self._guards.items()
        ]
        for each in ending:
            with suppress(LafsError):
                each.result()
        self._guards.clear()


def _reasons(silent: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in sorted(silent.items()))
