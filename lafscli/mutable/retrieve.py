"""Read a mutable file: the best version there is, a range of it, or many small files at once (spec 03 §7, 10 §2.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from lafscli.errors import CannotTell, LafsError, NotRecoverable, RolledBack, Unreachable
from lafscli.formats.caps import MutableReadCap, MutableVerifyCap, MutableWriteCap
from lafscli.formats.slot import Header
from lafscli.mutable.blocks import Blocks, Codec, TooFewBlocks
from lafscli.mutable.quorum import Quorum
from lafscli.mutable.survey import DEEP, SlotMap, survey, survey_many
from lafscli.primitives.encoding import b32encode
from lafscli.proof.slots import Signatures
from lafscli.storage.grid import Grid
from lafscli.storage.membership import Membership
from lafscli.storage.memory import Seen
from lafscli.storage.report import BadShare, Progress

_LOOKS = 5
"""Looks at a file of which no version can be read, before giving up: in every write there may be a moment when only
what lies in guards finds k shares (spec 10 §2.9)."""
_MOST_LOOKS = 20
"""So many if it is being changed meanwhile: one look may see one server before a commit and another one after it. That
shares are missing is only certain where two looks in a row see the same."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_TOGETHER = 64
"""Files that are looked at in one go: what their servers say of them is in memory at once."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read needs besides the cap.

    `seen` remembers versions; with `strict`, a read that finds only older ones, or can't be sure, fails. `monotonic`,
    `sleep` and `random_bytes` are the world. `codec`: threads for what is large.
    """

    seen: Seen | None
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    random_bytes: Callable[[int], bytes]
    strict: bool = False
    membership: Membership | None = None
    codec: Codec | None = None


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What was read: of which version, which shares lied, which servers were silent, what the user should know."""

    size: int
    version: Header
    corrupt: list[BadShare] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def retrieve(
    grid: Grid,
    cap: MutableReadCap | MutableWriteCap,
    write: Callable[[bytes], object],
    reading: Reading,
    *,
    offset: int = 0,
    length: int | None = None,
    progress: Progress | None = None,
    again: Callable[[], object] | None = None,
) -> Retrieved:
    """Write `length` bytes from `offset` (all, if not given) of the best version to `write`, segment by segment.

    NotRecoverable, CannotTell or Unreachable where no version can be read, RolledBack with `strict`. Nothing is written
    that was not proven; `size` of the answer is what was written. When the file is changed in the middle of it, `again`
    takes back what was written, and it begins anew; without it that is CannotTell.
    """
    progress = progress or Progress()
    readcap = cap.read_cap()
    size = 0
    for blocks, found, warnings in versions(grid, readcap, reading):
        end = blocks.version.prefix.data_length
        wanted = max(0, min(end - offset, end if length is None else length))
        progress.start("get", wanted)
        try:
            for piece in blocks.read(offset, wanted):
                write(piece)
                size += len(piece)
                progress.advance(len(piece))
        except TooFewBlocks as error:
            if size and again is not None:
                again()
                size = 0
            if size:
                raise changed(readcap) from error
            continue
        note(readcap.verify_cap(), blocks.version, reading)
        return _retrieved(size, blocks, found, warnings)
    raise AssertionError("looking ends with a version or an error")


def contents(grid: Grid, cap: MutableReadCap | MutableWriteCap, reading: Reading) -> tuple[bytes, Retrieved]:
    """The whole content, in memory."""
    pieces: list[bytes] = []
    answer = retrieve(grid, cap, pieces.append, reading, again=pieces.clear)
    return b"".join(pieces), answer


def contents_many(
    grid: Grid, caps: Sequence[MutableReadCap | MutableWriteCap], reading: Reading
) -> list[tuple[bytes, Retrieved] | LafsError]:
    """The contents of many small files: one question to each server. Each in its place, or why it can't be had."""
    readcaps = [cap.read_cap() for cap in caps]
    answers: list[tuple[bytes, Retrieved] | LafsError] = []
    for start in range(0, len(readcaps), _TOGETHER):
        some = readcaps[start : start + _TOGETHER]
        verify = [cap.verify_cap() for cap in some]
        maps = survey_many(grid, verify, depth=DEEP, monotonic=reading.monotonic)
        for readcap, found in zip(some, maps, strict=True):
            try:
                answers.append(_plain(grid, readcap, found, reading) or contents(grid, readcap, reading))
            except LafsError as error:
                answers.append(error)
    return answers


def _plain(grid: Grid, cap: MutableReadCap, found: SlotMap, reading: Reading) -> tuple[bytes, Retrieved] | None:
    """The content, if nothing is doubtful about what was found; else None, and it must be looked at more closely."""
    best = found.versions.best
    if best is None or found.versions.newer_unrecoverable:
        return None
    blocks = Blocks(grid, best, found.of(best), cap.readkey, reading.codec)
    warnings = _warnings(grid, found, best, reading)
    try:
        content = b"".join(blocks.read(0, best.prefix.data_length))
    except TooFewBlocks:
        return None
    note(cap.verify_cap(), best, reading)
    return content, _retrieved(len(content), blocks, found, warnings)


