"""Why ssh failed: what it said on stderr, as one of our errors."""

from __future__ import annotations

import re
from collections.abc import Callable

from lafscli.errors import HostKeyChanged, HostKeyUnknown, ServerUnreachable
from lafscli.storage.packets import escaped
from lafscli.storage.sshcommand import SshTarget

_CHANGED = ("REMOTE HOST IDENTIFICATION HAS CHANGED", "REVOKED HOST KEY DETECTED")
_UNKNOWN = ("host key is known for", "Host key verification failed")
_LOGIN = ("Permission denied (", "Too many authentication failures", "No more authentication methods")
# What is said when sshd drops a connection above MaxStartups, or a host just starts.
_TRANSIENT = ("kex_exchange_identification", "Connection reset by", "Connection closed by", "Not allowed at this time")
_NOISE = ("debug", "Warning: Permanently added", "ControlSocket ", "** ", "Pseudo-terminal", "@@@@")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_OFFERED = re.compile(r"Server host key: (\S+) (SHA256:[A-Za-z0-9+/]{43})")
_OFFENDING = re.compile(r"^Offending \S+ key in (.+):(\d+)$", re.MULTILINE)
_NAMED = re.compile(r"host key is known for (\S+) and")


def fault(target: SshTarget, said: str, code: int | None, ask_again: Callable[[str], str | None]) -> ServerUnreachable:
    """The error for what ssh `said`; `code` is its exit code, None while it runs.

    `ask_again` connects once more, at a given LogLevel, and answers what is said then, or None if that works. It is the
    only way to learn an unknown key's fingerprint, or what went wrong where a shared connection was kept: nobody hears
    the process that keeps it.
    """
    if code == 255 and not _last_line(said):
        again = ask_again("INFO")
        if not again:
            return ServerUnreachable("the connection was lost", transient=again is None)
        said = again
    if any(words in said for words in _CHANGED):
        return _changed(target, said)
    if any(words in said for words in _UNKNOWN):
        return _unknown(target, said, ask_again("DEBUG1") or "")
    line = _last_line(said)
    if any(words in said for words in _LOGIN):
        return ServerUnreachable(
            f"login refused: {line}",
            hint=f"lafs asks for no passwords; this must work: ssh -o BatchMode=yes {target.place}",
        )
    if "subsystem request failed" in said:
        return no_sftp()
    if line:
        return ServerUnreachable(line, transient=any(words in said for words in _TRANSIENT))
    if code is None:
        return ServerUnreachable("ssh did not get through")
    if code < 0:
        return ServerUnreachable(f"ssh was killed by signal {-code}")
    return ServerUnreachable(f"SFTP ended on the server, exit code {code}")


def unknown_key(target: SshTarget, kind: str, fingerprint: str) -> HostKeyUnknown:
    """The error for a host key that nobody vouches for."""
    shown = f": it shows {kind} {fingerprint}" if fingerprint else ""
    return HostKeyUnknown(
        f"the host key of {target.host} is not known{shown}",
        fingerprint=fingerprint,
        hint="if that is the server's own (there: `ssh-keygen -lf` on its public key), `lafs server add … --accept-new`"
        f" accepts and records it; `ssh {target.place}` does too",
    )


def changed_key(target: SshTarget, fingerprint: str, where: str) -> HostKeyChanged:
    """The error for a host key that is not the known one."""
    shown = f": it shows {fingerprint}" if fingerprint else ""
    return HostKeyChanged(
        f"the host key of {target.host} is NOT the known one{shown}; somebody may be listening in",
        fingerprint=fingerprint,
        hint=f"only if the server was made anew on purpose: remove the old key ({where}), then accept the new one",
    )


def no_sftp() -> ServerUnreachable:
    """The error for a server that lets us in and has no SFTP."""
    return ServerUnreachable("the server offers no SFTP", hint="sshd_config there needs a line `Subsystem sftp …`")


def _changed(target: SshTarget, said: str) -> HostKeyChanged:
    shown, offending = _FINGERPRINT.search(said), _OFFENDING.search(said)
    where = f"line {offending[2]} of {escaped(offending[1])}" if offending else "see `ssh-keygen -R`"
    return changed_key(target, shown[0] if shown else "", where)


def _unknown(target: SshTarget, said: str, told: str) -> HostKeyUnknown:
    offered = _OFFERED.search(told)
    if offered is not None:
        return unknown_key(target, escaped(offered[1]), offered[2])
    named = _NAMED.search(said)
    where = f"of {escaped(named[1])} " if named else ""
    # The target itself was never met, so it is a host on the way to it.
    return HostKeyUnknown(
        f"a host key {where}on the way to {target.host} is not known",
        hint=f"connect once by hand and check it: ssh {target.place}",
    )


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines()]
    meant = [line for line in lines if line and not line.startswith(_NOISE)]
    return escaped(meant[-1]) if meant else ""
