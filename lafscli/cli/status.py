"""status (CLI.md §3)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, command
from lafscli.cli.output import rfc3339
from lafscli.cli.text import columns
from lafscli.config import aliases
from lafscli.config.history import Event, events
from lafscli.errors import Damaged, LafsError, Partial, Unreachable
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import human_time

if TYPE_CHECKING:
    from lafscli.config.home import Home


@command("status")
@click.option("--max-age", type=DURATION, metavar="DURATION", help="Exit 10 when a backup or check is older.")
def status(frame: Frame, max_age: int | None) -> None:
    """Show servers, and the last good backup and check of each root.

    Roots are what the aliases of this home stand for. A backup is good when its snapshot was linked, a check when
    check -r or repair -r of all that the root leads to ended with exit 0. What this home did not do itself it does not
    know. With --max-age exit 10 when one of them is older, or a root was never checked. Else exit 0 when all servers
    answer, 8 when none does, 11 when some do not.
    """
    client = frame.client_with_servers()
    servers = []
    for answer in client.grid.ask(lambda store: store.present([(bytes(16), 0)])):  # one round trip
        facts: dict[str, Any] = {"name": answer.store.server.name, "reachable": True}
        if isinstance(answer.value, LafsError):
            facts |= {"reachable": False, "reason": answer.value.message}
        servers.append(facts)
    servers.sort(key=lambda each: list(client.config.servers).index(each["name"]))
    now = time.time()
    roots = _roots(client.config.home)
    old = [] if max_age is None else [name for name, moment in _moments(roots) if not _fresh(moment, now, max_age)]
    document: dict[str, Any] = {"servers": servers, "roots": [_shown(root) for root in roots]}
    if max_age is not None:
        document |= {"max_age": max_age, "too_old": old}
    frame.out.show(document, _text(servers, roots, now))
    for name in old:
        frame.out.tell(f"{name} is older than {human_time(max_age or 0)}")
    silent = [each for each in servers if not each["reachable"]]
    if old:
        raise SystemExit(Damaged.exit_code)
    if silent:
        raise SystemExit(Unreachable.exit_code if len(silent) == len(servers) else Partial.exit_code)


def _roots(home: Home) -> list[tuple[str, Event | None, list[Event]]]:
    """Name, last check and backups of each alias."""
    done = events(home)
    roots = []
    for name, cap in aliases.load(home).items():
        si = "" if cap.storage_index is None else b32encode(cap.storage_index)
        mine = [event for event in done if si and event.root == si]
        checks = [event for event in mine if event.what == "check"]
        roots.append((f"{name}:", checks[-1] if checks else None, [each for each in mine if each.what == "backup"]))
    return roots


def _moments(roots: list[tuple[str, Event | None, list[Event]]]) -> list[tuple[str, int | None]]:
    """When each thing was done that ought to be done again and again."""
    moments: list[tuple[str, int | None]] = []
    for name, check, backups in roots:
        moments.append((f"the last check of {name}", None if check is None else check.time))
        moments += [(f"the last backup of {_source(each)} to {_target(name, each)}", each.time) for each in backups]
    return moments


def _fresh(moment: int | None, now: float, max_age: int) -> bool:
    """A moment of the future is none that can be believed."""
    return moment is not None and -60 <= now - moment <= max_age


def _shown(root: tuple[str, Event | None, list[Event]]) -> dict[str, Any]:
    name, check, backups = root
    return {
        "name": name,
        "last_check": None if check is None else rfc3339(check.time),
        "backups": [
            {
                "source": _source(each),
                "target": _target(name, each),
                "snapshot": str(each.facts.get("snapshot", "")),
                "time": rfc3339(each.time),
                "errors": each.facts.get("errors", 0),
            }
            for each in backups
        ],
    }


def _source(event: Event) -> str:
    return str(event.facts.get("source", "?"))


def _target(name: str, event: Event) -> str:
    return f"{name}{event.facts.get('path', '')}"


def _text(servers: list[dict[str, Any]], roots: list[tuple[str, Event | None, list[Event]]], now: float) -> str:
    rows = [("SERVER", "", "")]
    rows += [(each["name"], "ok" if each["reachable"] else "silent", each.get("reason", "")) for each in servers]
    parts = [columns(rows)]
    if roots:
        rows = [("ROOT", "LAST CHECK", "")]
        rows += [(name, "never" if check is None else _ago(check.time, now), "") for name, check, _ in roots]
        parts.append(columns(rows))
    backups = [(name, each) for name, _, several in roots for each in several]
    if backups:
        rows = [("BACKUP", "LAST", "SOURCE")]
        rows += [(_target(name, each), _ago(each.time, now), _source(each)) for name, each in backups]
        parts.append(columns(rows))
    return "\n\n".join(parts)


def _ago(moment: int, now: float) -> str:
    return f"{rfc3339(moment)} ({human_time(now - moment)} ago)" if moment <= now else f"{rfc3339(moment)} (future)"
