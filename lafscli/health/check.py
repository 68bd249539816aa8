"""Count or prove the shares of objects (spec 05 §5, CLI.md §5). Needs no more than verify caps; changes nothing.

A server that does not answer is an answer: its shares are unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from lafscli.errors import NotFound
from lafscli.formats.caps import ChkCap, ChkVerifyCap, LitCap
from lafscli.health.renew import MakeLease, Renewed, renew_found
from lafscli.health.report import CheckReport, Silence
from lafscli.health.survey import Asked, Seen, Silences, Survey, least_size
from lafscli.health.underway import Sample
from lafscli.health.verify import Prover
from lafscli.immutable.pipeline import Codec
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress

Checkable = LitCap | ChkCap | ChkVerifyCap

_COUNTED_TOGETHER = 500
_PROVED_TOGETHER = 50


@dataclass(frozen=True, slots=True)
class Checking:
    """How to check.

    `happy`: the configured one. `verify`: read every share and prove it. `sample`: with it, only so many percent of
    all segments, chosen by `random_bytes`. `assume_lost`: names of servers that count as answered and empty.
    `max_time`: seconds after which no more objects are begun and no more blocks are read. `renew`: makes our lease on
    each share that was found and is good, to be renewed or added.
    """

    happy: int
    random_bytes: Callable[[int], bytes]
    verify: bool = False
    sample: float | None = None
    assume_lost: frozenset[str] = frozenset()
    max_time: float | None = None
    renew: MakeLease | None = None


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
    batches = _batches(iter(caps), _PROVED_TOGETHER if checking.verify else _COUNTED_TOGETHER)
    with ExitStack() as stack:
        prover: Prover | None = None
        for batch, seen in _surveyed(survey, batches, silences):
            _judge_sizes(seen)
            if checking.verify:
                if prover is None:
                    sample = Sample(checking.sample, checking.random_bytes(16), alone=len(batch) == 1)
                    prover = Prover(grid, stack.enter_context(Codec()), silences, sample, progress)
                    total = sum(sum(each.found.values()) for each in seen)
                    progress.start("verify", total if len(batch) < _PROVED_TOGETHER and sample.whole else None)
                prover.prove(seen)
            renewed: Sequence[Renewed | None] = [None] * len(seen)
            if checking.renew is not None:
                renewed = renew_found(grid, seen, checking.renew, silences)
            reports = iter([_report(*each, checking, len(asked)) for each in zip(seen, renewed, strict=True)])
            for cap in batch:
                yield CheckReport(None) if isinstance(cap, LitCap) else next(reports)


def _batches(caps: Iterator[Checkable], size: int) -> Iterator[list[Checkable]]:
    while batch := list(islice(caps, size)):
        yield batch


def _surveyed(
    survey: Survey, batches: Iterable[list[Checkable]], silences: Silences
) -> Iterator[tuple[list[Checkable], list[Seen]]]:
    """What was found of each batch; the next one is asked about before the answers to one are looked at."""
    before: tuple[list[Checkable], Asked] | None = None
    for batch in batches:
        if before is not None and silences.late:
            break
        asked = survey.begin([cap.verify_cap() for cap in batch if not isinstance(cap, LitCap)])
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


def _report(seen: Seen, renewed: Renewed | None, checking: Checking, servers: int) -> CheckReport:
    shares: dict[int, list[str]] = {}
    for name, shnum in seen.found:
        shares.setdefault(shnum, []).append(name)
    return CheckReport(
        seen.cap,
        happy=min(checking.happy, seen.cap.n, servers),
        shares={shnum: tuple(sorted(shares[shnum])) for shnum in sorted(shares)},
        corrupt=tuple(sorted(seen.damage, key=lambda bad: (bad.shnum, bad.server))),
        unreachable=tuple(Silence(name, seen.silent[name]) for name in sorted(seen.silent)),
        verified=checking.verify,
        proved=seen.looked if checking.verify else 0,
        to_prove=-(-seen.cap.size // seen.cap.k) * len(seen.found) if checking.verify else 0,
        flaw=seen.flaw,
        leases=None if renewed is None else renewed.leases,
        not_renewed=() if renewed is None else renewed.failures,
    )
