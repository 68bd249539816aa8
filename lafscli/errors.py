"""What can go wrong: one tree, with the exit codes of the command line's contract.

Each error carries a message (lower case, one line, no secret), a `hint` when the user can act, the exit code and
the `kind`: a word that scripts may test for. Errors end in what happened.
"""

from __future__ import annotations


class LafsError(Exception):
    """Something went wrong that the user should read; the base of all errors of lafs."""

    kind = "Failed"
    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SourceChanged(LafsError):
    """The file changed while it was read; nothing was stored."""


class StagedDiffers(LafsError):
    """What an earlier run left staged is not what this upload encodes: it is started anew."""


class UsageError(LafsError):
    """A bad option or argument, an unreadable configuration, an encoding that can't be."""

    kind = "Usage"
    exit_code = 2


class OtherList(UsageError):
    """The grid's list of servers is another one than this home has, or names servers that are not configured here;
    nothing was changed."""


class WrongPassphrase(UsageError):
    """A recovery kit does not open with the passphrase that was given."""


class MalformedCap(UsageError):
    """A capability string that breaks the grammar (spec 00 §3)."""


class MalformedDirectory(LafsError):
    """A directory table, or one entry of it, that breaks the format (spec 04)."""


class DamagedKit(LafsError):
    """A recovery kit whose bytes are not those that were written."""


class NotFound(LafsError):
    """A path, alias, server or local file that does not exist."""

    kind = "NotFound"
    exit_code = 3


class NotHappy(LafsError):
    """Too few servers took shares; nothing was stored or changed."""

    kind = "NotHappy"
    exit_code = 4


class NotRecoverable(LafsError):
    """Every server answered and fewer than k good shares exist."""

    kind = "NotRecoverable"
    exit_code = 5


class CannotTell(LafsError):
    """Some servers did not answer and those that did do not settle it."""

    kind = "CannotTell"
    exit_code = 6


class RolledBack(CannotTell):
    """Only older versions of a mutable file were found than one that was seen before, or it can't be told."""


class Conflict(LafsError):
    """Another writer won, after all retries."""

    kind = "Conflict"
    exit_code = 7


class Unreachable(LafsError):
    """No server could be reached, or one refused to be added."""

    kind = "Unreachable"
    exit_code = 8


class NotGranted(LafsError):
    """The cap does not grant this."""

    kind = "NotGranted"
    exit_code = 9


class Damaged(LafsError):
    """Recoverable, but with fewer good shares or less happiness than wanted, or with corrupt shares."""

    kind = "Damaged"
    exit_code = 10


class Partial(LafsError):
    """Some items failed and each was named; the rest is complete."""

    kind = "Partial"
    exit_code = 11


class Busy(LafsError):
    """Another run of the same job holds the local lock."""

    kind = "Busy"
    exit_code = 12


class CorruptShare(LafsError):
    """Bytes of a share that break the format or do not prove against the cap; names the field."""


class IncompatibleShare(CorruptShare):
    """A share or container of a version this program does not know."""


class MutableFound(IncompatibleShare):
    """A mutable share where an immutable one was asked for."""


class ServerError(LafsError):
    """One server failed us: it is an answer about that server, seldom the end of the operation.

    `server` is the server's name in the configuration, filled in by the room that knows it.
    """

    kind = "Unreachable"
    exit_code = 8

    def __init__(self, message: str, *, server: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.server = server


class ServerUnreachable(ServerError):
    """No connection, a lost one, a time-out, or a server that breaks the protocol.

    `transient`: it may well work a moment later (sshd drops bursts of connections); worth another try.
    """

    def __init__(self, message: str, *, transient: bool = False, server: str = "", hint: str | None = None) -> None:
        super().__init__(message, server=server, hint=hint)
        self.transient = transient


class HostKeyUnknown(ServerUnreachable):
    """The server's host key is not known; `fingerprint` is what it showed (SHA256:…), if that could be had."""

    def __init__(self, message: str, *, fingerprint: str = "", server: str = "", hint: str | None = None) -> None:
        super().__init__(message, server=server, hint=hint)
        self.fingerprint = fingerprint


class HostKeyChanged(HostKeyUnknown):
    """The server shows another host key than the one that is known: never accepted, whoever asks."""


class FileError(ServerError):
    """The server answered and refused one file operation."""


class FileMissing(FileError):
    """No such file or folder."""


class FileExists(FileError):
    """The name is taken. Many servers say only `FileError` for this."""


class FileDenied(FileError):
    """No permission."""


class OutOfSpace(FileError):
    """No room on the server. Many servers say only `FileError` for this."""


class NotSupported(FileError):
    """The server does not offer this operation."""


class GuardHeld(ServerError):
    """Another one is changing the same object on this server; `owner` says who, as far as that is known."""

    kind = "Conflict"
    exit_code = 7

    def __init__(self, message: str, *, owner: str = "", server: str = "", hint: str | None = None) -> None:
        super().__init__(message, server=server, hint=hint)
        self.owner = owner


class GuardLost(ServerError):
    """Our guard on this server was broken, or its fate is unknown: under it nothing more is changed there."""

    kind = "Conflict"
    exit_code = 7
