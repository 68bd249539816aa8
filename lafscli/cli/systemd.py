"""What a program that goes on serving does with its system: more open files, a word to the service manager."""

from __future__ import annotations

import resource
from contextlib import suppress

from lafscli.config import environment

_OPEN_FILES = 8192
_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2


def raise_open_files() -> None:
    """As many open files as we need, where the system allows it: it is often 1024, for two thousand handles."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def tell_systemd() -> None:
    """Say that we are ready to the service manager that asks for it (sd_notify(3))."""
    import socket

    address = environment.variable("NOTIFY_SOCKET")
    if address is None or address[0] not in "@/":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, suppress(OSError):
        manager.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)


def share_heaps() -> None:
    """Have many threads share few heaps, where the C library is glibc: it gives each thread one that no other can use
    what was freed in. Six transfers at once took 245 MB with that, and take 130 without."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
