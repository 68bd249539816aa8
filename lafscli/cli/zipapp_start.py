"""First code of the zipapp: the text of its `__main__.py`, followed there by one call of `start`.

It takes the place of shiv's own bootstrap but keeps its layout and its folders (`SHIV_ROOT`, else `~/.shiv`): a warm
start opens no archive and imports nothing but `lafscli`. Every Python from 3.6 on can read this file, so that one
that is too old for lafs gives a sentence and no traceback.
"""

import os
import stat
import sys


def start(version: str, python: str, system: str, machine: str, build: str, files: int) -> None:
    """Run lafs out of the archive's unpacked packages; unpack them when this user starts it for the first time.

    `python`, `system` and `machine` are `python_tag()`, `sys.platform` and machine name of the builder; `build` is
    part of the unpacked folder's name and `files` is how many files are in it.
    """
    if sys.argv[1:] == ["--version"]:
        show(f"lafs {version}\n")
    here = (python_tag(), sys.platform, os.uname().machine)
    if here != (python, system, machine):
        fail(f"this file is for {python} on {system} {machine}, and this Python is {here[0]} on {here[1]} {here[2]}")
    if any(name.startswith("SHIV_") and name != "SHIV_ROOT" for name in os.environ):
        import _bootstrap  # type: ignore[import-not-found]  # shiv's other knobs ask for shiv's own bootstrap

        _bootstrap.bootstrap()
    sys.path[0] = find_packages(f"lafs-{version}_{build}", files)
    from lafscli.__main__ import main

    main()


def show(text: str) -> None:
    """Put text on stdout and end; exit 1 where it can't be written, 141 where nobody reads."""
    try:
        os.fstat(1)  # sys.stdout is None where it is closed
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and sys.stderr is not None:
            sys.stderr.write(f"lafs: cannot write stdout: {error.strerror}\n")
        os._exit(141 if isinstance(error, BrokenPipeError) else 1)
    sys.exit(0)


def python_tag() -> str:
    """What native code depends on: implementation, version, threading and C library."""
    libc = "-musl" if "musl" in getattr(sys.implementation, "_multiarch", "") else ""
    return f"{sys.implementation.cache_tag}{sys.abiflags}{libc}"


def fail(message: str) -> None:
    """One line on stderr, or a document on stdout with `--json`, and exit 2."""
    if "--json" in sys.argv:
        import json

        print(json.dumps({"schema": 1, "error": {"code": 2, "kind": "Usage", "message": message}}))
    else:
        print(f"lafs: {message}", file=sys.stderr)
    sys.exit(2)


def find_packages(name: str, files: int) -> str:
    """Path of the unpacked packages: under SHIV_ROOT, else ~/.shiv, else a private folder in $TMPDIR."""
    asked = os.environ.get("SHIV_ROOT")
    root = os.path.expanduser(asked or os.path.join("~", ".shiv"))
    packages = os.path.join(root, name, "site-packages")
    if os.path.isdir(packages) and (asked or owned(root)):
        return packages
    if asked or owned(os.path.dirname(root)):
        try:
            os.makedirs(root, exist_ok=True)
            if asked or not loads_no_code(root):
                return unpack(root, name, files)
        except OSError as error:
            if asked:
                fail(f"cannot unpack into SHIV_ROOT {root}: {error.strerror}")
    root = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"lafs-{os.geteuid()}")
    try:
        if not os.path.lexists(root):
            os.mkdir(root, 0o700)
        if not owned(root) or not stat.S_ISDIR(os.lstat(root).st_mode) or os.stat(root).st_mode & 0o077:
            fail(f"the home folder can't be written and {root} is not a private folder of yours; set SHIV_ROOT")
        return unpack(root, name, files)
    except OSError as error:
        fail(f"cannot unpack into the home folder, nor into {root}: {error.strerror}; set SHIV_ROOT")
    raise AssertionError("fail does not return")


def owned(path: str) -> bool:
    """Whether `path` belongs to this user: code is run out of nobody else's folder unasked (think of sudo)."""
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def loads_no_code(root: str) -> bool:
    """Whether this is mounted noexec."""
    return bool(os.statvfs(root).f_flag & getattr(os, "ST_NOEXEC", 0))


def complete(packages: str, files: int) -> bool:
    """Whether nothing is missing: those who clean /tmp take single files."""
    return files == sum(not name.endswith(".pyc") for _, _, names in os.walk(packages) for name in names)


def unpack(root: str, name: str, files: int) -> str:
    """Unpack and compile under another name, then rename: of several first starts one wins and all work."""
    packages = os.path.join(root, name, "site-packages")
    if complete(packages, files):
        return packages

    import compileall
    import fcntl
    import shutil
    import zipfile
    from contextlib import suppress

    lock = os.open(os.path.join(root, ".lafs_lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fresh = os.path.join(root, f"{name}.{os.urandom(8).hex()}")
    umask = os.umask(0o022)
    try:
        with suppress(OSError):  # it only saves work, and some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete(packages, files):
            with zipfile.ZipFile(sys.argv[0]) as archive:
                archive.extractall(fresh, [each for each in archive.namelist() if each.startswith("site-packages/")])
            compileall.compile_dir(os.path.join(fresh, "site-packages"), ddir=packages, quiet=2)
            with suppress(FileNotFoundError):
                os.rename(os.path.join(root, name), f"{fresh}.old")
            os.rename(fresh, os.path.join(root, name))
    finally:
        os.umask(umask)
        os.close(lock)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(f"{fresh}.old", ignore_errors=True)
    return packages
