"""The home folder: where it is, who may look into it, and writing in it so that nothing is half there (CLI.md §3)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets as randomness
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lafscli.config import environment
from lafscli.errors import Busy, LafsError, UsageError

LOCK_PATIENCE = 10


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one home. The default home spreads over the XDG base folders; a home that was named is one folder."""

    path: Path
    state: Path
    data: Path

    @classmethod
    def find(cls, named: str | None) -> Home:
        """The home that `named` (--home, LAFS_HOME) says, else the default one. It need not exist."""
        if named is not None:
            path = Path(os.path.abspath(Path(named).expanduser()))
            return cls(path, path / "state", path)
        return cls(
            environment.base("XDG_CONFIG_HOME", ".config") / "lafs",
            environment.base("XDG_STATE_HOME", ".local/state") / "lafs",
            environment.base("XDG_DATA_HOME", ".local/share") / "lafs",
        )

    @property
    def config_file(self) -> Path:
        """The configuration; a home exists when it does."""
        return self.path / "config.toml"

    @property
    def known_hosts(self) -> Path:
        """Host keys that lafs accepted or imported."""
        return self.path / "known_hosts"

    def make(self) -> list[str]:
        """Make the folder, 0700; warnings about one that was there with something in it. UsageError where a file is."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not any(self.path.iterdir()):
                self.path.chmod(0o700)  # an empty folder that was made for us with a wider mode
            if stat.S_IMODE(self.path.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH):
                return [f"others may look into {self.path}: chmod 700 {self.path}"]
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{self.path} is not a folder", hint="name another: lafs --home DIR") from None
        except OSError as error:
            raise LafsError(f"cannot make {self.path}: {error.strerror}") from error
        return []

    def examine(self) -> list[str]:
        """Warnings about who may read it; UsageError where others may write, as ssh treats its own files."""
        warnings: list[str] = []
        for path in (self.path, self.config_file, *(self.path / name for name in SECRETS)):
            try:
                found = path.stat()
            except OSError:
                continue
            if found.st_uid not in (os.geteuid(), 0):
                raise UsageError(f"{path} belongs to another user", hint="lafs uses only files of your own")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UsageError(f"others may write {path}", hint=f"chmod go-w {path}")
            if path.name in SECRETS and found.st_mode & (stat.S_IRGRP | stat.S_IROTH):
                warnings.append(f"others may read the secrets in {path}: chmod 600 {path}")
        return warnings

    @contextlib.contextmanager
    def locked(self, name: str = ".lock", patience: int = LOCK_PATIENCE, *, shared: bool = False) -> Iterator[None]:
        """Hold the home's lock: for reading, changing and writing back one of its files. Waits for others, who hold
        it for moments; Busy after LOCK_PATIENCE seconds, LafsError where it can't be made. Another `name`: another
        lock, outside this one. `shared`: by all who say so."""
        path = self.path / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LafsError(f"cannot write {path}: {error.strerror}") from error
        try:
            until = time.monotonic() + patience
            while not _taken(handle, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                if time.monotonic() > until:
                    raise Busy(f"another lafs process holds {path} for more than {patience} seconds")
                time.sleep(0.02)
            yield
        finally:
            os.close(handle)

    def add_host_keys(self, keys: Iterable[str]) -> int:
        """Append lines to the known host keys, under the home's lock; how many were new."""
        try:
            text = self.known_hosts.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            text = ""
        known = text.splitlines()
        new = [key for key in dict.fromkeys(keys) if key not in known]
        if new:
            text += "" if text.endswith("\n") or not text else "\n"
            write_atomically(self.known_hosts, (text + "\n".join(new) + "\n").encode("utf-8", "surrogateescape"))
        return len(new)

    def runtime(self) -> Path:
        """A folder of this user and this boot for sockets, 0700: made now; UsageError when another owns the name."""
        given = environment.variable("XDG_RUNTIME_DIR")
        if given is not None and given.startswith("/") and os.access(given, os.W_OK | os.X_OK):
            path = Path(given) / "lafs"
        else:
            path = Path(tempfile.gettempdir()) / f"lafs-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()  # not stat: a link to another's folder is not ours
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UsageError(f"{path} is not a folder of yours", hint="set XDG_RUNTIME_DIR or TMPDIR to one that is")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
        return path


SECRETS = ("aliases", "convergence", "secret", "pins")


def _taken(handle: int, path: Path, kind: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise LafsError(f"cannot lock {path}: {error.strerror}") from error
    return True


def write_atomically(path: Path, content: bytes, mode: int = 0o600, *, replace: bool = True) -> None:
    """Put a file in place, whole and durable, or leave what was there; without `replace` that is an error."""
    temporary = path.with_name(f".{path.name}.{randomness.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(path)
        else:
            _move_to_free_name(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _move_to_free_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, as on most memory sticks: take the name, then replace that
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            temporary.rename(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def sync_folder(path: Path) -> None:
    """Make a rename durable; some file systems can't, and then it is theirs to answer for."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
