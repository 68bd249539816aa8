"""The grid as all threads of a gateway share it: one client, connected once, taken anew when its home changes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from lafscli.client import Client
from lafscli.config.home import Home
from lafscli.config.settings import Config
from lafscli.errors import LafsError, OtherList
from lafscli.formats.caps import Cap, DirectoryCap
from lafscli.gateway.edits import Edits
from lafscli.gateway.recent import Counters, Recent
from lafscli.gateway.spool import Spool
from lafscli.gateway.turns import Turns
from lafscli.tree.contents import Access, content
from lafscli.tree.directory import Directory, parsed

T = TypeVar("T")

_THREADS = 128
_LOOK_SECONDS = 1.0
"""How long the configuration is taken to be as it was."""

_SECRETS = ("convergence", "secret")

_LIST_SECONDS = 10.0
"""How long a new list of the grid's servers is waited for."""

_SWEEP_SECONDS = 3600.0
"""How often it is seen whether servers are due to remove what was staged long ago (once a day)."""

_IN_MEMORY = 256 << 10
"""Bytes of what a client sends that are kept in memory."""

_MOST_DIRECTORIES, _MOST_ENTRIES = 16, 100_000


class Desk:
    """What every request of a gateway goes through. `note` is told what the user should know; it has no caps in it."""

    def __init__(
        self,
        home: Home,
        *,
        limit_rate: int | None = None,
        timeout: int | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.home = home
        self.recent = Recent()
        self.counters = Counters()
        self._make = partial(Client, limit_rate=limit_rate, timeout=timeout, make_lock=threading.RLock)
        self._note = note
        self._lock = threading.Lock()
        self._lent: _Lent | None = None
        self._open: set[_Lent] = set()
        self._looked = 0.0
        self._swept = time.monotonic()
        self._identity: list[object] = []
        self._closed = False
        self._turns = Turns()
        self._edits = Edits()
        self._directories = _Directories()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lafs-gateway")
        self._waiters = ThreadPoolExecutor(_THREADS, thread_name_prefix="lafs-gateway-long")

    def connect(self) -> None:
        """Begin to connect all servers, in the background."""
        with self.client() as client:
            client.grid.connect()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The client, for one operation. UsageError as long as the home has no configuration that can be read."""
        lent = self._take()
        try:
            yield lent.client
        finally:
            self._give_back(lent)

    @contextmanager
    def access(self) -> Iterator[Access]:
        """What reading and writing takes, for one operation."""
        with self.client() as client:
            yield replace(client.access(warn=self._note), edits=self._edits)

    def write(self, call: Callable[[Access], T]) -> T:
        """Have `call` write something. Where the grid has a new list of servers it is called once more, as soon as this
        home has that list too: another lafs process that adds a server writes to the servers first."""
        with self.access() as access:
            try:
                return call(access)
            except OtherList as error:
                refusal = error
        if not self._renewed(access):
            raise refusal
        with self.access() as access:
            return call(access)

    def _renewed(self, access: Access) -> bool:
        """Wait for another configuration than this access is of."""
        until = time.monotonic() + _LIST_SECONDS
        while True:
            with self.client() as client:
                if client.grid is not access.grid or client.membership() != access.publishing.membership:
                    return True
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_SECONDS / 4)

    @contextmanager
    def turn(self, *caps: Cap, shared: bool = False) -> Iterator[None]:
        """Have one thread of this gateway at a time change these objects: waiting here is quicker than there. `shared`:
        or all those that say so, for single changes of directories, which are made together."""
        with self._turns.of(caps, shared=shared):
            yield

    def directory(self, access: Access, cap: DirectoryCap) -> Directory:
        """Read a directory, as `tree.directory.load` does; what was understood of the same table before is used
        again. It is shared: its table is not to be changed."""
        return self._directories.load(access, cap)

    def spool(self) -> Spool:
        """Where to put what a client sends; what is large is hashed for its key as it comes."""
        return Spool(self.home.state / "gateway", os.urandom, _IN_MEMORY, self._key_tag)

    def _key_tag(self) -> bytes | None:
        try:
            with self.access() as access:
                return access.writing.key_tag(access.writing.encoding.segment_size)
        except LafsError:  # as long as there is no configuration, nothing is stored either
            return None

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Call it in a thread of the desk. It may raise anything but StopIteration."""
        if self._closed:
            raise _being_closed()
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *args))

    async def run_long(self, call: Callable[..., T], *args: object) -> T:
        """The same for what waits long for a server that hangs, as all that changes or checks something does: however
        many do, those who only read have threads of their own."""
        return await asyncio.get_running_loop().run_in_executor(self._waiters, partial(call, *args))

    def close(self) -> None:
        """Close every connection, which ends what waits for a server."""
        with self._lock:
            self._closed = True
            self._lent = None
            left = [lent for lent in self._open if not lent.closed]
            for lent in left:
                lent.closed = True
        for lent in left:
            lent.client.close()
        for pool in (self._pool, self._waiters):
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- the client that is lent

    def _take(self) -> _Lent:
        with self._lock:
            if self._closed:
                raise _being_closed()
            old = self._lent
            if old is None or time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._look()
            assert self._lent is not None
            self._lent.users += 1
            lent = self._lent
            now = time.monotonic()
            if now - self._swept >= _SWEEP_SECONDS:
                self._swept = now
                self._waiters.submit(self._sweep)
        if old is not None and old is not lent:
            self._close_unused(old)
        return lent

    def _sweep(self) -> None:
        with suppress(LafsError), self.client() as client:
            client.sweep(client.config.servers)

    def _look(self) -> None:
        """Take the configuration as it is now; as long as it can't be read, the one that was read before counts."""
        identity = self._identity_now()
        self._looked = time.monotonic()
        if self._lent is not None and identity == self._identity:
            return
        try:
            config = Config.load(self.home)
        except LafsError as error:
            if self._lent is None:
                raise
            if identity != self._identity:
                self._note(f"the configuration can't be read, and the one before is used: {error.message}")
            self._identity = identity
            return
        files, known = identity[1:], self._identity[1:]
        self._identity = identity
        if self._lent is not None:
            if files == known and _but_list(config) == _but_list(self._lent.config):
                # the list of the grid's servers, which clients change themselves, takes no new connections
                self._lent.client.config = config
                return
            self._lent.stale = True
        replaced, self._lent = self._lent, _Lent(config, self._make(config))
        self._open.add(self._lent)
        if replaced is not None:
            self._lent.client.grid.connect()

    def _identity_now(self) -> list[object]:
        """What tells whether the configuration or a secret is another than before."""
        return [_identity(path) for path in (self.home.config_file, *map(self.home.path.joinpath, _SECRETS))]

    def _give_back(self, lent: _Lent) -> None:
        with self._lock:
            lent.users -= 1
        self._close_unused(lent)

    def _close_unused(self, lent: _Lent) -> None:
        """Close a client that was replaced, when its last operation has ended."""
        with self._lock:
            over = lent.stale and not lent.users and not lent.closed
            if over:
                lent.closed = True
                self._open.discard(lent)
        if over:
            lent.client.close()


