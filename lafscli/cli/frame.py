"""What each command is given: settings, output, and on demand the configuration and the servers."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from lafscli.cli.options import Settings
from lafscli.cli.output import Output
from lafscli.errors import UsageError

if TYPE_CHECKING:
    from lafscli.cli.progress import ShownProgress
    from lafscli.client import Client
    from lafscli.config.home import Home
    from lafscli.config.settings import Config


class Frame:
    """The surroundings of one command line. `connections` may be shared by several (`batch`)."""

    def __init__(self, settings: Settings, connections: Connections | None = None) -> None:
        self.settings = settings
        self.out = Output(settings)
        self.connections = connections if connections is not None else Connections()
        self.shared = connections is not None

    def home(self) -> Home:
        """The home folder, made or not."""
        from lafscli.config.home import Home

        return Home.find(self.settings.home)

    def config(self) -> Config:
        """The configuration; UsageError when there is no home yet."""
        from lafscli.config.settings import Config

        home = self.home()
        for warning in home.examine():
            self.out.warn(warning)
        config = Config.load(home)
        self.settings.adopt(config.table)
        self.out.open_log()
        return config

    def client(self) -> Client:
        """The servers, as the configuration names them."""
        return self.connections.client(self)


class Connections:
    """The client of one process: made when first needed, closed once."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._stack = ExitStack()
        self.stdin_taken = False
        self.progress: ShownProgress | None = None

    def progress_line(self) -> str:
        """One line on what is under way, for SIGUSR1."""
        return f"lafs: {self.progress.line() if self.progress is not None else 'no transfer under way'}"

    def client(self, frame: Frame) -> Client:
        """The client for `frame`, connected when it is first asked for something."""
        from lafscli.client import Client

        if self._client is None:
            config = frame.config()
            self._client = Client(
                config, limit_rate=frame.settings.limit_rate, timeout=frame.settings.timeout, warn=frame.out.warn
            )
            self._stack.callback(self.forget)
        return self._client

    def forget(self) -> None:
        """Close the client: the configuration changed, or the end."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def take_stdin(self, purpose: str) -> None:
        """Claim stdin, which only one can read."""
        if self.stdin_taken:
            raise UsageError(f"stdin can't be {purpose}: it is read already")
        self.stdin_taken = True

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
