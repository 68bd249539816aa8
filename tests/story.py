"""The main job as one story: put a file on ten SSH servers, lose seven, get it back.

`python -m tests.story FILE.pyz` tells it with a zipapp.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

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


def main() -> None:
    """Tell it with the archive that the command line names."""
    archive = Path(sys.argv[1]).resolve()
    with TemporaryDirectory(prefix="ls-") as folder, SshServers(Path(folder, "sshd"), 10) as servers:
        program = (sys.executable, "-I", str(archive))
        lose_seven_of_ten(Lafs(Path(folder, "client"), {"SHIV_ROOT": str(Path(folder, "shiv"))}, program), servers)
    print(f"{archive.name}: put, lost seven of ten servers, got it back")


if __name__ == "__main__":
    main()
