"""serve --print-setup: what to put into files of this machine so that it serves (CLI.md §7)."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from lafscli.cli.frame import Frame
from lafscli.cli.servefiles import IDLE, key_files, parse_address

_SYSTEM_STATE = Path("/var/lib/lafs")
_USER = "lafs"
_ADDRESS = "0.0.0.0:2222"
_PASSED_ON = {
    "append_only": "--append-only",
    "read_only": "--read-only",
    "quota": "--quota",
    "reserve": "--reserve",
    "history": "--history",
    "idle_timeout": "--idle-timeout",
    "max_connections": "--max-connections",
    "login_timeout": "--login-timeout",
}
_LISTENING = ("max_connections", "login_timeout")
_UNSAID = {"idle_timeout": IDLE, "reserve": 0}

_UNIT = """\
[Unit]
Description=lafs storage server for {root}
Documentation=man:lafs-serve(1)
After=network-online.target local-fs.target
Wants=network-online.target
RequiresMountsFor={root}

[Service]
Type=notify
User={user}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
TimeoutStopSec=10
LimitNOFILE=8192
UMask=0077
{state}ReadWritePaths={writable}
ProtectSystem=strict
ProtectHome=read-only
{private_tmp}PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_TEXT = """\
# There are two ways to serve {root}; take one.
# In what follows KEY is the client's public key: a line that begins with ssh-ed25519, from its ~/.ssh/id_ed25519.pub.

# 1. Under the sshd of this machine. A line for ~/.ssh/authorized_keys of the user whose files the shares shall be:

{forced}

# The client adds it as: lafs server add NAME sftp://USER@HOST{url_path}

# 2. An SSH server of its own. A systemd unit, for /etc/systemd/system/lafs.service:

{unit}
# A line for {keys}
# (before the key may also stand lafs-append-only, lafs-read-only or lafs-root="DIR", joined by commas):

{own}

# Then:{make_user}
#   install -d -o {user} -m 700 {root_word}
#   systemctl daemon-reload && systemctl enable --now lafs    starts it, and with the machine
#   systemctl reload lafs                                     reads the keys again
#   ssh-keygen -lf {host_key}    shows the fingerprint of its host key, made at the first start
# The client adds it as: lafs server add NAME sftp://HOST:{port}{url_path}
"""


def print_setup(frame: Frame, root: Path, given: dict[str, Any]) -> None:
    """Print the unit and the lines; --json has each on its own."""
    as_root = os.geteuid() == 0
    user = _USER if as_root else pwd.getpwuid(os.geteuid()).pw_name
    named = {"host_key": given["host_key"], "authorized_keys": given["authorized_keys"]}
    if as_root:  # a service has no home of root's: its files are where systemd makes a folder for it
        named = {name: value or str(_SYSTEM_STATE / name) for name, value in named.items()}
    host_key, keys = key_files(frame, named)
    address = given["listen"] or _ADDRESS
    _, port = parse_address(address)
    program = _program()
    own = [*program, "serve", "--root", str(root), "--listen", address]
    own += ["--host-key", str(host_key), "--authorized-keys", str(keys), *_passed_on(given, _PASSED_ON)]
    stdio = [*program, "serve", "--stdio", "--root", str(root)]
    # a key of our own list may be append-only where the others are not; sshd's line is for one key
    unfit = _LISTENING if given["append_only"] else (*_LISTENING, "history")
    stdio += _passed_on(given, [name for name in _PASSED_ON if name not in unfit])
    in_state = _SYSTEM_STATE in host_key.parents
    writable = [root, *([] if in_state else [host_key.parent])]
    unit = _UNIT.format(
        root=_path(root),
        user=user,
        command=" ".join(map(_unit_word, own)),
        writable=" ".join(map(_path, writable)),
        state="StateDirectory=lafs\nStateDirectoryMode=0700\n" if in_state else "",
        private_tmp="" if any(_temporary(path) for path in (root, host_key, keys, Path(program[0]))) else _PRIVATE,
    )
    forced = f'command="{_in_quotes(shlex.join(stdio))}",restrict KEY'
    make_user = f"\n#   useradd --system --home-dir {_SYSTEM_STATE} {user}" if as_root else ""
    text = _TEXT.format(
        root=root,
        root_word=shlex.quote(str(root)),
        user=user,
        forced=forced,
        unit=unit,
        own="KEY",
        keys=keys,
        host_key=shlex.quote(str(host_key)),
        url_path=shlex.quote(str(root)),
        port=port,
        make_user=make_user,
    )
    document = {
        "unit": unit,
        "sshd_authorized_keys": forced,
        "lafs_authorized_keys": "KEY",
        "host_key": str(host_key),
        "authorized_keys": str(keys),
        "command": own,
    }
    frame.out.put(document, text)


_PRIVATE = "PrivateTmp=yes\n"


def _program() -> list[str]:
    """How this lafs is started, by absolute paths."""
    begun = sys.argv[0]
    found = shutil.which(begun)
    if found is None or os.path.basename(begun) == "__main__.py":  # begun by python, not by a program of that name
        return [sys.executable, "-m", "lafscli"]
    return [os.path.abspath(found)]


def _passed_on(given: dict[str, Any], names: Any) -> list[str]:
    """The options that were given, as words again."""
    words: list[str] = []
    for name in names:
        value = given[name]
        if value is True:
            words.append(_PASSED_ON[name])
        elif value is not None and value is not False and value != _UNSAID.get(name):
            words += [_PASSED_ON[name], f"{value}s" if name.endswith("timeout") else str(value)]
    return words


def _temporary(path: Path) -> bool:
    """Whether a path lies where PrivateTmp would hide it."""
    return path.is_relative_to("/tmp") or path.is_relative_to("/var/tmp")


def _unit_word(word: str) -> str:
    """A word of ExecStart= (systemd.service(5))."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and all(character.isalnum() or character in "/._-:=@%$,+[]" for character in word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(path: Path) -> str:
    """A path as a setting of a unit."""
    text = str(path).replace("%", "%%")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(text) & set(" \t\"'\\") else text


def _in_quotes(text: str) -> str:
    """Text inside the double quotes of an option in authorized_keys."""
    return text.replace('"', '\\"')
