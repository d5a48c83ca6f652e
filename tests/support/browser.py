"""Headless Chromium for tests of the page: opens it, listens to its console and its network, clicks and looks."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

from waiting import PATIENCE, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
_FLAGS = (
    "--headless=new", "--remote-debugging-port=0", "--remote-allow-origins=*", "--no-sandbox", "--no-first-run",
    "--disable-gpu", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip

_CONTRASTS = """(selector) => {
  const paint = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const pixel = (colour) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return paint.getImageData(0, 0, 1, 1).data;
  };
  const ground = (element) => {
    const found = pixel(getComputedStyle(element).backgroundColor);
    return found[3] === 255 || !element.parentElement ? found : ground(element.parentElement);
  };
  const luminance = (rgba) => {
    const part = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(rgba[0] / 255) + 0.7152 * part(rgba[1] / 255) + 0.0722 * part(rgba[2] / 255);
  };
  return [...document.querySelectorAll(selector)].map((element) => {
    const both = [pixel(getComputedStyle(element).color), ground(element)].map(luminance);
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  });
}"""


class Page:
    """One tab, driven over the DevTools protocol.

    Attributes:
        problems: what the console said as a warning or error, and exceptions.
        requests: URLs that the page asked for, but `data:` ones.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE)
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return dict(message["result"])
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" or (
            method == "Runtime.consoleAPICalled" and said["type"] in ("warning", "error")
        ):
            self.problems.append(str(said))
        elif method == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
            self.requests.append(said["request"]["url"])

    def open(self, url: str, width: int = 1400, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        wait_until(lambda: self.evaluate(condition), f"never came true: {condition}")

    def contrasts(self, selector: str) -> list[float]:
        """Of the text of each element to the ground that it stands on, as WCAG 2.2 defines it."""
        return [float(found) for found in self.evaluate(f"({_CONTRASTS})({json.dumps(selector)})")]

    def press(self, key: str) -> None:
        codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, " ": 32, "Tab": 9}
        name = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **name)
        self.call("Input.dispatchKeyEvent", type="keyUp", **name)

    def screenshot(self, path: Path, selector: str = "html") -> None:
        """The whole of an element, as PNG."""
        box = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height} })()"
        )
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip={**box, "scale": 1})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A fresh browser with an empty profile, and its tab; the browser ends with the block."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (profile.parent / "chromium.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            page = Page(_tab(profile))
            yield page
            page.close()
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def _tab(profile: Path) -> str:
    """The address of the browser's only tab."""
    file = profile / "DevToolsActivePort"
    wait_until(lambda: file.exists() and len(file.read_text().split()) == 2, "Chromium does not start")
    port, path = file.read_text().split()
    browser = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=PATIENCE)
    browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
    while (answer := json.loads(browser.recv())).get("id") != 1:
        pass
    browser.close()
    target = next(target for target in answer["result"]["targetInfos"] if target["type"] == "page")
    return f"ws://127.0.0.1:{port}/devtools/page/{target['targetId']}"
