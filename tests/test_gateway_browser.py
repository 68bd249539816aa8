"""The gateway's pages in a real browser: what a person does there, and what a hostile file can't."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browser import Browser, WebDriverError, missing
from tests.gateways import Gateway, quoted
from tests.lafs_process import Lafs

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    absent = missing()
    if absent is not None:
        assert not os.environ.get("CI"), f"{absent} must be installed where CI=1"
        pytest.skip(f"no {absent}: Debian's packages chromium and chromium-driver have it")


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    made = Lafs(tmp_path_factory.mktemp("browser"))
    made("init", "--local", code=0)
    return made


@pytest.fixture(scope="module")
def gateway(lafs: Lafs) -> Iterator[Gateway]:
    with Gateway(lafs, "--allow-host", "127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def base(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


@pytest.fixture
def root(gateway: Gateway) -> str:
    """The write cap of a new directory."""
    return gateway.want("POST", "/uri?t=mkdir")


def names(browser: Browser) -> list[str]:
    return [each.text for each in browser.all("table.listing tbody th")]


def test_a_day_with_files(browser: Browser, base: str, root: str, tmp_path: Path) -> None:
    browser.go(f"{base}/")
    browser.one("#cap").type(root)
    browser.one("form[action='/page/open'] button").click()
    browser.until(lambda: "This directory is empty" in browser.text, "the empty directory")
    assert browser.title == f"Directory {browser.title.split()[1]} · lafs"
    assert len(browser.title.split()[1]) == 5

    for name, data in (("notes.txt", b"remember the milk\n"), ("big.bin", os.urandom(300_000))):
        (tmp_path / name).write_bytes(data)
    browser.one("#file").type(f"{tmp_path / 'notes.txt'}\n{tmp_path / 'big.bin'}")
    browser.one("#upload button").click()
    browser.until(lambda: names(browser) == ["big.bin", "notes.txt"], "both files")

    (tmp_path / "more.txt").write_bytes(b"more")
    browser.one("#file").type(f"{tmp_path / 'notes.txt'}\n{tmp_path / 'more.txt'}")
    browser.one("#upload button").click()
    browser.until(lambda: "there is an entry of that name already" in browser.text, "the refusal")
    browser.link("Show the directory as it is now").click()
    browser.until(lambda: names(browser) == ["big.bin", "more.txt", "notes.txt"], "the one that could be stored")
    browser.all("tr a[data-ask=remove]")[1].click()
    browser.one("dialog[open] button.danger").click()
    browser.until(lambda: names(browser) == ["big.bin", "notes.txt"], "two again")

    browser.one("#mkdir").type("été & <b>")
    browser.one("form[action='/page/mkdir'] button").click()
    browser.until(lambda: browser.title.startswith("été & <b>"), "the new directory")
    browser.one("nav .trail a").click()
    browser.until(lambda: names(browser) == ["été & <b>", "big.bin", "notes.txt"], "the way up")

    browser.all("a[href$='big.bin?save=true']")[0].click()
    saved = browser.downloads / "big.bin"
    browser.until(saved.exists, "the download")
    assert saved.read_bytes() == (tmp_path / "big.bin").read_bytes()

    browser.link("notes.txt").click()
    browser.until(lambda: "remember the milk" in browser.text, "the text, shown")
    browser.call("POST", "/back", {})

    browser.all("tr a[data-ask=rename]")[-1].click()
    browser.one("dialog[open] #ask-to").clear()
    browser.one("dialog[open] #ask-to").type("list.txt")
    browser.one("dialog[open] button.primary").click()
    browser.until(lambda: names(browser) == ["été & <b>", "big.bin", "list.txt"], "the new name")

    browser.all("tr a[data-ask=remove]")[1].click()
    assert "big.bin" in browser.one("dialog[open] h2").text
    browser.one("dialog[open] [data-close]").click()
    browser.all("tr a[data-ask=remove]")[1].click()
    browser.one("dialog[open] button.danger").click()
    browser.until(lambda: names(browser) == ["été & <b>", "list.txt"], "one less")


def test_dropped_files_are_uploaded(browser: Browser, base: str, root: str) -> None:
    browser.go(base + quoted(root))
    browser.run(
        """const files = new DataTransfer();
        files.items.add(new File(["dropped"], 'q"%22.txt'));
        files.items.add(new File([new Uint8Array(2000000)], "zeros"));
        const drop = (kind) => new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true});
        document.body.dispatchEvent(drop("dragenter"));
        document.body.dispatchEvent(drop("drop"));"""
    )
    browser.until(lambda: names(browser) == ['q"%22.txt', "zeros"], "what was dropped")


def test_everything_works_without_script(gateway: Gateway, base: str, root: str, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes(b"no script")
    with Browser(tmp_path / "chromium", script=False) as browser:
        browser.go(base + quoted(root))
        browser.one("#file").type(str(tmp_path / "plain.txt"))
        browser.one("#upload button").click()
        browser.until(lambda: names(browser) == ["plain.txt"], "the file")
        assert browser.one(".drop-hint").text == ""
        browser.one("a[data-ask=rename]").click()
        browser.one("#to").clear()
        browser.one("#to").type("other.txt")
        browser.one("form[action='/page/rename'] button").click()
        browser.until(lambda: names(browser) == ["other.txt"], "the new name")
        browser.one("a[data-ask=remove]").click()
        assert not [button for button in browser.all("button.danger") if button.text], "it asks first"
        browser.one("details.confirm summary").click()
        browser.one("button.danger").click()
        browser.until(lambda: "This directory is empty" in browser.text, "the empty directory")
    assert '"children": {}' in gateway.want("GET", quoted(root) + "?t=json")


def test_a_link_that_is_shared_only_reads(
    browser: Browser, gateway: Gateway, base: str, root: str, tmp_path: Path
) -> None:
    gateway.want("PUT", quoted(root, "sub", "inside.txt"), b"to be read")
    browser.go(base + quoted(root))
    browser.link("Share").click()
    browser.go(base + quoted(root))
    browser.one("tr a[href$='#share']").click()
    link = browser.one("#link").value
    assert root not in link
    with Browser(tmp_path / "second") as other:
        other.go(link)
        assert names(other) == ["inside.txt"]
        assert "read-only" in other.text
        assert not other.all("form")
        assert [each for each in other.all("a") if each.text in ("Rename", "Remove")] == []
        other.link("inside.txt").click()
        other.until(lambda: "to be read" in other.text, "the file")


def test_health_is_a_grid(browser: Browser, lafs: Lafs, gateway: Gateway, base: str) -> None:
    cap = gateway.want("PUT", "/uri", os.urandom(5000))
    lost = sorted((lafs.home / "grid").glob(f"*/shares/*/{_si(lafs, cap)}/*"))
    lost[0].unlink()
    browser.go(f"{base}{quoted(cap)}?t=info")
    browser.one("button[value=check]").click()
    browser.until(lambda: "Damaged: 9 of 10 shares" in browser.text, "the verdict")
    assert len(browser.all("td.mark.good")) == 9
    assert len(browser.all("td.mark.missing")) == 1
    assert len(browser.all("table.shares tbody tr")) == 10
    browser.one("button[value=repair]").click()
    browser.until(lambda: "Healthy: 10 of 10 shares" in browser.text, "the repair")
    assert len(browser.all("td.mark.good")) == 10


def _si(lafs: Lafs, cap: str) -> str:
    return str(lafs.json("cap", "show", cap)["storage_index"])


def test_pages_break_no_rule_of_their_policy(browser: Browser, gateway: Gateway, base: str, root: str) -> None:
    gateway.want("PUT", quoted(root, "a.txt"), b"a")
    browser.call("POST", "/se/log", {"type": "browser"})  # what was said before is forgotten
    for address in ("/", quoted(root), quoted(root, "a.txt") + "?t=info", quoted(root, "absent")):
        browser.go(base + address)
        assert browser.run("return getComputedStyle(document.body).margin") == "0px", "the style sheet is there"
        assert browser.run("return document.referrer") == ""
    complaints = browser.call("POST", "/se/log", {"type": "browser"})
    assert [each["message"] for each in complaints if "404" not in each["message"]] == []


# ---- hostile files


class Between:
    """A proxy that takes headers away, and has seen what was asked."""

    def __init__(self, port: int) -> None:
        self.without: tuple[str, ...] = ()
        self.seen: list[str] = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                between.seen.append(self.path)
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in (*between.without, "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def between(gateway: Gateway) -> Iterator[Between]:
    made = Between(gateway.port)
    yield made
    made.close()


ATTACK = """
const here = location.pathname.replace(/[^/]*$/, "");
fetch(here + "?t=json").then((answer) => answer.text())
  .then((text) => fetch("/leak?read=" + text.includes("secret.txt")));
