"""`lafs` in a process of its own that begins where the imports are done.

Four of five tests of the command line wait for Python to start and to import; here a process that has imported lafscli
is forked for each call instead. Each still is a process with its own arguments, environment, folder and pipes, and ends
as Python ends. How the program starts is for `test_startup`, `test_zipapp` and all that call `Lafs.start`.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SIZE = 1 << 22
_BEFORE_MAIN = ("PYTHON", "LC_", "LANG", "TZ", "SSL", "OPENSSL")
"""Variables that Python or a library reads at its start."""


class Preloaded:
    """Starts at its first call, and ends with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._environment: dict[str, str] = {}

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment would start as the one that is forked did."""
        first = self._environment or os.environ
        names = {name for name in {*environment, *first} if name.startswith(_BEFORE_MAIN) and name != "PYTHONPATH"}
        return all(environment.get(name) == first.get(name) for name in names)

    def run(
        self, arguments: Sequence[str], *, input: bytes, environment: Mapping[str, str], folder: Path, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run with pipes."""
        theirs_in, stdin = os.pipe()
        stdout, theirs_out = os.pipe()
        stderr, theirs_err = os.pipe()
        ours, theirs = socket.socketpair()
        with ours:
            try:
                request = json.dumps([list(arguments), dict(environment), str(folder), _umask()]).encode()
                descriptors = array.array("i", [theirs_in, theirs_out, theirs_err, theirs.fileno()])
                self._begin().sendmsg(
                    [len(request).to_bytes(4, "big") + request],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)],
                )
            finally:
                theirs.close()
                for descriptor in (theirs_in, theirs_out, theirs_err):
                    os.close(descriptor)
            pid = int.from_bytes(ours.recv(4), "big")
            until = time.monotonic() + timeout
            try:
                out, err = _communicate(stdin, stdout, stderr, input, until)
                ours.settimeout(max(0.1, until - time.monotonic()))
                status = ours.recv(4)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        assert len(status) == 4, "the process that is forked has died"
        code = os.waitstatus_to_exitcode(int.from_bytes(status, "big"))
        return subprocess.CompletedProcess(list(arguments), code, out, err)

    def _begin(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        ours, theirs = socket.socketpair()
        self._environment = dict(os.environ)
        command = [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[1], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._socket = ours
        atexit.register(ours.close)
        return ours


def _umask() -> int:
    os.umask(now := os.umask(0))
    return now


def _communicate(stdin: int, stdout: int, stderr: int, input: bytes, until: float) -> tuple[bytes, bytes]:
    """Write to the one and read the others until both have ended; TimeoutError."""
    got: dict[int, list[bytes]] = {stdout: [], stderr: []}
    rest = memoryview(input)
    os.set_blocking(stdin, False)
    opened = {stdin, stdout, stderr}
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        selector.register(stdout, selectors.EVENT_READ)
        selector.register(stderr, selectors.EVENT_READ)

        def end(descriptor: int) -> None:
            selector.unregister(descriptor)
            os.close(descriptor)
            opened.remove(descriptor)

        try:
            while opened - {stdin}:
                for key, _ in selector.select(max(0.0, until - time.monotonic())):
                    if key.fd == stdin:
                        with suppress(BlockingIOError):
                            try:
                                rest = rest[os.write(stdin, rest[:65536]) :] if rest else rest
                            except BrokenPipeError:
                                rest = rest[:0]
                            if not rest:
                                end(stdin)
                    elif data := os.read(key.fd, 1 << 16):
                        got[key.fd].append(data)
                    else:
                        end(key.fd)
                if time.monotonic() > until:
                    raise TimeoutError
        finally:
            for descriptor in opened:
                os.close(descriptor)
    return b"".join(got[stdout]), b"".join(got[stderr])


PRELOADED = Preloaded()


# ---- the process that is forked ------------------------------------------------------------------------------------


def _imports() -> None:
    """What commands import when they run; but for gateways, which start by themselves and whose libraries every fork
    would have to carry."""
    from lafscli.cli import table

    for row in table.COMMANDS:
        importlib.import_module(row.module)
    package = Path(__file__).parents[1] / "lafscli"
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).with_suffix("").as_posix().replace("/", ".")
        if not name.endswith(("__main__", "zipapp_start")) and not name.startswith("lafscli.gateway."):
            importlib.import_module(name.removesuffix(".__init__"))
    for library in ("rich.table", "rich.progress", "cryptography.hazmat.primitives.asymmetric.rsa", "zfec", "tomli_w"):
        importlib.import_module(library)
    for library in ("nacl.secret", "nacl.pwhash"):
        importlib.import_module(library)


def _receive(listening: socket.socket) -> tuple[bytes, list[int]]:
    """One request and its descriptors; nothing at the end."""
    data, ancillary, _, _ = listening.recvmsg(_SIZE, socket.CMSG_SPACE(4 * array.array("i").itemsize))
    descriptors = array.array("i")
    for _level, _kind, carried in ancillary:
        descriptors.frombytes(carried)
    while data and len(data) < 4 + int.from_bytes(data[:4], "big"):
        data += listening.recv(_SIZE)
    return data[4:], list(descriptors)


def _serve(listening: socket.socket) -> bytes:
    """Fork for each request; returns in the child alone, with what it is to run."""
    running: dict[int, socket.socket] = {}
    wake, waker = socket.socketpair()
    wake.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno())
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is wake:
                    with suppress(BlockingIOError):
                        wake.recv(4096)
                    while running:
                        pid, status = os.waitpid(-1, os.WNOHANG)
                        if not pid:
                            break
                        with running.pop(pid) as answering, suppress(OSError):
                            answering.send(status.to_bytes(4, "big"))
                    continue
                request, descriptors = _receive(listening)
                if not request:
                    os._exit(0)
                pid = os.fork()
                if pid:
                    *streams, last = descriptors
                    for descriptor in streams:
                        os.close(descriptor)
                    running[pid] = answering = socket.socket(fileno=last)
                    answering.send(pid.to_bytes(4, "big"))
                    continue
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in running.values():
                    other.close()
                for each in (wake, waker, listening):
                    each.close()
                for number, descriptor in enumerate(descriptors):
                    if number < 3:
                        os.dup2(descriptor, number)
                    os.close(descriptor)
                return request


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listening = socket.socket(fileno=int(sys.argv[1]))
    _imports()
    gc.freeze()  # or each child would copy, page by page, all that its collector looks at
    arguments, environment, folder, umask = json.loads(_serve(listening))
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(Path(__file__).parents[1] / "lafscli" / "__main__.py"), *arguments]  # as `python -m` has it
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), encoding="utf-8")
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
        errors = "backslashreplace" if number == 2 else "strict"
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=number == 2)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.__stdin__ = sys.stdin
    from lafscli.__main__ import main

    main()


if __name__ == "__main__":
    _main()
