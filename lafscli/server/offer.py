"""What is served: a root folder under a policy; what the options of a key make of it; one conversation about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lafscli.errors import LafsError
from lafscli.server import session
from lafscli.server.backend import Refused
from lafscli.server.keys import Key
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.streams import FdStream


@dataclass(frozen=True, slots=True)
class Offer:
    """A root under a policy. `home`: the login user's home folder, where relative paths of clients begin."""

    root: Path
    policy: Policy
    home: Path | None = None

    def under(self, key: Key) -> Offer:
        """What is served to one key: its options only take away. A relative `lafs-root` begins at our root."""
        policy = replace(
            self.policy,
            append_only=self.policy.append_only or key.append_only,
            read_only=self.policy.read_only or key.read_only,
        )
        return replace(self, root=self.root if key.root is None else self.root / key.root, policy=policy)

    def prepare(self) -> None:
        """Make the folders and `server.toml`, as far as they are not there; LafsError where that can't be."""
        self.make_root()
        self._backend("", lambda _: None).close()

    def make_root(self) -> None:
        """Make the root folder, and none above it: where a disk is not mounted, nothing shall grow in its place."""
        if self.policy.read_only:
            return
        try:
            with suppress(FileExistsError):
                self.root.mkdir(mode=0o700)
        except OSError as error:
            raise LafsError(f"cannot make {self.root}: {error.strerror}") from error

    def serve(self, stream: FdStream, *, who: str, idle: float | None, note: Callable[[str], None]) -> None:
        """Answer one client, on a stream that is closed at the end."""
        try:
            backend = self._backend(who, note, stream.gone)
        except LafsError:
            stream.close()
            raise
        session.serve(stream, backend, idle=idle, note=note)

    def _backend(self, who: str, note: Callable[[str], None], gone: Callable[[], bool] = lambda: False) -> PolicyFiles:
        try:
            return PolicyFiles(self.root, self.policy, home=self.home, who=who, note=note, gone=gone)
        except OSError as error:
            raise LafsError(f"cannot serve {self.root}: {error.strerror}") from error
        except Refused as refusal:
            raise LafsError(f"cannot serve {self.root}: {refusal.message}") from refusal
