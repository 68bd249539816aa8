"""Count or prove the shares of objects of every kind (spec 05 §5, CLI.md §5). Needs no more than verify caps; changes
nothing.

A server that does not answer is an answer: its shares are unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice

from lafscli.errors import NotFound
from lafscli.formats.caps import ChkCap, ChkVerifyCap, DirectoryCap, FileCap, LitCap
from lafscli.health.renew import MakeLease, Renewed, renew_found
from lafscli.health.report import CheckReport, MutableCap, Silence
from lafscli.health.slotproof import PROOF_DEPTH, SlotProver
from lafscli.health.slots import SlotSeen, look
from lafscli.health.survey import Asked, Seen, Silences, Survey, least_size
from lafscli.health.underway import Sample
from lafscli.health.verify import Prover
from lafscli.immutable.pipeline import Codec
from lafscli.mutable.survey import SHALLOW
from lafscli.storage.grid import Grid
from lafscli.storage.memory import Seen as Memory
from lafscli.storage.store import Progress, ShareStore

Checkable = FileCap | DirectoryCap

_COUNTED_TOGETHER = 500
_PROVED_TOGETHER = 50


@dataclass(frozen=True, slots=True)
class Checking:
    """How to check.

    `happy`: the configured one. `verify`: read every share and prove it. `sample`: with it, only so many percent of
    all segments, chosen by `random_bytes`. `assume_lost`: names of servers that count as answered and empty.
    `max_time`: seconds after which no more objects are begun and no more blocks are read. `renew`: makes our lease on
    each share that was found and is good, to be renewed or added. `memory`: the versions that this home has seen.
    """

    happy: int
    random_bytes: Callable[[int], bytes]
    verify: bool = False
    sample: float | None = None
    assume_lost: frozenset[str] = frozenset()
    max_time: float | None = None
    renew: MakeLease | None = None
    memory: Memory | None = None


def check(grid: Grid, cap: Checkable, checking: Checking, progress: Progress | None = None) -> CheckReport:
    """Check one object."""
    [report] = check_many(grid, [cap], checking, progress)
    return report


def check_many(
    grid: Grid, caps: Iterable[Checkable], checking: Checking, progress: Progress | None = None
) -> Iterator[CheckReport]:
    """Check objects; reports in the order of the caps, fewer when the time is over. Raises NotFound for a server to
    be assumed lost that there is not."""
    known = {store.server.name for store in grid.stores}
    for name in sorted(checking.assume_lost - known):
        raise NotFound(f"no server is called {name!r}", hint=f"there are: {', '.join(sorted(known)) or 'none'}")
    return _reports(grid, caps, checking, progress or Progress())


def _reports(grid: Grid, caps: Iterable[Checkable], checking: Checking, progress: Progress) -> Iterator[CheckReport]:
    asked = [store for store in grid.stores if store.server.name not in checking.assume_lost]
    grid.connect(asked)
    silences = Silences(None if checking.max_time is None else time.monotonic() + checking.max_time)
    survey = Survey(grid, asked, silences, all_copies=checking.renew is not None)
    batches = _batches(map(_object, caps), _PROVED_TOGETHER if checking.verify else _COUNTED_TOGETHER)
    with ExitStack() as stack:
        proving: _Proving | None = None
        for batch, files in _surveyed(survey, batches, silences):
            slots = _look_at_slots(grid, batch, asked, checking)
            _judge_sizes(files)
            if checking.verify:
                if proving is None:
                    sample = Sample(checking.sample, checking.random_bytes(16), alone=len(batch) == 1)
                    codec = stack.enter_context(Codec())
                    proving = _Proving(
                        Prover(grid, codec, silences, sample, progress),
                        SlotProver(grid, codec, silences, sample, progress),
                    )
                    total = sum(sum(each.found.values()) for each in files)
                    progress.start("verify", total if len(batch) < _PROVED_TOGETHER and sample.whole else None)
                proving.files.prove(files)
                proving.slots.prove(slots)
            yield from _judged(grid, batch, files, slots, checking, silences)


@dataclass(frozen=True, slots=True)
class _Proving:
    files: Prover
    slots: SlotProver


@dataclass(frozen=True, slots=True)
class _Object:
    """The file that is to be looked at, and whether a directory is in it."""

    cap: FileCap
    directory: bool


def _object(cap: Checkable) -> _Object:
    return _Object(cap.inner, True) if isinstance(cap, DirectoryCap) else _Object(cap, False)


def _look_at_slots(
    grid: Grid, batch: Sequence[_Object], asked: Sequence[ShareStore], checking: Checking
) -> list[SlotSeen]:
    wanted = [(each.cap, each.directory) for each in batch if isinstance(each.cap, MutableCap)]
    if not wanted:
        return []
    return look(grid, wanted, asked, checking.memory, depth=PROOF_DEPTH if checking.verify else SHALLOW)


def _judged(
    grid: Grid,
    batch: Sequence[_Object],
    files: Sequence[Seen],
    slots: Sequence[SlotSeen],
    checking: Checking,
    silences: Silences,
) -> Iterator[CheckReport]:
    """The reports of a batch, in its order."""
    objects: list[Seen | SlotSeen] = []
    left, slots_left = iter(files), iter(slots)
    for each in batch:
        if not isinstance(each.cap, LitCap):
            objects.append(next(slots_left) if isinstance(each.cap, MutableCap) else next(left))
    renewed: Sequence[Renewed | None] = [None] * len(objects)
    if checking.renew is not None:
        held = [(seen.map.cap.si if isinstance(seen, SlotSeen) else seen.cap.si, seen) for seen in objects]
        renewed = renew_found(grid, held, checking.renew, silences)
    servers = len(grid.stores) - len(checking.assume_lost)
    results = iter(zip(objects, renewed, strict=True))
    for each in batch:
        if isinstance(each.cap, LitCap):
            yield CheckReport(None, directory=each.directory)
            continue
        seen, leases = next(results)
        report = (
            slot_report(seen, checking, servers) if isinstance(seen, SlotSeen) else _report(seen, checking, servers)
        )
        if leases is not None:
            report = replace(report, leases=leases.leases, not_renewed=leases.failures)
        yield replace(report, directory=each.directory)


def _batches(caps: Iterator[_Object], size: int) -> Iterator[list[_Object]]:
    while batch := list(islice(caps, size)):
        yield batch


def _surveyed(
    survey: Survey, batches: Iterable[list[_Object]], silences: Silences
) -> Iterator[tuple[list[_Object], list[Seen]]]:
    """What was found of each batch; the next one is asked about before the answers to one are looked at."""
    before: tuple[list[_Object], Asked] | None = None
    for batch in batches:
        if before is not None and silences.late:
            break
        asked = survey.begin([each.cap.verify_cap() for each in batch if isinstance(each.cap, ChkCap | ChkVerifyCap)])
        if before is not None:
            yield before[0], survey.finish(before[1])
        before = batch, asked
    if before is not None:
        yield before[0], survey.finish(before[1])


def _judge_sizes(objects: Iterable[Seen]) -> None:
    """A container that is too small for a share of its file is corrupt, whatever is in it."""
    for seen in objects:
        cap = seen.cap
        least = least_size(cap.k, cap.n, cap.size)
        if any(size < least for size in seen.found.values()):
            for (name, shnum), size in list(seen.found.items()):
                if size < least:
                    seen.bad(name, shnum, f"its file has {size} bytes, a share of this file at least {least}")


def _report(seen: Seen, checking: Checking, servers: int) -> CheckReport:
    shares: dict[int, list[str]] = {}
    for name, shnum in seen.found:
        shares.setdefault(shnum, []).append(name)
    return CheckReport(
        seen.cap,
        happy=min(checking.happy, seen.cap.n, servers),
        shares={shnum: tuple(sorted(shares[shnum])) for shnum in sorted(shares)},
        corrupt=tuple(sorted(seen.damage, key=lambda bad: (bad.shnum, bad.server))),
        unreachable=_silences(seen.silent),
        verified=checking.verify,
        proved=seen.looked if checking.verify else 0,
        to_prove=-(-seen.cap.size // seen.cap.k) * len(seen.found) if checking.verify else 0,
        flaw=seen.flaw,
    )


def slot_report(seen: SlotSeen, checking: Checking, servers: int) -> CheckReport:
    """What was seen of a mutable object."""
    state = seen.state()
    return CheckReport(
        seen.map.cap,
        happy=min(checking.happy, state.n, servers),
        directory=seen.directory,
        given=seen.cap,
        slot=state,
        shares=seen.shares(),
        corrupt=tuple(seen.damage()),
        unreachable=_silences(seen.silent),
        verified=checking.verify,
        proved=seen.looked if checking.verify else 0,
        to_prove=seen.to_look if checking.verify else 0,
    )


def _silences(silent: Mapping[str, str]) -> tuple[Silence, ...]:
    return tuple(Silence(name, silent[name]) for name in sorted(silent))
