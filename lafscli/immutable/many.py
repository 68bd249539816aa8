"""Many small files at once: encoded in the codec threads, asked about and sent in batches (DESIGN §1.4)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
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
from lafscli.storage.source import SeenFile, opened
from lafscli.storage.store import Buffer, LeaseOf, NewShare, Progress, ShareRange, ShareStore, StorageIndex

_BATCH_FILES = 256
_BATCH_BYTES = 4 << 20
_AHEAD_FILES = 2 * _BATCH_FILES
_AHEAD_BYTES = 4 << 20
"""Encoded files that wait for a batch; in memory each takes (k + n) / k times its size."""

_SMALL = 4 << 20
"""Larger files go one by one through the pipeline of `upload`."""

_LARGE = 32 << 20
"""Larger ones go alone, so that a signal leaves them to be gone on with; of others some go at once."""

_AT_ONCE = 3
_WRITTEN_BATCHES = 1
_REMEMBERED = 1000

Content = Path | SeenFile | Buffer
"""What is stored: a file by its path or as it was seen, or bytes."""


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
    grid: Grid, sources: Sequence[Content], writing: Writing, progress: Progress | None = None
) -> list[Uploaded | LafsError]:
    """Store many files; the answers in the order of the sources, each its own success or error; see `upload_all`."""
    results: list[Uploaded | LafsError | None] = [None] * len(sources)
    for index, done in upload_all(grid, sources, writing, progress):
        results[index] = done
    return [result for result in results if result is not None]


def upload_all(
    grid: Grid, sources: Iterable[Content | None], writing: Writing, progress: Progress | None = None
) -> Iterator[tuple[int, Uploaded | LafsError]]:
    """Store files as they come; the answers as they come, with the number of the source, each its own success or error.

    None among the sources, which has no number, says that the next one depends on answers: then what is under way is
    not kept waiting for more.

    Small files travel in batches; while one batch is written the next is asked about and a third is encoded. Shares
    that are there already are read and compared, and our leases on them renewed. What does not go smoothly in a batch
    (a share that is not what it should be, a server that fails) is done again by `upload`.
    Each server commits its shares of a batch by itself: a file that ends as NotHappy may leave some behind, which serve
    the next try or, under a random key, expire with their leases.
    """
    grid.connect()
    with Codec() as codec, Codec(_AT_ONCE) as beside:
        flow = _Flow(grid, writing, progress or Progress(), codec, beside)
        number = 0
        for source in sources:
            if source is None:
                yield from flow.some()
            else:
                flow.add(number, source)
                number += 1
                yield from flow.ready()
        while flow.busy:
            yield from flow.some()


class _Flow:
    """Files on their way: being encoded, in batches, or alone."""

    def __init__(self, grid: Grid, writing: Writing, progress: Progress, codec: Codec, beside: Codec) -> None:
        self._grid = grid
        self._writing = writing
        self._progress = progress
        self._codec = codec
        self._beside = beside
        self._encoding: deque[tuple[int, Content, int, Future[_File | Uploaded | LafsError | None]]] = deque()
        self._ahead = 0
        self._batch = _Batch([])
        self._held = 0
        self._asked: deque[_Batch] = deque()
        self._written: deque[_Batch] = deque()
        self._alone: deque[tuple[int, StorageIndex | None, Future[Uploaded]]] = deque()
        self._sources: dict[int, Content] = {}
        self._twins: dict[StorageIndex, list[tuple[int, int]]] = {}
        self._known: OrderedDict[StorageIndex, Uploaded] = OrderedDict()
        self._results: list[tuple[int, Uploaded | LafsError]] = []

    @property
    def busy(self) -> bool:
        """Whether there are answers to come."""
        return bool(self._results or self._encoding or self._batch.files or self._asked or self._written or self._alone)

    def add(self, number: int, source: Content) -> None:
        """Begin with one more."""
        size = _size(source)
        if size > _LARGE:
            self._sources[number] = source
            self._store_now(number, source)
            return
        encoded = self._codec.submit(partial(_encode, number, source, self._writing))
        held = size if size <= _SMALL else 0
        self._encoding.append((number, source, held, encoded))
        self._ahead += held
        while len(self._encoding) > _AHEAD_FILES or self._ahead > _AHEAD_BYTES:
            self._advance()

    def ready(self) -> Iterator[tuple[int, Uploaded | LafsError]]:
        """What is finished by now."""
        while self._encoding and self._encoding[0][-1].done():
            self._advance()
        for each in [each for each in self._alone if each[-1].done()]:
            self._alone.remove(each)
            self._settle_alone(*each)
        results, self._results = self._results, []
        yield from results

    def some(self) -> Iterator[tuple[int, Uploaded | LafsError]]:
        """At least one result, if there is anything under way: nothing is kept waiting for more to come."""
        while not self._results and self.busy:
            if self._encoding:
                self._advance()
                if not self._encoding:
                    self._end_batch()
            elif self._batch.files:
                self._end_batch()
            elif self._asked:
                self._write()
            elif self._written:
                self._collect()
            else:
                self._settle_alone(*self._alone.popleft())
        yield from self.ready()

    # ---- the stations

    def _advance(self) -> None:
        """What was encoded first goes into the batch."""
        number, source, held, encoded = self._encoding.popleft()
        self._ahead -= held
        item = encoded.result()
        if item is None:
            self._store_alone(number, source)
        elif not isinstance(item, _File):
            if isinstance(item, Uploaded):
                self._progress.advance(item.size)
            self._results.append((number, item))
        elif item.si in self._twins:
            self._twins[item.si].append((number, item.size))
        elif item.si in self._known:
            self._results.append((number, self._twin(self._known[item.si])))
        else:
            self._twins[item.si] = []
            self._sources[number] = source
            self._batch.files.append(item)
            self._held += item.size
            if len(self._batch.files) >= _BATCH_FILES or self._held >= _BATCH_BYTES:
                self._end_batch()

    def _end_batch(self) -> None:
        """Ask about a batch; write the one before, and collect what was written before that."""
        if not self._batch.files:
            return
        _ask(self._grid, self._batch)
        self._asked.append(self._batch)
        self._batch, self._held = _Batch([]), 0
        if len(self._asked) > 1:
            self._write()
        if len(self._written) > _WRITTEN_BATCHES:
            self._collect()

    def _write(self) -> None:
        self._written.append(_write(self._grid, self._asked.popleft(), self._writing))

    def _collect(self) -> None:
        for file, done in _collect(self._written.popleft(), self._writing, self._progress):
            source = self._sources.pop(file.index)
            if done is None:
                self._store_alone(file.index, source, file.si)
            else:
                self._finish(file.index, file.si, done)

    def _store_alone(self, number: int, source: Content, si: StorageIndex | None = None) -> None:
        while len(self._alone) > 2 * _AT_ONCE:
            self._settle_alone(*self._alone.popleft())
        self._alone.append(
            (number, si, self._beside.submit(partial(upload, self._grid, source, self._writing, self._progress)))
        )

    def _store_now(self, number: int, source: Content) -> None:
        self._sources.pop(number)
        try:
            self._results.append((number, upload(self._grid, source, self._writing, self._progress)))
        except LafsError as error:
            self._results.append((number, error))

    def _settle_alone(self, number: int, si: StorageIndex | None, stored: Future[Uploaded]) -> None:
        try:
            self._finish(number, si, stored.result())
        except LafsError as error:
            self._finish(number, si, error)

    # ---- the same content again

    def _finish(self, number: int, si: StorageIndex | None, done: Uploaded | LafsError) -> None:
        self._results.append((number, done))
        if si is None:
            return
        for twin, size in self._twins.pop(si):
            self._progress.advance(size)
            self._results.append((twin, done if isinstance(done, LafsError) else self._twin(done)))
        if isinstance(done, Uploaded):
            self._known[si] = done
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _twin(self, done: Uploaded) -> Uploaded:
        return replace(done, pushed=0, preexisting=done.pushed + done.preexisting, resumed_bytes=0)


def _size(source: Content) -> int:
    """How many bytes there are, as far as is known before it is opened."""
    if isinstance(source, Path):
        try:
            return source.stat().st_size
        except OSError:
            return 0
    return source.size if isinstance(source, SeenFile) else memoryview(source).nbytes


def _encode(index: int, source: Content, writing: Writing) -> _File | Uploaded | LafsError | None:
    """In a codec thread: read and encode a small file; None for one that is to be uploaded alone."""
    encoding = writing.encoding
    try:
        with opened(source, _SMALL) as plain:
            if plain.size is None or plain.size > _SMALL:
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
    tag = writing.key_tag(len(content))
    key = writing.random_bytes(16) if tag is None else hashes.tagged_hash(tag, content)[:16]
    trailer, parts = encode_small(encoding.k, encoding.n, sizes.segment_size, AesCtr(key).update(content))
    cap = ChkCap(key, trailer.ueb_hash, encoding.k, encoding.n, len(content))
    return _File(index, cap, hashes.storage_index_from_key(key), len(content), parts)


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


def _collect(batch: _Batch, writing: Writing, progress: Progress) -> Iterator[tuple[_File, Uploaded | None]]:
    """What became of each; None for one that must go alone."""
    for asked, new in ((batch.writes, True), (batch.proofs, False)):
        for (name, items), outcomes in settle(asked):
            for position, (file, shnum) in enumerate(items):
                outcome = outcomes if isinstance(outcomes, LafsError) else outcomes[position]
                if outcome is None:
                    (file.sent if new else file.proven)[shnum] = name
                elif isinstance(outcome, CorruptShare):
                    progress.warn(f"server {name}: share {shnum} is there, and is not what it should be")
    for file in batch.files:
        file.parts = ()
        holders: dict[str, list[int]] = {}
        lying = {**file.proven, **file.sent}
        for shnum, name in lying.items():
            holders.setdefault(name, []).append(shnum)
        if file.failed or len(lying) < writing.encoding.n or happiness(holders) < writing.encoding.happy:
            yield file, None
            continue
        progress.advance(file.size)
        placement = {shnum: [name] for shnum, name in sorted(lying.items())}
        yield (
            file,
            Uploaded(
                file.cap, file.size, writing.encoding, happiness(holders), placement, len(file.sent), len(file.proven)
            ),
        )
