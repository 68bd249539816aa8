"""Many small files at once: encoded in the codec threads, asked about and sent in batches (DESIGN §1.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lafscli.errors import LafsError
from lafscli.formats.caps import ChkCap, LitCap
from lafscli.formats.chk import Sizes
from lafscli.immutable.pipeline import Codec, settle
from lafscli.immutable.upload import LIT_LIMIT, Uploaded, Writing, upload
from lafscli.placement import Candidate, happiness, plan
from lafscli.primitives import hashes
from lafscli.primitives.ciphers import AesCtr
from lafscli.proof.encoder import encode_small
from lafscli.storage.grid import Grid
from lafscli.storage.source import opened
from lafscli.storage.store import Buffer, NewShare, Progress, ShareStore, StorageIndex

_BATCH_FILES = 64
_BATCH_BYTES = 4 << 20
_SMALL = 256 << 10
"""Larger files go one by one through the pipeline of `upload`."""


@dataclass(slots=True)
class _File:
    """A small file, encoded. `parts`: share number to the pieces of the share."""

    index: int
    cap: ChkCap
    si: StorageIndex
    size: int
    parts: Sequence[Sequence[Buffer]]
    sent: dict[int, str] = field(default_factory=dict)
    failed: bool = False


@dataclass(slots=True)
class _Batch:
    """Files on their way together, and the questions that are out."""

    files: list[_File]
    asked: list[tuple[ShareStore, Future[list[frozenset[int] | LafsError]]]] = field(default_factory=list)
    writes: list[tuple[tuple[str, list[tuple[_File, int]]], Future[list[LafsError | None]]]] = field(
        default_factory=list
    )


def upload_many(
    grid: Grid, sources: Sequence[Path | Buffer], writing: Writing, progress: Progress | None = None
) -> list[Uploaded | LafsError]:
    """Store many files; the answers in the order of the sources, each its own success or error.

    Small files travel in batches; while one batch is written the next is asked about and a third is encoded. What
    does not go smoothly in a batch (a share that is there already, a server that fails) is done again by `upload`.
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
    shares: dict[str, list[tuple[_File, int]]] = {}
    for position, file in enumerate(batch.files):
        candidates = []
        for store in grid.permuted(file.si)[: 2 * writing.encoding.n]:
            name = store.server.name
            found = held[name][position] if name in held else None
            if isinstance(found, frozenset):
                file.failed |= bool(found)
                candidates.append(Candidate(name, store.server.writable, frozenset(), store.server.site))
        planned = plan(writing.encoding.n, candidates)
        file.failed |= planned.happiness < writing.encoding.happy
        if not file.failed:
            for shnum, chosen in planned.send.items():
                shares.setdefault(str(chosen), []).append((file, shnum))
    stores = {store.server.name: store for store in grid.stores}
    for name, items in shares.items():
        store = stores[name]
        new = [NewShare(file.si, shnum, file.parts[shnum], writing.lease(file.si, store)) for file, shnum in items]
        batch.writes.append(((name, items), grid.submit(store, partial(_create, new))))
    return batch


def _create(new: Sequence[NewShare], store: ShareStore) -> list[LafsError | None]:
    return store.create_many(new)


def _collect(
    batch: _Batch,
    writing: Writing,
    results: list[Uploaded | LafsError | None],
    alone: list[int],
    progress: Progress,
) -> None:
    for (name, items), outcomes in settle(batch.writes):
        for position, (file, shnum) in enumerate(items):
            outcome = outcomes if isinstance(outcomes, LafsError) else outcomes[position]
            if outcome is None:
                file.sent[shnum] = name
    for file in batch.files:
        holders: dict[str, list[int]] = {}
        for shnum, name in file.sent.items():
            holders.setdefault(name, []).append(shnum)
        if file.failed or len(file.sent) < writing.encoding.n:
            alone.append(file.index)
            continue
        progress.advance(file.size)
        placement = {shnum: [name] for shnum, name in sorted(file.sent.items())}
        results[file.index] = Uploaded(
            file.cap, file.size, writing.encoding, happiness(holders), placement, len(file.sent), 0
        )
