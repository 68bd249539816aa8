"""The web server: sockets, TLS, patience with clients, and an end within two seconds of a signal."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lafscli.errors import UsageError
from lafscli.gateway.app import application
from lafscli.gateway.desk import Desk
from lafscli.gateway.files import CONNECTION
from lafscli.gateway.hosts import Hosts
from lafscli.server.addresses import listening, named

_GRACE = 1
"""Seconds that answers under way may take when a signal has come."""
_END = 1.5
"""Seconds after which the process ends in any case."""

_KEEP_ALIVE = 75
_HEAD_SECONDS = 60.0
_HEAD_BYTES = 128 << 10
_LINGER = 1.0
_MOST_CONNECTIONS = 1000
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 34\r\nconnection: close\r\n\r\nthe head of a request is too large"
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a certificate (with its chain) and its key, in PEM."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """UsageError where they can't be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            said = "they are no certificate and key in PEM that belong together"
            raise UsageError(f"cannot use {self.certificate} and {self.key}: {said}") from error
        except OSError as error:
            raise UsageError(f"cannot read {self.certificate} and {self.key}: {error.strerror}") from error
        return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def serve(
    desk: Desk,
    address: tuple[str, int],
    *,
    allowed: Sequence[str] = (),
    tls: Tls | None = None,
    unlinked: bool = True,
    ready: Callable[[list[str]], None],
    note: Callable[[str], None],
    every: bool = False,
    patience: float = 300.0,
) -> int:
    """Serve until a signal, whose number is the answer; `ready` hears the addresses that are listened at. With
    `every` each request is noted, else what went wrong. LafsError where that can't begin."""
    context = None if tls is None else tls.context()
    sockets = listening(*address)
    addresses = [each.getsockname()[:2] for each in sockets]
    hosts = Hosts(addresses, [each.lower() for each in allowed], tls is not None)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        application(desk, hosts, unlinked=unlinked, note=note, every=every, patience=patience),
        http=_Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    desk.connect()
    try:
        return asyncio.run(_until_signalled(server, sockets, lambda: ready([named(each) for each in addresses])))
    finally:
        desk.close()


async def _until_signalled(server: _Server, sockets: list[socket.socket], ready: Callable[[], None]) -> int:
    heard: list[int] = []

    def end(number: int) -> None:
        if heard:
            server.force_exit = True
            return
        heard.append(number)
        server.should_exit = True
        # threads may wait for a server that hangs, and are not waited for
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
        signal.setitimer(signal.ITIMER_REAL, _END)
        # behind all threads: at the very end Python forgets the handler, and the alarm would be what ends us
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    ready()
    await server.serve(sockets=sockets)
    return heard[0] if heard else 0


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Connection(HttpToolsProtocol):
    """A connection that does not wait for ever, and whose transport the application can end."""

    _head = 0
    _arrived = 0
    _in_head = False
    _refused = False
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # head and body go out as they are written; asyncio sets this only where it sees that it is TCP
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._be_patient()
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience_over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._arrived = len(data)
        super().data_received(data)
        if not self._in_head:
            return
        self._head += len(data)
        if self._head > _HEAD_BYTES and not self.transport.is_closing():
            self._too_large()

    def send_400_response(self, msg: str) -> None:
        """A head that came in one piece is refused in the same words as one that came in several."""
        if self._head + self._arrived > _HEAD_BYTES:
            self._too_large()
        else:
            super().send_400_response(msg)

    def _too_large(self) -> None:
        if self._refused:
            return
        self._refused = True
        self.transport.write(_TOO_LARGE)
        # the rest is read for a while: the system forgets the answer if it is closed with something unread
        self.loop.call_later(_LINGER, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._in_head = True
        self._be_patient()
        self.scope["extensions"] = {CONNECTION: self.transport}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._patience_over()
        super().on_headers_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long: what was sent and not taken will not be."""
        self.transport.abort()

    def _be_patient(self) -> None:
        self._patience_over()
        self._patience = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _patience_over(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
