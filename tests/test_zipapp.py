"""The zipapp: the same bytes from every build, and a start that works or says in a line why not."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import lafscli
from lafscli.cli.zipapp import build
from tests.lafs_process import Lafs
from tests.sshd import SshServers
from tests.story import lose_seven_of_ten, store_by_http

pytestmark = pytest.mark.xdist_group("zipapp")  # built once

CHECKOUT = Path(lafscli.__file__).parent.parent

Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zipapp, in a folder with nothing else in it."""
    return build(tmp_path_factory.mktemp("zipapp"))


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SHIV_ROOT in which the zipapp has been unpacked; the zipapp made that folder."""
    root = tmp_path_factory.mktemp("shiv-root") / "new" / "root"
    assert start(archive, "--help", SHIV_ROOT=str(root)).returncode == 0
    return root


def start(archive: Path, *arguments: str, user: int | None = None, **environment: str) -> Run:
    """Run the archive with nothing of this environment, in its own folder."""
    return subprocess.run(
        [sys.executable, "-I", str(archive), *arguments],
        cwd=archive.parent,
        env={"PATH": os.environ["PATH"], "HOME": "/dev/null", "TMPDIR": "/dev/null", **environment},
        capture_output=True,
        text=True,
        user=user,
        timeout=60,
        check=False,
    )


def changed(archive: Path, target: Path, change: Callable[[str], str]) -> Path:
    """A copy of the archive with another `__main__.py`, and without the packages, which nothing may ask for."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for member in source.infolist():
            if not member.filename.startswith("site-packages/"):
                data = source.read(member)
                copy.writestr(member, change(data.decode()) if member.filename == "__main__.py" else data)
    return target


def packages(root: Path) -> list[str]:
    """The unpacked folders below a root."""
    return sorted(path.name for path in root.iterdir() if path.is_dir())


@pytest.mark.slow
def test_two_builds_give_the_same_bytes_whatever_the_folder_and_the_umask(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "lafscli", tmp_path / "elsewhere" / "lafscli")
    script = "import pathlib, sys; from lafscli.cli.zipapp import build; build(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "elsewhere"), "TMPDIR": str(tmp_path), "TZ": "Asia/Tokyo"},
        umask=0o077,
        check=True,
    )
    assert (tmp_path / "out" / archive.name).read_bytes() == archive.read_bytes()


def test_it_is_named_with_version_system_architecture_and_python(archive: Path) -> None:
    python = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    assert archive.name.startswith(f"lafs-{lafscli.__version__}-")
    assert archive.name.endswith(".pyz")
    assert platform.machine() in archive.name
    assert python in archive.name


