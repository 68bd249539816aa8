"""`lafs` as a process, in a home of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.preloaded import PRELOADED
from tests.sshd import SshServers

PROGRAM = (sys.executable, "-m", "lafscli")


@dataclass
class Lafs:
    """Call it with arguments: runs `python -m lafscli`, with the imports done in advance.

    Nothing of the caller's LAFS_ and XDG_ variables gets in.
    """

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = PROGRAM

    def __post_init__(self) -> None:
        (self.folder / "run").mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LAFS_", "XDG_", "NO_COLOR"))}
        return {
            **kept,
            "HOME": str(self.folder),
            "LAFS_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            **self.variables,
            **more,
        }

    def __call__(
        self, *arguments: str | Path, input: bytes = b"", code: int | None = None, **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end; with `code`, check the exit code and show stderr if it is another."""
        environment = self.environment(**more)
        if self.program == PROGRAM and PRELOADED.fits(environment):
            done = PRELOADED.run(
                list(map(str, arguments)), input=input, environment=environment, folder=self.folder, timeout=60
            )
        else:
            done = subprocess.run(
                [*self.program, *map(str, arguments)],
                input=input,
                capture_output=True,
                env=environment,
                cwd=self.folder,
                timeout=60,
                check=False,
            )
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}: {done.stderr.decode()}"
        return done

    def json(self, *arguments: str | Path, code: int = 0, input: bytes = b"") -> Any:
        """Run it with --json: the one document on stdout."""
        done = self(*arguments, "--json", code=code, input=input)
        [line] = done.stdout.decode().splitlines()
        document = json.loads(line)
        assert document["schema"] == 1
        return document

    def add_servers(self, servers: SshServers, *options: str) -> None:
        """Add all of these, each with these options (KEY=VALUE) besides their ssh_config; one process for all."""
        given = " ".join(f"--option {option}" for option in (f"ssh-config={servers.config}", *options))
        lines = (f"server add {servers.name(i)} {servers.url(i)} {given}\n" for i in range(servers.count))
        self("batch", input="".join(lines).encode(), code=0)

    def start(self, *arguments: str | Path, **streams: Any) -> subprocess.Popen[bytes]:
        """Start it and go on."""
        return subprocess.Popen(
            [*self.program, *map(str, arguments)], env=self.environment(), cwd=self.folder, **streams
        )
