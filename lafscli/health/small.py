"""Small objects, repaired many at a time: a call a server to read, and one to write (DESIGN §1.4).

What does not go smoothly here (a share that turns out to be bad, a server that fails) is left for `Regrowth`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from lafscli.errors import CorruptShare, LafsError
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import HEADER_MAX
from lafscli.health import proofs
from lafscli.health.case import Case, Goal
from lafscli.health.regrowth import Mending
from lafscli.health.replacement import put_in_place
from lafscli.immutable.pipeline import Codec, settle
from lafscli.primitives import erasure
from lafscli.proof.remaker import Kin, Remaker
from lafscli.proof.shares import ShareReader, check_segment
from lafscli.storage.grid import Grid
from lafscli.storage.store import Buffer, Lease, NewShare, Progress, ShareRange, ShareStore

_BATCH_OBJECTS = 128
_BATCH_BYTES = 8 << 20

Parts = dict[int, list[Buffer]]
"""New shares by number, each in pieces."""


class _NotWhole(Exception):
    """A share that was read is longer than shares of such a file usually are."""


def batches(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Group the small objects that follow one another; a large one stands alone."""
    batch: list[Case] = []
    size = 0
    for case in cases:
        if batch and (len(batch) == _BATCH_OBJECTS or size >= _BATCH_BYTES or not is_small(case.cap)):
            yield batch
            batch, size = [], 0
        if is_small(case.cap):
            batch.append(case)
            size += case.cap.size
        else:
            yield [case]
    if batch:
        yield batch


def is_small(cap: ChkVerifyCap) -> bool:
    """Whether a share of this file is read whole by the first question about it."""
    return _whole(cap) is not None


def _whole(cap: ChkVerifyCap) -> int | None:
    """How much is asked for of a share that is read whole."""
    first = proofs.open_share(cap, 0, [], 0)
    assert not isinstance(first, proofs.Opened)
    [*_, (start, length)] = first
    return length if start == 0 and length > HEADER_MAX else None


@dataclass(eq=False, slots=True)
class _Item:
    """An object of a batch: what is to be written of it, the shares that were read, the new ones."""

    case: Case
    goal: Goal
    read: dict[int, Buffer] = field(default_factory=dict)
    parts: Parts | None = None


def regrow_small(grid: Grid, codec: Codec, mending: Mending, cases: Sequence[Case], progress: Progress) -> None:
    """Write what small objects lack, as far as it goes smoothly; the cases know what became of it."""
    items = [_Item(case, goal) for case in cases if (goal := case.goal()).places]
    progress.start("repair", sum(item.case.cap.size for item in items))
    _read(grid, items)
    remade = [
        (item, codec.submit(partial(_remake, item.case.cap, item.read, {shnum for _, shnum in item.goal.places})))
        for item in items
        if len(item.read) == item.case.cap.k
    ]
    for item, done in remade:
        item.parts = done.result()
        progress.advance(item.case.cap.size)
    _write(grid, mending, [item for item in items if item.parts is not None], progress)


def _read(grid: Grid, items: Sequence[_Item]) -> None:
    """k whole shares of each object, from the servers that have least to do."""
    wanted: dict[str, list[tuple[_Item, int]]] = {}
    stores = {store.server.name: store for store in grid.stores}
    for item in items:
        answered = {store.server.name for store in item.case.order}
        places = [
            (min(names & answered, key=lambda name: len(wanted.get(name, ()))), shnum)
            for shnum, names in item.case.good.items()
            if names & answered
        ]
        places.sort(key=lambda place: len(wanted.get(place[0], ())))
        for name, shnum in places[: item.case.cap.k]:
            wanted.setdefault(name, []).append((item, shnum))
    asked = []
    for name, shares in wanted.items():
        ranges = [ShareRange(item.case.cap.si, shnum, 0, _whole(item.case.cap) or 0) for item, shnum in shares]
        asked.append((shares, grid.read(stores[name], ranges)))
    for shares, answers in settle(asked):
        if not isinstance(answers, LafsError):
            for (item, shnum), answer in zip(shares, answers, strict=True):
                if not isinstance(answer, LafsError):
                    item.read[shnum] = answer


