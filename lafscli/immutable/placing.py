"""Before an upload writes: who has what, who gets what, and a writer for each share (spec 05 §4)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from lafscli.errors import LafsError, NotHappy, ServerError, ServerUnreachable, Unreachable
from lafscli.immutable.pipeline import ShareFeed, settle
from lafscli.immutable.resume import Resume
from lafscli.placement import Candidate, Encoding, Plan, plan
from lafscli.storage.grid import Grid
from lafscli.storage.store import Buffer, Lease, Progress, ShareStore, ShareWriter, StorageIndex

_LAGGARD_SECONDS = 10.0
"""How long an upload waits for the last servers once those that answered are enough."""

_SPACE_MATTERS = 1 << 20
"""From this share size on a server is asked whether it has room before it is given one."""


@dataclass(slots=True)
class Survey:
    """What the candidates of one storage index said."""

    stores: dict[str, ShareStore] = field(default_factory=dict)
    held: dict[str, frozenset[int]] = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    silent: list[ServerError] = field(default_factory=list)


def look(grid: Grid, si: StorageIndex, encoding: Encoding, share_size: int | None) -> Survey:
    """Ask the first 2·n servers in permuted order which shares they hold, all at once. Those that do not answer are
    dropped; once enough others have, the last ones are not waited for very long."""

    def question(store: ShareStore) -> tuple[frozenset[int], bool]:
        [held] = store.shares([si])
        if isinstance(held, LafsError):
            raise held
        room = True
        if share_size is not None and share_size >= _SPACE_MATTERS and store.server.writable:
            space = store.space()
            room = space is None or space.free > share_size + _SPACE_MATTERS
        return held, room

    order = grid.permuted(si)[: 2 * encoding.n]
    answers = grid.ask(question, order)
    found = Survey(stores={store.server.name: store for store in order})
    began = time.monotonic()
    took: list[float] = []
    while answers.pending:
        patience: float | None = None
        roomy = found.held.keys() - found.full
        if sum(found.stores[name].server.writable for name in roomy) >= encoding.happy:
            patience = max(_LAGGARD_SECONDS, 4 * statistics.median(took)) - (time.monotonic() - began)
            patience = answers.patience(patience)
        answer = answers.poll(None if patience is None else max(0.0, patience))
        if answer is None:
            found.silent += [ServerUnreachable("did not answer in time", server=name) for name in answers.pending]
            break
        name = answer.store.server.name
        if isinstance(answer.value, tuple):
            found.held[name], room = answer.value
            took.append(time.monotonic() - began)
            if not room:
                found.full.add(name)
        else:
            found.silent.append(_as_server_error(answer.value, name))
    return found


@dataclass(slots=True)
class Avoid:
    """What earlier tries of one upload learned: servers that fail, found shares that are corrupt; and how many shares
    they had made visible when too many servers failed in that last step. `vanished`: found shares went away."""

    servers: dict[str, LafsError] = field(default_factory=dict)
    shares: set[tuple[str, int]] = field(default_factory=set)
    committed: int = 0
    vanished: bool = False


def choose(found: Survey, encoding: Encoding, avoid: Avoid) -> Plan:
    """Plan, and refuse before anything is written if `happy` can't be met. A corrupt share stays where it is, so its
    number can't go there."""
    numbers = frozenset(range(encoding.n))
    candidates = []
    for name, store in found.stores.items():
        if name in found.held:
            corrupt = frozenset(shnum for server, shnum in avoid.shares if server == name)
            writable = store.server.writable and name not in found.full and name not in avoid.servers
            held = (found.held[name] & numbers) - corrupt
            candidates.append(Candidate(name, writable, held, store.server.site, corrupt))
    planned = plan(encoding.n, candidates)
    if planned.happiness < encoding.happy:
        raise not_happy(found, encoding, avoid, planned.happiness)
    return planned


