"""Put a file on the grid: key, encrypt, encode, place, write, commit (spec 02, 05 §4; DESIGN: two kinds of upload).

Nothing is visible before every share is durable and enough servers hold them; what fails before that is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lafscli.errors import CorruptShare, FileExists, FileMissing, LafsError, NotHappy, StagedDiffers
from lafscli.formats.caps import ChkCap, ChkVerifyCap, LitCap
from lafscli.formats.chk import Layout, Sizes, share_size
from lafscli.immutable.keys import convergent_key, key_tag
from lafscli.immutable.leasing import lease_found
from lafscli.immutable.pipeline import Codec, ShareFeed, fetcher, settle
from lafscli.immutable.placing import Avoid, Survey, discard, look, open_writers, stop, told_together
from lafscli.immutable.resume import Resume
from lafscli.placement import Encoding, happiness
from lafscli.primitives import hashes
from lafscli.primitives.ciphers import AesCtr
from lafscli.proof.encoder import EncodedSegment, Encoder, Trailer, encode_segment
from lafscli.proof.shares import ShareReader
from lafscli.storage.grid import Grid
from lafscli.storage.journal import Journal
from lafscli.storage.source import SeenFile, Source, opened
from lafscli.storage.store import Buffer, Lease, LeaseOf, Progress, ShareStore, ShareWriter, StorageIndex

LIT_LIMIT = 55
"""Largest content, in bytes, that is kept in the cap itself (spec 02 §1)."""

LEASE_SECONDS = 31 * 24 * 3600
_V2_HEADER = 0x44
_SEGMENTS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Writing:
    """What an upload needs besides the content.

    `convergence`: the secret that makes equal files equal caps, or None for a random key. `lease_secret`: 32 bytes.
    `now`: Unix seconds. `random_bytes(n)`: n fresh random bytes. `journal`: where an upload that is interrupted leaves
    word for the next one, if anywhere.
    """

    encoding: Encoding
    convergence: bytes | None = field(repr=False)
    lease_secret: bytes = field(repr=False)
    now: int
    random_bytes: Callable[[int], bytes]
    journal: Journal | None = None

    def key_tag(self, size: int) -> bytes | None:
        """Of the hash that gives the key of a file of so many bytes; None where keys are random."""
        return None if self.convergence is None else key_tag(self.convergence, self.encoding, size)

    def lease(self, si: StorageIndex, store: ShareStore) -> Lease:
        """Our lease on a share of `si` at that server (spec 06 §2)."""
        node_id = store.server.node_id
        return Lease(
            hashes.lease_renew_secret(self.lease_secret, si, node_id),
            hashes.lease_cancel_secret(self.lease_secret, si, node_id),
            self.now + LEASE_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was stored. `placement`: share number to names of servers. `pushed`: shares sent; `preexisting`: proven."""

    cap: LitCap | ChkCap
    size: int
    encoding: Encoding | None = None
    happiness: int = 0
    placement: dict[int, list[str]] = field(default_factory=dict)
    pushed: int = 0
    preexisting: int = 0
    resumed_bytes: int = 0

    @property
    def bytes_pushed(self) -> int:
        """Bytes of the shares that were sent, but for what makes a share of version 2 longer."""
        if not self.pushed or self.encoding is None:
            return 0
        encoding = self.encoding
        return self.pushed * share_size(Sizes.plan(encoding.k, encoding.n, self.size, encoding.segment_size))


