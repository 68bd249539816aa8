"""Build the zipapp: lafs and the packages it runs with, as they are installed here, in one file that shiv lays out.

Nothing is fetched and nothing but the packages' bytes gets in (no times, no paths, no umask), so that the same
packages give the same file wherever and whenever it is built.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory

import lafscli
from lafscli.cli import zipapp_start
from lafscli.errors import LafsError, UsageError

_EXTRAS = ("gateway",)
"""Of lafs itself: what an installation may leave out, and a file that needs nothing but Python has."""
_OWN = {".py", ".txt", ".html", ".css", ".js", ".svg"}
_INSTALLER_NOTES = {"RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json"}
_SHEBANG = b"#!/usr/bin/env python3\n"


def archive_name() -> str:
    """Version, operating system, architecture and Python, as in `lafs-0.1.0-linux-x86_64-cpython-311.pyz`."""
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    return f"lafs-{lafscli.__version__}-{system}-{os.uname().machine}-{zipapp_start.python_tag()}.pyz"


def build(folder: Path) -> Path:
    """Write the archive into `folder` under its name, replacing one that is there; the path."""
    target = folder / archive_name()
    with TemporaryDirectory(prefix="lafs-zipapp-") as work:
        packages, draft, final = Path(work, "site-packages"), Path(work, "draft.pyz"), Path(work, "final.pyz")
        count = _stage(packages)
        _run_shiv(packages, draft)
        _finish(draft, final, count)
        folder.mkdir(parents=True, exist_ok=True)
        waiting = folder / f".{target.name}.{os.getpid()}"
        waiting.write_bytes(final.read_bytes())
        waiting.chmod(0o755)
        waiting.replace(target)
    return target


def _stage(packages: Path) -> int:
    """Copy what belongs in; how many files that is."""
    count = 0
    for name, source in _contents():
        path = packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
        count += 1
    return count


def _contents() -> Iterator[tuple[str, Path]]:
    """Name in the archive and place here of each file: of this very lafscli, and of every package it needs."""
    home = Path(lafscli.__file__).parent
    for path in home.rglob("*"):
        if path.suffix in _OWN or path.name in ("py.typed", "LICENSE"):
            yield f"lafscli/{path.relative_to(home)}", path
    for package in _needed():
        for file in package.files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            if file.parts[0].endswith(".dist-info") and file.name in _INSTALLER_NOTES:
                continue
            if file.suffix == ".pth":
                raise LafsError(f"{package.name} installs {file}, which a zipapp can't carry")
            yield str(file), Path(str(file.locate()))


def _needed() -> list[Distribution]:
    """The installed distributions that lafs needs, each once, in order of the names; not lafs itself, whose files may
    be elsewhere (an editable install) and whose notes tell how it was installed."""
    from packaging.requirements import Requirement

    found: dict[str, Distribution] = {}
    wanted = [("lafs", frozenset({"", *_EXTRAS}))]
    asked = set(wanted)
    while wanted:
        name, extras = wanted.pop()
        # METADATA tells an installed package from the egg-info folder of a checkout
        package = next((each for each in distributions(name=name) if each.read_text("METADATA")), None)
        if package is None or not package.files:
            raise UsageError(
                f"{name} is not installed here by pip", hint="in a virtual environment: pip install '.[test]'"
            )
        found[_normal(name)] = package
        for text in package.requires or ():
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                following = (_normal(need.name), frozenset({"", *need.extras}))
                if following not in asked:
                    asked.add(following)
                    wanted.append(following)
    return [found[name] for name in sorted(found) if name != "lafs"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run_shiv(packages: Path, draft: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "shiv", "--site-packages", str(packages), "--reproducible"]
    command += ["--entry-point", "lafscli.__main__:main", "--compile-pyc", "--output-file", str(draft)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise LafsError(f"shiv failed: {lines[-1]}", hint="pip install '.[test]'")


def _finish(draft: Path, final: Path, count: int) -> None:
    """Shiv's archive again, with the start of lafs and without what differs between builders."""
    with zipfile.ZipFile(draft) as source, final.open("wb") as file:
        file.write(_SHEBANG)
        facts = json.loads(source.read("environment.json"))
        start = (lafscli.__version__, zipapp_start.python_tag(), sys.platform, os.uname().machine)
        call = ", ".join(repr(value) for value in (*start, facts["build_id"], count))
        main = Path(zipapp_start.__file__).read_text("utf-8") + f'\n\nif __name__ == "__main__":\n    start({call})\n'
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in sorted(source.infolist(), key=lambda each: each.filename):
                entry = zipfile.ZipInfo(member.filename, member.date_time)
                entry.external_attr = 0o100644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3
                archive.writestr(entry, main if member.filename == "__main__.py" else source.read(member))
