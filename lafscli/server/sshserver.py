"""The SSH server as a whole: an offer, its keys and limits, a listener, and what the processes of that do."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from lafscli.errors import LafsError
from lafscli.server import daemon, hostkey, keys
from lafscli.server.addresses import listening, named
from lafscli.server.callers import Caller, Limits
from lafscli.server.connection import Connection
from lafscli.server.ending import EndingStream, Stopped
from lafscli.server.keys import Key
from lafscli.server.listener import Listener
from lafscli.server.offer import Offer
from lafscli.server.record import Record


class SshServer:
    """The SSH server as a whole: an offer, its limits, its keys. Nothing listens before `run`."""

    def __init__(self, offer: Offer, limits: Limits, record: Record, host_key: Path, authorized_keys: Path) -> None:
        self._offer = offer
        self._limits = limits
        self._record = record
        self._authorized_keys = authorized_keys
        offer.prepare()
        self._host_key, made = hostkey.load_or_make(host_key)
        if made:
            record.note(f"made the host key {host_key}")
        self.fingerprint = self._host_key.fingerprint

    def run(self, host: str, port: int, ready: Callable[[list[str]], None]) -> int:
        """Serve until SIGTERM or SIGINT, whose number is the answer; `ready` hears the addresses that are listened at.
        LafsError where that can't begin."""
        daemon.prepare()
        sockets = listening(host, port)
        listener = Listener(sockets, self._limits, self._record, self._keys, self._connection, self._session)
        return listener.run(lambda: ready([named(each.getsockname()) for each in sockets]))

    def _keys(self) -> dict[bytes, Key]:
        """The keys that may log in, now, each with a root that can be served."""
        found = {}
        for blob, key in keys.load(self._authorized_keys, self._record.note).items():
            try:
                if key.root is not None:
                    self._offer.under(key).prepare()
                found[blob] = key
            except LafsError as error:
                self._record.note(f"key refused: {error.message}", key=key.fingerprint)
        return found

    def _connection(
        self, taken: socket.socket, control: socket.socket, caller: Caller, allowed: dict[bytes, Key]
    ) -> None:
        """The work of a connection process."""
        note = partial(self._record.note, peer=caller.peer, connection=caller.number)
        Connection(taken, control, caller, allowed, self._host_key, self._limits, note).run()

    def _session(self, descriptor: int, caller: Caller, key: Key) -> None:
        """The work of a session process."""
        note = self._record.about(peer=caller.peer, connection=caller.number, key=key.fingerprint)
        idle = self._limits.idle
        stream = EndingStream(descriptor, descriptor, timeout=idle, signals=[signal.SIGTERM])
        with suppress(Stopped):
            self._offer.under(key).serve(stream, who=f"{caller.peer} {key.fingerprint}", idle=idle, note=note)
