"""The file `authorized_keys` of our own SSH server: which public keys may log in, and what for.

    [OPTION[,OPTION]…] TYPE BASE64 [COMMENT]

Options of ours: `lafs-root="DIR"`, `lafs-append-only`, `lafs-read-only`. Those of sshd that only take away are nothing
new here and are passed over; any other one refuses its key, since a rule that is not kept must not look kept.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lafscli.errors import LafsError

LARGEST = 1 << 20
"""Bytes of the file; what is longer is no list of keys."""

_TAKE_AWAY = {
    *("restrict", "no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"),
    "no-touch-required",  # of keys in a device, which can't log in here at all
}
_OPTION = re.compile(r'([A-Za-z0-9@.-]+)(?:="((?:[^"\\]|\\.)*)")?')
_CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
_RSA_BITS = (2048, 16384)


class KeyRefused(LafsError):
    """A line that lets nobody in; the message says why."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key that may log in: what stands in the SSH protocol, and what it is for. `root` is as it was written."""

    blob: bytes
    comment: str = ""
    root: str | None = None
    append_only: bool = False
    read_only: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.blob)


def fingerprint(blob: bytes) -> str:
    """As `ssh-keygen -l` shows it: `SHA256:` and base64 without padding."""
    return f"SHA256:{b64encode(sha256(blob).digest()).decode().rstrip('=')}"


def load(path: Path, note: Callable[[str], None]) -> dict[bytes, Key]:
    """The keys of a file by their blob; `note` hears of each line that lets nobody in.

    LafsError where the file can't be read, is no file, or others may write it: as sshd, which then trusts none of it.
    """
    found: dict[bytes, Key] = {}
    for number, line in enumerate(trusted_text(path, hint=_HINT).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            key = parse(line)
            if key.blob in found:
                raise KeyRefused("this key stands further up already")
            found[key.blob] = key
        except KeyRefused as refusal:
            note(f"{path}:{number}: key refused: {refusal.message}")
    return found


def parse(line: str) -> Key:
    """The key of one line; KeyRefused says what is wrong with it."""
    options: dict[str, str | None] = {}
    rest = line
    if not _begins_with_type(rest):
        options, rest = _options(rest)
    kind, _, rest = rest.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    blob = blob_of(kind, encoded)
    for name in options:
        if name not in _TAKE_AWAY | {"lafs-root", "lafs-append-only", "lafs-read-only"}:
            raise KeyRefused(f"option {name!r} is not known here")
        if (options[name] is not None) != (name == "lafs-root"):
            raise KeyRefused(f"option {name!r} takes {'a value in quotes' if name == 'lafs-root' else 'no value'}")
    root = options.get("lafs-root")
    if root is not None and (not root or "\0" in root):
        raise KeyRefused("lafs-root names no folder")
    return Key(blob, comment.strip(), root, "lafs-append-only" in options, "lafs-read-only" in options)


def trusted_text(path: Path, *, hint: str, secret: bool = False) -> str:
    """What is in a file of keys, once it is known that nobody else could have written it, nor (`secret`) read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise LafsError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        _private(path, found, stat.S_ISREG)
        _private(path.parent, path.parent.stat(), stat.S_ISDIR)
        if secret and found.st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise LafsError(f"others may read {path}, which holds secrets", hint=f"chmod 600 {path}")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise LafsError(f"{path} has more than {LARGEST} bytes")
    return content.decode("utf-8", "backslashreplace")


_HINT = "one public key a line, as in ~/.ssh/authorized_keys; lafs man serve"


def _private(path: Path, found: os.stat_result, right_kind: Callable[[int], bool]) -> None:
    if not right_kind(found.st_mode):
        raise LafsError(f"{path} is no {'file' if right_kind is stat.S_ISREG else 'folder'}")
    if found.st_uid not in (os.geteuid(), 0):
        raise LafsError(f"{path} belongs to another user: its keys can't be trusted")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LafsError(f"others may write {path}: its keys can't be trusted", hint=f"chmod go-w {path}")


def _begins_with_type(line: str) -> bool:
    word = line.split(None, 1)[0]
    return word.startswith(("ssh-", "ecdsa-", "sk-")) and "=" not in word and "," not in word


def _options(line: str) -> tuple[dict[str, str | None], str]:
    """The options at the front of a line by name, in lower case, and what is behind them."""
    found: dict[str, str | None] = {}
    position = 0
    while match := _OPTION.match(line, position):
        name = match[1].lower()
        if name in found:
            raise KeyRefused(f"option {name!r} stands there twice")
        found[name] = None if match[2] is None else re.sub(r'\\"', '"', match[2])
        position = match.end()
        if not line.startswith(",", position):
            break
        position += 1
    rest = line[position:]
    if not rest.startswith((" ", "\t")):
        raise KeyRefused("the options can't be read")
    return found, rest.strip()


def blob_of(kind: str, encoded: str) -> bytes:
    """The key in its binary form, once it is one that can log in here; KeyRefused says what is wrong with it."""
    if kind.startswith("sk-"):
        raise KeyRefused(f"{kind}: keys in a security device can't log in here, only under sshd")
    if kind not in ("ssh-ed25519", "ssh-rsa", *(f"ecdsa-sha2-{curve}" for curve in _CURVES)):
        raise KeyRefused(f"no type of key that can log in here: {kind[:60]!r}")
    try:
        blob = b64decode(encoded, validate=True)
        parts = list(_strings(blob))
    except (binascii.Error, ValueError):
        raise KeyRefused("the key is damaged") from None
    if not parts or parts[0] != kind.encode() or not _sound(kind, parts[1:]):
        raise KeyRefused("the key is damaged")
    if kind == "ssh-rsa" and not _RSA_BITS[0] <= int.from_bytes(parts[2], "big").bit_length() <= _RSA_BITS[1]:
        raise KeyRefused(f"RSA keys must have {_RSA_BITS[0]} to {_RSA_BITS[1]} bits")
    return blob


def _strings(blob: bytes) -> Iterator[bytes]:
    """The strings that a key is made of, to the last byte; ValueError where it is not."""
    position = 0
    while position < len(blob):
        end = position + 4 + int.from_bytes(blob[position : position + 4], "big")
        if len(blob) < position + 4 or end > len(blob):
            raise ValueError("cut short")
        yield blob[position + 4 : end]
        position = end


def _sound(kind: str, parts: list[bytes]) -> bool:
    """Whether the parts behind the type are as many and as long as they must be."""
    if kind == "ssh-ed25519":
        return len(parts) == 1 and len(parts[0]) == 32
    if kind == "ssh-rsa":
        return len(parts) == 2
    curve = kind.rpartition("-")[2]
    return len(parts) == 2 and parts[0] == curve.encode() and len(parts[1]) == _CURVES[curve]
