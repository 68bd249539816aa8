"""From a configuration to the servers: connects them, holds the defaults, closes everything."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lafscli.config import environment, secrets
from lafscli.config.quantities import parse_duration, parse_size
from lafscli.config.servers import Address, OptionValue, ServerRecord
from lafscli.config.settings import Config, parse_persist
from lafscli.errors import FileError, FileMissing, LafsError, NotFound, ServerError, UsageError
from lafscli.health import members
from lafscli.health.members import Listed
from lafscli.immutable.pipeline import Codec
from lafscli.immutable.upload import Writing
from lafscli.mutable.majority import require_members
from lafscli.mutable.publish import Publishing
from lafscli.mutable.retrieve import Reading
from lafscli.placement import Encoding
from lafscli.recovery import GridFile
from lafscli.storage.enrol import Enrolment, enrol, make_folders
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid, shared_rate
from lafscli.storage.hostkeys import resolve
from lafscli.storage.journal import Journal
from lafscli.storage.lists import Changing
from lafscli.storage.local import LocalFiles
from lafscli.storage.membership import Membership
from lafscli.storage.memory import Seen
from lafscli.storage.rate import RateLimit
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.store import Files, Server
from lafscli.storage.streams import open_stream
from lafscli.tree.contents import Access

DEFAULT_TIMEOUT = "60s"
DEFAULT_CONNECT_TIMEOUT = "15s"
_DAY = 24 * 3600
_SWEEP_SECONDS = 3


class Client:
    """The servers of a configuration. Nothing connects before it is asked; `close` ends it all.

    `limit_rate` (bytes a second, all servers together) and `timeout` (seconds) override what the servers' options say.
    """

    def __init__(self, config: Config, *, limit_rate: int | None = None, timeout: int | None = None) -> None:
        self.config = config
        self._timeout = timeout
        self._rate = None if limit_rate is None else shared_rate(limit_rate)
        self._grid: Grid | None = None
        self._seen: Seen | None = None
        self._codec: Codec | None = None

    @property
    def grid(self) -> Grid:
        """All servers."""
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

    def writing(self, encoding: Encoding, *, convergent: bool) -> Writing:
        """What an upload needs to know of this home."""
        home = self.config.home
        convergence = secrets.convergence(home) if convergent else None
        journal = Journal(home.state / "uploads")
        return Writing(encoding, convergence, secrets.lease_secret(home), int(time.time()), os.urandom, journal)

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
        chosen = encoding or self.config.encoding
        if self._seen is None:
            self._seen = Seen(self.config.home.state / "seen.sqlite")
        if self._codec is None:
            self._codec = Codec()
        writing, lists = self.writing(chosen, convergent=convergent), self.membership()
        world = self._seen, time.monotonic, time.sleep
        publishing = Publishing(
            chosen,
            writing.lease_secret,
            writing.now,
            os.urandom,
            *world,
            membership=lists,
            codec=self._codec,
            make_list=self._make_list,
        )
        reading = Reading(*world, os.urandom, strict, membership=lists, codec=self._codec)
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
        return members.known_list(self.config)

    def require_members(self) -> None:
        """UsageError as long as servers of the grid's list are not configured here: nothing mutable is written then."""
        if (known := self.membership()) is not None:
            require_members(known, [server_of(record) for record in self.config.servers.values()])

    def _make_list(self) -> Membership | None:
        """The list of a home that is to write something mutable: made, or its servers' taken over, if it has none."""
        with members.changing_lists(self.config) as config:
            known = members.known_list(config)
            if known is None and (known := members.made(self.grid, None, self.changing())) is not None:
                listed = known
                config = config.edit(lambda table: members.keep_list(table, listed))
            self.config = config
        return known

    def changing(self, *, lost: ServerRecord | None = None, force: bool = False) -> Changing:
        """How the list is changed; `lost`: a server that is given up."""
        return Changing(os.urandom, frozenset() if lost is None else frozenset((lost.node_id,)), force)

    def drop_earlier(self) -> Listed:
        """After a complete repair of all roots: drop the lists of servers before the current one, if nothing depends
        on them any more (spec 10 §2.7), and keep what became of it."""
        if (known := self.membership()) is None or not known.earlier:
            return Listed(known)
        with members.changing_lists(self.config) as config:
            known, n = members.known_list(config), config.encoding.n
            listed = members.all_dropped(self.grid, known, self.changing(), n=n)
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


