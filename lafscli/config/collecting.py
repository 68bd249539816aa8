"""What a home keeps about its garbage collection: who may run now, and whether it is on (CLI.md §5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lafscli.config.home import Home, sync_folder
from lafscli.errors import Busy, LafsError

NOT_ADOPTED = "gc-not-adopted"
"""A file beside the secrets, of this home: they came from elsewhere, where others may use them still; and some of what
they have stored may have no root here. Not in the state folder, which may be lost without harm."""

GRACE = 14 * 24 * 3600
"""Seconds for which what was thrown away stays in the trash, where nobody said another time."""

_LOCK = ".gc-lock"


@contextmanager
def alone(home: Home, patience: int = 0) -> Iterator[None]:
    """Around a collection: Busy while another one runs, or something that must not meet one (`beside`), for longer
    than `patience` seconds."""
    try:
        with home.locked(_LOCK, patience):
            yield
    except Busy:
        raise Busy(
            "another lafs gc of this home is running, or a run that it must not disturb",
            hint="try again when it has ended, or wait for it: --lock-wait 10m",
        ) from None


@contextmanager
def beside(home: Home, patience: int = 0) -> Iterator[None]:
    """Around a run that relies on finding again what it has seen stored, without renewing it or giving it a name at
    once: as a backup, which takes the cap of an unchanged file from its record and links it in the end.

    No collection runs meanwhile; others that say `beside` are no hindrance. To be held from before the first look until
    all has its name. Busy while a collection runs for longer than `patience` seconds.
    """
    try:
        with home.locked(_LOCK, patience, shared=True):
            yield
    except Busy:
        raise Busy("lafs gc of this home is running", hint="try again when it has ended, or wait for it") from None


def adopted(home: Home) -> bool:
    """Whether collection is on."""
    try:
        (home.path / NOT_ADOPTED).lstat()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise LafsError(f"cannot look into {home.path}: {error.strerror}") from error
    return False


def distrust(home: Home) -> None:
    """Switch it off, durably: before secrets from elsewhere are written into the folder of the home, which is there."""
    try:
        (home.path / NOT_ADOPTED).touch(mode=0o600)
        sync_folder(home.path)
    except OSError as error:
        raise LafsError(f"cannot write {home.path / NOT_ADOPTED}: {error.strerror}") from error


def adopt(home: Home) -> bool:
    """Switch it on; whether it was off."""
    try:
        (home.path / NOT_ADOPTED).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LafsError(f"cannot remove {home.path / NOT_ADOPTED}: {error.strerror}") from error
    sync_folder(home.path)
    return True
