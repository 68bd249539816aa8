"""The main jobs as stories: put a file on ten SSH servers, lose seven, get it back; and the same by HTTP.

`python -m tests.story FILE.pyz` tells it with a zipapp.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.gateways import Gateway
from tests.lafs_process import Lafs
from tests.sshd import SshServers

SIZE = 3_000_000


def lose_seven_of_ten(lafs: Lafs, servers: SshServers) -> None:
    """Any seven servers may be lost (3/7/10): the file is there; one more, and the exit code says what is known."""
    content = random.Random(7).randbytes(SIZE)
    source, copy = lafs.folder / "source", lafs.folder / "copy"
    source.write_bytes(content)
    lafs("init", code=0)
    for i in range(10):
        lafs("server", "add", servers.name(i), servers.url(i), "--option", f"ssh-config={servers.config}", code=0)

    stored = lafs.json("put", source)
    assert (stored["kind"], stored["size"], stored["pushed_shares"], stored["happiness"]) == ("chk", SIZE, 10, 10)
    assert sorted(name for names in stored["placement"].values() for name in names) == [f"s{i}" for i in range(10)]
    cap = lafs.folder / "cap"
    cap.write_text(stored["cap"] + "\n")

    for i in range(7):
        servers.stop(i)
    lafs("get", f"@{cap}", copy, code=0)
    assert copy.read_bytes() == content

    copy.unlink()
    servers.stop(7)
    lafs("get", f"@{cap}", copy, code=6)
    for i in range(8):
        shutil.rmtree(servers.root(i) / "shares")
        (servers.root(i) / "shares").mkdir()
        servers.start(i)
    lafs("get", f"@{cap}", copy, code=5)
    assert not copy.exists()


def store_by_http(lafs: Lafs) -> None:
    """What a program stores that knows nothing but HTTP, it and lafs get back, whole and in part."""
    content = random.Random(8).randbytes(SIZE)
    with Gateway(lafs) as gateway:
        status, _, answer = gateway.ask("PUT", "/uri", content)
        assert status in (200, 201), answer
        cap = answer.decode().strip()
        status, _, got = gateway.ask("GET", f"/uri/{cap}")
        assert (status, got == content) == (200, True)
        status, _, got = gateway.ask("GET", f"/uri/{cap}", Range="bytes=1000000-1000999")
        assert (status, got == content[1_000_000:1_001_000]) == (206, True)
        assert lafs("cat", "@-", input=cap.encode(), code=0).stdout == content


def main() -> None:
    """Tell them with the archive that the command line names."""
    archive = Path(sys.argv[1]).resolve()
    with TemporaryDirectory(prefix="ls-") as folder, SshServers(Path(folder, "sshd"), 10) as servers:
        program = (sys.executable, "-I", "-S", str(archive))  # -S: what is installed here is not there
        lafs = Lafs(Path(folder, "client"), {"SHIV_ROOT": str(Path(folder, "shiv"))}, program)
        lose_seven_of_ten(lafs, servers)
        print(f"{archive.name}: put, lost seven of ten servers, got it back")
        store_by_http(lafs)
        print(f"{archive.name}: put and got back through the gateway")


if __name__ == "__main__":
    main()