def test_version_that_can_not_be_written_is_no_success(archive: Path) -> None:
    for where in (">/dev/full", ">&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" --version {where}', "sh", sys.executable, "-I", str(archive)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("lafs: cannot write stdout: ")
        assert done.stderr.count("\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-I", str(archive), "--version"]
    gone = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (141, b"")


def test_no_path_of_the_builder_is_inside(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert not [name for name in opened.namelist() if name.endswith((".pyc", "RECORD", "direct_url.json", ".pth"))]
        texts = [name for name in opened.namelist() if not name.endswith(".so")]
        assert [name for name in texts if str(CHECKOUT).encode() in opened.read(name)] == []
        assert "site-packages/lafscli/LICENSE" in texts
        assert "site-packages/lafscli/cli/pages/lafs-put.txt" in texts


def test_the_pages_of_the_gateway_are_inside(archive: Path) -> None:
    pages = CHECKOUT / "lafscli" / "gateway" / "pages"
    wanted = {
        f"site-packages/{path.relative_to(CHECKOUT)}"
        for path in pages.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    with zipfile.ZipFile(archive) as opened:
        assert wanted - set(opened.namelist()) == set()


def test_the_libraries_of_the_gateway_are_its_own(archive: Path, unpacked: Path) -> None:
    """With native code where they have some, and nothing of this environment: `-S` hides what is installed here."""
    assert start(archive, "gateway", "http", "--help", SHIV_ROOT=str(unpacked)).returncode == 0
    [name] = packages(unpacked)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import jinja2, python_multipart, starlette.requests, uvicorn, httptools.parser.parser as native\n"
        "from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol\n"
        "print(native.__file__)"
    )
    command = [sys.executable, "-I", "-S", "-c", script, str(unpacked / name / "site-packages")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{unpacked / name}/")
    assert done.stdout.endswith(".so\n")


def test_it_starts_by_its_shebang(archive: Path, unpacked: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SHIV_ROOT": str(unpacked)}
    done = subprocess.run([archive, "--help"], cwd="/", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: lafs COMMAND")


def test_version_is_answered_without_unpacking(archive: Path) -> None:
    done = start(archive, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lafs {lafscli.__version__}\n", "")


def test_it_runs_its_own_packages_and_no_others(archive: Path, unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "lafscli.py").write_text("raise SystemExit('imported from PYTHONPATH')")
    done = subprocess.run(
        [sys.executable, archive, "--help"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "SHIV_ROOT": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    [name] = packages(unpacked)
    assert (unpacked / name / "site-packages" / "lafscli" / "__pycache__").is_dir()


def test_first_starts_at_the_same_time_all_work_and_use_the_home_folder(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(archive), "--help"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": "/dev/null"}
    several = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [(process.communicate(timeout=60)[0][:11], process.returncode) for process in several]
    assert answers == [("Usage: lafs", 0)] * 3
    assert len(packages(tmp_path / ".shiv")) == 1


@pytest.mark.slow
def test_an_unwritable_home_leads_to_a_private_folder(archive: Path, tmp_path: Path) -> None:
    done = start(archive, "--help", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / f"lafs-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700

    lost = next(folder.glob("*/site-packages/lafscli/cli/table.py"))  # as who cleans /tmp would do
    lost.unlink()
    assert start(archive, "--help", TMPDIR=str(tmp_path)).returncode == 0
    assert lost.exists()
    assert len(packages(folder)) == 1

    folder.chmod(0o755)
    done = start(archive, "--help", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "not a private folder of yours" in done.stderr


def test_nowhere_to_unpack_is_one_line(archive: Path) -> None:
    done = start(archive, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lafs: cannot unpack into the home folder")
    assert done.stderr.count("\n") == 1

    done = start(archive, "--help", SHIV_ROOT="/dev/null/root")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "SHIV_ROOT" in done.stderr


@pytest.mark.parametrize("field", ["python", "machine", "system"])
def test_another_python_gets_one_line(archive: Path, tmp_path: Path, field: str) -> None:
    values = {"python": f"cpython-{sys.version_info.major}{sys.version_info.minor}", "machine": platform.machine()}
    old = repr({**values, "system": sys.platform}[field])
    other = changed(archive, tmp_path / "other.pyz", lambda text: text.replace(f", {old}", ", 'other-9'"))
    done = start(other, "put", "file", HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "other-9" in done.stderr
    assert not (tmp_path / ".shiv").exists()

    error = json.loads(start(other, "--json", "put", "file").stdout)["error"]
    assert (error["code"], error["kind"]) == (2, "Usage")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")
def test_code_in_the_home_of_another_user_is_not_run(archive: Path, unpacked: Path, tmp_path: Path) -> None:
    home, temporary, other = tmp_path / "home", tmp_path / "tmp", 65534
    [name] = packages(unpacked)
    theirs = home / ".shiv" / name / "site-packages" / "lafscli"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").touch()
    (theirs / "__main__.py").write_text("raise SystemExit('code of another user')")
    done = start(archive, "--help", HOME=str(home))
    assert done.stderr == "code of another user\n"  # it would be run, if it were ours
    os.chown(home, other, other)
    os.chown(home / ".shiv", other, other)
    (temporary / "lafs-0").mkdir(mode=0o700, parents=True)
    os.symlink(unpacked / name, temporary / "lafs-0" / name)
    done = start(archive, "--help", HOME=str(home), TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: lafs")


def test_a_gateway_out_of_it(archive: Path, unpacked: Path, tmp_path: Path) -> None:
    program = (sys.executable, "-I", "-S", str(archive))
    lafs = Lafs(tmp_path, {"SHIV_ROOT": str(unpacked)}, program)
    lafs("init", "--local", code=0)
    store_by_http(lafs)


@pytest.mark.slow
def test_the_main_job_over_ssh(
    archive: Path, unpacked: Path, tmp_path: Path, start_servers: Callable[..., SshServers]
) -> None:
    program = (sys.executable, "-I", str(archive))
    lose_seven_of_ten(Lafs(tmp_path / "client", {"SHIV_ROOT": str(unpacked)}, program), start_servers(10))
