"""What a home remembers of its recovery kits, in `state/`: enough to remind in time, and that `gc` has to wait.

`recovery-kit`, after an export or an import: the time, then a hash of each alias and server in the kit, a line each.
`recovery-reminder` is as old as the last reminder. `gc-not-adopted` is there from `recovery import` until
`gc --adopt`: a home from a kit may lack roots that its shares belong to.
"""

from __future__ import annotations

import os
from contextlib import suppress

from lafscli.config.aliases import parse_lines
from lafscli.config.home import Home, write_atomically
from lafscli.config.settings import Config
from lafscli.errors import LafsError
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import tagged_hash

REMINDER_SECONDS = 30 * 24 * 3600
KIT_RECORD = "recovery-kit"
GC_HELD = "gc-not-adopted"
_REMINDED = "recovery-reminder"
_LONGEST = 64 << 20


def remember_kit(config: Config, aliases: bytes, now: float) -> None:
    """Keep that there is a kit now, with these lines of `aliases` and the servers of this configuration."""
    marks = sorted({*_aliases(aliases), *_servers(config)})
    _write(config.home, KIT_RECORD, "".join(f"{line}\n" for line in (str(int(now)), *marks)).encode())


def last_kit(home: Home) -> int | None:
    """When the last kit was made, in seconds since 1970; None where none is known of."""
    lines = _record(home)
    return int(lines[0]) if lines else None


def kit_is_older(config: Config) -> bool:
    """Whether there is an alias, and the last kit lacks one or a server, or there is none. Clocks play no part."""
    try:
        aliases = _aliases((config.home.path / "aliases").read_bytes())
    except OSError:
        return False
    return bool(aliases) and not {*aliases, *_servers(config)} <= set(_record(config.home)[1:])


def reminder_is_due(config: Config, now: float) -> bool:
    """Whether to say that `kit_is_older`: it is, and that was not said within a month."""
    if not kit_is_older(config):
        return False
    try:
        return not 0 <= now - (config.home.state / _REMINDED).stat().st_mtime < REMINDER_SECONDS
    except OSError:
        return True


def reminded(home: Home, now: float) -> None:
    """Keep that it was said."""
    with suppress(LafsError, OSError):  # it will be said again
        _write(home, _REMINDED, b"")
        os.utime(home.state / _REMINDED, (now, now))


def hold_gc(home: Home) -> None:
    """Keep `gc` from removing anything until it is adopted."""
    _write(home, GC_HELD, b"")


def gc_is_held(home: Home) -> bool:
    """Whether `gc` waits for `gc --adopt`."""
    return os.path.lexists(home.state / GC_HELD)


def _aliases(content: bytes) -> set[str]:
    named = dict(parse_lines(content.decode("utf-8", "surrogateescape")))
    return {_mark(f"alias {name}: {cap}") for name, cap in named.items()}


def _servers(config: Config) -> set[str]:
    return {_mark(f"server {b32encode(record.node_id)}: {record.url}") for record in config.servers.values()}


def _mark(text: str) -> str:
    """A hash, which tells nothing of a cap."""
    return b32encode(tagged_hash(b"lafs_in_kit_v1", text.encode("utf-8", "surrogateescape"))[:16])


def _record(home: Home) -> list[str]:
    """The lines of the record; none where there is none, or it can't be used."""
    try:
        with (home.state / KIT_RECORD).open("rb") as file:
            lines = file.read(_LONGEST).decode("ascii", "replace").split("\n")
    except OSError:
        return []
    return lines if lines[0].isascii() and lines[0].isdigit() and len(lines[0]) <= 12 else []


def _write(home: Home, name: str, content: bytes) -> None:
    try:
        home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LafsError(f"cannot make {home.state}: {error.strerror}") from error
    write_atomically(home.state / name, content)