def not_happy(found: Survey, encoding: Encoding, avoid: Avoid, happiness: int) -> LafsError:
    """The refusal, with what to do about it."""
    reasons = {error.server: error.message for error in found.silent}
    reasons |= {name: error.message for name, error in avoid.servers.items()}
    reasons |= dict.fromkeys(found.full, "has no room")
    named = told_together(reasons)
    total, answered = len(found.stores), len(found.held)
    if not found.held and found.silent:
        return Unreachable(f"no server could be reached ({named})", hint="lafs server status says what is wrong")
    if total < encoding.happy:
        fitting = encoding.fitting(total)
        return NotHappy(
            f"{total} servers are configured, {encoding.happy} are needed to store safely",
            hint=f"add servers, or store on what there is: lafs encoding {fitting}",
        )
    message = f"{answered} of {total} servers answered, {encoding.happy} are needed to store safely"
    if answered >= encoding.happy:
        message = f"{answered} of {total} servers answered, shares could lie on {happiness}, and on {encoding.happy} "
        message += "they are stored safely"
    if avoid.committed:
        message += f"; {avoid.committed} shares that were in place already stay, for the next try"
    else:
        message += "; nothing was stored"
    return NotHappy(f"{message} ({named})" if named else message, hint="lafs server status shows which servers fail")


def told_together(reasons: Mapping[str, str]) -> str:
    """Servers and reasons, those with one reason together."""
    servers: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        servers.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in servers.items())


def open_writers(
    grid: Grid,
    found: Survey,
    si: StorageIndex,
    encoding: Encoding,
    avoid: Avoid,
    lease: Callable[[ShareStore], Lease],
    progress: Progress,
    resume: Resume,
) -> tuple[Plan, list[ShareFeed]]:
    """Plan and begin each share that is to be sent. A server that refuses counts as read-only and the plan is made
    again (spec 05 §4.6); in the end every share of the plan has its writer, or NotHappy is raised and nothing stays."""
    feeds: dict[tuple[int, str], ShareFeed] = {}
    try:
        while True:
            planned = choose(found, encoding, avoid)
            goal = {(shnum, str(name)) for shnum, name in planned.send.items()}
            discard(feeds.pop(place) for place in list(feeds.keys() - goal))
            wanted = sorted(goal - feeds.keys())
            begun = []
            for shnum, name in wanted:
                store, staged = found.stores[name], resume.staged(shnum, name)
                creation = partial(_create, si, shnum, lease(store), staged, resume.pieces)
                begun.append(((shnum, name), grid.submit(store, creation)))
            for (shnum, name), outcome in settle(begun):
                if isinstance(outcome, LafsError):
                    avoid.servers[name] = outcome
                else:
                    writer, samples = outcome
                    feeds[shnum, name] = ShareFeed(grid, found.stores[name], shnum, writer, progress, samples)
            if feeds.keys() == goal:
                begun_feeds = [feeds[place] for place in sorted(feeds)]
                resume.begin(grid, begun_feeds)
                return planned, begun_feeds
    except BaseException:
        discard(feeds.values())
        raise


def _create(
    si: StorageIndex,
    shnum: int,
    lease: Lease,
    staged: tuple[str, int] | None,
    pieces: Callable[[int], list[tuple[int, int]]],
    store: ShareStore,
) -> tuple[ShareWriter, list[tuple[int, Buffer]]]:
    """In the server's worker: begin a share, or go on with a staged one and read samples of it back."""
    writer = store.create(si, shnum, lease=lease, resume=staged)
    samples: list[tuple[int, Buffer]] = []
    if writer.resumed:
        ranges = pieces(writer.resumed)
        for (offset, length), answer in zip(ranges, writer.read_back(ranges), strict=True):
            if isinstance(answer, LafsError) or memoryview(answer).nbytes != length:
                writer.abort()
                return store.create(si, shnum, lease=lease), []
            samples.append((offset, answer))
    return writer, samples


def stop(feeds: Iterable[ShareFeed]) -> None:
    """Send nothing more; what is staged stays."""
    for feed in feeds:
        feed.stop()


def discard(feeds: Iterable[ShareFeed]) -> None:
    """Remove what was staged and not committed; waits a moment for it, and no longer."""
    removals = []
    for feed in feeds:
        if not feed.committed:
            feed.stop()
            removals.append(feed.submit(lambda writer: writer.abort()))
    until = time.monotonic() + 1.5
    for removal in removals:
        try:
            removal.result(timeout=max(0.0, until - time.monotonic()))
        except (LafsError, TimeoutError):
            continue


def _as_server_error(error: LafsError, name: str) -> ServerError:
    return error if isinstance(error, ServerError) else ServerError(error.message, server=name)
