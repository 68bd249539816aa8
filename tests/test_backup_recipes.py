"""lafs-backup(7): the recipes for administrators, run as they are written but for names of hosts and folders."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lafscli.cli import reference
from tests.lafs_process import Lafs
from tests.trees import described, every_kind


def recipes() -> dict[str, list[str]]:
    """The code of each section, blocks that are divided by text apart."""
    page = reference.page("lafs-backup.7")
    assert page is not None
    found: dict[str, list[str]] = {}
    for block in page.blocks:
        if block.kind == "section":
            here = found.setdefault(block.text, [])
        elif block.kind == "code":
            here.append(block.text)
    return found


class Machine(Lafs):
    """Runs shell text in which `lafs` is lafs, hosts are folders, and what is root's lies below a folder."""

    def shell(self, text: str, code: int = 0, **more: str) -> str:
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "lafs").write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-m", "lafscli"])} "$@"\n')
        (tools / "lafs").chmod(0o755)
        (self.folder / "root").mkdir(exist_ok=True)
        text = re.sub(r"sftp://lafs@(\w+)/srv/lafs", rf"file://{self.folder.parent}/\1", text)
        text = text.replace("/var/lib/lafs", str(self.home)).replace("/root/", f"{self.folder}/root/")
        text = text.replace(" / backup:root", f" {self.folder}/tree backup:root").replace(
            " /mnt", f" {self.folder}/mnt"
        )
        environment = self.environment(PATH=f"{tools}:{os.environ['PATH']}", **more)
        del environment["LAFS_HOME"]
        done = subprocess.run(["sh", "-ec", text], env=environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == code, f"exit {done.returncode}: {done.stderr}"
        return done.stdout + done.stderr


def commands_of(crontab: str) -> list[str]:
    """What cron would run: all behind five fields of time."""
    lines = [line.split(None, 5) for line in crontab.splitlines() if line.strip()]
    for line in lines:
        assert all(re.fullmatch(r"[\d*/,-]+", each) for each in line[:5]), line
        assert "%" not in line[5], "cron would end the line there"
    return [line[5] for line in lines]


@pytest.mark.slow
def test_a_backup_from_its_first_day_to_its_last(tmp_path: Path) -> None:
    """Once, every night, a check, a burned host, everything burned: from the kit alone all comes back."""
    code, machine = recipes(), Machine(tmp_path / "machine")
    every_kind(machine.folder / "tree")
    for host in ("attic", "office", "attic2"):
        (tmp_path / host).mkdir()
    (machine.folder / "root").mkdir()
    (machine.folder / "root" / "kit.pass").write_text("a passphrase that is long enough\n")
    machine.shell(code["ONCE"][0])
    [night] = commands_of(code["EVERY NIGHT, BY CRON"][0])
    assert machine.shell(night).count("backup:root/Archives/") == 1
    units = [block for block in code["EVERY NIGHT, BY SYSTEMD"] if "ExecStart" in block]
    for line in re.findall(r"ExecStart=(.*)", units[0]):
        machine.shell(f"export LAFS_HOME=/var/lib/lafs; {line.replace('/usr/local/bin/lafs', 'lafs')}")
    looked, sweep = code["SPACE"][0].split("\n\n")
    machine.shell(f"export LAFS_HOME=/var/lib/lafs; {looked}")
    machine.shell(commands_of(sweep)[0])
    check, mend = commands_of(code["IS IT STILL THERE"][0])
    machine.shell(check)
    machine.shell(f"export LAFS_HOME=/var/lib/lafs; {code['EVERY NIGHT, BY SYSTEMD'][2]}")
    shutil.rmtree(tmp_path / "attic" / "shares")
    (tmp_path / "attic" / "shares").mkdir()
    machine.shell(check, code=10)
    machine.shell(mend)
    shutil.rmtree(tmp_path / "attic")
    machine.shell(f"export LAFS_HOME=/var/lib/lafs; {code['A HOST HAS BURNED'][0]}")
    machine.shell("export LAFS_HOME=/var/lib/lafs; lafs recovery export /root/new.kit --passphrase-file /root/kit.pass")
    new = Machine(tmp_path / "new")
    shutil.copy(machine.folder / "root" / "new.kit", new.folder / "lafs.kit")
    shutil.copy(machine.folder / "root" / "kit.pass", new.folder / "kit.pass")
    source = machine.folder / "tree"
    before = described(source)
    source.rename(tmp_path / "gone")
    shutil.rmtree(machine.home)
    new.shell(code["EVERYTHING HAS BURNED"][0])
    assert described(new.folder / "mnt") == before


def test_the_units_are_understood(tmp_path: Path) -> None:
    """And exit 11 is no failure, which the page explains."""
    blocks = recipes()["EVERY NIGHT, BY SYSTEMD"]
    service, timer = (next(block for block in blocks if word in block) for word in ("[Service]", "[Timer]"))
    assert "SuccessExitStatus=11" in service
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze here")
    (tmp_path / "lafs").write_text("#!/bin/sh\n")
    (tmp_path / "lafs").chmod(0o755)
    (tmp_path / "lafs-backup.service").write_text(service.replace("/usr/local/bin/lafs", f"{tmp_path}/lafs") + "\n")
    (tmp_path / "lafs-backup.timer").write_text(timer + "\n")
    names = [str(tmp_path / name) for name in ("lafs-backup.service", "lafs-backup.timer")]
    done = subprocess.run([program, "verify", "--man=no", *names], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_put_in_configurations_is_understood(tmp_path: Path) -> None:
    """sshd reads the Match block."""
    host = next(block for block in recipes()["A HOST THAT ONLY TAKES"] if block.startswith("Match"))
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is not None and os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
        (tmp_path / "sshd_config").write_text(f"HostKey {tmp_path / 'key'}\n{host}\n")
        told = subprocess.run(
            [program, "-T", "-f", str(tmp_path / "sshd_config"), "-C", "user=lafs,host=h,addr=127.0.0.1"],
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        assert "forcecommand lafs serve --stdio --root /srv/lafs --append-only" in told.stdout.lower()