def changed(cap: MutableReadCap) -> CannotTell:
    """The error where the version that is being read is gone in the middle of it."""
    return CannotTell(
        f"{b32encode(cap.storage_index)[:5]} was changed while it was read, or its shares failed", hint="read it again"
    )


def versions(grid: Grid, cap: MutableReadCap, reading: Reading) -> Iterator[tuple[Blocks, SlotMap, list[str]]]:
    """Versions to be tried, each with what was found; the caller stops at the first that can be read."""
    verify = cap.verify_cap()
    look = partial(survey, grid, verify, depth=DEEP, signatures=Signatures(verify), monotonic=reading.monotonic)
    found = look()
    # from now on something is missing, and may be where nobody waited for it
    look = partial(look, patient=True)
    pause = _FIRST_PAUSE
    looked: SlotMap | None = None
    left: SlotMap | None = None
    for looks in range(1, _MOST_LOOKS + 1):
        versions = found.versions
        if (versions.best is None or versions.newer_unrecoverable) and found.answered:
            found = look(guards=True)
            versions = found.all_versions
        enough = not found.answered or looks == _MOST_LOOKS
        settled = versions.best is not None and not versions.newer_unrecoverable
        still, looked = looks >= _LOOKS and found.same(looked), found
        while (best := versions.best) is not None and (settled or still or enough):
            blocks = Blocks(grid, best, found.of(best), cap.readkey, reading.codec)
            yield blocks, found, _warnings(grid, found, best, reading)
            # what could not be read is not there
            found = found.without(blocks.lying.values(), blocks.reasons).unheard(blocks.silent)
            versions = found.all_versions
            settled = False
        still = looks >= _LOOKS and found.same(left)
        if still or enough:
            raise _unreadable(grid, found, not still)
        reading.sleep(pause * (0.5 + reading.random_bytes(1)[0] / 256))
        pause = min(2 * pause, _LONGEST_PAUSE)
        left, found = found, look()
    raise AssertionError("the last look ends it")


def _warnings(grid: Grid, found: SlotMap, best: Header, reading: Reading) -> list[str]:
    """What casts a doubt on the version being the newest; RolledBack with `strict`."""
    name, seqnum = b32encode(found.cap.si)[:5], best.prefix.seqnum
    warnings = []
    known = None if reading.seen is None else reading.seen.highest(found.cap.si, found.cap.fingerprint)
    if known is not None and known[0] > seqnum:
        warnings.append(
            f"{name}: the newest version found is {seqnum}, but version {known[0]} was seen here before: "
            "servers may have been rolled back"
        )
    newer = [one.share.prefix.seqnum for one in found.found if one.share.prefix.seqnum > seqnum]
    if newer and found.all_versions.newer_unrecoverable:
        warnings.append(
            f"{name}: there are shares of version {max(newer)}, too few to read it; this is version {seqnum}"
        )
    quorum = Quorum.of(found.cap.si, best.prefix.n, grid.stores, reading.membership)
    if not quorum.majority(found.answered):
        warnings.append(
            f"{name}: {quorum.count(found.answered)} that decide have answered: "
            f"there may be a newer version than {seqnum}"
        )
    if warnings and reading.strict:
        raise RolledBack(warnings[0], hint="without --strict the version that was found is taken")
    return warnings


def note(cap: MutableVerifyCap, version: Header, reading: Reading) -> None:
    if reading.seen is not None:
        reading.seen.note(cap.si, cap.fingerprint, version.prefix.seqnum, version.prefix.root_hash)


def _retrieved(size: int, blocks: Blocks, found: SlotMap, warnings: list[str]) -> Retrieved:
    corrupt = [BadShare(*place, reason) for place, reason in sorted(found.corrupt.items())] + blocks.corrupt
    return Retrieved(size, blocks.version, corrupt, dict(found.silent) | blocks.silent, warnings)


def _unreadable(grid: Grid, found: SlotMap, moving: bool) -> LafsError:
    """Why no version can be read; `moving`: it was still being changed."""
    name = b32encode(found.cap.si)[:5]
    versions = found.all_versions
    nearest = max(versions.holders, key=lambda one: len(versions.holders[one]) - one.prefix.k, default=None)
    message = f"no shares found for {name}"
    if nearest is not None:
        message = f"not enough shares for {name}: found {len(versions.holders[nearest])}, need {nearest.prefix.k}"
    if found.corrupt:
        message += f" ({len(found.corrupt)} corrupt)"
    if not found.silent and moving:
        return CannotTell(f"{message}: it is being changed all the time", hint="read it again")
    if not found.silent:
        return NotRecoverable(message, hint="every server answered: bring back a server that holds more shares")
    if len(found.silent) == len(grid.stores):
        reasons = "; ".join(f"{server}: {reason}" for server, reason in sorted(found.silent.items()))
        return Unreachable(f"no server could be reached ({reasons})", hint="lafs server status says what is wrong")
    named = ", ".join(sorted(found.silent))
    return CannotTell(message, hint=f"servers {named} did not answer; try again later")
