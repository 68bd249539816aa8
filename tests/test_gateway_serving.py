"""The gateway as a server: ranges, slow and broken clients and servers, who may ask, how it begins and ends."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafscli.formats.caps import ChkCap
from tests.gateways import PATIENCE, Gateway, quoted, small_grid
from tests.grids import content
from tests.lafs_process import Lafs
from tests.sshd import SshServers

LARGE = content(9_000_000, 5)
MUTABLE = content(300_000, 6)


@dataclass
class Serving:
    """A gateway, its home and the files in it."""

    gateway: Gateway
    lafs: Lafs
    large: str
    mutable: str

    @property
    def grid(self) -> Path:
        return self.lafs.folder / "grid"

    def unfinished(self) -> list[Path]:
        """What uploads leave before they are done: staged shares, and what was sent."""
        return [*self.grid.glob("*/staging/*"), *(self.lafs.home / "state" / "gateway").glob("*")]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    lafs = small_grid(tmp_path_factory.mktemp("serving"))
    with Gateway(lafs, "-v", "--idle-timeout", "1s") as gateway:
        large = gateway.want("PUT", "/uri", LARGE)
        mutable = gateway.want("PUT", "/uri?format=MDMF", MUTABLE)
        yield Serving(gateway, lafs, large, mutable)


def until(what: Callable[[], object]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it never came true"
        select.select([], [], [], 0.02)


# ---- what is read


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mutable=st.booleans(), first=st.integers(0, 2_600_000), length=st.integers(1, 700_000), form=st.sampled_from("ab-")
)
def test_a_range_is_a_slice(serving: Serving, mutable: bool, first: int, length: int, form: str) -> None:
    whole, cap = (MUTABLE, serving.mutable) if mutable else (LARGE, serving.large)
    first = first // 8 if mutable else first + 6_500_000
    header, wanted = {
        "a": (f"bytes={first}-", whole[first:]),
        "b": (f"bytes={first}-{first + length - 1}", whole[first : first + length]),
        "-": (f"bytes=-{length}", whole[-length:]),
    }[form]
    status, headers, data = serving.gateway.ask("GET", quoted(cap), Range=header)
    assert (status, data if status == 206 else b"") == (206 if wanted else 416, wanted)
    if wanted:
        start = len(whole) - len(wanted) if form == "-" else first
        assert headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(whole)}"


def test_many_small_requests_at_once(serving: Serving) -> None:
    gateway = serving.gateway
    small = gateway.want("PUT", "/uri", content(1000, 9))
    barrier = threading.Barrier(200)
    wrong: list[object] = []

    def one(number: int) -> None:
        target, wanted = (quoted(small), content(1000, 9)) if number % 2 else (quoted("URI:LIT:n5xgk"), b"one")
        kept = gateway.connection()
        try:
            barrier.wait(PATIENCE)
            kept.request("GET", target)
            answer = kept.getresponse()
            if (answer.status, answer.read()) != (200, wanted):
                wrong.append(answer.status)
        except Exception as error:
            wrong.append(error)
        finally:
            kept.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- clients


def raw(gateway: Gateway, text: bytes, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection on which this was sent."""
    client = socket.socket()
    client.settimeout(PATIENCE)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", gateway.port))
    client.sendall(text)
    return client


def head(gateway: Gateway, line: str, *more: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: 127.0.0.1:{gateway.port}", *more, "", ""]).encode()


def everything(client: socket.socket) -> bytes:
    data = bytearray()
    while piece := client.recv(1 << 20):
        data += piece
    return bytes(data)


def test_a_client_that_takes_nothing_is_dropped(serving: Serving) -> None:
    with raw(serving.gateway, head(serving.gateway, f"GET {quoted(serving.large)}"), receive_buffer=4096) as client:
        poll = select.poll()
        poll.register(client, 0)
        assert poll.poll(PATIENCE * 1000), "it hangs up"


def test_a_client_that_takes_a_little_at_a_time_gets_all(serving: Serving) -> None:
    ask = head(serving.gateway, f"GET {quoted(serving.large)}", "Connection: close")
    with raw(serving.gateway, ask, receive_buffer=4096) as client:
        data, pauses = bytearray(), 0
        while piece := client.recv(100_000 if pauses < 6 else 1 << 20):
            data += piece
            if pauses < 6:
                select.select([], [], [], 0.3)
                pauses += 1
    assert bytes(data.partition(b"\r\n\r\n")[2]) == LARGE


def test_a_client_that_goes_while_it_is_sent_something_costs_nothing(serving: Serving) -> None:
    told = len(serving.gateway.told())
    with raw(serving.gateway, head(serving.gateway, f"GET {quoted(serving.large)}"), receive_buffer=4096) as client:
        client.recv(100)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: "GET chk" in serving.gateway.told()[told:])


