"""The shares that mutable objects lack, made again at the same version, to the byte (spec 00 §4).

Nothing is signed: only the very same shares have the signature of the version (`Signing.again`). Small objects are made
whole and put on all servers at once; of a large one the shares are coded and sent piece by piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from lafscli.errors import CorruptShare, GuardHeld, GuardLost, LafsError, NotSupported, UsageError
from lafscli.formats.caps import MutableWriteCap
from lafscli.health.placing import NewerVersion, Outcome, Refill, Staging, begin, put, take_away
from lafscli.health.regrowth import Mending
from lafscli.health.report import Damage
from lafscli.health.slotcase import NEEDS_WRITE_CAP, SlotCase
from lafscli.immutable.pipeline import Codec, settle
from lafscli.mutable.blocks import Blocks, TooFewBlocks
from lafscli.primitives.encoding import Buffer
from lafscli.proof.slotkeys import is_private_key
from lafscli.proof.slotmaker import NewVersion, Signing, SlotMaker, SlotSegment, encode_segment
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress, ShareStore

SMALL = 1 << 20
"""Shares of an object up to so many bytes together are made in memory."""

_ROUNDS = 4
_CODED_AHEAD = 3
_APPENDS_AHEAD = 4

Parts = dict[int, list[Buffer]]


class Refilling:
    """Repairs mutable objects at their version."""

    def __init__(self, grid: Grid, codec: Codec, mending: Mending, progress: Progress) -> None:
        self._grid = grid
        self._codec = codec
        self._mending = mending
        self._progress = progress
        self._stores = {store.server.name: store for store in grid.stores}

    def run(self, objects: Sequence[SlotCase]) -> None:
        """Write what these objects lack, and put away what is bad; the cases know afterwards what became of it."""
        cases = list(objects)
        for _ in range(_ROUNDS):
            asked: list[tuple[tuple[SlotCase, str, Sequence[int]], Future[Outcome]]] = []
            for case in cases:
                goal = {} if case.hopeless else case.goal()
                if not goal:
                    continue
                if case.version.layout.eof * case.version.prefix.n > SMALL:
                    self._stream(case, goal)
                    continue
                shares = self._remade(case, {shnum for shnums in goal.values() for shnum in shnums})
                if shares is None:
                    continue
                for name, shnums in goal.items():
                    change = partial(put, self._refill(case, name, shnums), shares)
                    asked.append(((case, name, shnums), self._grid.submit(self._stores[name], change)))
            for (case, name, done_shnums), outcome in settle(asked):
                self._note(case, name, done_shnums, outcome)
            cases = [case for case in cases if not case.hopeless and case.goal()]
            if not cases:
                return

    def tidy(self, cases: Sequence[SlotCase]) -> None:
        """Take away shares of numbers that the version does not have, once all its own are there."""
        asked = []
        for case in cases:
            if len(case.good) == case.version.prefix.n:
                for name, shnums in case.superfluous().items():
                    change = partial(take_away, self._refill(case, name, shnums))
                    asked.append(((case, name, shnums), self._grid.submit(self._stores[name], change)))
        for (case, name, shnums), outcome in settle(asked):
            if isinstance(outcome, Outcome):
                for shnum in shnums:
                    case.gone(name, shnum)
            else:
                self._note(case, name, shnums, outcome)

    # ---- making shares

    def _blocks(self, case: SlotCase) -> Blocks:
        return Blocks(self._grid, case.version, case.sources, None, self._codec)

    def _signing(self, case: SlotCase, blocks: Blocks) -> Signing | None:
        """What of the keys goes into the shares; None, and the case is hopeless, where that can't be told."""
        cap, k = case.seen.cap, case.version.prefix.k
        claims: dict[bytes, set[int]] = {}
        for one, sealed in blocks.section(lambda one: one.share.enc_privkey_range):
            data = bytes(sealed)
            claims.setdefault(data, set()).add(one.file.shnum)
            if is_private_key(cap, data) if isinstance(cap, MutableWriteCap) else len(claims[data]) >= k:
                return Signing.again(one.share, data)
        if isinstance(cap, MutableWriteCap):
            case.hopeless = "no share carries the private key of the write cap"
        else:
            case.hopeless = f"fewer than {k} shares agree on the private key that they carry: {NEEDS_WRITE_CAP}"
        return None

    def _segments(self, case: SlotCase, blocks: Blocks) -> Iterator[SlotSegment]:
        """Every segment, coded again; a few ahead."""

        def coded(piece: tuple[bytes, Buffer]) -> SlotSegment:
            return encode_segment(case.version.prefix, *piece)

        return self._codec.in_order(blocks.sealed(), coded, _CODED_AHEAD)

    def _finished(self, case: SlotCase, maker: SlotMaker) -> NewVersion:
        """CorruptShare unless what was made are the shares of the version."""
        made = maker.finish(case.version.prefix.seqnum)
        if made.header != case.version:
            raise CorruptShare("its writer has laid its shares out in a way that is not ours")
        return made

    def _learn(self, case: SlotCase, blocks: Blocks) -> None:
        """What turned out of the shares that were read."""
        case.seen.map = case.seen.map.without(blocks.lying.values(), blocks.reasons)
        for key, one in blocks.lying.items():
            if one.file.kind == "place" and one.place[0] not in case.emptied:
                case.found_bad(Damage(*one.place, blocks.reasons[key]))

    def _remade(self, case: SlotCase, wanted: set[int]) -> Parts | None:
        """Whole shares of these numbers; None, and the case is hopeless, where that can't be done."""
        blocks = self._blocks(case)
        try:
            pieces = list(self._segments(case, blocks))
            signing = self._signing(case, blocks)
            if signing is None:
                return None
            maker = SlotMaker(case.version.prefix, signing)
            for piece in pieces:
                maker.add(piece)
            made = self._finished(case, maker)
        except (TooFewBlocks, CorruptShare) as error:
            case.hopeless = error.message
            return None
        finally:
            self._learn(case, blocks)
        return {n: [made.front(n), *(piece.blocks[n] for piece in pieces), made.back(n)] for n in sorted(wanted)}

    # ---- large ones

    def _stream(self, case: SlotCase, goal: Mapping[str, Sequence[int]]) -> None:
        blocks = self._blocks(case)
        begun: dict[str, Staging] = {}
        try:
            for (
                _
            ) in blocks.sealed():  # the shares to read from are chosen, and known to be good, before a guard is taken
                break
            signing = self._signing(case, blocks)
            if signing is None:
                return
            maker = SlotMaker(case.version.prefix, signing)
            begun = self._begin(case, goal, maker)
            if begun:
                self._send(case, goal, maker, blocks, begun)
        except (TooFewBlocks, CorruptShare) as error:
            case.hopeless = error.message
        finally:
            self._learn(case, blocks)
            for name, staging in begun.items():
                self._grid.submit(self._stores[name], partial(_abandon, staging))

    def _begin(self, case: SlotCase, goal: Mapping[str, Sequence[int]], maker: SlotMaker) -> dict[str, Staging]:
        asked = []
        for name, shnums in goal.items():
            change = partial(begin, self._refill(case, name, shnums), case.version.layout.eof, maker.front_size)
            asked.append((name, self._grid.submit(self._stores[name], change)))
        begun: dict[str, Staging] = {}
        for name, staging in settle(asked):
            if isinstance(staging, LafsError):
                self._note(case, name, goal[name], staging)
            else:
                begun[name] = staging
        return begun

    def _send(
        self,
        case: SlotCase,
        goal: Mapping[str, Sequence[int]],
        maker: SlotMaker,
        blocks: Blocks,
        begun: dict[str, Staging],
    ) -> None:
        self._progress.start("repair", case.version.prefix.data_length)
        sent: dict[str, deque[Future[None]]] = {name: deque() for name in begun}
        for piece in self._segments(case, blocks):
            maker.add(piece)
            for name in list(begun):
                mine = {shnum: piece.blocks[shnum] for shnum in goal[name]}
                self._submit(case, goal, begun, sent, name, partial(_append, begun[name], mine))
            self._progress.advance(piece.length)
        made = self._finished(case, maker)
        ending = []
        for name in list(begun):
            while sent[name] and name in begun:
                self._await(case, goal, begun, name, sent[name].popleft())
            if name in begun:
                fronts = {shnum: made.front(shnum) for shnum in goal[name]}
                backs = {shnum: made.back(shnum) for shnum in goal[name]}
                finish = partial(_finish, begun[name], fronts, backs)
                ending.append((name, self._grid.submit(self._stores[name], finish)))
        for name, outcome in settle(ending):
            if not isinstance(outcome, LafsError):
                del begun[name]
            self._note(case, name, goal[name], outcome)

    def _submit(
        self,
        case: SlotCase,
        goal: Mapping[str, Sequence[int]],
        begun: dict[str, Staging],
        sent: Mapping[str, deque[Future[None]]],
        name: str,
        call: Callable[[ShareStore], None],
    ) -> None:
        sent[name].append(self._grid.submit(self._stores[name], call))
        if len(sent[name]) > _APPENDS_AHEAD:
            self._await(case, goal, begun, name, sent[name].popleft())

    def _await(
        self,
        case: SlotCase,
        goal: Mapping[str, Sequence[int]],
        begun: dict[str, Staging],
        name: str,
        done: Future[None],
    ) -> None:
        try:
            done.result()
        except LafsError as error:
            self._note(case, name, goal[name], error)
            self._grid.submit(self._stores[name], partial(_abandon, begun.pop(name)))

    # ---- the servers

    def _refill(self, case: SlotCase, name: str, shnums: Sequence[int]) -> Refill:
        mending = self._mending
        return Refill(
            case.seen.cap,
            case.version,
            shnums,
            frozenset(place for place in case.bad if place[0] == name),
            mending.lease(case.seen.map.cap.si, self._stores[name]),
            mending.membership,
            mending.patience,
            mending.force,
        )

    def _note(self, case: SlotCase, name: str, shnums: Sequence[int], outcome: Outcome | LafsError) -> None:
        if isinstance(outcome, Outcome):
            for shnum, ours in outcome.done.items():
                case.stands(name, shnum, ours=ours)
                if ours:
                    self._progress.server(name, case.version.layout.eof)
            case.stuck |= {(name, shnum): reason for shnum, reason in outcome.refused.items()}
            left = [shnum for shnum in shnums if shnum not in outcome.done and shnum not in outcome.refused]
            case.stuck |= {(name, shnum): "it was not put in place" for shnum in left}
        elif isinstance(outcome, NewerVersion):
            case.hopeless = f"a writer was faster: {outcome.message} on {name}"
        elif isinstance(outcome, UsageError):  # the grid's list of servers has changed: no server would take it
            case.hopeless = outcome.message
        elif isinstance(outcome, GuardHeld):  # by a writer that lives: what it writes will do
            case.hopeless = f"{name}: {outcome.message}"
        elif isinstance(outcome, GuardLost | NotSupported):
            case.stuck |= {(name, shnum): outcome.message for shnum in shnums}
        else:
            case.failed[name] = outcome.message


def _append(staging: Staging, blocks: Mapping[int, Buffer], _store: ShareStore) -> None:
    staging.append(blocks)


def _finish(staging: Staging, fronts: Mapping[int, bytes], backs: Mapping[int, bytes], _store: ShareStore) -> Outcome:
    return staging.finish(fronts, backs)


def _abandon(staging: Staging, _store: ShareStore) -> None:
    staging.abandon()
