"""Headless Chromium over its debugging protocol, without a network: one browser, many pages, their complaints."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--remote-allow-origins=*", "--remote-debugging-port=0"),
)

SERIOUS = {"serious", "critical"}


def axe_source() -> str:
    """axe-core's script, from the package that carries it, which must not be imported: it wants another browser."""
    for folder in sys.path:
        path = Path(folder) / "axe_playwright_python" / "axe.min.js"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    pytest.skip("axe-core is not installed: pip install --no-deps axe-playwright-python")


def complaints(browser: "Chromium", page: Path, axe: str, contrast: bool = True, **how: object) -> list[str]:
    """What is wrong with a page: failed or outside requests, console errors, missing alt, sideways scroll, axe-core.

    Args:
        browser: Where to open it.
        page: The file.
        axe: axe-core's script.
        contrast: Check every text's contrast too, which takes most of the time.
        **how: As for `Chromium.open`.
    """
    browser.open(page, **{"width": 390, **how})
    browser.load(axe)
    rules = "" if contrast else ", rules: {'color-contrast': {enabled: false}}"
    found = browser.run(
        "const found = await axe.run(document, {resultTypes: ['violations']" + rules + "});"
        "const name = (element) => element.outerHTML.slice(0, 120);"
        "return {"
        "  wide: document.documentElement.scrollWidth,"
        "  mute: [...document.images].filter((image) => !image.alt.trim()).map(name),"
        "  axe: found.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3)]),"
        "};"
    )
    wrong = [*browser.trouble, *(f"no alt: {image}" for image in found["mute"])]
    wrong += [f"axe {rule}: {nodes}" for impact, rule, nodes in found["axe"] if impact in SERIOUS]
    if found["wide"] > how.get("width", 390):
        wrong.append(f"scrolls sideways: {found['wide']} px")
    return wrong


class Chromium:
    """A running browser; `open` a page, `run` scripts in it, read `trouble`.

    Attributes:
        trouble: Since the last `open`: failed requests, requests that leave the disk, console errors, exceptions.
    """

    def __init__(self, folder: Path):
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
        if browser is None:
            pytest.skip("Chromium is not installed")
        command = [browser, *QUIET, f"--user-data-dir={folder}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, start_new_session=True, **quiet)
        address = self._address(folder / "DevToolsActivePort")
        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.count, self.session, self.trouble, self.loaded = 0, None, [], False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and its children."""
        self.socket.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def _address(self, port_file: Path, seconds: float = 120) -> str:
        """Where it listens: Chromium writes port and path into its profile once it does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            lines = port_file.read_text().split() if port_file.is_file() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.05)
        raise RuntimeError("Chromium does not listen")

    def call(self, method: str, **parameters) -> dict:
        """One command of the protocol and its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        number = self.count
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict) -> None:
        method, found = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            url = found["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.trouble.append(f"request to {url[:200]}")
        elif method == "Network.loadingFailed" and not found.get("canceled"):
            self.trouble.append(f"request failed: {found['errorText']}")
        elif method == "Log.entryAdded" and found["entry"]["level"] in {"error", "warning"}:
            self.trouble.append(f"console: {found['entry']['text']}")
        elif method == "Runtime.exceptionThrown":
            detail = found["exceptionDetails"]
            self.trouble.append(f"exception: {detail.get('exception', {}).get('description', detail['text'])}")
        elif method == "Runtime.consoleAPICalled" and found["type"] in {"error", "warning", "assert"}:
            self.trouble.append(f"console.{found['type']}: {found['args']}")

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, fragment: str = "") -> None:
        """Load a page at a width in CSS pixels and wait for it."""
        self.trouble, self.loaded = [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        # From a blank page: a change of the fragment alone would not load anything.
        self.call("Page.navigate", url="about:blank")
        self._wait()
        self.loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri() + fragment)
        self._wait()

    def _wait(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not self.loaded and time.monotonic() < end:
            self._note(json.loads(self.socket.recv()))
        assert self.loaded, "the page did not load"

    def run(self, script: str) -> object:
        """Value of the body of an async function run in the page."""
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "script failed"))
        return answer["result"].get("value")

    def load(self, library: str) -> None:
        """Run a script library in the page's own scope."""
        self.call("Runtime.evaluate", expression=library)

    def press(self, key: str, code: int = 0, modifiers: int = 0) -> None:
        """One key, as from a keyboard."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers)
