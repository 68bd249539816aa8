"""The command line that reaches a server with the user's own ssh (CLI.md §3).

The user's ssh_config is obeyed. What it leaves open (`ssh -G` tells) gets a connect time-out, keepalives and a shared
connection; what would spoil a byte stream is switched off.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_FLAGS = ("-T", "-x", "-a")
_FIXED = (
    "BatchMode=yes",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "VisualHostKey=no",
    "LogLevel=INFO",
)
_KEEPALIVE = 15
_ASKING = 10.0
# A Unix socket's name has 104 bytes on some systems; ssh puts 18 more behind the name while it makes one.
_LONGEST_SOCKET = 86
_GCM, _CHACHA = "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"
_CTR, _STRONGER = "aes128-ctr,aes192-ctr,aes256-ctr", "aes256-gcm@openssh.com"
_USUAL_CIPHERS = (f"{_CHACHA},{_CTR},{_GCM},{_STRONGER}", f"{_CHACHA},{_GCM},{_STRONGER},{_CTR}")
"""What OpenSSH offers where nobody configured anything: since 7.6, and since 10.0."""
_CPUINFO = Path("/proc/cpuinfo")
_ONE_PROCESSOR = 8192  # bytes that hold the first one's flags; the kernel takes its time for hundreds of them
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"


@dataclass(frozen=True, kw_only=True)
class SshTarget:
    """How to reach a server; what is None is left to the user's ssh_config.

    `transport` is ssh, paramiko, or None: ssh where it is found. Times are in seconds; `persist` 0 shares no
    connections. `ssh_config` is ssh's `-F`, which may be the word none. `home_known_hosts` counts besides the user's
    own known_hosts, and is where `accept_new` records a key that is not known at all. `run_dir` is a folder for control
    sockets; without one, or where it can't be private, no connection is shared.
    """

    host: str
    port: int | None = None
    user: str | None = None
    transport: str | None = None
    ssh_command: str = "ssh"
    ssh_config: Path | None = None
    identity: Path | None = None
    known_hosts: Path | None = None
    ssh_options: tuple[str, ...] = ()
    connect_timeout: float = 15.0
    timeout: float = 60.0
    persist: float = 30.0
    home_known_hosts: Path | None = None
    run_dir: Path | None = None
    accept_new: bool = False

    @property
    def place(self) -> str:
        """The host as people write it."""
        return f"{self.user}@{self.host}" if self.user else self.host


def login_home() -> Path:
    """The home folder that ssh goes by: that of the password database, not $HOME."""
    import pwd

    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def control_path(target: SshTarget) -> Path | None:
    """Where the shared connection of this target listens, or None where none can be.

    The name is a hash over all that tells one connection from another, so that two never share that should not.
    """
    if target.run_dir is None or target.persist <= 0 or not _private(target.run_dir):
        return None
    configs = [target.ssh_config] if target.ssh_config else [login_home() / ".ssh" / "config", SYSTEM_CONFIG]
    known = [target.known_hosts, target.home_known_hosts, target.identity]
    what = (
        *(target.host, target.port, target.user, target.ssh_command, target.ssh_options),
        *([str(path), _state(path)] for path in configs),
        *(str(path) for path in known),
    )
    path = target.run_dir / hashlib.sha256(repr(what).encode()).hexdigest()[:20]
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET else None


def _private(folder: Path) -> bool:
    """Make the folder; whether it is ours alone, so that nobody else can put a socket there."""
    try:
        with suppress(FileExistsError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError:
        return False
    return True


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def build_command(target: SshTarget, control: Path | None) -> list[str]:
    """The whole command, its first word the program. Asks `ssh -G` what the user's configuration says."""
    known = effective_config(target)
    options = []
    if known.get("connecttimeout", "none") in ("none", "0"):
        options.append(f"ConnectTimeout={max(1, round(target.connect_timeout))}")
    if known.get("serveraliveinterval", "0") == "0":
        options.append(f"ServerAliveInterval={_KEEPALIVE}")
    options += _ciphers(known)
    options += _sharing(target, control, known)
    options += _known_hosts(target, known)
    return [*_basis(target), *_dashed(options), "-s", "--", target.host, "sftp"]


