"""From a home to its recovery kit, and from a kit to a home (CLI.md §3)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lafscli.config import kits, secrets
from lafscli.config.home import Home, write_atomically
from lafscli.config.servers import OptionValue, ServerRecord
from lafscli.config.settings import Config, encoding_table, write_table
from lafscli.errors import LafsError, UsageError
from lafscli.health.members import keep_list
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import tagged_hash
from lafscli.recovery.gridfile import GridFile
from lafscli.recovery.kit import SETTINGS, Kit, Login


def home_id(home: Home) -> str:
    """What stands for a home in the names of kits on servers: the same after an import, and no secret."""
    return b32encode(tagged_hash(b"lafs_home_id_v1", secrets.lease_secret(home))[:10])


def kit_of(config: Config, grid: GridFile, logins: Mapping[str, Login], now: float) -> Kit:
    """All that brings this home back. `grid` is what is exported of its servers."""
    home = config.home
    with home.locked():
        aliases, pins = (_content(home.path / name) for name in ("aliases", "pins"))
        convergence, lease_secret = secrets.convergence(home), secrets.lease_secret(home)
    settings = {key: config.table[key] for key in SETTINGS if key in config.table}
    return Kit(int(now), grid, convergence, lease_secret, aliases, pins, settings, logins)


def lines(content: bytes) -> int:
    """How many lines of `aliases` or `pins` say something."""
    return sum(bool(line.strip()) and not line.lstrip().startswith(b"#") for line in content.split(b"\n"))


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 alias, 2 aliases."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun == 'alias' else 's'}"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A home that was made from a kit. `aside`: secrets of an unused home that were there, under their new names."""

    config: Config
    host_keys: int
    aside: list[Path]


def check_unused(home: Home) -> None:
    """Refuse a home in which something would be lost, as far as that can be told without the kit."""
    if home.config_file.exists():
        _refuse_used(home, servers=len(Config.load(home).servers), kit=None)


def rebuild(home: Home, kit: Kit, options: Mapping[str, OptionValue], found_at: tuple[bytes, str] | None) -> Rebuilt:
    """Make the home of a kit. UsageError where there is one in use; what an earlier import was stopped at is gone on
    with, for the configuration, which makes a home, is written last.

    `options` count for every server that is reached by ssh, over what the kit says. `found_at`: the node id of a
    server, and the URL that it was found at just now.
    """
    home.make()
    with home.locked():
        existing = Config.load(home).table if home.config_file.exists() else {}
        _refuse_used(home, servers=len(existing.get("servers", {})), kit=kit)
        table: dict[str, Any] = {**existing, **kit.settings, "encoding": encoding_table(kit.grid.encoding)}
        table["servers"] = {
            name: _record(record, options, found_at).table() for name, record in kit.grid.servers.items()
        }
        keep_list(table, kit.grid.membership)
        config = Config.of(home, table)
        kits.hold_gc(home)
        aside = []
        for name, secret in (("convergence", kit.convergence), ("secret", kit.lease_secret)):
            aside += _set_aside(home.path / name, secret)
            secrets.write_secret(home.path / name, secret)
        for name, content in (("aliases", kit.aliases), ("pins", kit.pins)):
            write_atomically(home.path / name, content)
        keys = home.add_host_keys(key for each in kit.grid.host_keys.values() for key in each)
        write_table(home, table)
    kits.remember_kit(config, kit.aliases, kit.made)
    return Rebuilt(config, keys, aside)


def _record(
    record: ServerRecord, options: Mapping[str, OptionValue], found_at: tuple[bytes, str] | None
) -> ServerRecord:
    if found_at is not None and found_at[0] == record.node_id:
        record = replace(record, url=found_at[1])
    return record if record.address.host is None else replace(record, options={**record.options, **options})


def _refuse_used(home: Home, *, servers: int, kit: Kit | None) -> None:
    """UsageError where the home has servers, or aliases or pins that are not just those of the kit."""
    there = {"server": servers}
    for name, theirs in (("aliases", kit and kit.aliases), ("pins", kit and kit.pins)):
        ours = _content(home.path / name)
        if ours.strip() and ours != theirs:
            there["alias" if name == "aliases" else "pin"] = max(1, lines(ours))
    lost = [counted(count, noun) for noun, count in there.items() if count]
    if lost:
        named = " and ".join([", ".join(lost[:-1]), lost[-1]] if lost[:-1] else lost)
        raise UsageError(
            f"there is a home at {home.path} already, and its {named} would be lost",
            hint="make another one: lafs --home DIR recovery import ...; or move this one away first",
        )


def _set_aside(path: Path, secret: bytes) -> list[Path]:
    """Give another name to a secret that is there and is another one: nobody is known to use it, and still."""
    with suppress(UsageError):
        if secrets.read_secret(path) == secret:
            return []
    if not path.exists():
        return []
    kept = next(each for number in range(1, 1000) if not (each := path.with_name(f"{path.name}.old{number}")).exists())
    try:
        path.rename(kept)
    except OSError as error:
        raise LafsError(f"cannot move {path}: {error.strerror}") from error
    return [kept]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LafsError(f"cannot read {path}: {error.strerror}") from error
