"""A headless Chromium, driven over its debugging port: just what the tests of the UI need."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-port=0", "--window-size=1400,1600",
)  # fmt: skip


def chromium() -> str | None:
    """Its path; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        path = chromium()
        assert path is not None
        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = self._folder / "DevToolsActivePort"
        end = time.monotonic() + 120
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < end, "chromium did not start"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            page = next(p for p in json.loads(answer.read()) if p["type"] == "page")
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None, compression=None)
        self("Page.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __call__(self, method: str, **parameters: object) -> dict:
        """One command of the DevTools protocol."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str) -> None:
        self("Page.navigate", url=url)

    def run(self, script: str) -> object:
        """The value of a JavaScript expression."""
        result = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 40.0) -> object:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while True:
            value = self.run(script)
            if value:
                return value
            assert time.monotonic() < end, f"{script}: {self.text()}"
            time.sleep(0.2)

    def text(self) -> str:
        return str(self.run("document.body?.innerText ?? ''"))

    def click(self, words: str) -> None:
        """Press the button, link or tab with these words."""
        script = (
            "[...document.querySelectorAll('*')]"
            ".filter(e => e.matches('button, a, [role=tab]') || !e.children.length)"
            f".filter(e => e.innerText?.trim() === {json.dumps(words)} && !e.disabled).at(-1)"
        )
        self.wait(f"!!({script})")
        self.run(f"({script}).click()")

    def fill(self, label: str, value: str) -> None:
        """Type into the field whose label begins with these words, as a person would."""
        script = f"""(() => {{
            const label = [...document.querySelectorAll('label')]
                .find(e => e.innerText.trim().startsWith({json.dumps(label)}));
            if (!label) return false;
            // Labels name ids that are nowhere: the field is the first one after the label.
            const field = [...document.querySelectorAll('input')]
                .find(e => label.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING);
            if (!field) return false;
            field.focus(); field.select(); return true;
        }})()"""
        self.wait(script)
        self("Input.insertText", text=value)

    def picture(self, path: Path) -> Path:
        data = self("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path
