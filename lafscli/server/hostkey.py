"""The key that our SSH server shows: Ed25519, made at the first start, kept for ever."""

from __future__ import annotations

import os
import secrets
import stat
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lafscli.errors import LafsError
from lafscli.primitives.ciphers import host_key_public, make_host_key
from lafscli.server.keys import fingerprint

KIND = b"ssh-ed25519"
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class HostKey:
    """The host key: its PEM text, and its public half as it stands in the protocol."""

    pem: bytes = field(repr=False)
    blob: bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.blob)

    @property
    def public_line(self) -> str:
        """As it stands in `known_hosts` behind the name of the host."""
        return f"{KIND.decode()} {b64encode(self.blob).decode()}"


def load_or_make(path: Path) -> tuple[HostKey, bool]:
    """The key of a file, and whether it was made now. A file that is there is never written.

    LafsError where it can't be read or made, where others may read it, or where it holds no Ed25519 key.
    """
    made = False
    if not os.path.lexists(path):
        made = _make(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            pem = file.read(_LARGEST)
    except OSError as error:
        raise LafsError(f"cannot read the host key {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise LafsError(f"the host key {path} is no file")
    if found.st_uid not in (os.geteuid(), 0):
        raise LafsError(f"the host key {path} belongs to another user")
    if found.st_mode & 0o077:
        raise LafsError(f"others may read the host key {path}", hint=f"chmod 600 {path}")
    public = host_key_public(pem)
    if public is None:
        hint = "an Ed25519 key without a passphrase, as ssh-keygen -t ed25519 makes; serve makes one where none is"
        raise LafsError(f"{path} holds no host key that can be used", hint=hint)
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (KIND, public))
    return HostKey(pem, blob), made


def _make(path: Path) -> bool:
    """Put a new key there, whole and durable; False where another was faster."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    pem = make_host_key()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # never over a key that is there, as a rename would
        except FileExistsError:
            return False
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):
            os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise LafsError(f"cannot make the host key {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True
