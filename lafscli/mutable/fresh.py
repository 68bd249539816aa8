"""New files under new keys: known to nobody, they need no guard, and are placed like immutable shares.

Each server gets its shares of many files in one call. A file counts when more than half of H took a share, and
happiness is reached; what was placed of one that does not is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from lafscli.errors import LafsError, NotHappy, Unreachable
from lafscli.formats.caps import MutableWriteCap
from lafscli.mutable.entry import told
from lafscli.mutable.goal import goal
from lafscli.mutable.made import Made, make, plan
from lafscli.mutable.majority import require_members, require_same_list
from lafscli.mutable.publishing import Published, Publishing, Small, bytes_of
from lafscli.mutable.quorum import Quorum
from lafscli.placement import happiness
from lafscli.primitives.ciphers import PrivateKey, make_private_key
from lafscli.primitives.hashes import write_enabler
from lafscli.proof.slotkeys import write_cap
from lafscli.storage.grid import Grid
from lafscli.storage.membership import Membership
from lafscli.storage.store import LeaseOf, NewShare, ShareStore

_BATCH_FILES = 64
_BATCH_BYTES = 8 << 20
_STOP_SECONDS = 1.5


@dataclass(eq=False, slots=True)
class _New:
    """A file on its way. `placed`: share numbers by server, as far as they were acknowledged."""

    index: int
    cap: MutableWriteCap
    made: Made
    size: int
    si: bytes
    quorum: Quorum
    placed: dict[str, set[int]] = field(default_factory=dict)
    tried: set[tuple[str, int]] = field(default_factory=set)
    failed: dict[str, LafsError] = field(default_factory=dict)
    error: LafsError | None = None


def create_fresh(
    grid: Grid, contents: Sequence[Small], publishing: Publishing, *, mdmf: bool
) -> list[Published | LafsError]:
    """Make a file of each content; each in its place, or why it could not be stored."""
    publishing = publishing.ready()
    if publishing.membership is not None:
        require_members(publishing.membership, [store.server for store in grid.stores])
    grid.connect()
    results: list[Published | LafsError] = []
    keys = _keys(len(contents), publishing)
    while len(results) < len(contents):
        batch: list[_New] = []
        held = 0
        for index in range(len(results), min(len(contents), len(results) + _BATCH_FILES)):
            if held >= _BATCH_BYTES:
                break
            batch.append(_encoded(grid, index, keys(index), contents[index], publishing, mdmf))
            held += batch[-1].size
        results += _store(grid, batch, publishing)
    return results


def _keys(count: int, publishing: Publishing) -> Callable[[int], PrivateKey]:
    """New keys; made in the codec threads, if there are any, while earlier files are on their way."""
    if publishing.codec is None:
        return lambda _: make_private_key()
    underway: list[Future[PrivateKey]] = [publishing.codec.submit(make_private_key) for _ in range(count)]
    return lambda index: underway[index].result()


def _encoded(grid: Grid, index: int, private: PrivateKey, small: Small, publishing: Publishing, mdmf: bool) -> _New:
    cap = write_cap(private, mdmf=mdmf)
    content = bytes_of(small, cap)
    encoding = publishing.encoding
    sizes = plan(mdmf, encoding.k, encoding.n, len(content), publishing.random_bytes)
    made = make(cap, private, 1, sizes, content, publishing.random_bytes)
    si = cap.verify_cap().si
    quorum = Quorum.of(si, encoding.n, grid.stores, publishing.membership)
    return _New(index, cap, made, len(content), si, quorum)


def _store(grid: Grid, batch: Sequence[_New], publishing: Publishing) -> list[Published | LafsError]:
    """Place a batch; servers that fail are made up for by others, as long as that helps."""
    try:
        while True:
            wanted = _wanted(grid, batch, publishing)
            if not wanted:
                break
            _send(grid, wanted, publishing)
        for file in batch:
            if file.error is None and not _enough(file, publishing):
                file.error = _unhappy(grid, file, publishing)
        _withdraw(grid, [file for file in batch if file.error is not None], publishing)
    except BaseException as error:
        _withdraw(grid, batch, publishing, seconds=None if isinstance(error, Exception) else _STOP_SECONDS)
        raise
    return [file.error or _published(file, publishing) for file in batch]


def _wanted(grid: Grid, batch: Sequence[_New], publishing: Publishing) -> dict[ShareStore, list[tuple[_New, int]]]:
    wanted: dict[ShareStore, list[tuple[_New, int]]] = {}
    for file in batch:
        if file.error is not None:
            continue
        stores = {
            store.server.name: store
            for store in grid.permuted(file.si)
            if store.server.takes_mutable and store.server.name not in file.failed
        }
        deciding = [name for name in file.quorum if name in stores]
        further = [name for name in stores if name not in deciding]
        held = {name: frozenset(numbers) for name, numbers in file.placed.items()}
        for name, numbers in goal(publishing.encoding.n, deciding, further, held).items():
            for shnum in numbers:
                if shnum not in file.placed.get(name, ()) and (name, shnum) not in file.tried:
                    file.tried.add((name, shnum))
                    wanted.setdefault(stores[name], []).append((file, shnum))
    return wanted


def _send(grid: Grid, wanted: dict[ShareStore, list[tuple[_New, int]]], publishing: Publishing) -> None:
    news = {
        store.server.name: [
            NewShare(
                file.si,
                shnum,
                file.made.shares[shnum],
                publishing.lease(file.si, store),
                write_enabler(file.cap.writekey, store.server.node_id),
            )
            for file, shnum in items
        ]
        for store, items in wanted.items()
    }

    for answer in grid.ask(lambda store: _place(news[store.server.name], store), list(wanted)):
        name = answer.store.server.name
        items = wanted[answer.store]
        if isinstance(answer.value, LafsError):
            for file, _ in items:
                file.failed[name] = answer.value
            continue
        outcomes, membership = answer.value
        for (file, shnum), outcome in zip(items, outcomes, strict=True):
            if outcome is None:
                file.placed.setdefault(name, set()).add(shnum)
            else:
                file.failed[name] = outcome
            try:
                require_same_list(publishing.membership, membership, name)
            except LafsError as error:
                file.error = error


def _place(new: Sequence[NewShare], store: ShareStore) -> tuple[list[LafsError | None], Membership | None]:
    """The list of servers is asked for afterwards: see `majority`."""
    return store.create_many(new), store.membership()


def _enough(file: _New, publishing: Publishing) -> bool:
    encoding = publishing.encoding
    distinct = {shnum for numbers in file.placed.values() for shnum in numbers}
    return (
        file.quorum.majority(file.placed) and len(distinct) >= encoding.k and happiness(file.placed) >= encoding.happy
    )


def _unhappy(grid: Grid, file: _New, publishing: Publishing) -> LafsError:
    encoding, total = publishing.encoding, len(grid.stores)
    named = told({name: error.message for name, error in file.failed.items()})
    if not file.placed and len(file.failed) == total:
        return Unreachable(f"no server could be reached ({named})", hint="lafs server status says what is wrong")
    if total < encoding.happy:
        fitting = encoding.fitting(total)
        return NotHappy(
            f"{total} servers are configured, {encoding.happy} are needed to store safely",
            hint=f"add servers, or store on what there is: lafs encoding {fitting}",
        )
    have = happiness(file.placed)
    message = f"{have} of {total} servers could take shares, {encoding.happy} are needed to store safely"
    if have >= encoding.happy:
        message = f"{file.quorum.count(file.placed)} that decide about it could take shares, more than half must"
    message += "; nothing was stored"
    return NotHappy(f"{message} ({named})" if named else message, hint="lafs server status shows which servers fail")


def _withdraw(grid: Grid, files: Collection[_New], publishing: Publishing, *, seconds: float | None = None) -> None:
    """Remove what may have been placed of these files."""
    stores = {store.server.name: store for store in grid.stores}
    gone: dict[str, list[LeaseOf]] = {}
    for file in files:
        for name, shnum in file.tried:
            gone.setdefault(name, []).append(LeaseOf(file.si, shnum, publishing.lease(file.si, stores[name])))
    if not gone:
        return
    answers = grid.ask(lambda store: store.withdraw(gone[store.server.name]), [stores[name] for name in gone])
    while answers.poll(seconds) is not None:
        pass


def _published(file: _New, publishing: Publishing) -> Published:
    placement: dict[int, list[str]] = {}
    for name, numbers in file.placed.items():
        for shnum in numbers:
            placement.setdefault(shnum, []).append(name)
    prefix = file.made.version.header.prefix
    if publishing.seen is not None:
        publishing.seen.note(file.si, file.cap.fingerprint, prefix.seqnum, prefix.root_hash)
    ordered = {shnum: sorted(placement[shnum]) for shnum in sorted(placement)}
    silent = {name: error.message for name, error in file.failed.items()}
    return Published(file.cap, file.size, prefix.seqnum, publishing.encoding, happiness(file.placed), ordered, silent)
