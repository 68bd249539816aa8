"""Write mutable files: make them, change what is in them, replace it (spec 03 §9, 10 §2.8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from lafscli.errors import (
    CannotTell,
    Conflict,
    FileError,
    GuardHeld,
    GuardLost,
    LafsError,
    NotHappy,
    NotRecoverable,
    ServerUnreachable,
    Unreachable,
    UsageError,
)
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.slot import MAX_SHARES
from lafscli.mutable.attempt import Attempt, Undone
from lafscli.mutable.entry import unreadable
from lafscli.mutable.fresh import create_fresh
from lafscli.mutable.made import make, plan
from lafscli.mutable.publishing import Published as Published
from lafscli.mutable.publishing import Publishing as Publishing
from lafscli.mutable.publishing import Small
from lafscli.mutable.streaming import stream
from lafscli.placement import happiness
from lafscli.primitives.ciphers import PrivateKey, make_private_key
from lafscli.primitives.encoding import b32encode
from lafscli.proof.slotkeys import write_cap
from lafscli.storage.grid import Grid
from lafscli.storage.report import Progress
from lafscli.storage.source import Source, opened
from lafscli.storage.store import Buffer

INLINE = 4 << 20
"""Content up to this size is encoded in memory; larger MDMF content goes segment by segment."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_REFUSALS = 2
"""So often a server may refuse to put what was staged in place, before the change is tried without it."""
_LOSSES, _LOST_SECONDS = 3, 10.0
"""So often in so many seconds a server may lose its connection; later, once."""
_UNSURE_SECONDS = 60.0
"""How long a write of which it is not known whether it will stay goes on trying when servers are away."""

Content = Buffer | Path | BinaryIO | Source


def create(
    grid: Grid,
    source: Content | Callable[[MutableWriteCap], bytes],
    publishing: Publishing,
    *,
    mdmf: bool,
    private: PrivateKey | None = None,
    progress: Progress | None = None,
) -> Published:
    """Make a mutable file, of content that may depend on its cap. NotHappy where too few servers take it; nothing is
    stored then.

    A file under a key that was given may be there already: that is a UsageError, it is never overwritten by this.
    """
    _check_encoding(publishing)
    progress = progress or Progress()
    if callable(source):
        if private is None:
            return _fresh(grid, source, publishing, mdmf, progress)
        source = source(write_cap(private, mdmf=mdmf))
    with opened(source, INLINE) as plain:
        content = _inline(plain, mdmf)
        if private is None and content is not None:
            return _fresh(grid, content, publishing, mdmf, progress)
        key = make_private_key() if private is None else private
        cap = write_cap(key, mdmf=mdmf)

        def work(attempt: Attempt, unsure: bool) -> Published:
            if attempt.enter() is not None and not unsure:
                raise UsageError(
                    f"there is a file of this key already: {b32encode(cap.verify_cap().si)[:5]}",
                    hint="put to its write cap to replace what is in it",
                )
            return write(attempt, cap, key, plain, content, publishing, mdmf, progress)

        return tries(grid, cap, publishing, plain, work)


def _fresh(grid: Grid, content: Small, publishing: Publishing, mdmf: bool, progress: Progress) -> Published:
    [made] = create_fresh(grid, [content], publishing, mdmf=mdmf)
    if isinstance(made, LafsError):
        raise made
    progress.start("put", made.size)
    progress.advance(made.size)
    return made


def create_many(
    grid: Grid, contents: Sequence[Small], publishing: Publishing, *, mdmf: bool
) -> list[Published | LafsError]:
    """Make many small mutable files, each under a new key; each in its place, or why it could not be stored."""
    _check_encoding(publishing)
    return create_fresh(grid, contents, publishing, mdmf=mdmf)