def upload(
    grid: Grid, source: Path | SeenFile | Buffer | BinaryIO | Source, writing: Writing, progress: Progress | None = None
) -> Uploaded:
    """Store one file and return its cap.

    A path or bytes are of known length: with a convergence secret the same content gives the same cap. A stream is
    stored under a random key in one pass, unless it ends within one segment. Raises NotHappy (nothing stored),
    SourceChanged, Unreachable, NotFound.
    """
    progress = progress or Progress()
    encoding = writing.encoding
    segment_size = -(-encoding.segment_size // encoding.k) * encoding.k
    with opened(source, segment_size) as plain:
        if plain.size is not None and plain.size <= LIT_LIMIT:
            return _literal(plain)
        grid.connect()
        tag = None if plain.size is None else writing.key_tag(plain.size)
        key = writing.random_bytes(16) if tag is None else convergent_key(plain, tag, progress)
        avoid = Avoid()
        journal = writing.journal if plain.size is not None and writing.convergence is not None else None
        resume = Resume(journal, hashes.storage_index_from_key(key), writing.random_bytes)
        try:
            while True:
                done = _Attempt(grid, plain, key, writing, avoid, progress, resume).run()
                if done is not None:
                    return done
                plain.rewind()
        finally:
            resume.close()


def _literal(plain: Source) -> Uploaded:
    assert plain.size is not None
    buffer = bytearray(plain.size + 1)
    if plain.readinto(memoryview(buffer)) != plain.size:
        raise plain.changed()
    plain.unchanged()
    return Uploaded(LitCap(bytes(buffer[: plain.size])), plain.size)


class _Attempt:
    """One try at an upload. `run` gives None when the next try, knowing more (`avoid`), may do better."""

    def __init__(
        self,
        grid: Grid,
        plain: Source,
        key: bytes,
        writing: Writing,
        avoid: Avoid,
        progress: Progress,
        resume: Resume,
    ) -> None:
        self.grid = grid
        self.plain = plain
        self.key = key
        self.writing = writing
        self.avoid = avoid
        self.progress = progress
        self.resume = resume
        self.encoding = writing.encoding
        self.si = hashes.storage_index_from_key(key)
        self.size = 0
        k, n, largest = self.encoding.k, self.encoding.n, self.encoding.segment_size
        self.sizes = None if plain.size is None else Sizes.plan(k, n, plain.size, largest)
        self.segment_size = -(-largest // k) * k if self.sizes is None else self.sizes.segment_size
        self.share_size = None if self.sizes is None else share_size(self.sizes)

    def run(self) -> Uploaded | None:
        found = look(self.grid, self.si, self.encoding, self.share_size)
        planned, feeds = open_writers(
            self.grid, found, self.si, self.encoding, self.avoid, self._lease, self.progress, self.resume
        )
        kept = {shnum: str(name) for shnum, name in planned.keep.items()}
        try:
            cap = self._store(found, feeds, kept)
        except Exception:
            discard(feeds)
            self.resume.finish()
            raise
        except BaseException:  # a signal: what is staged may be of use to the next run
            if self.resume.keeps:
                stop(feeds)
                self.resume.note(now=True)
            else:
                discard(feeds)
            raise
        discard(feeds)
        if cap is None:
            self.resume.forget()
            self._learn(feeds)
            return None
        if self._renew(found, kept) and not self.avoid.vanished:
            self.avoid.vanished = True
            self.resume.forget()
            return None
        self.resume.finish()
        return self._result(cap, feeds, kept)

    def _store(self, found: Survey, feeds: list[ShareFeed], kept: dict[int, str]) -> ChkCap | None:
        """Send, make durable, prove what was found, make visible. None when another try is needed."""
        trailer = self._stream(feeds, kept)
        if trailer is None:
            return None
        cap = ChkCap(self.key, trailer.ueb_hash, self.encoding.k, self.encoding.n, self.size)
        if self._prove(found, list(kept.items()), cap.verify_cap(), trailer):
            return None
        self._close(feeds, trailer)
        if self._differs(feeds) or not self._happy(feeds, kept):
            return None
        self.plain.unchanged()
        there = self._commit(feeds)
        kept |= dict(there)
        if self._prove(found, there, cap.verify_cap(), trailer) or not self._happy(feeds, kept):
            return None
        return cap

    # ---- the steps

    def _stream(self, feeds: list[ShareFeed], kept: dict[int, str]) -> Trailer | None:
        """Encrypt, encode and send every segment; the trees, or None when too many servers failed on the way."""
        version = 2 if self.plain.size is None else None
        encoder = Encoder(self.encoding.k, self.encoding.n, self.segment_size, version)
        start = bytes(_V2_HEADER) if self.sizes is None else Layout.build(self.sizes).serialise()
        for feed in feeds:
            feed.put(start)
        self.progress.start("put", self.plain.size)
        failed = 0
        with Codec.of(self.plain.size) as codec:
            for ciphertext, segment in codec.in_order(self._segments(), self._encode, _SEGMENTS_AHEAD):
                encoder.add(segment, ciphertext)
                for feed in feeds:
                    feed.put(segment.blocks[feed.shnum])
                self.progress.advance(segment.length)
                self.resume.note()
                if sum(feed.error is not None for feed in feeds) > failed:
                    failed = sum(feed.error is not None for feed in feeds)
                    if self._differs(feeds) or not self._happy(feeds, kept):
                        return None
        return encoder.finish()

    def _segments(self) -> Iterator[tuple[int, Buffer]]:
        """Offset and plaintext of each segment. What is read is hashed again: if that gives another key, one key
        would encrypt two plaintexts, and nothing is stored (DESIGN §1.8)."""
        tag = None if self.plain.size is None else self.writing.key_tag(self.plain.size)
        again = None if tag is None else hashes.Hasher.tagged(tag)
        while True:
            buffer = bytearray(self.segment_size)
            count = self.plain.readinto(memoryview(buffer))
            if not count:
                break
            piece = memoryview(buffer)[:count]
            if again is not None:
                again.update(piece)
            yield self.size, piece
            self.size += count
            if self.plain.size is not None and self.size > self.plain.size:
                raise self.plain.changed()
        if self.plain.size not in (None, self.size) or (again is not None and again.digest()[:16] != self.key):
            raise self.plain.changed()

    def _encode(self, item: tuple[int, Buffer]) -> tuple[bytes, EncodedSegment]:
        offset, plaintext = item
        ciphertext = AesCtr(self.key, offset).update(plaintext)
        return ciphertext, encode_segment(self.encoding.k, self.encoding.n, ciphertext)

    def _close(self, feeds: list[ShareFeed], trailer: Trailer) -> None:
        """Send the trees and make every share durable."""
        for feed in feeds:
            feed.put(trailer.tail(feed.shnum))
        late = self.plain.size is None
        sealing = [
            (feed, feed.submit(lambda writer: _seal(writer, trailer.header if late else None)))
            for feed in feeds
            if feed.error is None
        ]
        for feed, outcome in settle(sealing):
            if isinstance(outcome, LafsError):
                feed.error = feed.error or outcome

    def _commit(self, feeds: list[ShareFeed]) -> list[tuple[int, str]]:
        """Make the shares visible. The (number, server) of those that somebody else stored meanwhile."""
        there: list[tuple[int, str]] = []
        commits = [(feed, feed.submit(lambda writer: writer.commit())) for feed in feeds if feed.error is None]
        for feed, outcome in settle(commits):
            if isinstance(outcome, FileExists):
                there.append((feed.shnum, feed.store.server.name))
                feed.error = outcome
            elif isinstance(outcome, LafsError):
                feed.error = outcome
            else:
                feed.committed = True
        return there

    def _prove(self, found: Survey, places: list[tuple[int, str]], cap: ChkVerifyCap, trailer: Trailer) -> bool:
        """Found shares are not trusted by their number: size, header, UEB and hash sections must be what this upload
        computed (DESIGN §1.9). True when one was not; `avoid` then knows it."""
        proofs = [
            ((shnum, name), self.grid.submit(found.stores[name], _proof(cap, shnum, trailer.share_size)))
            for shnum, name in places
        ]
        bad = False
        for (shnum, name), outcome in settle(proofs):
            if isinstance(outcome, CorruptShare):
                bad = True
                self.avoid.shares.add((name, shnum))
                self.progress.warn(
                    f"server {name}: share {shnum} is corrupt ({outcome.message}); it was left in place, "
                    "and stored elsewhere"
                )
            elif isinstance(outcome, LafsError):
                bad = True
                self.avoid.servers[name] = outcome
                self.avoid.shares.add((name, shnum))
        return bad

    def _differs(self, feeds: list[ShareFeed]) -> bool:
        return any(isinstance(feed.error, StagedDiffers) for feed in feeds)

    def _happy(self, feeds: list[ShareFeed], kept: dict[int, str]) -> bool:
        return happiness(self._holders(feeds, kept)) >= self.encoding.happy

    def _holders(self, feeds: list[ShareFeed], kept: dict[int, str]) -> dict[str, set[int]]:
        holders: dict[str, set[int]] = {}
        for shnum, name in kept.items():
            holders.setdefault(name, set()).add(shnum)
        for feed in feeds:
            if feed.error is None:
                holders.setdefault(feed.store.server.name, set()).add(feed.shnum)
        return holders

    def _learn(self, feeds: list[ShareFeed]) -> None:
        """Remember which servers failed, so that the next plan does without them; a pipe can't be read again."""
        self.avoid.committed += sum(feed.committed for feed in feeds)
        for feed in feeds:
            if feed.error is not None and not isinstance(feed.error, FileExists | StagedDiffers):
                self.avoid.servers[feed.store.server.name] = feed.error
        if self.plain.size is None:
            reasons = told_together({name: error.message for name, error in self.avoid.servers.items()})
            raise NotHappy(
                f"too many servers failed while the pipe was stored; its content is lost ({reasons})",
                hint="run it again: what comes through a pipe can't be read twice",
            )

    def _renew(self, found: Survey, kept: dict[int, str]) -> bool:
        """Shares that were there already get our lease, or a later end of it (spec 05 §4.5). Whether one has gone: a
        garbage collection may have been faster."""
        gone = False
        renewals = []
        for shnum, name in kept.items():
            store = found.stores[name]
            if store.server.writable:
                item = LeaseOf(self.si, shnum, self._lease(store))
                renewals.append((name, self.grid.submit(store, partial(lease_found, [item]))))
        for name, outcome in settle(renewals):
            error = outcome if isinstance(outcome, LafsError) else outcome[0]
            if isinstance(error, LafsError):
                gone = gone or isinstance(error, FileMissing)
                self.progress.warn(f"server {name}: the lease was not renewed: {error.message}")
        return gone

    def _lease(self, store: ShareStore) -> Lease:
        return self.writing.lease(self.si, store)

    def _result(self, cap: ChkCap, feeds: list[ShareFeed], kept: dict[int, str]) -> Uploaded:
        holders = self._holders(feeds, kept)
        placement: dict[int, list[str]] = {}
        for name, shnums in sorted(holders.items()):
            for shnum in shnums:
                placement.setdefault(shnum, []).append(name)
        for feed in feeds:
            if feed.shnum not in placement:
                self.progress.warn(
                    f"server {feed.store.server.name}: share {feed.shnum} was not stored: {feed.error}; "
                    f"the file is safe on {len(holders)} servers"
                )
        pushed = sum(feed.committed for feed in feeds)
        resumed = sum(feed.writer.resumed for feed in feeds if feed.committed)
        return Uploaded(
            cap,
            self.size,
            self.encoding,
            happiness(holders),
            dict(sorted(placement.items())),
            pushed,
            len(kept),
            resumed,
        )


def _seal(writer: ShareWriter, header: bytes | None) -> None:
    if header is not None:
        writer.write_header(header)
    writer.seal()


def _proof(cap: ChkVerifyCap, shnum: int, size: int) -> Callable[[ShareStore], None]:
    """A question that raises CorruptShare unless the share there is the one of this cap, in this size."""

    def prove(store: ShareStore) -> None:
        [there] = store.share_size([(cap.si, shnum)])
        if isinstance(there, LafsError):
            raise there
        if there != size:
            raise CorruptShare(f"it has {there} bytes, not {size}")
        ShareReader(cap, shnum).open(fetcher(store, cap.si, shnum), strict=True)

    return prove
