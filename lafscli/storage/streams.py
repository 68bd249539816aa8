"""A byte stream to an SFTP server: the system's ssh, or paramiko where there is none (DESIGN §1.3)."""

from __future__ import annotations

import os
import shutil
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from hashlib import sha256
from io import StringIO
from pathlib import Path
from threading import Thread, Timer
from typing import TYPE_CHECKING, Any

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.storage.channel import Stream
from lafscli.storage.packets import escaped
from lafscli.storage.sshcommand import SYSTEM_CONFIG, SshTarget, build_command, control_path, login_home
from lafscli.storage.sshfaults import changed_key, no_sftp, unknown_key
from lafscli.storage.sshprocess import Ends, SharedStream, SshStream

if TYPE_CHECKING:
    import paramiko

_KEEPALIVE = 15
_ENDING = 0.5
_MAX_PACKET = 32 * 1024
_WINDOW = 8 * 1024 * 1024
_PIECE = 256 * 1024
_NEEDS_SSH = "install the OpenSSH client: with it every ssh_config works"


def open_stream(target: SshTarget) -> Stream:
    """Begin a connection; whether it works is found out by talking. ServerUnreachable if it can't even begin.

    Opening takes at most a few seconds where a shared connection turns out to be dead; else it does not wait for the
    network (paramiko does, for `connect_timeout`).
    """
    found = shutil.which(target.ssh_command)
    if target.transport == "paramiko" or (target.transport is None and found is None and target.ssh_command == "ssh"):
        return ParamikoStream(target)
    if found is None:
        raise ServerUnreachable(
            f"there is no program {target.ssh_command}",
            hint="install the OpenSSH client, or use --option transport=paramiko",
        )
    control = control_path(target)
    if control is not None:
        shared = SharedStream.join(target, control)
        if shared is not None:
            return shared
    return SshStream(target, build_command(target, control))


# ---- paramiko --------------------------------------------------------------------------------------------------


class ParamikoStream:
    """A connection made by paramiko, pumped through a socket pair by two threads. Correct; not fast."""

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._client = _paramiko_client(target)
        # Asking for the subsystem has no time-out of its own.
        alarm = Timer(target.connect_timeout, self._client.close)
        alarm.daemon = True
        alarm.start()
        try:
            transport = self._client.get_transport()
            assert transport is not None
            transport.set_keepalive(_KEEPALIVE)
            channel = transport.open_session(_WINDOW, _MAX_PACKET, timeout=target.connect_timeout)
            channel.invoke_subsystem("sftp")
        except Exception as error:
            self._client.close()
            raise _paramiko_fault(target, error) from error
        finally:
            alarm.cancel()
        self._ends = Ends()
        self.read_fd = self.write_fd = self._ends.ours.fileno()
        theirs = self._ends.theirs
        self._pumps = [
            Thread(
                target=_pump,
                args=(lambda: channel.recv(_PIECE), theirs.sendall, lambda: theirs.shutdown(socket.SHUT_WR)),
                daemon=True,
            ),
            Thread(target=_pump, args=(lambda: theirs.recv(_MAX_PACKET), channel.sendall, channel.close), daemon=True),
        ]
        os.close(self._ends.stderr)
        for pump in self._pumps:
            pump.start()

    def explain(self) -> LafsError:
        """The connection was made, so there is little to say."""
        transport = self._client.get_transport()
        error = transport.get_exception() if transport is not None else None
        why = f": {escaped(str(error))}" if error is not None else ""
        return ServerUnreachable(f"the connection was lost{why}", transient=True)

    def close(self) -> None:
        """End the connection and the threads."""
        self._ends.shut()
        self._client.close()
        for pump in self._pumps:
            pump.join(_ENDING)
        if not any(pump.is_alive() for pump in self._pumps):
            self._ends.theirs.close()


def _pump(take: Callable[[], bytes], give: Callable[[bytes], object], end: Callable[[], object]) -> None:
    with suppress(OSError, EOFError):
        while data := take():
            give(data)
    with suppress(OSError, EOFError):
        end()


