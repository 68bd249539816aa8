"""kill -9 of put at any moment: nothing half is seen, nothing needs a hand, the next run completes and sends the rest.

Real processes; the servers are OpenSSH's sftp-server without ssh around it, which also counts what was sent.
`test_trouble.py` has signals that are caught, `test_resume.py` what is done with each sort of leftover.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from lafscli.formats import caps
from lafscli.formats.container import HEADER_SIZE, ImmutableContainer
from lafscli.proof.shares import ShareReader
from tests.grids import content
from tests.hostile_sftp import honest_command
from tests.lafs_process import Lafs

SIZE = 2_000_000
SHARES = 10 * SIZE // 3
RATE = "4M"
PUT = ("put", "file", "--segment-size", "64K")
OFTEN = (
    "from lafscli.immutable import pipeline, resume; pipeline._CHECKPOINT_BYTES = 150_000; resume._SAVE_SECONDS = 0.0; "
    "from lafscli.__main__ import main; main()"
)
"""lafs that makes durable what it sent every 150 kB, for 8 MiB a share take long."""

WAIT = 60.0


class Ten:
    """A home with ten servers, each a process of its own for every command."""

    def __init__(self, folder: Path) -> None:
        self.lafs = Lafs(folder, program=(sys.executable, "-c", OFTEN))
        self.lafs("init", "--local", code=0)
        self._counts = folder / "sent"
        program = honest_command(folder / "ssh", self._counts)
        config = self.lafs.home / "config.toml"
        table = tomllib.loads(config.read_text())
        for name, server in table["servers"].items():
            path = server["url"].removeprefix("file://")
            server |= {"url": f"sftp://{name}{path}", "options": {"ssh-command": str(program)}}
        config.write_text(tomli_w.dumps(table))
        self.roots = sorted((self.lafs.home / "grid").iterdir())

    def found(self, pattern: str) -> list[Path]:
        return [path for root in self.roots for path in root.glob(pattern)]

    def there(self) -> int:
        """Bytes on all servers, of what is staged and what is visible."""
        return sum(
            path.stat().st_size for path in self.found("staging/*") + self.found("shares/*/*/*") if path.exists()
        )

    def journal(self) -> dict[str, Any]:
        """The shares of the one upload under way, as the journal has them."""
        [record] = (self.lafs.home / "state/uploads").iterdir()
        shares: dict[str, Any] = json.loads(record.read_text())["shares"]
        return shares

    def sent(self) -> int:
        """Bytes that went to all servers since this was asked last."""
        files = list(self._counts.iterdir())
        total = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        return total

    def put(self, *options: str, **streams: Any) -> subprocess.Popen[bytes]:
        return self.lafs.start(*PUT, "--limit-rate", RATE, *options, stdout=subprocess.DEVNULL, **streams)

    def gone(self) -> None:
        """Wait until the servers of a killed client have seen that it is gone."""
        wait_for(lambda: subprocess.run(["pgrep", "-f", str(self._counts)], stdout=subprocess.DEVNULL).returncode != 0)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.002)


@pytest.fixture
def ten(tmp_path: Path) -> Ten:
    return Ten(tmp_path)


def killed(ten: Ten, when: Callable[[], bool], *, pause: float = 0.0) -> None:
    """A put that is killed when something is so, or has ended by then."""
    put = ten.put()
    wait_for(lambda: when() or put.poll() is not None)
    time.sleep(pause)
    put.kill()
    put.wait()
    ten.gone()


def proved(cap: caps.ChkCap, shnum: int, file: bytes) -> None:
    """This is a whole share, and the one of the cap."""
    found = ImmutableContainer.parse_header(file[:32], len(file))
    assert found.leases == 1
    share = file[HEADER_SIZE : found.lease_offset]
    reader = ShareReader(cap.verify_cap(), shnum)
    reader.open(lambda ranges: [share[offset : offset + length] for offset, length in ranges], strict=True)
    assert reader.share_size == len(share)
    for number in range(reader.sizes.num_segments):
        offset, length = reader.block_range(number)
        reader.check_block(number, share[offset : offset + length])


def finishes(ten: Ten, data: bytes) -> dict[str, Any]:
    """The next run, and what it leaves: a file on ten servers, and nothing else."""
    stored: dict[str, Any] = ten.lafs.json(*PUT)
    assert stored["happiness"] == 10
    assert sorted(int(path.name) for path in ten.found("shares/*/*/*")) == list(range(10))
    cap = caps.parse_strict(stored["cap"])
    assert isinstance(cap, caps.ChkCap)
    for path in ten.found("shares/*/*/*"):
        proved(cap, int(path.name), path.read_bytes())
    assert ten.found("staging/[!.]*") == ten.found("locks/[!.]*") == ten.found("quarantine/*") == []
    assert list((ten.lafs.home / "state/uploads").iterdir()) == []
    ten.lafs("get", "@-", "copy", input=stored["cap"].encode(), code=0)
    assert (ten.lafs.folder / "copy").read_bytes() == data
    return stored


MOMENTS = [random.Random(f"moment {n}").uniform(0, 1.03) for n in range(20)]
"""Parts of all bytes that the servers have when it is killed; behind 1 the shares are being made visible."""


@pytest.mark.parametrize(
    "moment", [m if n == 7 else pytest.param(m, marks=pytest.mark.slow) for n, m in enumerate(MOMENTS)]
)
def test_kill_9_of_put(ten: Ten, moment: float) -> None:
    data = content(SIZE, int(moment * 1e6))
    (ten.lafs.folder / "file").write_bytes(data)
    killed(ten, lambda: ten.there() >= min(moment, 1.0) * SHARES, pause=max(0.0, moment - 1))
    seen = [(int(path.name), path.read_bytes()) for path in ten.found("shares/*/*/*")]
    assert ten.found("locks/[!.]*") == []
    ten.sent()
    stored = finishes(ten, data)
    cap = caps.parse_strict(stored["cap"])
    assert isinstance(cap, caps.ChkCap)
    for shnum, file in seen:
        proved(cap, shnum, file)
    assert stored["preexisting_shares"] == len(seen)


@pytest.mark.parametrize("pause", [0.002, *(pytest.param(0.006 * n, marks=pytest.mark.slow) for n in range(8))])
def test_kill_9_while_shares_are_made_visible(ten: Ten, pause: float) -> None:
    """From the moment that the first one is seen."""
    data = content(SIZE, 1)
    (ten.lafs.folder / "file").write_bytes(data)
    killed(ten, lambda: bool(ten.found("shares/*/*/*")), pause=pause)
    seen = [(int(path.name), path.read_bytes()) for path in ten.found("shares/*/*/*")]
    assert seen
    assert ten.found("locks/[!.]*") == []
    stored = finishes(ten, data)
    cap = caps.parse_strict(stored["cap"])
    assert isinstance(cap, caps.ChkCap)
    for shnum, file in seen:
        proved(cap, shnum, file)


def far_enough(ten: Ten) -> bool:
    """Every server has made at least 300 kB of its share durable, and the journal knows."""
    try:
        shares = ten.journal().values()
    except ValueError:  # being written, or not there yet
        return False
    except FileNotFoundError:
        return False
    return len(shares) == 10 and all(staged["offset"] >= 300_000 for staged in shares)


def test_the_next_put_sends_only_the_rest(ten: Ten) -> None:
    data = content(SIZE, 2)
    (ten.lafs.folder / "file").write_bytes(data)
    ten.lafs(*PUT, code=0)
    fresh = ten.sent()
    assert fresh > SHARES
    for path in ten.found("shares/*/*/*"):
        path.unlink()
    killed(ten, lambda: far_enough(ten))
    durable = sum(staged["offset"] for staged in ten.journal().values())
    assert durable >= 10 * 300_000
    ten.sent()
    stored = finishes(ten, data)
    assert stored["resumed_bytes"] == durable
    assert ten.sent() < fresh - 0.95 * durable


@pytest.mark.parametrize("back", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (1000, 262_144))])
def test_a_staged_file_with_a_flipped_byte_is_refused(ten: Ten, back: int) -> None:
    """Its last 256 KiB are compared with what is encoded again: everything is sent anew."""
    data = content(SIZE, 3)
    (ten.lafs.folder / "file").write_bytes(data)
    killed(ten, lambda: far_enough(ten))
    staged = ten.journal()["4"]
    path = ten.lafs.home / "grid" / staged["server"] / staged["staged"]
    spoilt = bytearray(path.read_bytes())
    spoilt[HEADER_SIZE + staged["offset"] - back] ^= 1
    path.write_bytes(spoilt)
    assert finishes(ten, data)["resumed_bytes"] == 0


def test_kill_9_of_get(ten: Ten) -> None:
    """What has the name is whole, or was there before."""
    data = content(SIZE, 4)
    (ten.lafs.folder / "file").write_bytes(data)
    cap = ten.lafs(*PUT, code=0).stdout
    (ten.lafs.folder / "copy").write_bytes(b"before")
    (ten.lafs.folder / "cap").write_bytes(cap)
    get = ten.lafs.start("get", "@cap", "copy", "--limit-rate", "1M")
    wait_for(lambda: any(part.stat().st_size for part in ten.lafs.folder.glob(".lafs-*")) or get.poll() is not None)
    get.kill()
    get.wait()
    ten.gone()
    assert (ten.lafs.folder / "copy").read_bytes() == b"before"
    ten.lafs("get", "@cap", "copy", code=0)
    assert (ten.lafs.folder / "copy").read_bytes() == data