def test_an_upload_that_breaks_off_leaves_nothing(serving: Serving) -> None:
    gateway = serving.gateway
    directory = gateway.want("PUT", "/uri?t=mkdir")
    shares = sorted(serving.grid.glob("*/shares/*/*/*"))
    told = len(gateway.told())
    form = "Content-Type: multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    for line, more, start in (
        (f"PUT {quoted(directory, 'f')}", "X-Y: z", b""),
        (f"POST {quoted(directory)}?t=upload", form, part),
        (f"PUT {quoted(directory, 'f')}", "Transfer-Encoding: chunked", b"100000\r\n"),
    ):
        length = () if "chunked" in more else ("Content-Length: 9000000",)
        with raw(gateway, head(gateway, line, more, *length) + start + bytes(3_000_000)[: 1 << 20]):
            pass
    with raw(gateway, head(gateway, f"PUT {quoted(directory, 'f')}", "Content-Length: 9000000") + b"slow") as silent:
        poll = select.poll()
        poll.register(silent, 0)
        assert poll.poll(PATIENCE * 1000), "who sends nothing is dropped"
    until(lambda: gateway.told()[told:].count("the client is gone") == 4)
    assert serving.unfinished() == []
    assert sorted(serving.grid.glob("*/shares/*/*/*")) == shares
    assert json.loads(gateway.want("GET", f"{quoted(directory)}?t=json"))[1]["children"] == {}