def _paramiko_client(target: SshTarget) -> paramiko.SSHClient:
    """A logged-in client whose host key was known, or is recorded now."""
    import logging

    import paramiko

    # Else Python prints what paramiko logs.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    settings = _paramiko_settings(target)
    host, port = settings.get("hostname", target.host), target.port or int(settings.get("port", 22))
    name = settings.get("hostkeyalias") or (host if port == 22 else f"[{host}]:{port}")
    entries = list(_known_keys(target, settings, name))
    identities = [target.identity] if target.identity else [Path(path) for path in settings.get("identityfile", [])]

    class Policy(paramiko.MissingHostKeyPolicy):
        """paramiko knows no host keys here, so it always asks."""

        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
            _check_host_key(target, name, key, entries)

    def transport(sock: socket.socket, **options: object) -> paramiko.Transport:
        made = paramiko.Transport(sock, **options)  # type: ignore[arg-type]
        security = made.get_security_options()
        wanted = {key.get_name() for key, _ in entries}
        if "ssh-rsa" in wanted:
            wanted |= {"rsa-sha2-256", "rsa-sha2-512"}
        security.key_types = sorted(security.key_types, key=lambda kind: kind not in wanted)
        return made

    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(Policy())
    wait = target.connect_timeout
    try:
        client.connect(
            host,
            port,
            target.user or settings.get("user"),
            key_filename=[str(path) for path in identities if path.exists()],  # type: ignore[arg-type]
            allow_agent=settings.get("identitiesonly", "no") != "yes" and target.identity is None,
            look_for_keys=not identities,
            timeout=wait,
            banner_timeout=wait,
            auth_timeout=wait,
            channel_timeout=wait,
            transport_factory=transport,  # type: ignore[arg-type]
        )
    except Exception as error:
        client.close()
        raise _paramiko_fault(target, error) from error
    return client


def _paramiko_settings(target: SshTarget) -> Mapping[str, Any]:
    """What paramiko understands of the user's ssh_config for this host."""
    import paramiko

    config = paramiko.SSHConfig()
    paths = [target.ssh_config] if target.ssh_config else [login_home() / ".ssh" / "config", SYSTEM_CONFIG]
    try:
        for path in paths:
            if path.exists():
                config.parse(StringIO(path.read_text()))
        settings = config.lookup(target.host)
    except (OSError, ValueError, ImportError, paramiko.SSHException) as error:
        raise ServerUnreachable(f"ssh_config: {escaped(str(error))}", hint=_NEEDS_SSH) from error
    wanted = {key for key in ("proxyjump", "proxycommand") if settings.get(key, "none") != "none"}
    if wanted or target.ssh_options:
        what = ", ".join([*sorted(wanted), *(option.partition("=")[0] for option in target.ssh_options)])
        raise ServerUnreachable(f"{target.host} is reached with {what}, which paramiko can't do", hint=_NEEDS_SSH)
    return settings


def _known_keys(target: SshTarget, settings: Mapping[str, Any], name: str) -> Iterator[tuple[paramiko.PKey, bool]]:
    """The keys known for a host, and whether each is revoked."""
    from paramiko.hostkeys import HostKeyEntry, HostKeys

    users = (
        [str(target.known_hosts)] if target.known_hosts else settings.get("userknownhostsfile", "~/.ssh/known_hosts")
    )
    files = users if isinstance(users, list) else users.split()
    home = str(login_home())
    paths = [Path(home + file[1:] if file.startswith("~/") else file.strip('"')) for file in files]
    paths += [path for path in (target.home_known_hosts, Path("/etc/ssh/ssh_known_hosts")) if path]
    for path in paths:
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        for line in lines:
            marker, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
            if marker not in ("", "@revoked") or rest.startswith("#"):
                continue
            try:
                entry = HostKeyEntry.from_line(rest)
            except Exception:
                # What paramiko can't read vouches for nobody.
                continue
            if entry is None or entry.key is None:
                continue
            patterns = entry.hostnames
            matches = [
                HostKeys.hash_host(name, pattern) == pattern
                if pattern.startswith("|1|")
                else fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))
                for pattern in patterns
            ]
            if any(matches) and f"!{name}" not in patterns:
                yield entry.key, marker == "@revoked"


def _check_host_key(
    target: SshTarget, name: str, key: paramiko.PKey, entries: Sequence[tuple[paramiko.PKey, bool]]
) -> None:
    """Refuse a key that is not known; record it where that is wanted and no other one is known."""
    fingerprint = f"SHA256:{b64encode(sha256(key.asbytes()).digest()).decode().rstrip('=')}"
    known = [each for each, revoked in entries if not revoked]
    if key in known and (key, True) not in entries:
        return
    if entries:
        raise changed_key(target, fingerprint, f"{name} in known_hosts")
    if not target.accept_new or target.home_known_hosts is None:
        raise unknown_key(target, key.get_name(), fingerprint)
    line = f"{name} {key.get_name()} {key.get_base64()}\n".encode()
    descriptor = os.open(target.home_known_hosts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _paramiko_fault(target: SshTarget, error: Exception) -> ServerUnreachable:
    import paramiko

    if isinstance(error, ServerUnreachable):
        return error
    said = escaped(str(error)) or type(error).__name__
    if isinstance(error, paramiko.AuthenticationException):
        return ServerUnreachable(f"login refused: {said}", hint=f"a key for {target.place} must be at hand")
    if said == "Channel closed.":
        return no_sftp()
    crowded = isinstance(error, EOFError | ConnectionResetError) or "protocol banner" in said
    return ServerUnreachable(said, transient=crowded)