def server_of(record: ServerRecord) -> Server:
    """A server as the rooms below know it."""
    mutable = record.options.get("mutable") != "no"
    writable = not record.readonly
    return Server(record.name, record.node_id, record.seed, record.site, writable, record.features, mutable)


def record_of(config: Config, name: str) -> ServerRecord:
    """The record of a server; NotFound when there is none of that name."""
    if name not in config.servers:
        known = ", ".join(config.servers) or "none"
        raise NotFound(f"no server is called {name!r}", hint=f"there are: {known}")
    return config.servers[name]


def open_files(
    config: Config | None,
    name: str,
    address: Address,
    options: Mapping[str, OptionValue],
    *,
    timeout: int | None = None,
    rate: RateLimit | None = None,
    accept_new: bool = False,
) -> Files:
    """Files below the folder of an address. `config` gives the defaults; a folder of this machine needs none."""
    if address.host is None:
        return LocalFiles(Path(address.path), name=name, sync_folders=config is None or config.durable)
    assert config is not None
    target = ssh_target(config, address.host, address, options, timeout=timeout, accept_new=accept_new)
    limit = options.get("limit-rate")
    if rate is None and isinstance(limit, str):
        rate = RateLimit(parse_size(limit))
    return SftpFiles(
        lambda: open_stream(target),
        address.path if address.path.startswith("/") else "~" if address.path == "." else f"~/{address.path}",
        name=name,
        timeout=target.timeout,
        connect_timeout=target.connect_timeout,
        rate=rate,
    )


def ssh_target(
    config: Config,
    host: str,
    address: Address,
    options: Mapping[str, OptionValue],
    *,
    timeout: int | None = None,
    accept_new: bool = False,
) -> SshTarget:
    """How ssh gets to `host`: the server's options, with the defaults of the configuration. A time-out that is asked
    for on the command line counts for connecting too where it is shorter."""

    def text(key: str) -> str | None:
        value = options.get(key)
        return value if isinstance(value, str) else None

    def path(key: str) -> Path | None:
        value = text(key)
        return None if value is None else Path(value)

    persist = options.get("persist")
    extra = options.get("ssh-option", [])
    patience = timeout or parse_duration(text("timeout") or DEFAULT_TIMEOUT)
    connecting = parse_duration(text("connect-timeout") or DEFAULT_CONNECT_TIMEOUT)
    run_dir: Path | None = None
    with contextlib.suppress(UsageError, OSError):  # no folder that is surely ours: no shared connections
        run_dir = config.home.runtime()
    return SshTarget(
        host=host,
        port=address.port,
        user=address.user,
        transport=text("transport"),
        ssh_command=environment.variable("LAFS_SSH") or text("ssh-command") or "ssh",
        ssh_config=path("ssh-config"),
        identity=path("identity"),
        known_hosts=path("known-hosts"),
        ssh_options=(extra,) if isinstance(extra, str) else tuple(extra),
        connect_timeout=connecting if timeout is None else min(connecting, timeout),
        timeout=patience,
        persist=(config.persist if persist is None else parse_persist(persist)) or 0,
        home_known_hosts=config.home.known_hosts,
        run_dir=run_dir,
        accept_new=accept_new,
    )


