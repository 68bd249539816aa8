"""The secrets of a home, each a file of mode 0600 in the format of a Tahoe node's `private/` (CLI.md §3)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from lafscli.config.home import Home, write_atomically
from lafscli.errors import LafsError, UsageError
from lafscli.primitives.encoding import b32decode, b32encode

LENGTH = 32
"""Bytes of a secret that we make; a convergence secret that came from elsewhere has any length."""


_EMPTY = "# empty"
"""The line of a secret that has no bytes, and is meant to: a file that lost its content is not taken for that."""


def read_secret(path: Path, *, length: int | None = None, blank: bool = False) -> bytes:
    """A secret kept as one line of base32, of `length` bytes where that is given. `blank`: an empty line is an empty
    secret, as Tahoe-LAFS has it; else it is a UsageError, as all that is no secret."""
    text = _read_line(path)
    if text == _EMPTY:
        text = ""
    elif not text and not blank:
        raise UsageError(f"{path} is empty", hint=_RESTORE)
    try:
        secret = b32decode(text)
    except ValueError:
        raise UsageError(f"{path} is not one line of base32", hint=_RESTORE) from None
    if length is not None and len(secret) != length:
        raise UsageError(f"{path} has {len(secret)} bytes, not {length}", hint=_RESTORE)
    return secret


_RESTORE = "take it from a copy of the home, or of the Tahoe node it came from; a new one would not be the same"


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise UsageError(f"there is no {path}", hint="lafs init makes what is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not ASCII'}") from error


def write_secret(path: Path, secret: bytes) -> None:
    """Write a secret."""
    write_atomically(path, ((b32encode(secret) or _EMPTY) + "\n").encode("ascii"))


def missing(home: Home) -> list[str]:
    """Names of the secrets that are not there."""
    return [name for name in ("convergence", "secret", "aliases", "pins") if not (home.path / name).exists()]


def make_missing(home: Home, random_bytes: Callable[[int], bytes], given: Mapping[str, bytes]) -> list[str]:
    """Write the secrets that are not there yet, from `given` or new; their names. What is there is never touched."""
    made = missing(home)
    for name in made:
        if name in ("convergence", "secret"):
            write_secret(home.path / name, given[name] if name in given else random_bytes(LENGTH))
        else:
            write_atomically(home.path / name, given.get(name, b""))
    return made


def convergence(home: Home) -> bytes:
    """The convergence secret."""
    return read_secret(home.path / "convergence")


def lease_secret(home: Home) -> bytes:
    """The secret that lease secrets are derived from."""
    return read_secret(home.path / "secret", length=LENGTH)


def pin(home: Home, cap: str) -> bool:
    """Remember the read cap of an object that no alias leads to; one that is there is not written again. Whether it
    is the last line of the file."""
    line = cap.encode("ascii") + b"\n"
    path = home.path / "pins"
    with home.locked():
        try:
            with os.fdopen(os.open(path, _APPENDING, 0o600), "r+b", buffering=0) as file:
                known = file.readall()
                if known.startswith(line) or b"\n" + line in known:
                    return known.endswith(line)
                if known and not known.endswith(b"\n"):  # a write that a crash cut short
                    line = b"\n" + line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise LafsError(f"cannot write {path}: {error.strerror}") from error
    return True


def can_pin(home: Home) -> None:
    """LafsError where `pin` will surely fail."""
    for path in (home.path / ".lock", home.path / "pins"):
        try:
            os.close(os.open(path, _APPENDING, 0o600))
        except OSError as error:
            raise LafsError(f"cannot write {path}: {error.strerror}") from error


_APPENDING = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def pinned(home: Home) -> list[str]:
    """The caps that `pin` remembers, oldest first."""
    path = home.path / "pins"
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LafsError(f"cannot read {path}: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip()]


def unpin(home: Home, same: Callable[[str], bool]) -> int:
    """Forget the pins of which `same` is true; how many they were."""
    path = home.path / "pins"
    with home.locked():
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise LafsError(f"cannot read {path}: {error.strerror}") from error
        left = [line for line in lines if not same(line.decode("ascii", "replace").strip())]
        if len(left) != len(lines):
            write_atomically(path, b"\n".join(left))
    return len(lines) - len(left)


class TahoeNode:
    """A Tahoe-LAFS client folder, read for `init --from-tahoe`."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "tahoe.cfg").is_file():
            raise UsageError(f"{folder} is not the folder of a Tahoe node: it has no tahoe.cfg")
        self.folder = folder

    def secrets(self) -> dict[str, bytes]:
        """What `make_missing` takes; a secret that the node never made is left out."""
        found: dict[str, bytes] = {}
        private = self.folder / "private"
        if (private / "convergence").exists():
            found["convergence"] = read_secret(private / "convergence", blank=True)
        if (private / "secret").exists():
            found["secret"] = read_secret(private / "secret", length=LENGTH, blank=True)
        written = self._read("aliases")
        root = self._read("root_dir.cap")
        if root is not None and b"\ntahoe:" not in b"\n" + (written or b""):
            # spec 08 §6: it supplies the alias `tahoe`
            lines = written or b""
            written = lines + (b"" if not lines or lines.endswith(b"\n") else b"\n") + b"tahoe: " + root.strip() + b"\n"
        if written is not None:
            found["aliases"] = written
        return found

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / "private" / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot read {name} of {self.folder}: {error.strerror}") from error

    def encoding(self) -> tuple[int, int, int]:
        """k, happy and n of tahoe.cfg; Tahoe's defaults where it says nothing."""
        from configparser import ConfigParser, Error

        parser = ConfigParser(strict=False, interpolation=None)
        try:
            parser.read_string((self.folder / "tahoe.cfg").read_text(encoding="utf-8-sig"))
            values = [parser.getint("client", f"shares.{key}", fallback=default) for key, default in _SHARES]
        except (Error, OSError, ValueError) as error:
            raise UsageError(f"cannot read {self.folder / 'tahoe.cfg'}: {' '.join(str(error).split())}") from error
        return values[0], values[1], values[2]


_SHARES = (("needed", 3), ("happy", 7), ("total", 10))