fetch(here + "?t=unlink&name=secret.txt", {method: "POST"}).then((answer) => fetch("/leak?removed=" + answer.ok));
"""
FORM = '<form id="f" method="post" action="?t=unlink&amp;name=secret.txt"><button>A prize</button></form>'
HTML = f"<!doctype html><title>x</title><p>{FORM}<script>{ATTACK}</script><img src='/leak?shown'>"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
    f"<image href='/leak?shown' width='9' height='9'/><script><![CDATA[{ATTACK}]]></script></svg>"
)
BOTH = pytest.mark.parametrize(("name", "data"), [("hostile.html", HTML), ("hostile.svg", SVG)])


@dataclass
class Trap:
    """A directory with a secret file, into which hostile ones are put and opened as a person does."""

    browser: Browser
    gateway: Gateway
    between: Between
    root: str

    def open(self, name: str, data: str, without: tuple[str, ...] = ()) -> None:
        """Open this file, as it is served but for these headers."""
        self.between.without = without
        self.gateway.want("PUT", quoted(self.root, "secret.txt"), b"secret")
        self.gateway.want("PUT", quoted(self.root, name), data.encode())
        self.browser.go(self.between.base + quoted(self.root))
        self.browser.link(name).click()

    @property
    def leaks(self) -> list[str]:
        return [path for path in self.between.seen if path.startswith("/leak")]

    def leave(self) -> None:
        self.browser.go(f"{self.between.base}/")

    def has_secret(self) -> bool:
        return has_secret(self.gateway, self.root)


@pytest.fixture
def trap(browser: Browser, gateway: Gateway, between: Between, root: str) -> Trap:
    return Trap(browser, gateway, between, root)


def has_secret(gateway: Gateway, root: str) -> bool:
    return "secret.txt" in gateway.want("GET", quoted(root) + "?t=json")


@BOTH
def test_a_hostile_file_is_saved_and_not_opened(trap: Trap, name: str, data: str) -> None:
    saved = trap.browser.downloads / name
    trap.open(name, data)
    trap.browser.until(saved.exists, "the download")
    trap.leave()
    assert trap.leaks == []
    assert trap.has_secret()


@BOTH
def test_a_hostile_file_that_is_opened_can_do_nothing(trap: Trap, name: str, data: str) -> None:
    trap.open(name, data, without=("content-disposition",))
    trap.browser.until(lambda: "/leak?shown" in trap.leaks, "what it may show")
    for button in trap.browser.all("button"):
        button.click()
    trap.leave()
    assert trap.leaks == ["/leak?shown"]
    assert trap.has_secret()


@BOTH
def test_without_the_headers_it_could(trap: Trap, name: str, data: str) -> None:
    trap.open(name, data, without=("content-disposition", "content-security-policy"))
    trap.browser.until(lambda: {"/leak?read=true", "/leak?removed=true"} <= set(trap.leaks), "the attack")
    assert not trap.has_secret()


def test_another_site_can_submit_no_form(browser: Browser, gateway: Gateway, base: str, root: str) -> None:
    gateway.want("PUT", quoted(root, "secret.txt"), b"secret")
    for action in (f"{base}{quoted(root)}?t=unlink&name=secret.txt", f"{base}/page/unlink"):
        fields = "".join(
            f'<input name="{name}" value="{value}">' for name, value in (("cap", root), ("at", "secret.txt"))
        )
        page = f'<form method="post" action="{action}">{fields}<button>x</button></form>'.replace("&", "%26").replace(
            "#", "%23"
        )
        browser.go(f"data:text/html,{page}")
        browser.one("button").click()
        browser.until(lambda: browser.address.startswith(base), "the answer")
        browser.until(
            lambda: "changes nothing here" in browser.text or "load the page again" in browser.text, "a refusal"
        )
    assert has_secret(gateway, root)
    with pytest.raises(WebDriverError):
        browser.run("throw new Error('the driver tells of errors')")