def _being_closed() -> LafsError:
    return LafsError("the gateway is being closed")


class _Lent:
    """A client, the configuration that it was made of, and how many operations use it; `stale` when that has changed
    since."""

    def __init__(self, config: Config, client: Client) -> None:
        self.config = config
        self.client = client
        self.users = 0
        self.stale = False
        self.closed = False


def _but_list(config: Config) -> dict[str, object]:
    return {key: value for key, value in config.table.items() if key != "grid"}


def _identity(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class _Directories:
    """Directories that were understood lately, by digests of their caps and of their tables."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[bytes, Directory]] = OrderedDict()

    def load(self, access: Access, cap: DirectoryCap) -> Directory:
        key = hashlib.sha256(str(cap).encode()).digest()
        known = self._get(key)
        if known is not None and not cap.mutable:
            return known[1]
        data = content(access, cap)
        digest = hashlib.sha256(data).digest()
        if known is not None and known[0] == digest:
            return known[1]
        directory = parsed(cap, data)
        self._keep(key, digest, directory)
        return directory

    def _get(self, key: bytes) -> tuple[bytes, Directory] | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def _keep(self, key: bytes, digest: bytes, directory: Directory) -> None:
        with self._lock:
            self._known[key] = digest, directory
            self._known.move_to_end(key)
            entries = sum(len(one.table) for _, one in self._known.values())
            while self._known and (len(self._known) > _MOST_DIRECTORIES or entries > _MOST_ENTRIES):
                entries -= len(self._known.popitem(last=False)[1][1].table)
