"""What a recovery kit holds (CLI.md §3): the grid file, the secrets, aliases and pins, a few settings.

Netstrings in turn, a name and its content, in any order; a name that is not known is skipped:

    made          decimal seconds since 1970
    grid          a grid file, whose addresses name the login
    convergence   the secret's bytes
    secret        the lease secret's bytes
    aliases       the file as it was
    pins          the file as it was
    settings      TOML: keys of config.toml, and how the old machine got to its servers: [logins.NAME]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lafscli.errors import DamagedKit, UsageError
from lafscli.primitives.encoding import Reader, netstring
from lafscli.recovery.gridfile import GridFile

SETTINGS = ("default-alias", "durability", "lock-seconds", "persist")
"""Keys of config.toml that mean the same on every machine."""
_WHAT = "recovery kit"


@dataclass(frozen=True, slots=True)
class Login:
    """How the old machine got to a server, as far as the address does not say: the file of its private key, and the
    host on the way. Told to people, never used."""

    identity: str | None = None
    through: str | None = None

    def table(self) -> dict[str, str]:
        """What is known, as TOML has it."""
        known = {"identity": self.identity, "through": self.through}
        return {key: value for key, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Kit:
    """All that brings a home back, but the keys of ssh."""

    made: int
    grid: GridFile
    convergence: bytes = field(repr=False)
    lease_secret: bytes = field(repr=False)
    aliases: bytes = field(repr=False)
    pins: bytes = field(repr=False)
    settings: Mapping[str, Any]
    logins: Mapping[str, Login]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what `serialise` wrote. It was proved to come from who knows the passphrase; DamagedKit or UsageError
        where it is still not what this version can use."""
        parts: dict[bytes, bytes] = {}
        reader = Reader(data, _WHAT)
        while reader.remaining():
            name = reader.netstring("name of a part")
            parts[name] = reader.netstring("part")
        missing = sorted(name.decode() for name in _PARTS if name not in parts)
        if missing:
            raise DamagedKit(f"the recovery kit has no {', '.join(missing)}")
        made = parts[b"made"]
        if not made.isdigit() or len(made) > 12:
            raise DamagedKit("the recovery kit does not say when it was made")
        try:
            settings = tomllib.loads(parts[b"settings"].decode())
            grid = GridFile.parse(parts[b"grid"].decode())
        except (ValueError, RecursionError):
            raise DamagedKit("the settings in the recovery kit are not TOML") from None
        except UsageError as error:
            raise UsageError(f"the recovery kit: {error.message}", hint=error.hint) from error
        logins = settings.pop("logins", {})
        return cls(
            int(made),
            grid,
            parts[b"convergence"],
            parts[b"secret"],
            parts[b"aliases"],
            parts[b"pins"],
            {key: value for key, value in settings.items() if key in SETTINGS},
            {name: _login(logins, name) for name in grid.servers},
        )

    def serialise(self) -> bytes:
        """The bytes that are sealed."""
        import tomli_w

        logins = {name: login.table() for name, login in self.logins.items()}
        parts = {
            "made": b"%d" % self.made,
            "grid": self.grid.serialise().encode(),
            "convergence": self.convergence,
            "secret": self.lease_secret,
            "aliases": self.aliases,
            "pins": self.pins,
            "settings": tomli_w.dumps({**self.settings, "logins": logins}).encode(),
        }
        return b"".join(netstring(name.encode()) + netstring(content) for name, content in parts.items())


_PARTS = (b"made", b"grid", b"convergence", b"secret", b"aliases", b"pins", b"settings")


def _login(logins: object, name: str) -> Login:
    table = logins.get(name, {}) if isinstance(logins, dict) else {}
    known = table if isinstance(table, dict) else {}
    identity, through = known.get("identity"), known.get("through")
    return Login(identity if isinstance(identity, str) else None, through if isinstance(through, str) else None)
