"""SSH with paramiko: one connection. Public keys and the sftp subsystem, and nothing else."""

from __future__ import annotations

import logging
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import StringIO
from typing import TYPE_CHECKING, Any, Protocol

from lafscli.server.callers import Limits
from lafscli.server.hostkey import HostKey
from lafscli.server.keys import Key, fingerprint

if TYPE_CHECKING:
    import paramiko
    from paramiko.message import Message

_WINDOW = 4 * 1024 * 1024
_MAX_PACKET = 256 * 1024
_LONGEST = _MAX_PACKET + 1024
"""Bytes of one SSH packet."""
_BEFORE_LOGIN = 256 * 1024
"""Bytes that one may send who has not logged in: some kilobytes are needed for each of ten tries."""
_CHANNELS = 100_000
"""One after the other on one connection: paramiko keeps the number of each."""
_LOOK = 0.5
"""Seconds between two looks at the clock."""
_GRACE = 30
"""Seconds by which a session may be the first to find that its client is silent, or takes nothing."""
_LAST_WORDS = 0.5
"""Seconds for passing on what the sessions have said, when the listener hangs up."""

# Of these, what the installed paramiko has. GCM takes a third of the time that CTR and a MAC do.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
_EXCHANGES = (
    *("mlkem768x25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"),
    *("ecdh-sha2-nistp521", "diffie-hellman-group16-sha512"),
)
_NO_SIGNATURES = ("ssh-rsa", "ssh-dss")  # SHA-1


def prepare() -> None:
    """Load what connections need, once for all the processes that come; paramiko's own log goes nowhere."""
    import paramiko  # noqa: F401

    log = logging.getLogger("paramiko")
    log.addHandler(logging.NullHandler())
    log.setLevel(logging.CRITICAL + 1)
    log.propagate = False


class Channel(Protocol):
    """What sessions use of a channel; any call may raise what paramiko raises where the connection is lost."""

    def get_id(self) -> int: ...
    def settimeout(self, timeout: float | None) -> None: ...
    def recv(self, nbytes: int) -> bytes: ...
    def sendall(self, s: bytes) -> None: ...
    def sendall_stderr(self, s: bytes) -> None: ...
    def send_exit_status(self, status: int) -> None: ...
    def close(self) -> None: ...


