"""A headless Chromium, driven through chromedriver's own HTTP interface.

Source: W3C WebDriver, https://www.w3.org/TR/webdriver2/ (the endpoints), and chromedriver's
``goog:loggingPrefs`` and ``/se/log`` (console and network events).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["MISSING", "Browser", "browser"]

MISSING = (
    ""
    if shutil.which("chromium") and shutil.which("chromedriver")
    else "no chromium and chromedriver: run scripts/install-chromium.sh"
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One window."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = ""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the value that chromedriver answers with."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.loads(answer.read())["value"]
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def start(self, profile: Path, flags: tuple[str, ...]) -> None:
        """Open the window, with an empty profile."""
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}", *flags]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": wanted}}
        self._session = "/session/" + self.call("POST", "/session", body)["sessionId"]

    def close(self) -> None:
        """Close the window."""
        self.call("DELETE", self._session)

    def open(self, path: Path) -> None:
        """Open a file and wait until it has loaded."""
        self.call("POST", f"{self._session}/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a function body of JavaScript returns."""
        body = {"script": script, "args": list(arguments)}
        return self.call("POST", f"{self._session}/execute/sync", body)

    def text(self, selector: str) -> str:
        """Return an element's text, shown or not."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def click(self, selector: str) -> None:
        """Click an element as a person does: it must be there to be hit."""
        self.call("POST", f"{self._session}/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into an element, after what it holds."""
        element = self._find(selector)
        self.call("POST", f"{self._session}/element/{element}/value", {"text": text})

    def enter_frame(self, selector: str) -> None:
        """Go on inside a frame of the page."""
        frame = {_ELEMENT: self._find(selector)}
        self.call("POST", f"{self._session}/frame", {"id": frame})

    def leave_frame(self) -> None:
        """Go on in the page itself."""
        self.call("POST", f"{self._session}/frame", {"id": None})

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page a size in pixels and a colour scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path) -> None:
        """Write what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.call("GET", f"{self._session}/screenshot")))

    def console(self) -> list[str]:
        """Return the console's messages since the last call."""
        entries = self.call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for since the last call."""
        entries = self.call("POST", f"{self._session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        return str(self.call("POST", f"{self._session}/element", body)[_ELEMENT])

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        body = {"cmd": command, "params": parameters}
        self.call("POST", f"{self._session}/goog/cdp/execute", body)


@contextlib.contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Browser]:
    """A browser with an empty profile in ``folder``; closed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            opened = Browser(port)
            _wait(opened)
            opened.start(folder / "profile", flags)
            try:
                yield opened
            finally:
                opened.close()
        finally:
            driver.terminate()
            driver.wait(timeout=30)


def _wait(opened: Browser) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if opened.call("GET", "/status")["ready"]:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
