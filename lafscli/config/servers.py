"""A server's record: its URL, identity and options (CLI.md §3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote_to_bytes

from lafscli.config.quantities import parse_duration, parse_size
from lafscli.errors import UsageError
from lafscli.primitives.encoding import b32decode, b32encode

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]*")
_USER = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")
_FORMS = "sftp://[user@]host[:port]/absolute/path, sftp://host/~/relative or file:///path"

OptionValue = str | list[str]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server's folder is. `host` is None for a folder of this machine; a relative `path` is below the login's
    home folder."""

    host: str | None
    path: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL; what breaks the rules is a UsageError."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("sftp", "file"):
            raise UsageError(f"not the URL of a server: {url!r}", hint=_FORMS)
        authority, slash, path = rest.partition("/")
        if scheme == "file":
            if authority not in ("", "localhost"):
                raise UsageError(f"a file URL names no host: {url!r}", hint=_FORMS)
            return cls(None, _path(slash + path, url))
        if not slash:
            raise UsageError(f"the URL names no folder: {url!r}", hint=_FORMS)
        user, at, where = authority.rpartition("@")
        host, port = _split_port(where, url)
        if at and not _USER.fullmatch(user):
            raise UsageError(f"not a user name: {user!r}", hint="letters, digits and . _ -; it may not begin with -")
        if not _HOST.fullmatch(host):
            raise UsageError(f"not a host name: {host!r}", hint="letters, digits and . _ : -; it may not begin with -")
        relative = path == "~" or path.startswith("~/")
        return cls(host, _path(path[2:] if relative else "/" + path, url) or ".", user if at else None, port)

    def __str__(self) -> str:
        if self.host is None:
            return "file://" + quote(self.path, safe="/~:@!$&'()*+,;=", errors="surrogateescape")
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = (f"{self.user}@" if self.user is not None else "") + host + (f":{self.port}" if self.port else "")
        path = quote(self.path, safe="/~:@!$&'()*+,;=", errors="surrogateescape")
        if path.startswith("/"):
            absolute = "/%7E" + path[2:] if path == "/~" or path.startswith("/~/") else path
            return f"sftp://{where}{absolute}"
        return f"sftp://{where}/~" + ("" if path == "." else f"/{path}")


def _split_port(where: str, url: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::([0-9]+))?", where)
    if bracketed is not None:
        host, digits = bracketed[1], bracketed[2]
    elif where.count(":") == 1:
        host, _, digits = where.partition(":")
    else:  # no colon, or an IPv6 address without brackets
        host, digits = where, None
    if digits is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
        raise UsageError(f"not a port: {digits!r} in {url!r}", hint="1 to 65535")
    return host, int(digits)


