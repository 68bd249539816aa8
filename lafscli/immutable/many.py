"""Many small files at once: encoded in the codec threads, asked about and sent in batches (DESIGN §1.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lafscli.errors import CorruptShare, FileMissing, LafsError
from lafscli.formats.caps import ChkCap, LitCap
from lafscli.formats.chk import Sizes
from lafscli.immutable.leasing import lease_found
from lafscli.immutable.pipeline import Codec, settle
from lafscli.immutable.upload import LIT_LIMIT, Uploaded, Writing, upload
from lafscli.placement import Candidate, happiness, plan
from lafscli.primitives import hashes
from lafscli.primitives.ciphers import AesCtr
from lafscli.proof.encoder import encode_small
from lafscli.storage.grid import Grid
from lafscli.storage.source import opened
from lafscli.storage.store import Buffer, LeaseOf, NewShare, Progress, ShareRange, ShareStore, StorageIndex

_BATCH_FILES = 64
_BATCH_BYTES = 4 << 20
_SMALL = 256 << 10
"""Larger files go one by one through the pipeline of `upload`."""


@dataclass(slots=True)
class _File:
    """A small file, encoded. `parts`: share number to the pieces of the share. `sent`, `proven`: who has which share,
    of those that were stored now and those that were there."""

    index: int
    cap: ChkCap
    si: StorageIndex
    size: int
    parts: Sequence[Sequence[Buffer]]
    sent: dict[int, str] = field(default_factory=dict)
    proven: dict[int, str] = field(default_factory=dict)
    failed: bool = False


@dataclass(slots=True)
class _Batch:
    """Files on their way together, and the questions that are out."""

    files: list[_File]
    asked: list[tuple[ShareStore, Future[list[frozenset[int] | LafsError]]]] = field(default_factory=list)
    writes: list[tuple[_Places, Future[list[LafsError | None]]]] = field(default_factory=list)
    proofs: list[tuple[_Places, Future[list[LafsError | None]]]] = field(default_factory=list)


_Places = tuple[str, list[tuple[_File, int]]]
"""A server, and shares of files there."""


def upload_many(
    grid: Grid, sources: Sequence[Path | Buffer], writing: Writing, progress: Progress | None = None
) -> list[Uploaded | LafsError]:
    """Store many files; the answers in the order of the sources, each its own success or error.

    Small files travel in batches; while one batch is written the next is asked about and a third is encoded. Shares
    that are there already are read and compared, and our leases on them renewed. What does not go smoothly in a batch
    (a share that is not what it should be, a server that fails) is done again by `upload`.
    Each server commits its shares of a batch by itself: a file that ends as NotHappy may leave some behind, which serve
    the next try or, under a random key, expire with their leases.
    """
    progress = progress or Progress()
    results: list[Uploaded | LafsError | None] = [None] * len(sources)
    grid.connect()
    alone: list[int] = []
    asked: list[_Batch] = []
    written: list[_Batch] = []
    with Codec() as codec:
        encoded = codec.in_order(range(len(sources)), lambda i: _encode(i, sources[i], writing), 2 * _BATCH_FILES)
        for batch in _batches(encoded, results, alone, progress):
            _ask(grid, batch)
            asked.append(batch)
            if len(asked) > 1:
                written.append(_write(grid, asked.pop(0), writing))
            if len(written) > 1:
                _collect(written.pop(0), writing, results, alone, progress)
        for batch in asked:
            written.append(_write(grid, batch, writing))
        for batch in written:
            _collect(batch, writing, results, alone, progress)
    for index in alone:
        try:
            results[index] = upload(grid, sources[index], writing, progress)
        except LafsError as error:
            results[index] = error
    return [result for result in results if result is not None]


def _encode(index: int, source: Path | Buffer, writing: Writing) -> _File | Uploaded | LafsError | None:
    """In a codec thread: read and encode a small file; None for one that is to be uploaded alone."""
    encoding = writing.encoding
    try:
        with opened(source, _SMALL) as plain:
            if plain.size is None or plain.size > min(_SMALL, encoding.segment_size):
                return None
            buffer = memoryview(bytearray(plain.size + 1))
            if plain.readinto(buffer) != plain.size:
                return None
            plain.unchanged()
            content = buffer[: plain.size]
            if plain.size <= LIT_LIMIT:
                return Uploaded(LitCap(bytes(content)), plain.size)
    except LafsError as error:
        return error
    sizes = Sizes.plan(encoding.k, encoding.n, len(content), encoding.segment_size)
    if writing.convergence is None:
        key = writing.random_bytes(16)
    else:
        hasher = hashes.convergence_hasher(writing.convergence, encoding.k, encoding.n, sizes.segment_size)
        hasher.update(content)
        key = hasher.digest()[:16]
    trailer, parts = encode_small(encoding.k, encoding.n, sizes.segment_size, AesCtr(key).update(content))
    cap = ChkCap(key, trailer.ueb_hash, encoding.k, encoding.n, len(content))
    return _File(index, cap, hashes.storage_index_from_key(key), len(content), parts)


def _batches(
    encoded: Iterable[_File | Uploaded | LafsError | None],
    results: list[Uploaded | LafsError | None],
    alone: list[int],
    progress: Progress,
) -> Iterator[_Batch]:
    """Group what was encoded; what is finished or must go alone is noted at once."""
    batch = _Batch([])
    held = 0
    seen: set[StorageIndex] = set()
    for index, item in enumerate(encoded):
        if item is None:
            alone.append(index)
        elif not isinstance(item, _File):
            results[index] = item
            if isinstance(item, Uploaded):
                progress.advance(item.size)
        elif item.si in seen:
            alone.append(index)
        else:
            seen.add(item.si)
            batch.files.append(item)
            held += item.size
        if len(batch.files) >= _BATCH_FILES or held >= _BATCH_BYTES:
            yield batch
            batch = _Batch([])
            held = 0
    if batch.files:
        yield batch


def _ask(grid: Grid, batch: _Batch) -> None:
    sis = [file.si for file in batch.files]
    batch.asked = [(store, grid.submit(store, lambda store: store.shares(sis))) for store in grid.stores]


def _write(grid: Grid, batch: _Batch, writing: Writing) -> _Batch:
    """Plan each file over the servers that answered, and send each server all its shares in one call."""
    held: dict[str, list[frozenset[int] | LafsError]] = {}
    for store, answer in settle(batch.asked):
        if not isinstance(answer, LafsError):
            held[store.server.name] = answer
    send: dict[str, list[tuple[_File, int]]] = {}
    keep: dict[str, list[tuple[_File, int]]] = {}
    n = writing.encoding.n
    numbers = frozenset(range(n))
    for position, file in enumerate(batch.files):
        candidates = []
        for store in grid.permuted(file.si)[: 2 * n]:
            name = store.server.name
            found = held[name][position] if name in held else None
            if isinstance(found, frozenset):
                candidates.append(Candidate(name, store.server.writable, found & numbers, store.server.site))
        planned = plan(n, candidates)
        file.failed = planned.happiness < writing.encoding.happy
        if not file.failed:
            for places, planned_places in ((send, planned.send), (keep, planned.keep)):
                for shnum, chosen in planned_places.items():
                    places.setdefault(str(chosen), []).append((file, shnum))
    stores = {store.server.name: store for store in grid.stores}
    for name, items in send.items():
        new = [_share(file, shnum, writing, stores[name]) for file, shnum in items]
        batch.writes.append(((name, items), grid.submit(stores[name], partial(_create, new))))
    for name, items in keep.items():
        there = [_share(file, shnum, writing, stores[name]) for file, shnum in items]
        batch.proofs.append(((name, items), grid.submit(stores[name], partial(_compare, there))))
    return batch


def _share(file: _File, shnum: int, writing: Writing, store: ShareStore) -> NewShare:
    return NewShare(file.si, shnum, file.parts[shnum], writing.lease(file.si, store))


def _create(new: Sequence[NewShare], store: ShareStore) -> list[LafsError | None]:
    return store.create_many(new)


def _compare(there: Sequence[NewShare], store: ShareStore) -> list[LafsError | None]:
    """Found shares are not trusted by their number (DESIGN §1.9): each must be, byte for byte, the one that would be
    sent. Those that are get our lease, or a later end of it (spec 05 §4.5)."""
    wanted = [b"".join(share.parts) for share in there]
    sizes = store.share_size([(share.si, share.shnum) for share in there])
    ranges = [ShareRange(share.si, share.shnum, 0, len(data)) for share, data in zip(there, wanted, strict=True)]
    outcomes: list[LafsError | None] = []
    for data, size, found in zip(wanted, sizes, store.read(ranges).finish(), strict=True):
        if isinstance(found, LafsError):
            outcomes.append(found)
        else:
            outcomes.append(None if (size, found) == (len(data), data) else CorruptShare("not what it should be"))
    good = [index for index, outcome in enumerate(outcomes) if outcome is None]
    if store.server.writable and good:
        items = [LeaseOf(there[index].si, there[index].shnum, there[index].lease) for index in good]
        for index, answer in zip(good, lease_found(items, store), strict=True):
            if isinstance(answer, FileMissing):  # a garbage collection was faster
                outcomes[index] = answer
    return outcomes


def _collect(
    batch: _Batch,
    writing: Writing,
    results: list[Uploaded | LafsError | None],
    alone: list[int],
    progress: Progress,
) -> None:
    for asked, new in ((batch.writes, True), (batch.proofs, False)):
        for (name, items), outcomes in settle(asked):
            for position, (file, shnum) in enumerate(items):
                outcome = outcomes if isinstance(outcomes, LafsError) else outcomes[position]
                if outcome is None:
                    (file.sent if new else file.proven)[shnum] = name
                elif isinstance(outcome, CorruptShare):
                    progress.warn(f"server {name}: share {shnum} is there, and is not what it should be")
    for file in batch.files:
        holders: dict[str, list[int]] = {}
        lying = {**file.proven, **file.sent}
        for shnum, name in lying.items():
            holders.setdefault(name, []).append(shnum)
        if file.failed or len(lying) < writing.encoding.n or happiness(holders) < writing.encoding.happy:
            alone.append(file.index)
            continue
        progress.advance(file.size)
        placement = {shnum: [name] for shnum, name in sorted(lying.items())}
        results[file.index] = Uploaded(
            file.cap, file.size, writing.encoding, happiness(holders), placement, len(file.sent), len(file.proven)
        )
