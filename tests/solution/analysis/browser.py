"""A headless Chromium that is told what to do, over its debugging pipe: no port, no driver, no further package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def chromium() -> str:
    """Chromium's path; where there is none the test fails on CI and is skipped elsewhere."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        reason = "no Chromium here: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


class Browser:
    """One page in a browser without network; `said` are its console's lines and failed requests."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        words = [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,900",
            "--remote-debugging-pipe",
        ]  # fmt: skip
        # Chromium reads from 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "-", *words],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number, self._session = b"", 0, {}
        self.said: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._answers, 1 << 20)
            assert block, "the browser has ended"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Network.loadingFailed"):
            self.said.append(json.dumps(message["params"]))
        if message.get("method") == "Runtime.consoleAPICalled":
            self.said.append(str(message["params"]["args"]))
        return message

    def narrow(self, width: int) -> None:
        """Show pages as wide as a phone does."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=True)

    def open(self, page: str, until: str = "/^[0-9]/.test(document.getElementById('stay')?.textContent)") -> None:
        """Load a page, until its script has counted, or another condition holds."""
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=page)
        self.until(until)

    def until(self, condition: str) -> None:
        """Wait for a condition."""
        self.evaluate(
            f"new Promise((done) => {{ const look = () => {condition} ? done(true) : setTimeout(look, 20); look(); }})"
        )

    def evaluate(self, expression: str) -> Any:
        """A JavaScript expression's value; of a promise, what it comes to."""
        answer = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def frame(self) -> None:
        """Wait until what changed is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is, in px, scrolled to the middle of the window."""
        return json.loads(
            self.evaluate(
                f"(() => {{ const found = document.querySelector({json.dumps(selector)}); "
                "found.scrollIntoView({block: 'center'}); return JSON.stringify(found.getBoundingClientRect()); })()"
            )
        )

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element."""
        box = self.box(selector)
        self._mouse("mousePressed", box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self._mouse("mouseReleased", box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def drag(self, selector: str, start: float, end: float) -> None:
        """Move the thumb of a slider between two shares of its length."""
        box = self.box(selector)
        y = box["y"] + box["height"] / 2
        places = [box["x"] + 8 + share * (box["width"] - 16) for share in (start, (start + end) / 2, end)]
        self._mouse("mousePressed", places[0], y)
        for place in places[1:]:
            self._mouse("mouseMoved", place, y)
        self._mouse("mouseReleased", places[-1], y)
        self.frame()

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._ask("Input.insertText", text=text)
