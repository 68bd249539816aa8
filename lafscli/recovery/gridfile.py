"""The grid file: what a person needs to use a cap that you give them, and no secret (CLI.md §3).

TOML: `lafs-grid = 1`, `[encoding]`, `[grid]` and `[servers.NAME]` as in config.toml, and in each server `host-keys`,
lines of a known_hosts file for it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lafscli.config.servers import ServerRecord
from lafscli.config.settings import encoding_table, parse_encoding
from lafscli.errors import ServerError, UsageError
from lafscli.placement import Encoding
from lafscli.storage.membership import Membership

VERSION = 1

LOCAL_OPTIONS = frozenset(("ssh-command", "ssh-config", "ssh-option", "identity", "known-hosts"))
"""Options that a grid file neither carries nor sets: they name files of one machine, or programs to run."""

_HOST_KEY = re.compile(r"(?:\[[A-Za-z0-9._:-]+\]:[0-9]{1,5}|[A-Za-z0-9._:-]+) [a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}")


@dataclass(frozen=True, slots=True)
class GridFile:
    """Servers with their host keys, the encoding, and the list of servers that have a say, if there is one."""

    encoding: Encoding
    servers: Mapping[str, ServerRecord]
    host_keys: Mapping[str, Sequence[str]]
    membership: Membership | None = None
    dropped: Sequence[tuple[str, str]] = ()
    """(server, option) pairs that the file tried to set and may not."""

    @classmethod
    def parse(cls, text: str) -> GridFile:
        """Read a grid file; UsageError where it is not one."""
        try:
            table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"not a grid file: {error}") from error
        if table.get("lafs-grid") != VERSION:
            raise UsageError(f"not a grid file of version {VERSION}")
        listed = table.get("servers", {})
        if not isinstance(listed, dict) or not all(isinstance(each, dict) for each in listed.values()):
            raise UsageError("grid file: servers must be tables")
        servers: dict[str, ServerRecord] = {}
        host_keys: dict[str, list[str]] = {}
        dropped: list[tuple[str, str]] = []
        for name, given in listed.items():
            options = given.get("options", {})
            if isinstance(options, dict):
                dropped += [(name, key) for key in sorted(LOCAL_OPTIONS.intersection(options))]
                given["options"] = {key: value for key, value in options.items() if key not in LOCAL_OPTIONS}
            host_keys[name] = _host_keys(name, given.get("host-keys", []))
            servers[name] = ServerRecord.parse(name, given)
        return cls(parse_encoding(table.get("encoding", {})), servers, host_keys, _membership(table), dropped)

    def serialise(self) -> str:
        """The text of the file."""
        import tomli_w

        servers: dict[str, dict[str, Any]] = {}
        for name, record in self.servers.items():
            kept = {key: value for key, value in record.options.items() if key not in LOCAL_OPTIONS}
            servers[name] = replace(record, options=kept).table()
            if self.host_keys.get(name):
                servers[name]["host-keys"] = list(self.host_keys[name])
        made: dict[str, Any] = {"lafs-grid": VERSION, "encoding": encoding_table(self.encoding)}
        if self.membership is not None:
            made["grid"] = self.membership.table(key="id")
        return tomli_w.dumps(made | {"servers": servers})


def _membership(table: Mapping[str, Any]) -> Membership | None:
    given = table.get("grid", {})
    try:
        return Membership.parse(given, key="id") if isinstance(given, dict) else None
    except ServerError as error:
        raise UsageError(f"grid file: [grid]: {error.message}") from error


def _host_keys(name: str, lines: object) -> list[str]:
    if not isinstance(lines, list) or not all(isinstance(each, str) for each in lines):
        raise UsageError(f"server {name}: host-keys must be a list of texts")
    for line in lines:
        if not _HOST_KEY.fullmatch(line):  # no marker, pattern or list: a key for one host and nothing else
            raise UsageError(f"server {name}: not a host key: {line!r}", hint="it is written: host type key")
    return list(lines)
