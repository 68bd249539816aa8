"""What a start imports: facts that keep it fast, without a clock (DESIGN §1.17)."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lafscli
from lafscli.cli import table

pytestmark = pytest.mark.xdist_group("startup")  # help of all commands is asked for once

WEB = {"starlette", "uvicorn", "httptools", "h11", "jinja2", "markupsafe", "multipart", "python_multipart", "anyio"}
HEAVY = {"paramiko", "rich", "cryptography", "nacl", "sqlite3", "asyncio", "lafscli.storage.sftp", *WEB}
CLICK = {"click", "lafscli.cli.main"}


def imported(*arguments: str, code: int = 0) -> set[str]:
    """Modules that are loaded when a command line has ended."""
    script = (
        "import sys\n"
        "from lafscli.__main__ import main\n"
        "sys.argv[0] = 'lafs'\n"
        "try: main(); end = 0\n"
        "except SystemExit as stop: end = stop.code or 0\n"
        f"assert end == {code}, end\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@cache
def imported_for_help() -> dict[str, set[str]]:
    """The same for each command with `--help`: forked one after the other from where all commands begin."""
    script = (
        "import json, os, sys\n"
        "import lafscli.cli.main\n"
        "sys.argv[0] = 'lafs'\n"
        "for name in json.loads(sys.argv.pop()):\n"
        "    reader, writer = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        sys.argv[1:] = [*name.split(), '--help']\n"
        "        os.dup2(writer, 1)\n"
        "        from lafscli.__main__ import main\n"
        "        try: main(); end = 0\n"
        "        except SystemExit as stop: end = stop.code or 0\n"
        "        print(*sorted(sys.modules), file=sys.stderr, flush=True)\n"
        "        os._exit(end)\n"
        "    os.close(writer)\n"
        "    assert open(reader, 'rb').read().startswith(b'Usage: lafs ' + name.encode()), name\n"
        "    assert os.waitpid(pid, 0)[1] == 0, name\n"
    )
    names = [row.name for row in table.COMMANDS]
    done = subprocess.run([sys.executable, "-c", script, json.dumps(names)], capture_output=True, text=True, check=True)
    return {name: set(line.split()) for name, line in zip(names, done.stderr.splitlines(), strict=True)}


def test_version_needs_nothing_but_the_version() -> None:
    extra = {name for name in imported("--version") if name.startswith(("lafscli", "click", "importlib.metadata"))}
    assert extra == {"lafscli", "lafscli.__main__"}


def test_help_and_completion_load_nothing_heavy() -> None:
    assert not imported("--help") & (HEAVY | CLICK)
    assert not imported("help") & HEAVY
    for shell in ("bash", "zsh", "fish"):
        assert not imported("completion", shell) & HEAVY


@pytest.mark.parametrize("row", table.COMMANDS, ids=lambda row: row.name)
def test_help_of_a_command_loads_no_other_command_and_nothing_heavy(row: table.Command) -> None:
    loaded = imported_for_help()[row.name]
    assert not loaded & HEAVY
    modules = {other.module for other in table.COMMANDS} - {
        "lafscli.cli.batch"
    }  # which has the worse of two exit codes
    assert loaded & modules == {row.module} & modules


def test_a_command_that_opens_no_gateway_loads_no_web_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAFS_HOME", str(tmp_path / "home"))
    assert not imported("init", "--local") & WEB
    (tmp_path / "file").write_bytes(bytes(1000))
    stored = imported("put", str(tmp_path / "file"))
    assert "lafscli.immutable.upload" in stored
    assert not stored & WEB


def test_both_ways_to_ask_for_the_version_agree() -> None:
    command = [sys.executable, "-m", "lafscli"]
    short = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    long = subprocess.run([*command, "-q", "--version"], capture_output=True, text=True, check=True)
    assert short.stdout == long.stdout == f"lafs {lafscli.__version__}\n"