def modify(
    grid: Grid,
    cap: MutableWriteCap,
    change: Callable[[bytes], bytes | None],
    publishing: Publishing,
    progress: Progress | None = None,
) -> Published:
    """Change what is in a file. `change` gets the content and gives the new one, or None where there is nothing to
    change; it is called again when another writer was first. What it raises is passed on, once what it has seen is
    there to stay.

    NotHappy: nothing changed. Conflict when another writer won for as long as `patience`. CannotTell when too few
    servers were left to say whether the change stays.
    """

    def work(attempt: Attempt, unsure: bool) -> Published:
        base = attempt.enter()
        old = attempt.content() if base is not None else b""
        if attempt.base is None:
            raise unreadable(attempt.found)
        refusal: LafsError | None = None
        try:
            new = change(old)
        except LafsError as error:
            if attempt.settled:
                raise
            new, refusal = None, error
        if new is None:
            if refusal is None and not unsure and attempt.settled:
                return _unchanged(attempt, cap, publishing)
            # spec 10 §2.8f: it may be there by a try, of ours or of one that died, which nobody acknowledged
            new = old
        key = attempt.private_key()
        made = write(attempt, cap, key, None, new, publishing, attempt.base.prefix.mdmf, progress or Progress())
        if refusal is not None:
            raise refusal
        return made

    return tries(grid, cap, publishing, None, work)


def overwrite(
    grid: Grid, cap: MutableWriteCap, source: Content, publishing: Publishing, progress: Progress | None = None
) -> Published:
    """Replace what is in a file. The errors of `modify`; a stream can't be read again, so that a conflict after it was
    begun to be stored is a Conflict at once."""
    with opened(source, INLINE) as plain:
        content = _inline(plain, cap.mdmf)

        def work(attempt: Attempt, _: bool) -> Published:
            base = attempt.enter()
            if base is None:
                raise unreadable(attempt.found)
            key = attempt.private_key()
            return write(attempt, cap, key, plain, content, publishing, base.prefix.mdmf, progress or Progress())

        return tries(grid, cap, publishing, plain, work)


def _check_encoding(publishing: Publishing) -> None:
    if publishing.encoding.n > MAX_SHARES:
        raise UsageError(
            f"encoding {publishing.encoding} can't be: mutable files have at most {MAX_SHARES} shares",
            hint="choose another one with --encoding",
        )


def _inline(plain: Source, mdmf: bool) -> bytes | None:
    """The content, if it is encoded in memory: SDMF is one segment, whatever its size."""
    if mdmf and (plain.size is None or plain.size > INLINE):
        return None
    pieces = []
    while True:
        buffer = memoryview(bytearray(INLINE))
        count = plain.readinto(buffer)
        if not count:
            break
        pieces.append(bytes(buffer[:count]))
    content = b"".join(pieces)
    if plain.size not in (None, len(content)):
        raise plain.changed()
    plain.unchanged()
    return content


def write(
    attempt: Attempt,
    cap: MutableWriteCap,
    key: PrivateKey,
    plain: Source | None,
    content: bytes | None,
    publishing: Publishing,
    mdmf: bool,
    progress: Progress,
) -> Published:
    """Write a version on top of what was surveyed: stage, commit, read back, release."""
    base = attempt.base
    k, n = publishing.encoding.k, publishing.encoding.n
    if base is not None:
        k, n = base.prefix.k, base.prefix.n
    if content is None and not mdmf:
        assert plain is not None
        content = _inline(plain, False)
    attempt.targets(n)
    seqnum = attempt.seqnum
    if content is None:
        assert plain is not None, "content comes from somewhere"
        version, fronts = stream(attempt, cap, key, seqnum, k, n, plain, publishing, progress)
    else:
        progress.start("put", len(content))
        made = make(
            cap, key, seqnum, plan(mdmf, k, n, len(content), publishing.random_bytes), content, publishing.random_bytes
        )
        version, fronts = made.version, made.fronts
        attempt.stage(made.shares, k, n)
        progress.advance(len(content))
    warnings = attempt.warnings
    placed = attempt.commit(fronts, k, n)
    attempt.finish()
    prefix = version.header.prefix
    if publishing.seen is not None:
        verify = cap.verify_cap()
        publishing.seen.note(verify.si, verify.fingerprint, prefix.seqnum, prefix.root_hash)
    return _published(attempt, cap, publishing, k, n, prefix.data_length, prefix.seqnum, placed, warnings)


def _unchanged(attempt: Attempt, cap: MutableWriteCap, publishing: Publishing) -> Published:
    base = attempt.base
    assert base is not None, "there is nothing to leave as it is"
    attempt.close()
    placed: dict[str, set[int]] = {}
    for one in attempt.found.of(base):
        if one.file.kind == "place":
            placed.setdefault(one.place[0], set()).add(one.file.shnum)
    prefix = base.prefix
    return _published(attempt, cap, publishing, prefix.k, prefix.n, prefix.data_length, prefix.seqnum, placed)


