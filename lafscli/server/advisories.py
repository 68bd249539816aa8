"""Corruption advisories: what was found damaged, for people, in history/advisories/<UTC time>-<SI>-<shnum>.txt."""

from __future__ import annotations

import os
import time

from lafscli.server.hostfolder import HostFolder
from lafscli.server.kept import ADVISORIES


def advise(
    folder: HostFolder, text: str, shnum: int, reason: str, *, now: float, stood: str, lies: str | None, token: str
) -> str:
    """Write one; where it is. `stood` and `lies`: where the container was found, and where it was moved to."""
    stamp = time.gmtime(now)
    lines = [
        f"time: {time.strftime('%Y-%m-%dT%H:%M:%SZ', stamp)}",
        f"storage index: {text}",
        f"share number: {shnum}",
        f"reason: {reason}",
        f"found at: {stood}",
        f"moved to: {lies}" if lies is not None else "not moved",
    ]
    name = f"{time.strftime('%Y-%m-%dT%H%M%SZ', stamp)}-{text}-{shnum}.txt"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with folder.beside("history", ADVISORIES) as below:
        try:
            descriptor = os.open(name, flags, 0o600, dir_fd=below)
        except FileExistsError:
            name = f"{name.removesuffix('.txt')}.{token}.txt"
            descriptor = os.open(name, flags, 0o600, dir_fd=below)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        folder.give(name, below)
    return f"history/{ADVISORIES}/{name}"
