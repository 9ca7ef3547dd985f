"""Headless Chromium, driven over its DevTools protocol (which is a WebSocket; spoken here by Python websockets)."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from ..support import SOON, wait_until
from .programs import require

__all__ = ["Browser", "Page", "browser"]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-timer-throttling",
    "--ignore-certificate-errors",
    "--window-size=1000,800",
    "--remote-debugging-port=0",
]
STARTING = 30.0


class _DevTools:
    """One DevTools session: commands and their results, one at a time."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while (got := json.loads(self._connection.recv(2 * SOON))).get("id") != number:
            pass  # events
        assert "result" in got, f"{method}: {got}"
        result: dict[str, Any] = got["result"]
        return result


class Page(_DevTools):
    """One open page."""

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise; fail on what it throws."""
        got = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        try:
            wait_until(lambda: self.evaluate(expression), 2 * SOON)
        except AssertionError as error:
            text = self.evaluate("document.body.innerText")
            raise AssertionError(f"{expression}: {error}; the page says {text!r}") from None

    def text(self, selector: str) -> str:
        """Return the text of the first element that a CSS selector names."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

    def fill(self, selector: str, value: str) -> None:
        """Type a value into a field."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.command("Input.insertText", text=value)

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the page."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))


class Browser:
    """A running Chromium."""

    def __init__(self, root: str, path: str) -> None:
        self._root = root
        self._path = path

    @contextlib.contextmanager
    def page(self, url: str) -> Iterator[Page]:
        """Yield a new page, loaded; close it at the end."""
        with connect(self._root + self._path, proxy=None, max_size=None) as connection:
            devtools = _DevTools(connection)
            target = devtools.command("Target.createTarget", url=url)["targetId"]
            try:
                with connect(f"{self._root}/devtools/page/{target}", proxy=None, max_size=None) as own:
                    page = Page(own)
                    page.wait_for(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")
                    yield page
            finally:
                devtools.command("Target.closeTarget", targetId=target)


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Yield a Chromium with a new, empty profile in the folder; end it and all its processes."""
    executable = require("chromium", "chromium-browser", "google-chrome")
    command = [executable, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with (
        open(folder / "chromium.log", "wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            told = folder / "DevToolsActivePort"
            wait_until(lambda: told.exists() and told.read_text().count("\n") >= 1, STARTING)
            port, path = told.read_text().split()
            yield Browser(f"ws://127.0.0.1:{port}", path)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
