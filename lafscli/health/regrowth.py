"""The missing shares of one file, made again in one pass: fetched, coded and sent at the same time (spec 05 §6).

Memory is a few segments, whatever the file. A server that fails on the way gets nothing more, and its share goes
elsewhere in the next pass, if there is a place for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lafscli.errors import CorruptShare, FileMissing, GuardHeld, GuardLost, LafsError, NotSupported
from lafscli.health.case import Case, Place
from lafscli.health.renew import MakeLease
from lafscli.health.replacement import put_in_place, take_out
from lafscli.immutable.fetch import SegmentFetch
from lafscli.immutable.pipeline import Codec, ShareFeed, fetcher, settle
from lafscli.immutable.placing import discard
from lafscli.mutable.publishing import Publishing
from lafscli.proof.encoder import Trailer
from lafscli.proof.remaker import Kin, Remaker
from lafscli.proof.shares import ShareReader
from lafscli.storage.grid import Grid
from lafscli.storage.locks import PATIENCE
from lafscli.storage.membership import Membership
from lafscli.storage.store import Lease, Progress, ShareStore, ShareWriter

_PASSES = 5
_SEGMENTS_AHEAD = 4
_SPACE_MATTERS = 1 << 20
"""From this share size on a server is asked whether it has room before it is given one."""


@dataclass(frozen=True, slots=True)
class Mending:
    """How to repair. `lease`: ours, for the new shares. `patience`: seconds to wait for a guard that another has.

    Of mutable objects: `publishing` is what a new version needs, where one must be written; with `force` one is also
    written where that merges versions, or gives up a newer one that can't be recovered.
    """

    lease: MakeLease
    patience: float = PATIENCE
    publishing: Publishing | None = None
    force: bool = False

    @property
    def membership(self) -> Membership | None:
        """The list of the grid's servers that this home knows."""
        return None if self.publishing is None else self.publishing.membership


