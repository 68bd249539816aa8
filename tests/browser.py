"""A headless Chromium for tests, driven over the WebDriver protocol that Debian's chromedriver speaks."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb"),
)
_PATIENCE = 20


def missing() -> str | None:
    """Which of the programs is not installed; None when all are."""
    return next((name for name in PROGRAMS if shutil.which(name) is None), None)


class WebDriverError(Exception):
    """What the driver says went wrong."""


class Element:
    """One element of a page."""

    def __init__(self, browser: Browser, ident: str) -> None:
        self._browser = browser
        self.ident = ident

    def click(self) -> None:
        self._browser.call("POST", f"/element/{self.ident}/click", {})

    def type(self, text: str) -> None:
        """Keys; of a field for files, the path of one."""
        self._browser.call("POST", f"/element/{self.ident}/value", {"text": text})

    def clear(self) -> None:
        self._browser.call("POST", f"/element/{self.ident}/clear", {})

    @property
    def text(self) -> str:
        """What is to be seen of it."""
        return str(self._browser.call("GET", f"/element/{self.ident}/text"))

    @property
    def value(self) -> str:
        return str(self._browser.call("GET", f"/element/{self.ident}/property/value"))


class Browser:
    """A window with an empty profile of its own. `downloads`: where files go."""

    def __init__(self, folder: Path, *flags: str, script: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.downloads = folder / "downloads"
        self.downloads.mkdir(exist_ok=True)
        self._log = (folder / "chromedriver.log").open("wb")
        self._scratch = tempfile.TemporaryDirectory(prefix="lafs-")  # for sockets: their paths must be short
        self._process = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "HOME": str(folder), "TMPDIR": self._scratch.name},
            start_new_session=True,
        )
        self._session = ""
        try:
            self._port = self._listening()
            preferences: dict[str, Any] = {
                "download.default_directory": str(self.downloads),
                "download.prompt_for_download": False,
                "safebrowsing.enabled": False,
            }
            if not script:
                preferences["profile.managed_default_content_settings.javascript"] = 2
            options = {
                "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}", *flags],
                "prefs": preferences,
                "binary": shutil.which("chromium"),
            }
            wanted = {"alwaysMatch": {"goog:chromeOptions": options, "unhandledPromptBehavior": "ignore"}}
            self._session = str(self._ask("POST", "/session", {"capabilities": wanted})["sessionId"])
        except BaseException:
            self.close()
            raise

    def _listening(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            words = line.decode(errors="replace").rstrip().rstrip(".").split()
            if "successfully" in words:
                return int(words[-1])
        raise WebDriverError("chromedriver did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            if self._session:
                self.call("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._log.close()
            self._scratch.cleanup()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise WebDriverError(f"{answer['error']}: {answer.get('message', '')}".split("\n")[0])
        return answer

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self._ask(method, f"/session/{self._session}{path}", body)

    # ---- what a person does

    def go(self, address: str) -> None:
        self.call("POST", "/url", {"url": address})

    def all(self, css: str) -> list[Element]:
        """The elements that a selector finds now."""
        found = self.call("POST", "/elements", {"using": "css selector", "value": css})
        return [Element(self, each[ELEMENT]) for each in found]

    def one(self, css: str) -> Element:
        """The first element that a selector finds, as soon as there is one."""
        self.until(lambda: bool(self.all(css)), css)
        return self.all(css)[0]

    def link(self, text: str) -> Element:
        """The link with this text, as soon as there is one."""
        query = {"using": "link text", "value": text}
        self.until(lambda: bool(self.call("POST", "/elements", query)), text)
        return Element(self, self.call("POST", "/elements", query)[0][ELEMENT])

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; what it returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for something that happens in the browser."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if true():
                    return
            except WebDriverError:  # the page is going, or has just come
                pass
            time.sleep(0.05)
        raise AssertionError(f"in vain waited for: {what}; there is {self.address}: {self.text[:2000]}")

    @property
    def address(self) -> str:
        return str(self.call("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self.call("GET", "/title"))

    @property
    def text(self) -> str:
        """All that is to be seen."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def size(self, width: int, height: int) -> None:
        """Make the page appear as on a screen of this size."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the browser's own protocol."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A picture of the page."""
        shot = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