def effective_config(target: SshTarget) -> Mapping[str, str]:
    """What ssh will go by for this host, key in lower case to value; empty where ssh does not tell.

    A configuration that ssh refuses is not told here: running it says what is wrong.
    """
    # Without our own options: with BatchMode some ssh (Debian's) have other defaults.
    command = [target.ssh_command, *_address(target), *_dashed(target.ssh_options), "-G", "--", target.host]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASKING,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines() if done.returncode == 0 else []
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def _basis(target: SshTarget) -> list[str]:
    """The command up to what depends on the user's configuration."""
    options = [*_FIXED, f"StrictHostKeyChecking={'accept-new' if target.accept_new else 'yes'}"]
    if target.identity is not None:
        options += [f"IdentityFile={_quoted(target.identity, tokens=True)}", "IdentitiesOnly=yes"]
    if target.known_hosts is not None and not target.accept_new:
        options.append(f"UserKnownHostsFile={_quoted(target.known_hosts, tokens=True)}")
    return [target.ssh_command, *_FLAGS, *_address(target), *_dashed(options), *_dashed(target.ssh_options)]


def _address(target: SshTarget) -> list[str]:
    words = ["-F", str(target.ssh_config)] if target.ssh_config is not None else []
    if target.port is not None:
        words += ["-p", str(target.port)]
    if target.user is not None:
        words += ["-l", target.user]
    return words


def _ciphers(known: Mapping[str, str]) -> list[str]:
    """AES-GCM before all that ssh offers anyway, where that order is nobody's choice and the processor computes AES.

    Moving data then costs ssh, and sshd, a third of the time that ChaCha20 takes. A server that lacks it, or whose
    administrator wants another, negotiates the next of the list as ever.
    """
    usual = known.get("ciphers", "")
    if usual not in _USUAL_CIPHERS or not computes_aes():
        return []
    return [f"Ciphers={','.join(sorted(usual.split(','), key=lambda cipher: cipher != _GCM))}"]


@lru_cache(maxsize=1)
def computes_aes(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this machine's processor has instructions for AES; without them ChaCha20 is the faster cipher."""
    if sys.platform == "darwin":
        return True  # every Mac of the last fifteen years
    try:
        with cpuinfo.open() as file:
            words = file.read(_ONE_PROCESSOR).split()
    except (OSError, ValueError):
        return False
    return "aes" in words


def _sharing(target: SshTarget, control: Path | None, known: Mapping[str, str]) -> list[str]:
    if known.get("controlpath", "none") != "none" or known.get("controlmaster", "false") != "false":
        # The user's own sharing. A master without ControlPersist would live in our process, and be ended with it.
        return ["ControlMaster=no"] if known.get("controlpersist", "no") in ("no", "false") else []
    if control is None or not known:
        return ["ControlMaster=no", "ControlPath=none"]
    return [
        "ControlMaster=auto",
        f"ControlPath={_quoted(control, tokens=True)}",
        f"ControlPersist={max(1, round(target.persist))}",
    ]


def _known_hosts(target: SshTarget, known: Mapping[str, str]) -> list[str]:
    """The home's known_hosts counts besides all others; with `accept_new` it comes first: ssh records there."""
    home = target.home_known_hosts
    users = [target.known_hosts] if target.known_hosts else _paths(known.get("userknownhostsfile", _USER_KNOWN_HOSTS))
    files = [path for path in (home, *users) if path is not None]
    if target.accept_new and files:
        # Hashed names could not be told to others by `lafs grid export`.
        return [f"UserKnownHostsFile={' '.join(_quoted(path, tokens=True) for path in files)}", "HashKnownHosts=no"]
    if home is None:
        return []
    files = [home, *_paths(known.get("globalknownhostsfile", _SYSTEM_KNOWN_HOSTS))]
    return [f"GlobalKnownHostsFile={' '.join(_quoted(path, tokens=False) for path in files)}"]


def _paths(text: str) -> list[Path]:
    """The files of one line of `ssh -G`, which does not quote spaces: a word that begins no path goes on with one."""
    words: list[str] = []
    for word in text.split(" "):
        if words and not word.startswith(("/", "~", "$", "%")):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return [Path(word) for word in words if word not in ("", "none", "/dev/null")]


def _quoted(path: Path, *, tokens: bool) -> str:
    """A path as ssh_config takes it; `tokens`: ssh replaces %-tokens in it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text.replace("%", "%%") if tokens else text}"'


def _dashed(options: list[str] | tuple[str, ...]) -> list[str]:
    return [word for option in options for word in ("-o", option)]