class SshSide(ABC):
    """The SSH side of one connection: transport, login, channels, and when it ends.

    What is done with it a subclass says: whose key may log in (`admits`), that it has (`logged_in`), what a session is
    (`begin`, and `over` at its end), when we hang up (`hung_up`), and what happens then (`end_sessions`).
    """

    def __init__(
        self, taken: socket.socket, arrived: float, host_key: HostKey, limits: Limits, note: Callable[..., None]
    ) -> None:
        self._wire = _Wire(taken)
        self._arrived = arrived
        self._limits = limits
        self._note = note
        self._lock = threading.Lock()
        self._key: Key | None = None
        self._told = False
        self._user = ""
        self._refused: set[str] = set()
        self._channels: list[paramiko.Channel] = []
        self._opened = 0
        self._numbers: set[int] = set()
        self._last_session = time.monotonic()
        self._transport = self._prepared(host_key)

    # ---- what a subclass says

    @abstractmethod
    def admits(self, user: str, blob: bytes) -> Key | None:
        """The key that may log in, as the lists of keys have it."""

    @abstractmethod
    def logged_in(self, key: Key) -> None:
        """A key has proved itself. Called once."""

    @abstractmethod
    def converse(self, channel: Channel) -> bool:
        """Begin a session on a channel, and go on; whether that went well. At its end `over` is to be called."""

    @abstractmethod
    def hung_up(self, seconds: float) -> bool:
        """Wait so long; whether we are to hang up."""

    @abstractmethod
    def end_sessions(self) -> None:
        """The connection is gone: so are all its sessions."""

    # ---- the connection

    def _prepared(self, host_key: HostKey) -> paramiko.Transport:
        import paramiko

        made: paramiko.Transport = _transport_class()(
            self._wire,
            default_window_size=_WINDOW,
            default_max_packet_size=_MAX_PACKET,
            disabled_algorithms={"pubkeys": list(_NO_SIGNATURES)},
            packetizer_class=_packetizer_class(),
        )
        self._wire.settimeout(_LOOK)  # paramiko looks ten times a second whether it shall end
        made.local_version = "SSH-2.0-lafs"
        made.banner_timeout = made.handshake_timeout = made.auth_timeout = self._limits.login
        made.add_server_key(paramiko.Ed25519Key.from_private_key(StringIO(host_key.pem.decode())))
        security = made.get_security_options()
        security.ciphers = _of(_CIPHERS, security.ciphers)
        security.digests = _of(_MACS, security.digests)
        security.kex = _of(_EXCHANGES, security.kex)
        security.compression = ("none",)
        return made

    def run(self) -> None:
        """Until the client is gone, has no session for too long, or we hang up."""
        transport = self._transport
        transport.start_server(event=threading.Event(), server=_server_class()(self))
        deadline = self._arrived + self._limits.login
        ended = "closed"
        while transport.is_active():
            if self.hung_up(_LOOK):
                ended = "ended by the server"
                self._wait_for_sessions()
                break
            now = time.monotonic()
            if transport.is_authenticated():
                self._tell_login()
                if not self._numbers and now > self._last_session + self._limits.idle:
                    ended = f"ended: no session for {self._limits.idle:g} seconds"
                    break
            elif now > deadline and not self._told:  # whose connection has just ended is not logged in any more
                ended = f"ended: no login within {self._limits.login:g} seconds"
                break
            with self._lock:
                self._collect()
                untaken = [len(each.in_buffer) + len(each.in_stderr_buffer) for each in self._channels]
            if max(untaken, default=0) > 2 * _WINDOW:
                ended = "ended: it sends more than the window allows"  # paramiko does not look
                break
        self._finish(ended)

    def _collect(self) -> None:
        """Hold on to the channels that are open: paramiko itself does not, and one that nobody has is closed."""
        self._channels = [each for each in self._channels if not each.closed]
        while (channel := self._transport.accept(0)) is not None:
            self._channels.append(channel)

    def _wait_for_sessions(self) -> None:
        until = time.monotonic() + _LAST_WORDS
        while self._numbers and time.monotonic() < until and self._transport.is_active():
            time.sleep(0.01)

    def _finish(self, ended: str) -> None:
        self._transport.close()
        self.end_sessions()
        why = self._transport.get_exception()
        if why is not None and str(why) and ended == "closed":
            ended = f"closed: {why}"
        if self._told and self._key is not None:
            self._note(ended, key=self._key.fingerprint)
        else:
            self._note(f"{ended}, before a login" if ended.startswith("closed") else ended)

    # ---- asked by paramiko, in its thread

    def accepts(self, user: str, blob: bytes, plain: bool) -> bool:
        """Whether a key may log in. The last one that may is the one whose signature paramiko then checks."""
        self._user = user
        self._key = self.admits(user, blob) if plain else None
        if self._key is None:
            self._refuse(f"key refused: {fingerprint(blob)}, user {user!r}")
        return self._key is not None

    def _refuse(self, what: str) -> None:
        if what not in self._refused:  # clients ask twice for each key
            self._refused.add(what)
            self._note(what)

    def opens(self) -> bool:
        """Whether one more channel may be opened: for each session one, whether it has asked for it yet or not."""
        self._tell_login()
        with self._lock:
            self._collect()
            self._opened += 1
            return len(self._channels) < self._limits.sessions and self._opened <= _CHANNELS

    def begin(self, channel: Channel) -> bool:
        """Begin a session on a channel; false where it has one, or there are too many."""
        self._tell_login()
        number = channel.get_id()
        with self._lock:
            if number in self._numbers or len(self._numbers) >= self._limits.sessions:
                return False
            self._numbers.add(number)
        channel.settimeout(self._limits.idle + _GRACE)
        if not self.converse(channel):
            self.over(number)
            return False
        return True

    def over(self, number: int) -> None:
        """The session of a channel has ended."""
        with self._lock:
            self._numbers.discard(number)
            self._last_session = time.monotonic()

    def _tell_login(self) -> None:
        """Tell who has logged in, once."""
        with self._lock:
            if self._told or self._key is None:
                return
            self._told = True
            self._wire.allow_all()
        self._note(f"logged in as {self._user!r}", key=self._key.fingerprint)
        self.logged_in(self._key)


