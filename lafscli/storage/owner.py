"""Who holds a guard: the file `owner` in it, for people and for the judgement whether the holder lives (spec 10 §1).

    host = "name"           boot = "id of this boot"           pid = 123           seconds = 20

`seconds` is the holder's lock-seconds: it shows that it lives at a quarter of that.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lafscli.storage.packets import escaped

OWNER_SIZE = 4096
"""Bytes that are read of an owner file at most."""
_MAX_SECONDS = 120.0
_MAX_PID = 1 << 31


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a guard."""

    host: str
    boot: str
    pid: int
    seconds: float

    def serialise(self) -> bytes:
        """The text of an owner file."""
        import tomli_w

        return tomli_w.dumps(
            {"host": self.host, "boot": self.boot, "pid": self.pid, "seconds": float(self.seconds)}
        ).encode("utf-8", "replace")

    @classmethod
    def parse(cls, data: bytes) -> Owner | None:
        """Read an owner file; None for one that is cut short or not ours."""
        try:
            table = tomllib.loads(data.decode())
        except (ValueError, RecursionError):
            return None
        host, boot, pid, seconds = (table.get(key) for key in ("host", "boot", "pid", "seconds"))
        if not (isinstance(host, str) and isinstance(boot, str) and type(pid) is int and 0 < pid < _MAX_PID):
            return None
        if not isinstance(seconds, int | float) or not seconds > 0:  # a NaN is not above 0
            return None
        # a holder that claims to rest for a year must not hold up everybody else
        return cls(host, boot, pid, min(float(seconds), _MAX_SECONDS))

    def lives_with(self, me: Owner) -> bool:
        """Whether this was written in the boot that `me` runs in, so that its pid means something here."""
        return bool(self.boot) and (self.host, self.boot) == (me.host, me.boot)

    def __str__(self) -> str:
        return f"process {self.pid} on {escaped(self.host, 80)}"


def this_process(seconds: float) -> Owner:
    """Who we are. The boot id has the pid namespace with it: a pid of another container says nothing here."""
    return Owner(os.uname().nodename, _boot(), os.getpid(), seconds)


def alive(pid: int) -> bool:
    """Whether a process of that number exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@lru_cache(maxsize=1)
def _boot() -> str:
    """What differs from boot to boot; empty where that can't be had, and then no pid is ever judged."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with suppress(OSError):
            return f"{boot} {os.readlink('/proc/self/ns/pid')}"
        return boot
    with suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "kern.boottime"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return ""