def _remake(cap: ChkVerifyCap, read: dict[int, Buffer], wanted: set[int]) -> Parts | None:
    """In a codec thread: the new shares from k whole ones; None if these are not what they should be."""
    try:
        readers = {shnum: _opened(cap, shnum, data) for shnum, data in read.items()}
        kin = Kin.of(list(readers.values()))
        remaker = Remaker(cap, kin, wanted)
        parts: Parts = {shnum: [remaker.header] for shnum in wanted}
        for number in range(kin.sizes.num_segments):
            blocks: dict[int, Buffer] = {}
            for shnum, reader in readers.items():
                block = reader.prefetched(number)
                if block is None:
                    return None
                reader.check_block(number, block)
                blocks[shnum] = block
            data = erasure.decode(cap.k, cap.n, blocks, kin.sizes.segment_length(number))
            check_segment(kin.segment_hash(number), data)
            segment = remaker.encode(data)
            remaker.add(segment)
            for shnum in wanted:
                parts[shnum].append(segment.blocks[shnum])
        trailer = remaker.finish()
    except (CorruptShare, _NotWhole):
        return None
    for shnum in wanted:
        parts[shnum].append(trailer.tail(shnum))
    return parts


def _opened(cap: ChkVerifyCap, shnum: int, data: Buffer) -> ShareReader:
    answers = iter([data])

    def fetch(_ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        answer = next(answers, None)
        if answer is None:
            raise _NotWhole
        return [answer]

    reader = ShareReader(cap, shnum)
    reader.open(fetch, strict=True)
    return reader


def _write(grid: Grid, mending: Mending, items: Sequence[_Item], progress: Progress) -> None:
    stores = {store.server.name: store for store in grid.stores}
    fresh: dict[str, list[tuple[_Item, int]]] = {}
    replaced: list[tuple[tuple[_Item, str, int], Future[bool]]] = []
    for item in items:
        assert item.parts is not None
        for shnum, name in item.goal.fresh.items():
            fresh.setdefault(name, []).append((item, shnum))
        for name, shnum in sorted(item.goal.over):
            lease = mending.lease(item.case.cap.si, stores[name])
            change = _replace(item.case.cap, shnum, item.parts[shnum], lease, mending.patience)
            replaced.append(((item, name, shnum), grid.submit(stores[name], change)))
    created = []
    for name, places in fresh.items():
        new = []
        for item, shnum in places:
            assert item.parts is not None
            si = item.case.cap.si
            new.append(NewShare(si, shnum, item.parts[shnum], mending.lease(si, stores[name])))
        created.append(((name, places), grid.submit(stores[name], partial(_create, new))))
    for (name, places), outcomes in settle(created):
        for position, (item, shnum) in enumerate(places):
            if not isinstance(outcomes, LafsError) and outcomes[position] is None:
                item.case.stands(name, shnum, ours=True)
                progress.server(name, sum(memoryview(part).nbytes for part in (item.parts or {})[shnum]))
    for (item, name, shnum), done in settle(replaced):
        if not isinstance(done, LafsError):
            item.case.stands(name, shnum, ours=done)


def _create(new: Sequence[NewShare], store: ShareStore) -> list[LafsError | None]:
    return store.create_many(new)


def _replace(
    cap: ChkVerifyCap, shnum: int, parts: Sequence[Buffer], lease: Lease, patience: float
) -> Callable[[ShareStore], bool]:
    """A call for a store: stage a share and put it in the place of a bad one."""

    def call(store: ShareStore) -> bool:
        writer = store.create(cap.si, shnum, lease=lease)
        done = False
        try:
            for part in parts:
                writer.append(part)
            writer.seal()
            done = put_in_place(cap, shnum, writer, bad=True, patience=patience)(store)
        finally:
            if not done:
                writer.abort()
        return done

    return call
