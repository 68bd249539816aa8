"""From a configuration to the servers: connects them, holds the defaults, closes everything.

What only some commands need is imported where it is used: connecting begins that much earlier.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from lafscli.client.reaching import open_files, record_of, server_of
from lafscli.config import secrets
from lafscli.config.servers import ServerRecord
from lafscli.config.settings import Config
from lafscli.errors import Conflict, LafsError, NotHappy, Unreachable
from lafscli.placement import Encoding
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid, shared_rate
from lafscli.storage.store import Files

if TYPE_CHECKING:
    from lafscli.config.home import Home
    from lafscli.formats.caps import Cap
    from lafscli.health.members import Listed
    from lafscli.immutable.pipeline import Codec
    from lafscli.immutable.upload import Writing
    from lafscli.storage.lists import Changing
    from lafscli.storage.membership import Membership
    from lafscli.storage.memory import Seen
    from lafscli.tree.contents import Access

_DAY = 24 * 3600
_SWEEP_SECONDS = 3


class Client:
    """The servers of a configuration. Nothing connects before it is asked; `close` ends it all.

    `limit_rate` (bytes a second, all servers together) and `timeout` (seconds) override what the servers' options say.
    `make_lock`: where several threads share it, what makes a lock that a thread may take again.
    """

    def __init__(
        self,
        config: Config,
        *,
        limit_rate: int | None = None,
        timeout: int | None = None,
        make_lock: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.config = config
        self._make_lock = make_lock
        self._lock = make_lock()
        self._timeout = timeout
        self._rate = None if limit_rate is None else shared_rate(limit_rate)
        self._grid: Grid | None = None
        self._seen: Seen | None = None
        self._codec: Codec | None = None
        self._list: tuple[Config, Membership | None] | None = None
        self._secrets: dict[str, bytes] = {}

    @property
    def grid(self) -> Grid:
        """All servers."""
        with self._lock:
            if self._grid is None:
                self._grid = Grid([self._store(record) for record in self.config.servers.values()])
            return self._grid

    def _store(self, record: ServerRecord) -> FolderStore:
        return FolderStore(
            server_of(record),
            self.files(record),
            random_bytes=os.urandom,
            sync=self.config.durable,
            lock_seconds=self.config.lock_seconds,
        )

    def files(self, record: ServerRecord) -> Files:
        """A connection of its own to a server's folder."""
        return open_files(
            self.config, record.name, record.address, record.options, timeout=self._timeout, rate=self._rate
        )

    def record(self, name: str) -> ServerRecord:
        """The record of a server; NotFound when there is none of that name."""
        return record_of(self.config, name)

    def begin(self, cap: Cap) -> None:
        """Connect in the background the servers that a reader of this object asks first: that takes a tenth of a
        second, in which the rest of the program can be loaded."""
        si, grid = cap.storage_index, self.grid
        if si is not None:
            grid.connect(None if cap.mutable else grid.permuted(si)[: self.config.encoding.k])

    def writing(self, encoding: Encoding, *, convergent: bool) -> Writing:
        """What an upload needs to know of this home."""
        from lafscli.immutable.upload import Writing
        from lafscli.storage.journal import Journal

        home = self.config.home
        convergence = self._secret("convergence", secrets.convergence) if convergent else None
        lease_secret = self._secret("lease", secrets.lease_secret)
        journal = Journal(home.state / "uploads")
        return Writing(encoding, convergence, lease_secret, int(time.time()), os.urandom, journal)

    def _secret(self, name: str, read: Callable[[Home], bytes]) -> bytes:
        if name not in self._secrets:
            self._secrets[name] = read(self.config.home)
        return self._secrets[name]

    def access(
        self,
        encoding: Encoding | None = None,
        *,
        convergent: bool = True,
        strict: bool = False,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Access:
        """What reading and writing takes, in the configured encoding unless another is given. `strict`: a slot that
        was seen in a newer version before is not read."""
        from lafscli.immutable.pipeline import Codec
        from lafscli.mutable.publish import Publishing
        from lafscli.mutable.retrieve import Reading
        from lafscli.storage.memory import Seen
        from lafscli.tree.contents import Access

        chosen = encoding or self.config.encoding
        with self._lock:
            if self._seen is None:
                self._seen = Seen(self.config.home.state / "seen.sqlite", lock=self._make_lock())
            if self._codec is None:
                self._codec = Codec()
            seen, codec = self._seen, self._codec
        writing, lists = self.writing(chosen, convergent=convergent), self.membership()
        world = seen, time.monotonic, time.sleep
        publishing = Publishing(
            chosen,
            writing.lease_secret,
            writing.now,
            os.urandom,
            *world,
            membership=lists,
            codec=codec,
            make_list=self._make_list,
        )
        reading = Reading(*world, os.urandom, strict, membership=lists, codec=codec)
        return Access(self.grid, writing, publishing, reading, time.time(), warn)

    def sweep(self, names: Collection[str]) -> None:
        """Once a day: have these servers remove what was staged more than a day ago, by their own clocks (DESIGN §1.9).
        Nobody waits for a slow one."""
        marks = self.config.home.state / "swept"

        def due(name: str) -> bool:
            try:
                return time.time() - (marks / name).stat().st_mtime >= _DAY
            except OSError:
                return True

        stores = [store for store in self.grid.stores if store.server.name in names and store.server.writable]
        answers = self.grid.ask(
            lambda store: store.sweep_staging(_DAY), [store for store in stores if due(store.server.name)]
        )
        while (answer := answers.poll(_SWEEP_SECONDS)) is not None:
            if not isinstance(answer.value, LafsError):
                with suppress(OSError):
                    marks.mkdir(mode=0o700, parents=True, exist_ok=True)
                    (marks / answer.store.server.name).touch()

    def membership(self) -> Membership | None:
        """The list of the grid's servers, as far as this home knows it."""
        from lafscli.health import members

        config, parsed = self.config, self._list
        if parsed is None or parsed[0] is not config:
            parsed = self._list = config, members.known_list(config)
        return parsed[1]

    def require_members(self) -> None:
        """UsageError as long as servers of the grid's list are not configured here: nothing mutable is written then."""
        from lafscli.mutable.majority import require_members

        if (known := self.membership()) is not None:
            require_members(known, [server_of(record) for record in self.config.servers.values()])

    def _make_list(self) -> Membership | None:
        """The list of a home that is to write something mutable: made, or its servers' taken over, if it has none."""
        from lafscli.health import members

        with members.changing_lists(self.config) as config:
            known = members.known_list(config)
            if known is None and (known := members.made(self.grid, None, self.changing())) is not None:
                listed = known
                config = config.edit(lambda table: members.keep_list(table, listed))
            self.config = config
        return known

    def changing(self, *, lost: ServerRecord | None = None, force: bool = False) -> Changing:
        """How the list is changed; `lost`: a server that is given up."""
        from lafscli.storage.lists import Changing

        return Changing(os.urandom, frozenset() if lost is None else frozenset((lost.node_id,)), force)

    def drop_earlier(self) -> Listed:
        """After a complete repair of all roots: drop the lists of servers before the current one, if nothing depends
        on them any more (spec 10 §2.7), and keep what became of it."""
        from lafscli.health import members
        from lafscli.health.members import Listed

        if (known := self.membership()) is None or not known.earlier:
            return Listed(known)
        with members.changing_lists(self.config) as config:
            known, n = members.known_list(config), config.encoding.n
            try:
                listed = members.all_dropped(self.grid, known, self.changing(), n=n)
            except (NotHappy, Conflict, Unreachable) as error:
                return Listed(known, [error.message])
            self.config = config.edit(lambda table: members.keep_list(table, listed.membership))
        return listed

    def close(self) -> None:
        """Close every connection; what waits for a server is woken by that."""
        grid, self._grid = self._grid, None
        if grid is not None:
            grid.close()
        if self._codec is not None:
            self._codec.close()
        if self._seen is not None:
            self._seen.close()