class Regrowth:
    """Repairs one object after the other."""

    def __init__(self, grid: Grid, codec: Codec, mending: Mending, progress: Progress) -> None:
        self._grid = grid
        self._codec = codec
        self._mending = mending
        self._progress = progress
        self._stores = {store.server.name: store for store in grid.stores}

    def run(self, case: Case) -> None:
        """Write what the case lacks, and put away what is bad; the case knows afterwards what became of it."""
        sources: list[tuple[ShareStore, int, ShareReader | None]] | None = None
        kin: Kin | None = None
        for _ in range(_PASSES):
            if not case.goal().places:
                break
            if kin is None:
                opened = self._open(case)
                if len(opened) < case.cap.k:
                    case.hopeless = f"only {len(opened)} shares can be read, {case.cap.k} are needed"
                    return
                kin = Kin.of([reader for _, _, reader in opened])
                # the hash trees of those that will hardly be read are not kept
                sources = [
                    (store, n, reader if i < case.cap.k else None) for i, (store, n, reader) in enumerate(opened)
                ]
                self._ask_for_room(case, kin)
            assert sources is not None
            self._pass(case, kin, [each for each in sources if each[0].server.name in case.good.get(each[1], ())])
            if case.hopeless:
                return
        self._clear(case)

    # ---- before

    def _open(self, case: Case) -> list[tuple[ShareStore, int, ShareReader]]:
        """One good share of each number, everything of it proved but its blocks."""
        opened: list[tuple[ShareStore, int, ShareReader]] = []
        tried: set[Place] = set()
        silent = set(case.failed)
        while True:
            wanted: list[tuple[ShareStore, int]] = []
            for shnum in sorted(case.good.keys() - {n for _, n, _ in opened}):
                names = [s for s in case.order if s.server.name in case.good[shnum] and s.server.name not in silent]
                left = [store for store in names if (store.server.name, shnum) not in tried]
                if left:
                    wanted.append((left[0], shnum))
            if not wanted:
                return sorted(opened, key=lambda each: each[1])
            tried |= {(store.server.name, shnum) for store, shnum in wanted}
            asked = [
                ((store, shnum), self._grid.submit(store, partial(_reader, case, shnum))) for store, shnum in wanted
            ]
            for (store, shnum), outcome in settle(asked):
                name = store.server.name
                if isinstance(outcome, ShareReader):
                    opened.append((store, shnum, outcome))
                elif isinstance(outcome, CorruptShare):
                    case.found_bad(name, shnum, outcome.message)
                elif isinstance(outcome, FileMissing):
                    case.gone(name, shnum)
                else:
                    silent.add(name)
                    case.failed[name] = outcome.message

    def _ask_for_room(self, case: Case, kin: Kin) -> None:
        size = Remaker(case.cap, kin, ()).share_size
        if size < _SPACE_MATTERS:
            return
        writable = [store for store in case.order if store.server.writable and store.server.name not in case.failed]
        for answer in self._grid.ask(lambda store: store.space(), writable):
            if isinstance(answer.value, LafsError):
                case.failed[answer.store.server.name] = answer.value.message
            elif answer.value is not None and answer.value.free < size + _SPACE_MATTERS:
                case.failed[answer.store.server.name] = "it has no room"

    # ---- one pass

    def _pass(self, case: Case, kin: Kin, sources: list[tuple[ShareStore, int, ShareReader | None]]) -> None:
        feeds = self._begin(case)
        try:
            if not feeds:
                return
            trailer = self._stream(case, kin, sources, feeds)
            if trailer is not None:
                self._finish(case, feeds, trailer)
        finally:
            discard(feeds)

    def _begin(self, case: Case) -> list[ShareFeed]:
        """A writer for each share that the goal names; where a server refuses, the goal is another."""
        feeds: dict[Place, ShareFeed] = {}
        try:
            while True:
                places = case.goal().places
                discard(feeds.pop(place) for place in list(feeds.keys() - places))
                asked = []
                for name, shnum in sorted(places - feeds.keys(), key=lambda place: place[1]):
                    store = self._stores[name]
                    lease = self._mending.lease(case.cap.si, store)
                    asked.append(((name, shnum), self._grid.submit(store, partial(_create, case, shnum, lease))))
                for (name, shnum), outcome in settle(asked):
                    if isinstance(outcome, LafsError):
                        case.failed[name] = outcome.message
                    else:
                        store = self._stores[name]
                        feeds[name, shnum] = ShareFeed(self._grid, store, shnum, outcome, self._progress)
                if feeds.keys() == places:
                    return [feeds[place] for place in sorted(feeds, key=lambda place: place[1])]
        except BaseException:
            discard(feeds.values())
            raise

    def _stream(
        self,
        case: Case,
        kin: Kin,
        sources: list[tuple[ShareStore, int, ShareReader | None]],
        feeds: list[ShareFeed],
    ) -> Trailer | None:
        """Fetch, code and send every segment; what follows the blocks, or None when all writers failed."""
        cap = case.cap
        remaker = Remaker(cap, kin, {feed.shnum for feed in feeds})
        fetch = SegmentFetch(self._grid, cap, 0, cap.size, self._progress, None, sources)
        self._progress.start("repair", cap.size)
        header = remaker.header
        for feed in feeds:
            feed.put(header)
        try:
            pieces = (data for _, data in fetch.run(self._codec))
            for segment in self._codec.in_order(pieces, remaker.encode, _SEGMENTS_AHEAD):
                remaker.add(segment)
                for feed in feeds:
                    feed.put(segment.blocks[feed.shnum])
                self._progress.advance(segment.length)
                if all(feed.error is not None for feed in feeds):
                    return None
            return remaker.finish()
        except LafsError as error:
            case.hopeless = error.message
            return None
        finally:
            for bad in fetch.corrupt:
                case.found_bad(bad.server, bad.shnum, bad.reason)
            for feed in feeds:
                if feed.error is not None:
                    case.failed[feed.store.server.name] = feed.error.message

    def _finish(self, case: Case, feeds: list[ShareFeed], trailer: Trailer) -> None:
        """Make every share durable, then visible."""
        for feed in feeds:
            feed.put(trailer.tail(feed.shnum))
        sealing = [(feed, feed.submit(lambda writer: writer.seal())) for feed in feeds if feed.error is None]
        for feed, outcome in settle(sealing):
            feed.error = feed.error or (outcome if isinstance(outcome, LafsError) else None)
        placing = []
        for feed in feeds:
            if feed.error is None:
                bad = (feed.store.server.name, feed.shnum) in case.bad
                change = put_in_place(case.cap, feed.shnum, feed.writer, bad=bad, patience=self._mending.patience)
                placing.append((feed, self._grid.submit(feed.store, change)))
        for feed, done in settle(placing):
            if isinstance(done, LafsError):
                feed.error = done
            else:
                feed.committed = done
                case.stands(feed.store.server.name, feed.shnum, ours=done)
        for feed in feeds:
            if feed.error is not None:
                _note_failure(case, feed.store.server.name, feed.shnum, feed.error)

    # ---- after

    def _clear(self, case: Case) -> None:
        """Put bad shares away whose number is good elsewhere by now."""
        asked = []
        for name, shnum in sorted(case.goal().clear):
            if shnum in case.good:
                lease = self._mending.lease(case.cap.si, self._stores[name])
                change = take_out(case.cap, shnum, lease, patience=self._mending.patience)
                asked.append(((name, shnum), self._grid.submit(self._stores[name], change)))
        for (name, shnum), outcome in settle(asked):
            if isinstance(outcome, LafsError):
                _note_failure(case, name, shnum, outcome)
            elif outcome:
                case.gone(name, shnum)
                case.cleared += 1
            else:
                case.stands(name, shnum, ours=False)


def _note_failure(case: Case, name: str, shnum: int, error: LafsError) -> None:
    """A place that can't be changed is one thing, a server that fails another."""
    if isinstance(error, GuardHeld | GuardLost | NotSupported):
        case.stuck[name, shnum] = error.message
    else:
        case.failed[name] = error.message


def _reader(case: Case, shnum: int, store: ShareStore) -> ShareReader:
    reader = ShareReader(case.cap, shnum)
    reader.open(fetcher(store, case.cap.si, shnum, keep=True), strict=True)
    return reader


def _create(case: Case, shnum: int, lease: Lease, store: ShareStore) -> ShareWriter:
    return store.create(case.cap.si, shnum, lease=lease)