def test_heads_that_are_no_requests(serving: Serving) -> None:
    gateway = serving.gateway
    with raw(gateway, b"nonsense\r\n\r\n") as client:
        assert everything(client).startswith(b"HTTP/1.1 400 ")
    large = head(gateway, f"GET /{'x' * 200_000}")
    with raw(gateway, large) as client:
        assert everything(client).startswith(b"HTTP/1.1 431 ")
    large = head(gateway, f"GET /{'x' * 140_000}")
    with raw(gateway, large[:125_000]) as client:
        time.sleep(0.2)  # what is too much comes together with the end of the head
        client.sendall(large[125_000:])
        assert everything(client).startswith(b"HTTP/1.1 431 ")
    with raw(gateway, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n") as client:
        assert everything(client).startswith(b"HTTP/1.1 403 ")
    with raw(gateway, head(gateway, "GET /uri", "Connection: close", "Host: evil.example")) as client:
        assert everything(client).startswith(b"HTTP/1.1 403 ")


odd = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
    lambda text: quoted(text).removeprefix("/uri/")
)
raw_part = st.one_of(st.binary(max_size=12).map(lambda data: data.translate(None, b"\r\n \0")), odd.map(str.encode))
names = st.sampled_from(
    [
        "t",
        "replace",
        "format",
        "mutable",
        "offset",
        "name",
        "from_name",
        "to_dir",
        "to_name",
        "save",
        "filename",
        "uri",
        "output",
        "ophandle",
        "when_done",
        "private-key",
        "verify",
    ]
)
values = st.one_of(
    odd,
    st.sampled_from(
        [
            "json",
            "uri",
            "upload",
            "mkdir",
            "rename",
            "relink",
            "unlink",
            "set_children",
            "mkdir-immutable",
            "check",
            "info",
            "stream-manifest",
            "true",
            "1",
            "sdmf",
        ]
    ),
)
starts = st.sampled_from(
    [
        b"/uri/",
        b"/uri/{d}/",
        b"/uri/{f}/",
        b"/cap/",
        b"/file/",
        b"/named/{f}/",
        b"/",
        b"",
        b"//",
        b"/operations/",
        b"/static/",
        b"/page/",
        b"/uri?",
    ]
)
headers = st.sampled_from(
    [
        "Range: bytes=",
        "If-None-Match: ",
        "Content-Type: multipart/form-data; boundary=",
        "Accept: ",
        "If-Range: ",
        "Content-Type: application/x-www-form-urlencoded",
        "Cookie: ",
        "Expect: ",
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PROPFIND", "TRACE", "GETX", "CONNECT"]),
    starts,
    st.lists(raw_part, max_size=3),
    st.lists(st.tuples(names, values), max_size=3),
    st.lists(
        st.tuples(headers, st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=10)),
        max_size=2,
    ),
    st.binary(max_size=40),
)
def test_no_request_is_an_internal_error(
    serving: Serving,
    method: str,
    start: bytes,
    parts: list[bytes],
    query: list[tuple[str, str]],
    more: list[tuple[str, str]],
    body: bytes,
) -> None:
    gateway = serving.gateway
    target = start.replace(b"{f}", serving.large.encode()).replace(b"{d}", b"URI:DIR2-LIT:") + b"/".join(parts)
    target += b"?" + "&".join("=".join(pair) for pair in query).encode()
    lines = [f"Host: 127.0.0.1:{gateway.port}".encode(), b"Connection: close", b"Content-Length: %d" % len(body)]
    lines += [f"{name}{value}".encode("latin-1") for name, value in more]
    with raw(gateway, b"\r\n".join([method.encode() + b" " + target + b" HTTP/1.1", *lines, b"", body])) as client:
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 ")
    status = int(answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")[9:12])
    assert status not in (500, 502), answer
    assert gateway.process.poll() is None


# ---- servers


def test_servers_that_fail_are_told_and_a_download_in_the_middle_is_seen_to_fail(tmp_path: Path) -> None:
    lafs = small_grid(tmp_path)
    data = content(14_000_000, 7)
    with Gateway(lafs) as gateway:
        directory = gateway.want("PUT", "/uri?t=mkdir")
        for name in ("s0", "s1"):
            (tmp_path / "grid" / name).rename(tmp_path / name)
        status, headers, said = gateway.ask("PUT", quoted(directory, "x"), content(1000, 1))
        assert (status, headers["retry-after"]) == (503, "10"), said
        for name in ("s0", "s1"):
            (tmp_path / name).rename(tmp_path / "grid" / name)
        assert json.loads(gateway.want("GET", f"{quoted(directory)}?t=json"))[1]["children"] == {}
        cap = gateway.want("PUT", "/uri", data)
        kept = gateway.connection()
        kept.request("GET", quoted(cap))
        answer = kept.getresponse()
        begun = answer.read(1000)
        for share in (tmp_path / "grid").glob("*/shares/*/*/*"):
            os.truncate(share, 500)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)) as broken:
            begun += answer.read()
        if isinstance(broken.value, http.client.IncompleteRead):
            begun += broken.value.partial
        assert data.startswith(begun)
        assert len(begun) < len(data)
        until(lambda: "GET chk" in gateway.told())
        assert "URI:" not in gateway.told()
        status, _, said = gateway.ask("GET", quoted(cap))
        assert status == 410, said
        for server in (tmp_path / "grid").iterdir():
            (server / "shares").rename(server / "away")
        assert gateway.ask("GET", quoted(cap))[0] in (410, 503)


@pytest.mark.slow  # a server is taken for who it was for some seconds
def test_disks_that_are_unmounted_while_it_runs_are_silent_and_not_empty(tmp_path: Path) -> None:
    """Their shares are not lost: no 410, and no repair."""
    lafs = small_grid(tmp_path)
    with Gateway(lafs) as gateway:
        cap = gateway.want("PUT", "/uri", content(1000, 3))
        for name in ("s0", "s1", "s2"):
            (tmp_path / "grid" / name).rename(tmp_path / name)
            (tmp_path / "grid" / name).mkdir()  # where it was mounted
        until(lambda: gateway.ask("GET", quoted(cap))[0] == 503)
        said = gateway.ask("GET", quoted(cap))[2].decode()
        assert said.endswith("need 2; servers s0, s1, s2 did not answer; try again later"), said
        until(lambda: "servers s0, s1, s2 did not answer" in gateway.told())
        (tmp_path / "grid" / "s2").rmdir()
        (tmp_path / "s2").rename(tmp_path / "grid" / "s2")
        until(lambda: gateway.ask("GET", quoted(cap))[2] == content(1000, 3))
        repaired = json.loads(gateway.want("POST", f"{quoted(cap)}?t=check&repair=true&output=JSON"))
        assert not repaired["repair-attempted"]
        assert len(repaired["pre-repair-results"]["results"]["servers-responding"]) == 2