def _published(
    attempt: Attempt,
    cap: MutableWriteCap,
    publishing: Publishing,
    k: int,
    n: int,
    size: int,
    seqnum: int,
    placed: dict[str, set[int]],
    warnings: Sequence[str] = (),
) -> Published:
    placement: dict[int, list[str]] = {}
    for name, numbers in placed.items():
        for shnum in numbers:
            placement.setdefault(shnum, []).append(name)
    encoding = replace(publishing.encoding, k=k, n=n, happy=min(publishing.encoding.happy, n))
    ordered = {shnum: sorted(placement[shnum]) for shnum in sorted(placement)}
    return Published(cap, size, seqnum, encoding, happiness(placed), ordered, attempt.silent, list(warnings))


def tries(
    grid: Grid,
    cap: MutableWriteCap,
    publishing: Publishing,
    plain: Source | None,
    work: Callable[[Attempt, bool], Published],
) -> Published:
    """Try until it is done, or another writer has won for as long as `patience`."""
    publishing = publishing.ready()
    began = publishing.monotonic()
    pause = _FIRST_PAUSE
    n = publishing.encoding.n
    unsure = False
    one_first = False
    patient = False
    # servers whose connection was lost: that it died idle, and the server is there, is seen by trying again
    losses: Counter[str] = Counter()
    refusals: dict[str, list[LafsError]] = {}
    while True:
        promised = False  # one more try, with patience
        refused = {name: errors[-1] for name, errors in refusals.items() if len(errors) >= _REFUSALS}
        attempt = Attempt(grid, cap, publishing, n, one_first=one_first, refused=refused, patient=patient)
        try:
            return work(attempt, unsure)
        except (GuardHeld, GuardLost, Undone) as error:
            attempt.close()
            reason: LafsError = error
        except (NotHappy, CannotTell, NotRecoverable, Unreachable) as error:
            # what was seen while another writer was at it says nothing
            broken = attempt.guards.broken()
            attempt.close()
            lost = {name for name, one in attempt.errors.items() if isinstance(one, ServerUnreachable)}
            lost -= attempt.guards.hurried
            losses.update(lost)
            often = _LOSSES if publishing.monotonic() - began < _LOST_SECONDS else 1
            # nothing is refused for want of a server that was not properly waited for
            promised = bool(attempt.guards.hurried)
            patient = patient or promised
            took = publishing.monotonic() - began
            again = took <= _UNSURE_SECONDS if unsure else any(losses[name] <= often for name in lost)
            again = (again and took <= publishing.patience) or promised
            spent = plain is not None and plain.size is None and attempt.streamed
            if spent or not (again or broken):
                raise _unsure(cap, error) if unsure else error from None
            reason = error
        except UsageError as error:
            attempt.close()
            raise _unsure(cap, error) if unsure else error from None
        except Exception:
            attempt.close()
            raise
        except BaseException:
            attempt.close(stopping=True)
            raise
        unsure = unsure or attempt.guards.sent
        for name, refusal in attempt.failed.items() if attempt.guards.sent else ():
            if isinstance(refusal, FileError):
                refusals.setdefault(name, []).append(refusal)
        one_first = True
        n = attempt.entry.n
        if plain is not None and plain.size is None and attempt.streamed:
            raise Conflict("another writer was first, and what comes through a pipe can't be read twice") from reason
        if publishing.monotonic() - began > publishing.patience and not promised:
            raise Conflict(
                f"{b32encode(cap.verify_cap().si)[:5]}: another writer won each time ({reason.message})",
                hint="try again later",
            ) from reason
        # random, doubling (spec 10 §2.6): two that wait for each other must not stay in step
        publishing.sleep(pause * (0.5 + publishing.random_bytes(1)[0] / 256))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _unsure(cap: MutableWriteCap, error: LafsError) -> LafsError:
    """Part of a write is in place, and too few servers are left to finish it or to give it up."""
    return CannotTell(
        f"{b32encode(cap.verify_cap().si)[:5]}: servers failed in the middle of the write; whether the new version "
        f"stays is not known ({error.message})",
        hint="look at it, and write it again when more servers answer",
    )
