"""`lafs gateway http` as a process, for tests; it is asked by http.client over connections that are kept."""

from __future__ import annotations

import http.client
import json
import select
import signal
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.lafs_process import Lafs

PATIENCE = 30.0

Answer = tuple[int, dict[str, str], bytes]


def quoted(cap: str, *names: str) -> str:
    """The target of a cap, and names below it."""
    return "/uri/" + "/".join(quote(part, safe="") for part in (cap, *names))


class Gateway:
    """A gateway of a home: `with Gateway(lafs) as gateway: gateway.ask("GET", "/")`. Each thread has a connection."""

    def __init__(self, lafs: Lafs, *options: str) -> None:
        self._lafs = lafs
        self.home = lafs.home
        self._options = options
        self._local = threading.local()

    def __enter__(self) -> Self:
        self.log = (self._lafs.folder / f"gateway-{id(self)}.log").open("w+b")
        self.process = self._lafs.start(
            "gateway", "http", "--listen", "127.0.0.1:0", "--json", *self._options,
            stdout=subprocess.PIPE, stderr=self.log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        heard = select.select([self.process.stdout], [], [], PATIENCE)[0]
        line = self.process.stdout.readline() if heard else b""
        if not line:
            self.close()
            raise AssertionError(f"the gateway did not start: {self.told()}")
        self.document: dict[str, Any] = json.loads(line)
        [address] = self.document["listening"]
        self.port = int(address.rpartition(":")[2])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def told(self) -> str:
        """What it has said on stderr."""
        self.log.flush()
        self.log.seek(0)
        return self.log.read().decode()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def connection(self) -> http.client.HTTPConnection:
        """A new connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, target: str, body: bytes | Iterable[bytes] = b"", **headers: str) -> Answer:
        """Status, headers (lower case) and body of the answer. In names of headers `_` is `-`."""
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if kept is None:
            kept = self._local.connection = self.connection()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            kept.request(method, target, body or None, sent)
            answer = kept.getresponse()
            data = answer.read()
        except Exception as error:
            kept.close()
            error.add_note(f"the gateway (exit {self.process.poll()}) said last: {self.told()[-500:]}")
            raise
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def want(self, method: str, target: str, body: bytes | Iterable[bytes] = b"", **headers: str) -> str:
        """The text of an answer that is no error."""
        status, _, data = self.ask(method, target, body, **headers)
        assert status < 300, (status, data)
        return data.decode()


def small_grid(folder: Path, servers: int = 4, encoding: str = "2/3/4") -> Lafs:
    """A home with so many folders as servers, in `folder`/grid."""
    lafs = Lafs(folder)
    lafs("init", "--encoding", encoding, code=0)
    lines = "".join(f"server add s{number} file://{folder}/grid/s{number}\n" for number in range(servers))
    lafs("batch", input=lines.encode(), code=0)
    return lafs


def multipart(content: bytes, filename: str = "up.bin", **fields: str) -> tuple[bytes, str]:
    """A form with a file, and its Content-Type."""
    parts = [
        f'--=b=\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()
    ]
    head = f'--=b=\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return "".join([*parts, head]).encode() + content + b"\r\n--=b=--\r\n", "multipart/form-data; boundary==b="