# ---- who may ask

OWN = "http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("method", "given", "status"),
    [
        ("GET", {"Host": "evil.example"}, 403),
        ("GET", {"Host": "127.0.0.1"}, 403),
        ("GET", {"Host": "127.0.0.1:1"}, 403),
        ("GET", {"Host": "evil.example:{port}"}, 403),
        ("GET", {"Host": "127.0.0.1.evil.example:{port}"}, 403),
        ("GET", {"Host": "localhost:{port}"}, 200),
        ("GET", {"Host": "LOCALHOST:{port}"}, 200),
        ("GET", {"Host": "[::1]:{port}"}, 200),
        ("GET", {"Host": "other.example"}, 200),
        ("GET", {"Host": "other.example:9"}, 200),
        ("GET", {"Host": "third.example:9"}, 200),
        ("GET", {"Host": "third.example"}, 403),
        ("GET", {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ("PUT", {"Origin": "http://evil.example"}, 403),
        ("PUT", {"Origin": "null"}, 403),
        ("PUT", {"Origin": "http://localhost:{port}"}, 403),
        ("PUT", {"Origin": OWN}, 403),
        ("DELETE", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("PUT", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("PUT", {"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_who_may_ask(locked: Gateway, method: str, given: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=locked.port) for name, value in given.items()}
    got, _, said = locked.ask(method, quoted("URI:LIT:n5xgk") if method == "GET" else "/uri", **sent)
    assert got == status, said
    allowed = b"--no-unlinked" in said
    assert allowed == (given == {"Origin": OWN}), "our own pages are only refused because of --no-unlinked"


def test_without_unlinked_objects(locked: Gateway) -> None:
    for method in ("PUT", "POST"):
        for t in ("", "?t=mkdir", "?t=upload", "?t=mkdir-immutable"):
            assert locked.ask(method, f"/uri{t}", b"x")[0] == 403
    assert locked.ask("PUT", quoted("URI:DIR2-LIT:", "x"), b"x", Origin=OWN.format(port=locked.port))[2] == (
        b"the directory is immutable: nothing can be added, replaced or removed"
    )


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    allowed = ("--allow-host", "other.example", "--allow-host", "Third.example:9")
    with Gateway(small_grid(tmp_path_factory.mktemp("locked")), "--no-unlinked", *allowed) as gateway:
        yield gateway


# ---- beginning and ending


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    return small_grid(tmp_path_factory.mktemp("home"))


def test_https(home: Lafs) -> None:
    certificate, key = home.folder / "cert.pem", home.folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    with Gateway(home, "--tls-cert", str(certificate), "--tls-key", str(key)) as gateway:
        assert gateway.document["urls"] == [f"https://127.0.0.1:{gateway.port}/"]
        trusting = ssl.create_default_context(cafile=str(certificate))
        kept = http.client.HTTPSConnection("localhost", gateway.port, context=trusting, timeout=PATIENCE)
        for origin, status in ((f"https://localhost:{gateway.port}", 200), (f"http://localhost:{gateway.port}", 403)):
            kept.request("PUT", "/uri", b"one", {"Origin": origin})
            answer = kept.getresponse()
            assert (answer.status, answer.read() == b"URI:LIT:n5xgk") == (status, status == 200)
        kept.close()
        with raw(gateway, head(gateway, "GET /uri")) as plain:
            assert plain.recv(1) in (b"", b"\x15"), "no answer in the clear"
    swapped = home("gateway", "http", "--tls-cert", key, "--tls-key", certificate, code=2)
    assert b"certificate" in swapped.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "0.0.0.0:0"], "--tls-cert FILE --tls-key FILE, or --insecure"),
        (["--listen", "[::]:0"], "--insecure"),
        (["--listen", "*:0"], "--insecure"),
        (["--listen", "nonsense"], "HOST:PORT"),
        (["--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--tls-cert", "x", "--tls-key", "y"], "No such file"),
        (["--idle-timeout", "0s"], "would end every connection"),
        (["--allow-host", "https://grid.example"], "no http://"),
        (["--allow-host", "grid.example/"], "not a name of a host"),
    ],
)
def test_options_that_can_not_be(home: Lafs, options: list[str], said: str) -> None:
    assert said in home("gateway", "http", *options, code=2).stderr.decode()


def test_without_servers_it_starts_with_a_warning(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", code=0)
    with Gateway(lafs) as gateway:
        assert gateway.ask("PUT", "/uri", content(1000, 1))[0] == 503
        status, _, said = gateway.ask("GET", quoted(f"URI:CHK:{'a' * 26}:{'a' * 52}:3:10:1000"))
        assert (status, said) == (503, b"no server is configured; lafs server add NAME URL, or lafs grid import FILE")
        assert "warning: no server is configured" in gateway.told()
        assert "hint: lafs server add" in gateway.told()


def test_without_a_home_or_an_address(tmp_path: Path, home: Lafs, locked: Gateway) -> None:
    assert b"lafs init" in Lafs(tmp_path)("gateway", "http", "--listen", "127.0.0.1:0", code=2).stderr
    taken = home("gateway", "http", "--listen", f"127.0.0.1:{locked.port}", code=1)
    assert b"cannot listen" in taken.stderr


def test_without_its_libraries_it_says_what_to_install(home: Lafs) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from lafscli.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "gateway", "http"], env=home.environment(), capture_output=True, timeout=60
    )
    assert (done.returncode, b"pip install 'lafs[gateway]'" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_within_two_seconds(home: Lafs, number: int, code: int) -> None:
    """Also with a client in the middle of an upload, and one that does not take what it asked for."""
    told = home.folder / "told"
    address = home.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address.unlink(missing_ok=True)
        manager.bind(str(address))
        manager.settimeout(PATIENCE)
        home.variables["NOTIFY_SOCKET"] = str(address)
        try:
            with Gateway(home, "--log-file", str(told)) as gateway:
                assert manager.recv(100) == b"READY=1"
                cap = gateway.want("PUT", "/uri", LARGE)
                asking = head(gateway, f"GET {quoted(cap)}")
                sending = head(gateway, "PUT /uri", "Content-Length: 5000") + b"x"
                with raw(gateway, asking, receive_buffer=4096) as slow, raw(gateway, sending) as unfinished:
                    slow.recv(10)
                    began = time.monotonic()
                    assert gateway.end(number) == code
                    assert time.monotonic() - began < 2
                    answer = everything(unfinished)
                    assert b"HTTP/1.1 503 " in answer
                    assert b"the gateway is being ended" in answer
        finally:
            del home.variables["NOTIFY_SOCKET"]
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert any(line["event"] == "gateway http" and line["action"].startswith("PUT /uri 200 ") for line in lines)
    assert "URI:" not in told.read_text()


# ---- several writers


def adders(gateways: list[Gateway], directory: str, count: int) -> list[str]:
    """So many threads for each gateway, each of which adds a name; all names."""
    jobs = [(gateway, f"{index}-{number}") for index, gateway in enumerate(gateways) for number in range(count)]

    def add(job: tuple[Gateway, str]) -> str:
        gateway, name = job
        assert gateway.ask("PUT", quoted(directory, name), name.encode())[0] == 201
        return name

    with ThreadPoolExecutor(len(jobs)) as pool:
        return sorted(pool.map(add, jobs))


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_two_gateways_and_many_threads_in_one_directory_lose_nothing(serving: Serving, count: int) -> None:
    one = serving.gateway
    with Gateway(serving.lafs) as other:
        directory = one.want("PUT", "/uri?t=mkdir")
        names = adders([one, other], directory, count)
        assert sorted(json.loads(one.want("GET", f"{quoted(directory)}?t=json"))[1]["children"]) == names
        assert sorted(json.loads(other.want("GET", f"{quoted(directory)}?t=json"))[1]["children"]) == names
    assert len(names) == 2 * count


@pytest.mark.slow
def test_kill_9_in_the_middle_of_uploads_leaves_nothing_to_see(tmp_path: Path) -> None:
    lafs = small_grid(tmp_path)
    done: list[str] = []
    with Gateway(lafs) as gateway:
        directory = gateway.want("PUT", "/uri?t=mkdir")

        def upload(number: int) -> None:
            try:
                if gateway.ask("PUT", quoted(directory, str(number)), content(3_000_000, number))[0] == 201:
                    done.append(str(number))
            except (OSError, http.client.HTTPException):
                pass

        threads = [threading.Thread(target=upload, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        until(lambda: len(done) >= 3)
        gateway.process.kill()
        for thread in threads:
            thread.join()
    assert list((lafs.home / "state" / "gateway").glob("*")) == []
    with Gateway(lafs) as again:
        children = json.loads(again.want("GET", f"{quoted(directory)}?t=json"))[1]["children"]
        assert set(done) <= set(children)
        for name in children:
            assert again.ask("GET", quoted(directory, name))[2] == content(3_000_000, int(name))
        assert again.ask("PUT", quoted(directory, "after"), b"x")[0] == 201


def _file_cap(number: int) -> str:
    return str(ChkCap(number.to_bytes(16, "big"), bytes(32), 3, 10, 1000))


@pytest.mark.slow
def test_a_directory_of_5000_entries(home: Lafs) -> None:
    """Spec of the gateway: as JSON, warm, in half a second."""
    children = {f"entry {number:05}": ["filenode", {"ro_uri": _file_cap(number)}] for number in range(5000)}
    with Gateway(home) as gateway:
        directory = gateway.want("POST", "/uri?t=mkdir-with-children", json.dumps(children).encode())
        first = gateway.want("GET", f"{quoted(directory)}?t=json")
        times = []
        for _ in range(5):
            began = time.monotonic()
            assert gateway.want("GET", f"{quoted(directory)}?t=json") == first
            times.append(time.monotonic() - began)
        assert len(json.loads(first)[1]["children"]) == 5000
        assert min(times) < 0.5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM from /proc")
def test_memory_does_not_grow_with_the_file(home: Lafs) -> None:
    size, piece = 400 << 20, content(1 << 20, 3)
    with Gateway(home) as gateway:
        kept = gateway.connection()
        kept.request("PUT", "/uri", (piece for _ in range(size >> 20)), {"Content-Length": str(size)})
        cap = kept.getresponse().read().decode()
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        pieces = [form, *[piece] * (size >> 20), b"\r\n--x--\r\n"]
        kept.request(
            "POST",
            "/uri?t=upload",
            iter(pieces),
            {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(sum(map(len, pieces)))},
        )
        assert kept.getresponse().read().decode() == cap
        kept.request("GET", quoted(cap))
        answer = kept.getresponse()
        for _ in range(size >> 20):
            assert answer.read(1 << 20) == piece
        kept.close()
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 200 << 10


@pytest.mark.slow
def test_a_server_that_hangs_delays_nobody_who_needs_no_server(tmp_path: Path) -> None:
    """Far more uploads wait for it than there are threads."""
    with SshServers(tmp_path / "ssh", 4) as servers:
        lafs = Lafs(tmp_path)
        lafs("init", "--encoding", "2/3/4", code=0)
        lines = [f"server add s{n} {servers.url(n)} --option ssh-config={servers.config}\n" for n in range(4)]
        lafs("batch", input="".join(lines).encode(), code=0)
        with Gateway(lafs) as gateway:
            gateway.want("PUT", "/uri", content(300_000, 1))
            servers.pause(0)
            with ThreadPoolExecutor(100) as pool:
                uploads = [pool.submit(gateway.want, "PUT", "/uri", content(20_000, n)) for n in range(100)]
                until(lambda: gateway.want("GET", "/?t=json") and threads(gateway) > 60)
                began = time.monotonic()
                assert gateway.want("GET", quoted("URI:LIT:nbswy3dp")) == "hello"
                gateway.want("GET", "/")
                assert time.monotonic() - began < 4
                servers.resume(0)
                for upload in uploads:
                    assert upload.result().startswith("URI:CHK:")
                for number in range(4):
                    servers.pause(number)
                left = pool.submit(gateway.ask, "PUT", "/uri", content(20_000, 200))
                until(lambda: "under way" in gateway.want("GET", "/"))
                assert gateway.end() == 128 + signal.SIGTERM
                assert left.result()[0] == 503


def threads(gateway: Gateway) -> int:
    return len(list(Path(f"/proc/{gateway.process.pid}/task").iterdir()))
