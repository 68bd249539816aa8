"""gc of a home (CLI.md §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lafscli.cli.frame import Frame
from lafscli.cli.progress import ShownProgress
from lafscli.cli.roots import called, root
from lafscli.config import aliases, secrets
from lafscli.config import collecting as state
from lafscli.errors import Partial, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import UnknownCap
from lafscli.health.deep import Root, Unseen
from lafscli.primitives.text import count, escape, human_size

if TYPE_CHECKING:
    from lafscli.config.home import Home
    from lafscli.health.collect import Collected, InDoubt
    from lafscli.health.report import Silence
    from lafscli.health.wastebin import Amount, Emptied

_NAMED = 100
"""So many doubts are named; the rest is counted."""


def collect(
    frame: Frame, roots: Sequence[str], *, delete: bool, grace: int | None, undo: bool, adopt: bool, lock_wait: int
) -> None:
    """What `gc` does for a home."""
    if undo and (delete or adopt or roots or grace is not None):
        raise UsageError("--undo brings back all that can be; no other option goes with it")
    if adopt and delete:
        raise UsageError("--adopt and --delete do not go together", hint="look what would go first: lafs gc --adopt")
    home = frame.config().home
    frame.client_with_servers()
    with state.alone(home, lock_wait):
        if undo:
            _undo(frame)
            return
        if adopt:
            _adopt(frame, home)
        elif not state.adopted(home):
            raise Partial(
                "gc is off: the secrets of this home came from elsewhere, and what is stored from there carries the "
                "same leases",
                hint="when nothing but this home uses them, and its aliases and pins lead to all that matters: "
                "lafs gc --adopt",
            )
        _collect(frame, home, roots, delete, state.GRACE if grace is None else grace)


def _adopt(frame: Frame, home: Home) -> None:
    if state.adopt(home):
        frame.out.tell("gc is on: what carries a lease of this home and no root leads to goes with lafs gc --delete")
    else:
        frame.out.tell("gc is on already")


def _collect(frame: Frame, home: Home, texts: Sequence[str], delete: bool, grace: int) -> None:
    from lafscli.health import collect as health

    given = [root(frame, text) for text in texts]
    _insist_on_roots(home, given)
    access = frame.access(strict=True)
    try:
        with ShownProgress(frame.connections, frame.out, "gc") as progress:
            done = health.collect(
                access,
                lambda: [*given, *_kept(home)],
                delete=delete,
                grace=grace,
                progress=progress,
            )
    except health.InDoubt as error:
        _name(frame, error)
        raise
    for reason, number in sorted(done.skipped.items()):
        frame.out.tell(f"{count(number, 'share')} left: {reason}")
    frame.out.show(document(done), "\n".join(map(escape, words(done))))
    _tell_hidden(frame, done.hidden)
    if not delete and (done.shares or done.restored.shares or done.purged.shares):
        frame.out.tell("nothing was changed: lafs gc --delete does it")
    if delete:
        frame.client().sweep({store.server.name for store in access.grid.stores})
    _end(frame, done.failed)


def _kept(home: Home) -> list[Root]:
    """All roots that this home has by itself: every line of its aliases and pins."""
    roots = [Root(f"{name}:", cap) for name, cap in aliases.all_lines(home)]
    for number, line in enumerate(secrets.pinned(home), 1):
        cap = caps.parse(line)
        roots.append(Root(f"pin {number}" if isinstance(cap, UnknownCap) else called(cap), cap))
    return roots


def _insist_on_roots(home: Home, given: Sequence[Root]) -> None:
    """Partial where it is not sure that this home has all its roots."""
    nothing = "nothing was deleted"
    for name in ("aliases", "pins"):
        if not (home.path / name).exists():
            raise Partial(
                f"{home.path / name} is gone: what it led to would be taken for waste; {nothing}",
                hint="bring it back from a copy or a recovery kit; if there was nothing in it: lafs init",
            )
    strange = aliases.strange_lines(home)
    if strange:
        raise Partial(
            f"line {strange[0]} of {home.path / 'aliases'} is neither an alias nor a comment; {nothing}",
            hint="mend it, or put # before it",
        )
    if not given and not _kept(home):
        raise Partial(
            f"this home has no aliases and no pins: all that it has stored would go; {nothing}",
            hint="name what is to stay: lafs alias add NAME TARGET, or --root TARGET",
        )


def _name(frame: Frame, error: InDoubt) -> None:
    doubts: Sequence[Unseen] = error.doubts
    for each in doubts[:_NAMED]:
        frame.out.name(f"{each.path}: {each.reason}")
    if len(doubts) > _NAMED:
        frame.out.name(f"and {len(doubts) - _NAMED} more")


def _undo(frame: Frame) -> None:
    from lafscli.health import collect as health

    done: Emptied = health.undo(frame.access())
    for reason, number in sorted(done.skipped.items()):
        frame.out.tell(f"{count(number, 'share')} left in the trash: {reason}")
    shares = sum(each.shares for each in done.back.values())
    size = sum(each.bytes for each in done.back.values())
    body = {"objects": len(done.objects), "shares": shares, "bytes": size, "by_server": _amounts(done.back)}
    frame.out.show(
        {
            **body,
            "skipped": _counts(done.skipped),
            "deleted": False,
            "trash_of_host": sorted(done.hidden),
            "failed": _failures(done.failed),
        },
        f"{count(len(done.objects), 'object')}: {count(shares, 'share')} back in place ({human_size(size)})",
    )
    _tell_hidden(frame, done.hidden)
    if shares:
        frame.out.tell("they are waste for the next gc unless something leads to them: lafs ln, or lafs alias add")
    _end(frame, done.failed)


def _tell_hidden(frame: Frame, names: Iterable[str]) -> None:
    """Servers whose trash this home has no part in."""
    if listed := ", ".join(sorted(names)):
        frame.out.tell(
            f"the trash of {listed} is the host's: there lafs gc --host DIR --undo brings back, and --delete empties it"
        )


def _end(frame: Frame, failed: Sequence[Silence]) -> None:
    for each, number in sorted(Counter(failed).items(), key=lambda item: (item[0].server, item[0].reason)):
        times = f" ({number} times)" if number > 1 else ""
        frame.out.name(f"server {each.server}: {each.reason}{times}" if each.server else each.reason)
    if failed:
        raise SystemExit(Partial.exit_code)


def document(done: Collected) -> dict[str, Any]:
    """What was found or done, as JSON."""
    return {
        "objects": done.objects,
        "shares": done.shares,
        "bytes": done.bytes,
        "by_server": _amounts(done.by_server),
        "skipped": _counts(done.skipped),
        "deleted": done.deleted,
        "trash_of_host": sorted(done.hidden),
        "reached": done.reached,
        "restored": _amount(done.restored),
        "purged": _amount(done.purged),
        "failed": _failures(done.failed),
    }


def words(done: Collected) -> list[str]:
    """The same for people."""
    goes = "moved to the trash" if done.deleted else "would go to the trash"
    parts = [
        f"{count(done.objects, 'object')} that nothing leads to: {count(done.shares, 'share')} "
        f"({human_size(done.bytes)}) {goes}"
    ]
    if done.restored.shares:
        back = "brought back" if done.deleted else "would be brought back"
        parts.append(f"{count(done.restored.shares, 'share')} that something leads to again {back} from there")
    if done.purged.shares:
        gone = "removed from there for good" if done.deleted else "there would go for good"
        parts.append(f"{count(done.purged.shares, 'share')} ({human_size(done.purged.bytes)}) {gone}")
    lines = ["; ".join(parts)]
    for name, amount in sorted(done.by_server.items()):
        lines.append(f"  {name}: {count(amount.shares, 'share')}, {human_size(amount.bytes)}")
    return lines


def _amount(amount: Amount) -> dict[str, int]:
    return {"shares": amount.shares, "bytes": amount.bytes}


def _amounts(by_server: dict[str, Amount]) -> dict[str, dict[str, int]]:
    return {name: _amount(amount) for name, amount in sorted(by_server.items())}


def _counts(skipped: Counter[str]) -> list[dict[str, Any]]:
    return [{"reason": reason, "count": number} for reason, number in sorted(skipped.items())]


def _failures(failed: Sequence[Silence]) -> list[dict[str, str]]:
    once = dict.fromkeys(failed)
    return [({"server": each.server} if each.server else {}) | {"reason": each.reason} for each in once]