class _Wire(socket.socket):
    """The TCP connection; until a login only so many bytes are read from it."""

    def __init__(self, taken: socket.socket) -> None:
        super().__init__(fileno=taken.detach())
        self._limited = True
        self._left = _BEFORE_LOGIN
        for level, option, value in _TCP_OPTIONS:
            with suppress(OSError):
                self.setsockopt(level, option, value)

    def allow_all(self) -> None:
        self._limited = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self._limited:
            return super().recv(size, flags)
        data = super().recv(min(size, max(self._left, 0)), flags)
        self._left -= len(data)
        return data  # b"" at the limit: the end, for who reads


_TCP_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
_TCP_OPTIONS += [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
]


def _of(wanted: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name in there)


def _packetizer_class() -> type[Any]:
    from paramiko.packet import Packetizer
    from paramiko.ssh_exception import SSHException

    class Bounded(Packetizer):
        """Refuses a packet that is longer than we have allowed, before it is read."""

        def read_all(self, n: int, check_rekey: bool = False) -> bytes:
            if n > _LONGEST:
                raise SSHException(f"a packet of {n} bytes")
            return super().read_all(n, check_rekey)

    return Bounded


def _transport_class() -> type[Any]:
    import paramiko

    class Transport(paramiko.Transport):
        """Lets the client's list of ciphers come first, and then offers the quickest kind that stands there.

        A client takes the first of its list that we offer, and the usual ones have GCM at the end.
        """

        _client_first = True
        _offer_gcm_alone = False

        @property
        def preferred_ciphers(self) -> tuple[str, ...]:
            all_of_them = tuple(super().preferred_ciphers)
            gcm = tuple(name for name in all_of_them if "-gcm@" in name)
            return gcm if gcm and self._offer_gcm_alone else all_of_them

        def _send_kex_init(self) -> None:
            if self._client_first:
                self._client_first = False
                self.in_kex = True  # paramiko sends it in answer to the client's
                return
            super()._send_kex_init()  # type: ignore[misc]

        def _negotiate_keys(self, m: Message) -> None:
            self._client_first = False
            lists = type(m)(m.asbytes())
            lists.get_bytes(16)  # the cookie
            _, _, to_us, from_us = (lists.get_list() for _ in range(4))
            self._offer_gcm_alone = all(any("-gcm@" in name for name in names) for names in (to_us, from_us))
            super()._negotiate_keys(m)  # type: ignore[misc]

    return Transport


def _server_class() -> type[Any]:
    import paramiko
    from paramiko import common

    class Server(paramiko.ServerInterface):
        """What a client may do. All that is not here, paramiko refuses."""

        def __init__(self, connection: SshSide) -> None:
            self._connection = connection

        def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
            return "publickey"

        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            plain = getattr(key, "public_blob", None) is None  # no certificate: nobody here could judge it
            good = self._connection.accepts(username, key.asbytes(), plain)
            return common.AUTH_SUCCESSFUL if good else common.AUTH_FAILED

        def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
            if kind != "session":
                return common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
            return common.OPEN_SUCCEEDED if self._connection.opens() else common.OPEN_FAILED_RESOURCE_SHORTAGE

        def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
            return name == "sftp" and self._connection.begin(channel)

    return Server