def enrol_server(
    config: Config | None,
    name: str,
    url: str,
    *,
    readonly: bool = False,
    site: str | None = None,
    node_id: bytes | None = None,
    seed: bytes | None = None,
    options: Mapping[str, OptionValue] | None = None,
    accept_new: bool = False,
    timeout: int | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[ServerRecord, Membership | None]:
    """Connect to a server that is to be added, find out or tell it who it is, and try what it can do: its record, and
    the list of a grid's servers that it has already.

    Its folder is made, with those that it stands in. Raises what refuses it: ServerError, HostKeyUnknown.
    """
    address, given = Address.parse(url), options or {}
    if accept_new and config is not None:
        with suppress(OSError):  # ssh, which adds the key, would make the file for all to read
            os.close(os.open(config.home.known_hosts, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    files = open_files(config, name, address, given, timeout=timeout, accept_new=accept_new)

    def ask() -> Enrolment:
        mutable = given.get("mutable") != "no"
        return enrol(files, node_id=node_id, seed=seed, readonly=readonly, random_bytes=os.urandom, mutable=mutable)

    try:
        try:
            found = ask()
        except FileMissing:
            if readonly:
                raise
            _make(config, name, address, given, timeout)
            found = ask()
    except ServerError as error:
        error.server = error.server or name
        raise
    finally:
        files.close()
    for warning in found.warnings:
        warn(f"server {name}: {warning}")
    record = ServerRecord(name, url, found.node_id, found.seed, readonly, site, given, found.features)
    return record, found.membership


def _make(
    config: Config | None, name: str, address: Address, options: Mapping[str, OptionValue], timeout: int | None
) -> None:
    """Make the folder of an address, with those that it stands in: from `/`, or from the login folder."""
    absolute = address.path.startswith("/")
    above = replace(address, path="/" if absolute else ".")
    files = open_files(config, name, above, options, timeout=timeout)
    try:
        files.connect()
        make_folders(files, address.path.strip("/"))
    except FileError as error:
        folder = address.path if absolute else f"~/{address.path}"
        raise ServerError(f"the folder {folder} can't be made ({error.message})", server=name) from error
    finally:
        files.close()


def entered(
    config: Config,
    record: ServerRecord,
    theirs: Membership | None,
    client: Callable[[Config], Client],
    *,
    lost: ServerRecord | None = None,
) -> Listed:
    """Have a server that is to be added take part in the grid (members.py). `client` connects a configuration."""
    joined = client(replace(config, servers={**config.servers, record.name: record}))
    try:
        known, n = members.known_list(config), config.encoding.n
        return members.entered(joined.grid, known, server_of(record), theirs, joined.changing(lost=lost), n=n)
    finally:
        joined.close()


def left(config: Config, record: ServerRecord, client: Callable[[Config], Client], *, force: bool) -> Listed:
    """Have a server leave the grid's list."""
    leaving = client(config)
    try:
        known, n = members.known_list(config), config.encoding.n
        return members.left(leaving.grid, known, server_of(record), leaving.changing(force=force), n=n)
    finally:
        leaving.close()


def exported(config: Config, warn: Callable[[str], None]) -> GridFile:
    """What `grid export` writes: servers under the addresses that this machine's ssh resolves, and the host keys that
    it knows of them."""
    servers: dict[str, ServerRecord] = {}
    host_keys: dict[str, list[str]] = {}
    for name, record in config.servers.items():
        servers[name] = record
        if record.address.host is None:
            warn(f"server {name} is a folder of this machine: others can't reach it")
            continue
        found = resolve(ssh_target(config, record.address.host, record.address, record.options))
        port = found.port if found.port != 22 else None
        url = str(replace(record.address, host=found.host, port=port, user=found.user))
        try:
            Address.parse(url)
        except UsageError:
            warn(f"server {name}: the address that your ssh_config says is written as {record.url}")
        else:
            servers[name] = replace(record, url=url)
        if found.through is not None:
            warn(f"server {name} is reached through {found.through}: others need the same in their ssh_config")
        host_keys[name] = found.keys
        if not found.keys:
            warn(f"server {name}: no host key is known here; others must accept one themselves")
    return GridFile(config.encoding, servers, host_keys, members.known_list(config))
