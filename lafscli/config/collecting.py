"""What a home keeps about its garbage collection: who may run now, and whether it is on (CLI.md §5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lafscli.config.home import Home, sync_folder
from lafscli.errors import Busy, LafsError

NOT_ADOPTED = "gc-not-adopted"
"""A file in the state folder: the secret of this home came from elsewhere, where others may use it still."""

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
    """Around a run that relies on finding again what it has seen stored, without renewing it: no collection meanwhile.
    Others of the kind are no hindrance. Busy while a collection runs for longer than `patience` seconds."""
    try:
        with home.locked(_LOCK, patience, shared=True):
            yield
    except Busy:
        raise Busy("lafs gc of this home is running", hint="try again when it has ended, or wait for it") from None


def adopted(home: Home) -> bool:
    """Whether collection is on."""
    try:
        (home.state / NOT_ADOPTED).lstat()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise LafsError(f"cannot look into {home.state}: {error.strerror}") from error
    return False


def distrust(home: Home) -> None:
    """Switch it off, durably: before secrets from elsewhere are written."""
    try:
        home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home.state / NOT_ADOPTED).touch(mode=0o600)
        sync_folder(home.state)
    except OSError as error:
        raise LafsError(f"cannot write {home.state / NOT_ADOPTED}: {error.strerror}") from error


def adopt(home: Home) -> bool:
    """Switch it on; whether it was off."""
    try:
        (home.state / NOT_ADOPTED).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LafsError(f"cannot remove {home.state / NOT_ADOPTED}: {error.strerror}") from error
    sync_folder(home.state)
    return True
