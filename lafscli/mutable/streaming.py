"""A large MDMF version, staged segment by segment: memory is a few segments, whatever the file (spec 03 §6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

from lafscli.errors import LafsError
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import SALT_SIZE, Prefix
from lafscli.mutable.attempt import Attempt
from lafscli.mutable.made import prove
from lafscli.mutable.publishing import Publishing
from lafscli.primitives.ciphers import PrivateKey
from lafscli.primitives.encoding import Buffer
from lafscli.proof.slotmaker import NewVersion, Signing, SlotMaker, SlotSegment, encode_segment, encrypt_segment
from lafscli.proof.slots import Signatures
from lafscli.storage.report import Progress
from lafscli.storage.source import Source, StreamSource
from lafscli.storage.store import FileWriter, ShareStore

_AHEAD = 16
"""Segments that are encoded, or on their way to servers, at a time."""


def stream(
    attempt: Attempt,
    cap: MutableWriteCap,
    private: PrivateKey,
    seqnum: int,
    k: int,
    n: int,
    plain: Source,
    publishing: Publishing,
    progress: Progress,
) -> tuple[NewVersion, dict[int, bytes]]:
    """Stage a version of what `plain` holds, of known length or not: the version, and what each share begins with.

    Blocks go to their servers as they are made; what comes before them, and the header of the container, is written
    last, when their hashes and the length are known.
    """
    attempt.streamed = True
    if isinstance(plain, StreamSource):
        # who sends it may rest for longer than a guard lives
        plain.idle = attempt.guards.keep
    else:
        plain.rewind()
    progress.start("put", plain.size)
    sizes = Prefix.plan(True, k, n, plain.size or 0)
    maker = SlotMaker(sizes, Signing.of(private), open_end=plain.size is None)
    staging = _Staging(attempt, DATA_OFFSET + maker.front_size)
    try:
        length = 0
        for segment in _encoded(cap, sizes, plain, publishing):
            maker.add(segment)
            staging.put(segment.blocks)
            length += segment.length
            progress.advance(segment.length)
            if attempt.failed:
                attempt.staged({}, k, n)
        if plain.size not in (None, length):
            raise plain.changed()
        plain.unchanged()
        version = maker.finish(seqnum, length)
        signatures = Signatures(cap.verify_cap())
        for shnum in range(n):
            prove(version, shnum, signatures)
        attempt.staged(staging.close(version), k, n)
    except BaseException:
        staging.abandon()
        raise
    return version, {shnum: version.front(shnum) for shnum in range(n)}


def _encoded(cap: MutableWriteCap, sizes: Prefix, plain: Source, publishing: Publishing) -> Iterator[SlotSegment]:
    """Segments in order, encrypted and coded; a few ahead, where there are threads for it."""
    readkey = cap.read_cap().readkey

    def encoded(salt: bytes, plaintext: Buffer) -> SlotSegment:
        return encode_segment(sizes, salt, encrypt_segment(readkey, salt, plaintext))

    underway: deque[Future[SlotSegment]] = deque()
    while True:
        buffer = memoryview(bytearray(sizes.segment_size))
        count = plain.readinto(buffer)
        if not count:
            break
        salt = publishing.random_bytes(SALT_SIZE)
        if publishing.codec is None:
            yield encoded(salt, buffer[:count])
            continue
        underway.append(publishing.codec.submit(partial(encoded, salt, buffer[:count])))
        if len(underway) >= _AHEAD:
            yield underway.popleft().result()
    while underway:
        yield underway.popleft().result()


class _Staging:
    """The containers that are being staged, of all servers."""

    def __init__(self, attempt: Attempt, room: int) -> None:
        self._attempt = attempt
        self._writers: dict[str, dict[int, FileWriter]] = {}
        self._sent: deque[list[tuple[str, Future[None]]]] = deque()
        self._room = room
        said = attempt.guards.each(dict.fromkeys(attempt.stores.values(), self._open))
        attempt.failed |= {name: error for name, error in said.items() if isinstance(error, LafsError)}

    def _open(self, store: ShareStore) -> None:
        guard = self._attempt.guards.on(store)
        writers = self._writers[store.server.name] = {}
        for shnum in self._attempt.shnums(store):
            writers[shnum] = guard.create(shnum)
            writers[shnum].write(bytes(self._room))

    def put(self, blocks: list[Buffer]) -> None:
        """Send the next block of each share; waits while many are on their way."""
        grid = self._attempt.grid
        self._sent.append(
            [(name, grid.submit(store, partial(self._write, blocks))) for name, store in self._attempt.stores.items()]
        )
        while len(self._sent) > _AHEAD:
            self._wait()

    def _write(self, blocks: list[Buffer], store: ShareStore) -> None:
        for shnum, writer in self._writers[store.server.name].items():
            writer.write(blocks[shnum])

    def _wait(self) -> None:
        for name, sent in self._sent.popleft():
            try:
                sent.result()
            except LafsError as error:
                self._attempt.failed.setdefault(name, error)

    def close(self, version: NewVersion) -> dict[str, LafsError | None]:
        """Write what is still lacking, and make all of it durable."""
        while self._sent:
            self._wait()
        return self._attempt.guards.each(dict.fromkeys(self._attempt.stores.values(), partial(self._close, version)))

    def _close(self, version: NewVersion, store: ShareStore) -> None:
        for shnum, writer in self._writers[store.server.name].items():
            front, back = self._attempt.around(store, shnum, version.share_size)
            writer.write(version.back(shnum))
            writer.write(back)
            writer.write_at(0, front + version.front(shnum))
        for writer in self._writers[store.server.name].values():
            writer.close(sync=self._attempt.guards.on(store).sync)
        self._attempt.unchanged(store)

    def abandon(self) -> None:
        """Close what is open, without caring; the files go with the guards."""
        for store in self._attempt.entry.guarded:
            self._attempt.grid.submit(store, self._abandon)

    def _abandon(self, store: ShareStore) -> None:
        for writer in self._writers.pop(store.server.name, {}).values():
            writer.abandon()
