"""config.toml: read strictly, written atomically, unknown keys kept (CLI.md §3)."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lafscli.config.home import Home, write_atomically
from lafscli.config.quantities import parse_duration, parse_size
from lafscli.config.servers import ServerRecord
from lafscli.errors import UsageError
from lafscli.placement import Encoding

DEFAULT_PERSIST = 30
DEFAULT_LOCK_SECONDS = 20
DEFAULT_ALIAS = "lafs"


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of one home. `table` is all of the file, also what this version does not know."""

    home: Home
    table: dict[str, Any]
    encoding: Encoding
    durable: bool
    persist: int | None
    lock_seconds: int
    default_alias: str
    servers: Mapping[str, ServerRecord]

    @classmethod
    def load(cls, home: Home) -> Self:
        """Read the file; UsageError when there is none, or it is not what it must be."""
        try:
            text = home.config_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"there is no home at {home.path}", hint="lafs init makes one") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UsageError(f"cannot read {home.config_file}: {reason}") from error
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{home.config_file}: {error}") from error
        try:
            return cls.of(home, table)
        except UsageError as error:
            raise UsageError(f"{home.config_file}: {error.message}", hint=error.hint) from error

    @classmethod
    def of(cls, home: Home, table: dict[str, Any]) -> Self:
        """The configuration that a table says; UsageError where it can't be one."""
        servers = table.get("servers", {})
        if not isinstance(servers, dict) or not all(isinstance(each, dict) for each in servers.values()):
            raise UsageError("servers must be tables: [servers.NAME]")
        durability = table.get("durability", "full")
        if durability not in ("full", "none"):
            raise UsageError('durability must be "full" or "none"')
        return cls(
            home,
            table,
            parse_encoding(table.get("encoding", {})),
            durability == "full",
            parse_persist(table.get("persist", f"{DEFAULT_PERSIST}s")),
            _parse_lock_seconds(table.get("lock-seconds", DEFAULT_LOCK_SECONDS)),
            _parse_alias(table.get("default-alias", DEFAULT_ALIAS)),
            {name: ServerRecord.parse(name, each) for name, each in servers.items()},
        )

    @property
    def writable(self) -> list[ServerRecord]:
        """The servers that new shares may go to."""
        return [record for record in self.servers.values() if not record.readonly]

    def edit(self, change: Callable[[dict[str, Any]], None]) -> Config:
        """Apply `change` to the file as it is now, under the home's lock, so that two at once both last; what it
        becomes is checked before it is written."""
        with self.home.locked():
            current = Config.load(self.home)
            change(current.table)
            after = Config.of(self.home, current.table)
            write_table(self.home, after.table)
        return after


def write_table(home: Home, table: Mapping[str, Any]) -> None:
    """Write the configuration file."""
    import tomli_w

    write_atomically(home.config_file, (_FIRST_LINE + tomli_w.dumps(dict(table))).encode("utf-8"))


_FIRST_LINE = "# written by lafs; comments are not kept\n"


def encoding_table(encoding: Encoding) -> dict[str, int]:
    """`[encoding]` of the file."""
    return {"k": encoding.k, "happy": encoding.happy, "n": encoding.n, "segment-size": encoding.segment_size}


def parse_persist(value: object) -> int | None:
    """Seconds that a connection is kept for the next command; None for `off`."""
    if value == "off":
        return None
    if not isinstance(value, str):
        raise UsageError('persist must be a duration or "off"')
    return parse_duration(value) or None


def _parse_alias(value: object) -> str:
    """The alias that a path without one is under; any name that a Tahoe node may have."""
    if not isinstance(value, str) or not value or set(value) & set(":/ \n"):
        raise UsageError("default-alias must be the name of an alias")
    return value


def _parse_lock_seconds(value: object) -> int:
    """Seconds after which a guard in which nothing moves counts as forsaken (spec 10 §1.4): a number, or a duration."""
    seconds = parse_duration(value) if isinstance(value, str) else value
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 1:
        raise UsageError("lock-seconds must be a whole number of seconds, at least 1")
    return seconds


def parse_encoding(table: object) -> Encoding:
    if not isinstance(table, dict):
        raise UsageError("encoding must be a table")
    values = dict(table)
    size = values.get("segment-size")
    if isinstance(size, str):
        values["segment-size"] = parse_size(size)
    default = encoding_table(Encoding())
    read = [values.get(key, default[key]) for key in default]
    if not all(type(each) is int for each in read):
        raise UsageError("encoding: k, happy, n and segment-size must be numbers")
    k, happy, n, segment_size = read
    return Encoding(k, happy, n, segment_size)