def _path(text: str, url: str) -> str:
    """The decoded path, without a slash at its end."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text) or "?" in text or "#" in text:
        raise UsageError(f"not the path of a URL: {text!r} in {url!r}", hint="write %25 for %, %3F for ?, %23 for #")
    path = unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    if "\0" in path or ".." in path.split("/"):
        raise UsageError(f"a path can't have .. or NUL in it: {url!r}")
    return path.rstrip("/") or ("/" if path.startswith("/") else "")


def _one_of(*words: str) -> Callable[[str], object]:
    def check(text: str) -> None:
        if text not in words:
            raise UsageError(f"not one of {', '.join(words)}: {text!r}")

    return check


def _any_text(text: str) -> None:
    if not text or any(ord(character) < 32 or character == "\x7f" for character in text):
        raise UsageError(f"not a value: {text!r}")


def _persist(text: str) -> None:
    if text != "off":
        parse_duration(text)


def _ssh_option(text: str) -> None:
    _any_text(text)
    if not re.fullmatch(r"[A-Za-z0-9]+\s*[= ].+", text):
        raise UsageError(f"not an option of ssh_config: {text!r}", hint="ssh-option=Key=Value")


def _positive(parse: Callable[[str], int]) -> Callable[[str], object]:
    def check(text: str) -> None:
        if parse(text) == 0:
            raise UsageError(f"must be more than nothing: {text!r}")

    return check


OPTIONS: Mapping[str, Callable[[str], object]] = {
    "transport": _one_of("ssh", "paramiko"),
    "ssh-command": _any_text,
    "ssh-config": _any_text,
    "identity": _any_text,
    "known-hosts": _any_text,
    "ssh-option": _ssh_option,
    "connect-timeout": _positive(parse_duration),
    "timeout": _positive(parse_duration),
    "persist": _persist,
    "limit-rate": _positive(parse_size),
    "mutable": _one_of("yes", "no"),
}
REPEATABLE = frozenset(("ssh-option",))
FILES = frozenset(("ssh-config", "identity", "known-hosts"))


def parse_options(pairs: Sequence[str]) -> dict[str, OptionValue]:
    """Read `KEY=VALUE` arguments; the last of a key wins, repeatable ones gather. Files become absolute paths, for
    the next command may run in another folder."""
    options: dict[str, OptionValue] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise UsageError(f"not an option: {pair!r}", hint="--option KEY=VALUE")
        _check(key, value)
        if key in FILES and value != "none":
            value = str(Path(value).expanduser().absolute())
        if key in REPEATABLE:
            gathered = options.setdefault(key, [])
            assert isinstance(gathered, list)
            gathered.append(value)
        else:
            options[key] = value
    return options


def _check(key: str, value: str) -> None:
    if key not in OPTIONS:
        raise UsageError(f"no such option of a server: {key}", hint=f"known are {', '.join(OPTIONS)}")
    try:
        OPTIONS[key](value)
    except UsageError as error:
        raise UsageError(f"option {key}: {error.message}", hint=error.hint) from error


def check_name(name: str) -> str:
    """The name of a server, or UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"not a name for a server: {name!r}", hint="letters, digits and . _ -, at most 64")
    return name


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """What the configuration knows of one server. `url` is kept as it was given."""

    name: str
    url: str
    node_id: bytes
    seed: bytes
    readonly: bool = False
    site: str | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    features: frozenset[str] = frozenset()

    @property
    def address(self) -> Address:
        """The URL, read."""
        return Address.parse(self.url)

    @classmethod
    def parse(cls, name: str, table: Mapping[str, Any]) -> Self:
        """Read `[servers.NAME]`; UsageError names the key that is wrong."""
        try:
            check_name(name)
            url = _text(table, "url")
            Address.parse(url)
            given = table.get("options", {})
            if not isinstance(given, dict):
                raise UsageError("options must be a table")
            for key, value in given.items():
                values = value if isinstance(value, list) and key in REPEATABLE else [value]
                for each in values:
                    if not isinstance(each, str):
                        raise UsageError(f"option {key} must be text")
                    _check(key, each)
            readonly, site, features = table.get("readonly", False), table.get("site"), table.get("features", [])
            if not isinstance(readonly, bool):
                raise UsageError("readonly must be true or false")
            if site is not None and not isinstance(site, str):
                raise UsageError("site must be text")
            if not isinstance(features, list) or not all(isinstance(each, str) for each in features):
                raise UsageError("features must be a list of texts")
            node_id = _base32(table, "node-id")
            if len(node_id) != 20:
                raise UsageError("node-id must be 20 bytes")
            seed = _base32(table, "permutation-seed")
        except UsageError as error:
            raise UsageError(f"server {name}: {error.message}", hint=error.hint) from error
        return cls(name, url, node_id, seed, readonly, site, given, frozenset(features))

    def table(self) -> dict[str, Any]:
        """The record as `[servers.NAME]` of the configuration."""
        made: dict[str, Any] = {
            "url": self.url,
            "node-id": b32encode(self.node_id),
            "permutation-seed": b32encode(self.seed),
        }
        if self.readonly:
            made["readonly"] = True
        if self.site is not None:
            made["site"] = self.site
        if self.options:
            made["options"] = dict(self.options)
        if self.features:
            made["features"] = sorted(self.features)
        return made


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{key} is missing" if value is None else f"{key} must be text")
    return value


def _base32(table: Mapping[str, Any], key: str) -> bytes:
    try:
        return b32decode(_text(table, key))
    except ValueError as error:
        raise UsageError(f"{key} is not base32") from error
