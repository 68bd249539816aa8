"""What this machine knows of a server's address and host keys, for others who shall reach it too."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from lafscli.storage.sshcommand import SshTarget, effective_config, login_home

_ASKING = 10.0
_USERS_FILES = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_SYSTEM_FILES = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the user's ssh_config makes of a target.

    `user` is None where it is just this machine's user. `through` is the jump host or command that leads there.
    `keys`: lines of known_hosts, `host type key`, under the name that ssh looks up for `host` and `port`.
    """

    host: str
    port: int
    user: str | None
    through: str | None
    keys: list[str]


def resolve(target: SshTarget) -> Resolved:
    """Ask `ssh -G` and `ssh-keygen -F`; nothing is connected. What they do not tell is taken from the target."""
    known = effective_config(target)
    host = known.get("hostname", target.host)
    port = target.port or int(known.get("port", "22"))
    user = target.user or known.get("user")
    through = next((known[key] for key in ("proxyjump", "proxycommand") if known.get(key, "none") != "none"), None)
    address = host if port == 22 else f"[{host}]:{port}"
    alias = known.get("hostkeyalias", "none")
    found = _known_keys(address if alias == "none" else alias, _files(target, known))
    keys = [f"{address} {key}" for key in dict.fromkeys(found)]
    return Resolved(host, port, None if target.user is None and user == own_name() else user, through, keys)


def own_name() -> str | None:
    """The user that this process runs as."""
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return None


def _files(target: SshTarget, known: Mapping[str, str]) -> list[str]:
    """The known_hosts files that count for the target."""
    files = [str(path) for path in (target.home_known_hosts, target.known_hosts) if path is not None]
    if target.known_hosts is None:
        files += _words(known.get("userknownhostsfile", _USERS_FILES))
    files += _words(known.get("globalknownhostsfile", _SYSTEM_FILES))
    return [f"{login_home()}/{name[2:]}" if name.startswith("~/") else name for name in dict.fromkeys(files)]


def _words(text: str) -> list[str]:
    """The files of one line of `ssh -G`, which does not quote spaces: what begins no path goes on with the last."""
    words: list[str] = []
    for word in text.split(" "):
        if words and not word.startswith(("/", "~")):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return [word for word in words if word not in ("", "none", "/dev/null")]


def _known_keys(name: str, files: list[str]) -> list[str]:
    """`type key` of every key that a file vouches for; revoked ones and authorities are not for single hosts."""
    keys: list[str] = []
    for file in files:
        try:
            done = subprocess.run(
                ["ssh-keygen", "-F", name, "-f", file],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ASKING,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            words = line.split()
            if len(words) >= 3 and not line.startswith(("#", "@")):
                keys.append(f"{words[1]} {words[2]}")
    return keys
