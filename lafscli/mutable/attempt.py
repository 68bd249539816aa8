"""One try at a change: guards, survey, stage, commit, read back, release (spec 10 §2.8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from lafscli.errors import CorruptShare, FileError, GuardLost, LafsError, NotHappy, NotRecoverable, UsageError
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import HEAD_SIZE, Header
from lafscli.mutable.blocks import Blocks, TooFewBlocks
from lafscli.mutable.containers import container_for, earlier_containers
from lafscli.mutable.entry import Entry, told, unreadable
from lafscli.mutable.goal import goal
from lafscli.mutable.guards import Guards
from lafscli.mutable.publishing import Publishing
from lafscli.mutable.survey import Found, SlotMap
from lafscli.placement import happiness
from lafscli.primitives.ciphers import PrivateKey
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import write_enabler
from lafscli.proof.slotkeys import open_private_key
from lafscli.storage.grid import Grid
from lafscli.storage.sight import Container, Sight
from lafscli.storage.store import Buffer, FileRange, Look, ShareStore

_MOST_SEQNUM = (1 << 64) - 1
_PREFIX = 107
"""So many bytes of a share, of either sort, tell its version: the checkstring, and where its sections lie."""

Shares = Mapping[int, list[Buffer]]
"""Parts of each share by its number."""


class Undone(LafsError):
    """A try came to nothing, because another writer or a failing server was in the way."""


class ForeignWrite(GuardLost):
    """Somebody who takes no guard has changed the file under ours."""


class Attempt:
    """What one try knows. The steps are called in their order; `close` ends it in any case."""

    def __init__(
        self,
        grid: Grid,
        cap: MutableWriteCap,
        publishing: Publishing,
        n: int,
        *,
        one_first: bool,
        refused: Mapping[str, LafsError] | None = None,
        patient: bool = False,
    ) -> None:
        """`refused`: servers that have refused again and again to put shares in place; they get none. `patient`: those
        that keep us waiting are waited for as long as others."""
        self.grid = grid
        self._cap = cap
        self._publishing = publishing
        self._verify = cap.verify_cap()
        self._si = self._verify.si
        self.guards = Guards(grid, self._si, publishing.monotonic, patient=patient)
        happy, lists = publishing.encoding.happy, publishing.membership
        self.entry = Entry(grid, self._verify, self.guards, n, happy, lists, one_first=one_first)
        self._found: SlotMap | None = None
        self._highest = 0
        self._lost: set[str] = set()
        self._blocks: Blocks | None = None
        self.base: Header | None = None
        self.failed: dict[str, LafsError] = dict(refused or {})
        self.streamed = False
        self._targets: dict[str, list[int]] = {}

    @property
    def found(self) -> SlotMap:
        assert self._found is not None, "enter comes first"
        return self._found

    @property
    def errors(self) -> dict[str, LafsError]:
        """Servers that did not take part to the end, and why."""
        return self.entry.errors | self.failed

    @property
    def silent(self) -> dict[str, str]:
        """The same in words."""
        return {name: error.message for name, error in self.errors.items()}

    # ---- a, b: survey, base

    def enter(self) -> Header | None:
        """Take the guards, survey, choose the base. GuardHeld, NotHappy, NotRecoverable, CannotTell, UsageError."""
        self._found = self.entry.enter()
        # what turns out to be damaged later has had its number all the same
        self._highest = self._found.highest_seqnum
        self._choose()
        return self.base

    def _choose(self) -> None:
        self.base = self.entry.base(self.found, frozenset(self._lost), force=self._publishing.force)
        if self.base is not None:
            shares = self.found.of(self.base)
            self._blocks = self._reader(self.base, shares)

    def _reader(self, base: Header, shares: Sequence[Found]) -> Blocks:
        """Keeps the guards alive while it waits for bytes."""
        readkey, codec = self._cap.read_cap().readkey, self._publishing.codec
        return Blocks(self.grid, base, shares, readkey, codec, idle=self.guards.keep)

    def content(self) -> bytes:
        """The content of the base. Shares that turn out to be bad may lead to another base."""
        while self.base is not None:
            try:
                return b"".join(self._pieces(self.base))
            except TooFewBlocks:
                self._learn()
        raise unreadable(self.found)

    def _pieces(self, base: Header) -> Iterator[bytes]:
        assert self._blocks is not None
        for piece in self._blocks.read(0, base.prefix.data_length):
            yield piece
            self.guards.keep()

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """A range of the content of the base; NotRecoverable or CannotTell when that turns out not to be readable."""
        assert self._blocks is not None, "there is a file"
        try:
            yield from self._blocks.read(offset, length)
        except TooFewBlocks:
            self._learn()
            raise unreadable(self.found) from None

    def _learn(self) -> None:
        """Choose anew without the shares that lied and the servers that failed."""
        assert self._blocks is not None
        self._lost |= self._blocks.silent.keys()
        found = self.found.without(self._blocks.lying.values(), self._blocks.reasons)
        self._found = found.unheard(self._blocks.silent)
        self._choose()

    @property
    def settled(self) -> bool:
        """Whether the base stands in place on so many servers that no later writer can miss it."""
        base = self.base
        if base is None:
            return False
        placed = [one.place for one in self.found.of(base) if one.file.kind == "place"]
        names, numbers = {name for name, _ in placed}, {shnum for _, shnum in placed}
        return self.entry.quorum.majority(names) and len(numbers) >= base.prefix.k

    def private_key(self) -> PrivateKey:
        """From any share, those of the base first; a wrong one in some does not matter (spec 03 §7)."""
        assert self.base is not None, "there is a file"
        shares = [*self.found.of(self.base), *self.found.found]
        blocks = self._reader(self.base, shares)
        for _, sealed in blocks.section(lambda one: one.share.enc_privkey_range):
            try:
                return open_private_key(self._cap, sealed)
            except CorruptShare:
                continue
        raise NotRecoverable(
            f"{b32encode(self._si)[:5]}: no share holds the private key of its write cap; nothing was changed",
            hint="the file can be read, but never be changed again: copy it",
        )

    # ---- c: the next number

    @property
    def seqnum(self) -> int:
        """One more than the highest anywhere, or remembered here."""
        seen = self._publishing.seen
        known = None if seen is None else seen.highest(self._si, self._verify.fingerprint)
        highest = max(self._highest, self.found.highest_seqnum, 0 if known is None else known[0])
        if highest >= _MOST_SEQNUM:
            raise UsageError(f"{b32encode(self._si)[:5]} has the highest version number that there is")
        return highest + 1

    @property
    def warnings(self) -> list[str]:
        """What casts a doubt on the base: this home has seen a newer version."""
        seen = self._publishing.seen
        known = None if seen is None else seen.highest(self._si, self._verify.fingerprint)
        if known is None or self.base is None or known[0] <= self.base.prefix.seqnum:
            return []
        return [
            f"{b32encode(self._si)[:5]}: the newest version found was {self.base.prefix.seqnum}, but {known[0]} "
            "was seen here before: servers may have been rolled back, and the change was made to the older one"
        ]

    # ---- where to

    def targets(self, n: int) -> dict[str, list[int]]:
        """Share numbers by server; guards on further servers are taken where that helps. Remembered for the steps."""
        self.entry.n = n
        while True:
            gone = self._lost | self.failed.keys()
            names = [store.server.name for store in self.entry.guarded if store.server.name not in gone]
            deciding = [name for name in names if name in set(self.entry.quorum)]
            others = [name for name in names if name not in deciding]
            further = {store.server.name: store for store in self.entry.further}
            held = {name: frozenset(earlier_containers(self._files(name))) for name in names}
            self._targets = goal(n, deciding, [*others, *further], held)
            wanted = [further[name] for name in self._targets if name in further]
            if not wanted:
                return self._targets
            self._found = self.entry.guard_too(wanted)

    def _files(self, name: str) -> list[Container]:
        return [file for sight in self.entry.seen.get(name, ()) for file in sight.containers]

    @property
    def stores(self) -> dict[str, ShareStore]:
        """The servers that get shares and have not failed."""
        return {
            store.server.name: store
            for store in self.entry.guarded
            if store.server.name in self._targets and store.server.name not in self.failed
        }

    def shnums(self, store: ShareStore) -> list[int]:
        """The numbers that a server gets."""
        return self._targets[store.server.name]

    # ---- d: stage

    def stage(self, shares: Shares, k: int, n: int) -> None:
        """Stage whole shares; NotHappy or Undone when that does not reach enough servers."""

        def enough(said: Mapping[str, LafsError | None]) -> bool:
            return self._enough({name: set(self._targets[name]) for name in said if said[name] is None}, k, n)

        said = self.guards.each({store: partial(self._stage, shares) for store in self.stores.values()}, enough)
        self.staged(said, k, n)

    def _stage(self, shares: Shares, store: ShareStore) -> None:
        containers = []
        for shnum in self._targets[store.server.name]:
            front, back = self.around(store, shnum, sum(memoryview(part).nbytes for part in shares[shnum]))
            containers.append((shnum, [front, *shares[shnum], back]))
        placed = self.guards.on(store).stage(containers, look=self._fronts(self.shnums(store), DATA_OFFSET + _PREFIX))
        self._compare(store, placed.finish())

    def around(self, store: ShareStore, shnum: int, size: int) -> tuple[bytes, bytes]:
        """In the server's worker: what of the container comes before and after a new share."""
        earlier = earlier_containers(self._files(store.server.name)).get(shnum)
        enabler = write_enabler(self._cap.writekey, store.server.node_id)
        lease = self._publishing.lease(self._si, store)
        container = container_for(store, self._si, earlier, enabler, lease).resized(size)
        return container.front(), container.back()

    def unchanged(self, store: ShareStore) -> None:
        """In the server's worker, after staging: what stands where we will put shares is what was surveyed; else
        GuardLost."""
        ranges = self._fronts(self.shnums(store), DATA_OFFSET + _PREFIX)
        self._compare(store, self.guards.on(store).look(Look(ranges=ranges)).data)

    def _compare(self, store: ShareStore, now: Sequence[Buffer | FileError]) -> None:
        """A writer that takes no guard is noticed by its checkstring (spec 03 §9.5)."""
        placed = {file.shnum: file for file in self._files(store.server.name) if file.kind == "place"}
        for shnum, answer in zip(self.shnums(store), now, strict=True):
            before = placed[shnum].front if shnum in placed else None
            if before is None or isinstance(before, LafsError):
                same = isinstance(answer, LafsError)
            else:
                was = memoryview(before)[DATA_OFFSET : DATA_OFFSET + _PREFIX]
                same = not isinstance(answer, LafsError) and memoryview(answer)[DATA_OFFSET:] == was
            if not same:
                raise ForeignWrite("a writer that takes no guard has changed the file", server=store.server.name)

    def _fronts(self, shnums: Sequence[int], length: int) -> list[FileRange]:
        return [FileRange(share_path(self._si, shnum), 0, length) for shnum in shnums]

    def staged(self, said: Mapping[str, object], k: int, n: int) -> None:
        """Go on only when what is staged would do (spec 10 §2.8d)."""
        self.failed |= {name: error for name, error in said.items() if isinstance(error, LafsError)}
        foreign = next((error for error in self.failed.values() if isinstance(error, ForeignWrite)), None)
        if foreign is not None:
            raise Undone(f"server {foreign.server}: {foreign.message}")
        placed = {name: set(self._targets[name]) for name in self.stores}
        if not self._enough(placed, k, n):
            if any(isinstance(error, GuardLost) for error in self.failed.values()):
                raise Undone("another writer broke in")
            raise self._unhappy(placed, k, n)

    def _enough(self, placed: Mapping[str, set[int]], k: int, n: int) -> bool:
        distinct = {shnum for numbers in placed.values() for shnum in numbers}
        names = {name for name, numbers in placed.items() if numbers}
        happy = min(self._publishing.encoding.happy, n)
        return self.entry.quorum.majority(names) and len(distinct) >= k and happiness(placed) >= happy

    def _unhappy(self, placed: Mapping[str, set[int]], k: int, n: int) -> LafsError:
        names = {name for name, numbers in placed.items() if numbers}
        if not self.entry.quorum.majority(names):
            return self.entry.too_few(names, "took a share")
        happy = min(self._publishing.encoding.happy, n)
        total = len(self.grid.stores)
        message = (
            f"shares could lie on {happiness(placed)} of {total} servers, {max(happy, k)} are needed to store safely"
        )
        lacking = told(self.silent)
        fitting = self._publishing.encoding.fitting(total)
        hint = "lafs server status shows which servers fail"
        if total < happy:
            hint = f"add servers, or store on what there is: lafs encoding {fitting}"
        return NotHappy(f"{message}; nothing was changed" + (f" ({lacking})" if lacking else ""), hint=hint)

    # ---- e: commit, read back

    def commit(self, fronts: Mapping[int, bytes], k: int, n: int) -> dict[str, set[int]]:
        """Put everything in place and read it back: numbers by server. Undone if that was too little.

        `fronts`: what each share begins with.
        """
        self.guards.sent = True

        def enough(said: Mapping[str, tuple[set[int], LafsError | None] | LafsError]) -> bool:
            return self._enough({name: done[0] for name, done in said.items() if not isinstance(done, LafsError)}, k, n)

        said = self.guards.each({store: partial(self._commit, fronts) for store in self.stores.values()}, enough)
        placed: dict[str, set[int]] = {}
        for name, answer in said.items():
            if isinstance(answer, LafsError):
                self.failed[name] = answer
            else:
                placed[name], error = answer
                if error is not None:
                    self.failed[name] = error
        if not self._enough(placed, k, n):
            raise Undone("too few servers put the new version in place")
        return {name: numbers for name, numbers in placed.items() if numbers}

    def _commit(self, fronts: Mapping[int, bytes], store: ShareStore) -> tuple[set[int], LafsError | None]:
        """In the server's worker: commit and read back. A guard that has nothing left in it is released in the same
        round trip as the data comes in: nobody can take all guards before the last of them is released."""
        guard = self.guards.on(store)
        shnums = self.shnums(store)
        length = DATA_OFFSET + HEAD_SIZE
        error: LafsError | None = None
        try:
            placed = guard.commit(shnums, quarantine=False, then=self._fronts(shnums, length))
        except LafsError as refusal:
            error = refusal
            shnums = [shnum for shnum in shnums if shnum in guard.committed]
            data = guard.look(Look(ranges=self._fronts(shnums, length))).data if shnums else []
        else:
            if guard.bare and not self._broken(store):
                with suppress(LafsError):  # what was read back tells more
                    self.guards.done(store)
            data = placed.finish()
        good = set()
        for shnum, answer in zip(shnums, data, strict=True):
            wanted = fronts[shnum]
            if not isinstance(answer, LafsError) and bytes(answer[DATA_OFFSET : DATA_OFFSET + len(wanted)]) == wanted:
                good.add(shnum)
            elif error is None:
                error = answer if isinstance(answer, LafsError) else LafsError("what was written is not there")
        return good, error

    def _broken(self, store: ShareStore) -> bool:
        """Whether there are broken guards on a server."""
        sights = self.entry.seen[store.server.name]
        return any(sight.survivors is not None and sight.survivors.folders for sight in sights)

    def finish(self) -> None:
        """After success: remove the broken guards that were surveyed (spec 10 §2.8g), release."""
        work = {}
        for store in self.entry.guarded:
            found = self.entry.seen[store.server.name]
            if store.server.name not in self.failed and self._broken(store) and _all_read(found):
                work[store] = partial(_forget, found)
        if work:
            self.guards.each(work)
        self.guards.close(done=True)

    def close(self, *, stopping: bool = False) -> None:
        """Give up what is held."""
        self.guards.close(stopping=stopping)


def _all_read(sights: list[Sight]) -> bool:
    """Whether everything that lies in guards was counted."""
    return not any(
        isinstance(file.front, LafsError) for sight in sights for file in sight.containers if file.kind != "place"
    )


def _forget(sights: list[Sight], store: ShareStore) -> None:
    for sight in sights:
        if sight.survivors is not None:
            store.forget(sight.survivors)
