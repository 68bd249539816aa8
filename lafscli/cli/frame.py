"""What each command is given: settings, output, and on demand the configuration and the servers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from lafscli.cli.options import Settings
from lafscli.cli.output import Output
from lafscli.errors import LafsError, UsageError

if TYPE_CHECKING:
    from lafscli.client import Client
    from lafscli.config.home import Home
    from lafscli.config.settings import Config
    from lafscli.formats.caps import Cap
    from lafscli.placement import Encoding
    from lafscli.storage.grid import Grid
    from lafscli.tree.contents import Access


class Frame:
    """The surroundings of one command line. `base` is the frame of the batch that it is a line of."""

    def __init__(self, settings: Settings, base: Frame | None = None) -> None:
        self.settings = settings
        self.base = base
        self.out = Output(settings)
        self.connections: Connections = Connections() if base is None else base.connections

    def home(self) -> Home:
        """The home folder, made or not."""
        from lafscli.config.home import Home

        return Home.find(self.settings.home)

    def config(self) -> Config:
        """The configuration; UsageError when there is no home yet."""
        from lafscli.config.settings import Config

        home = self.home()
        for warning in home.examine() if self.base is None else ():
            self.out.warn(warning)
        config = Config.load(home)
        self.settings.adopt(config.table)
        self.out.open_log()
        return config

    def client(self) -> Client:
        """The servers, as the configuration names them."""
        return self.connections.client(self) if self.base is None else self.base.client()

    def client_with_servers(self) -> Client:
        """The same for what can't be done without any: UsageError where none is configured."""
        client = self.client()
        if not client.config.servers:
            raise UsageError("no server is configured", hint="lafs server add NAME URL, or lafs grid import FILE")
        return client

    def grid_for(self, cap: Cap) -> Grid:
        """The servers that have a cap's shares; none for a literal cap, which holds its content."""
        from lafscli.formats.caps import LitCap
        from lafscli.storage.grid import Grid

        if isinstance(cap, LitCap):
            return Grid(())
        return self.client_with_servers().grid

    def access(
        self,
        cap: Cap | None = None,
        encoding: Encoding | None = None,
        *,
        convergent: bool = True,
        strict: bool = False,
    ) -> Access:
        """What reading and writing on the servers takes; a `cap` that holds its content needs no home."""
        from lafscli.formats.caps import DirectoryCap, LitCap

        inner = cap.inner if isinstance(cap, DirectoryCap) else cap
        if isinstance(inner, LitCap) and not self.home().config_file.exists():
            from lafscli.tree.contents import Access

            return Access.nowhere(self.out.warn)
        if inner is not None:
            self.client().begin(inner)
        return self.client().access(encoding, convergent=convergent, strict=strict, warn=self.out.warn)


class Connections:
    """The client of one process: made when first needed, closed once. A context manager."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._stdin_taken = False
        self.transfer: Callable[[], str] | None = None

    def progress_line(self) -> str:
        """One line on what is under way, for SIGUSR1."""
        return f"lafs: {self.transfer() if self.transfer is not None else 'no transfer under way'}"

    def client(self, frame: Frame) -> Client:
        """The client for `frame`, connected when it is first asked for something."""
        from lafscli.client import Client

        if self._client is None:
            config = frame.config()
            settings = frame.settings
            self._client = Client(config, limit_rate=settings.limit_rate, timeout=settings.timeout)
        return self._client

    def forget(self) -> None:
        """Close the client: the configuration changed, or the end."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def take_stdin(self, purpose: str) -> None:
        """Claim stdin, which only one can read; LafsError where it is closed, which is not the same as empty."""
        if self._stdin_taken:
            raise UsageError(f"stdin can't be {purpose}: it is read already")
        try:
            os.read(0, 0)
        except OSError as error:
            raise LafsError(f"cannot read standard input: {error.strerror}") from error
        self._stdin_taken = True

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
