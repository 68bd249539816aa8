"""What put, mkdir and alias create share: a key that is given, enough servers, the cap printed and pinned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.output import Unheard
from lafscli.cli.targets import Target
from lafscli.config.home import Home
from lafscli.errors import LafsError, NotFound, NotHappy, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, UnknownCap
from lafscli.placement import Encoding

if TYPE_CHECKING:
    from lafscli.primitives.ciphers import PrivateKey

PRIVATE_KEY = click.option(
    "--private-key", metavar="FILE", help="Make it with this RSA key (PEM, 2048 bits) instead of a new one."
)


def read_key(path: str) -> PrivateKey:
    """The RSA key in a PEM file of the user."""
    from lafscli.primitives.ciphers import load_private_key_pem

    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return load_private_key_pem(text)


def enough_servers(frame: Frame, encoding: Encoding, path: Path | None) -> None:
    """Refuse what can't be happy on the servers there are, before anything is read or sent. A file so small that it
    is kept in its cap needs none."""
    from lafscli.immutable.upload import LIT_LIMIT

    try:
        if path is not None and path.stat().st_size <= LIT_LIMIT:
            return
    except OSError:
        return
    count = len(frame.client_with_servers().config.writable)
    if count < encoding.happy:
        fitting = f"; on {count} servers: lafs encoding {encoding.fitting(count)}" if count else ""
        raise NotHappy(
            f"{count} servers take shares, {encoding.happy} are needed to store safely ({encoding})",
            hint=f"add servers with lafs server add{fitting}",
        )


def warn_of_pins(frame: Frame, home: Home) -> None:
    """Say so, before anything is made, where its cap can't be pinned."""
    from lafscli.config import secrets

    try:
        secrets.can_pin(home)
    except LafsError as error:
        frame.out.warn(f"the cap will not be kept among the pins, only printed: {error.message}")


def pin_linked(frame: Frame, where: Target, cap: Cap) -> None:
    """Pin what gets a name under a TARGET that begins with a cap, where it is not known to be an alias's: nothing else
    need lead there from this home, and lafs gc would take it for waste."""
    from lafscli.config import aliases, secrets

    inner = cap.inner if isinstance(cap, DirectoryCap) else cap
    if not where.as_cap or isinstance(inner, UnknownCap) or isinstance(cap, LitCap):
        return
    home = frame.client().config.home
    if any(str(known.verify_cap()) == str(where.cap.verify_cap()) for known in aliases.load(home).values()):
        return
    try:
        secrets.pin(home, str(cap.read_cap()))
    except LafsError as error:
        frame.out.warn(f"it is not kept among the pins: {error.message}")


def hand_over(frame: Frame, home: Home, document: dict[str, Any], pin: str | None, what: str = "file") -> int:
    """Print the cap of what is stored, and pin its read cap if that is given; the exit code. That one of both fails
    does not hold up the other."""
    from lafscli.config import secrets

    unheard: Unheard | None = None
    unpinned: LafsError | None = None
    newest = False
    try:
        frame.out.show(document, document["cap"])
    except Unheard as error:
        unheard = error
    finally:  # also when nobody reads stdout, or a signal comes
        try:
            newest = pin is not None and secrets.pin(home, pin)
        except LafsError as error:
            unpinned = error
            frame.out.warn(f"the {what} is stored, but its cap is not among the pins: {error.message}")
    if unheard is not None:
        if pin is not None and unpinned is None:
            which = "its cap" if pin == document["cap"] else "its read cap"
            where = "is the last line of" if newest else "stands in"
            unheard.hint = f"the {what} is stored, and {which} {where} {home.path / 'pins'}"
        raise unheard
    return 0 if unpinned is None else unpinned.exit_code
