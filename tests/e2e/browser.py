"""Debian's Chromium over its own protocol (CDP), through a pair of pipes: no port that others could connect to,
and no library.

What a page asks for, what its policy refused and what it wrote to the console is kept, so that tests can say
that nothing left the origin.
"""

# ruff: noqa: E501 - what is sent to the browser is read best unbroken

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from tests.e2e.daemon import SLOWNESS
from tests.registries import tools

JSON: TypeAlias = Any
#: For anything that a page does on a busy machine, in seconds.
PATIENCE = 60.0 * SLOWNESS
DESKTOP, PHONE = (1280, 860), (360, 740)
#: Where screenshots are kept, if anywhere.
SHOTS = os.environ.get("NSBOX_TEST_SHOTS")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests are root, perhaps
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


def chromium() -> str:
    """Debian's, or a skip. Elsewhere what has this name may be a snap, which does not see a test's folders."""
    tools.need("chromium")
    return str(shutil.which("chromium"))


def _beyond(descriptor: int) -> int:
    """The same with a number above those that are given new meanings."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


class Browser:
    """One Chromium with a profile of its own."""

    def __init__(self, profile: Path) -> None:
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[JSON]] = {}
        self._pages: dict[str, Page] = {}
        self._lock = threading.Lock()
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        low, high = _beyond(to_read), _beyond(to_write)
        # It reads its orders from 3 and writes to 4; dash could not name numbers of two digits.
        moved = ["bash", "-c", 'exec "$@" 3<&"$ORDERS" 4>&"$ANSWERS"', "bash", chromium(), *_FLAGS]
        self._process = subprocess.Popen(
            [*moved, f"--user-data-dir={profile}", "about:blank"],
            env={**os.environ, "ORDERS": str(low), "ANSWERS": str(high), "HOME": str(profile)},
            pass_fds=[low, high],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(low)
        os.close(high)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = os.read(self._from, 1 << 20)
            except OSError:
                break
            if not data:
                break
            *messages, rest = (rest + data).split(b"\0")
            for message in messages:
                self._took(json.loads(message))
        for waiting in list(self._answers.values()):
            waiting.put({"error": {"message": "the browser has ended"}})

    def _took(self, message: JSON) -> None:
        waiting = self._answers.pop(message.get("id", 0), None)
        if waiting is not None:
            waiting.put(message)
        elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
            page.events.append(message)
            page.heard(message["method"], message["params"])

    def post(self, method: str, params: JSON, session: str | None = None) -> queue.Queue[JSON]:
        """An order; its answer comes into the queue."""
        number = next(self._numbers)
        answer: queue.Queue[JSON] = queue.Queue()
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        with self._lock:
            while data:
                data = data[os.write(self._to, data) :]
        return answer

    def call(self, method: str, session: str | None = None, **params: JSON) -> JSON:
        """An order, done."""
        answer = self.post(method, params, session).get(timeout=PATIENCE)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def page(self, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Page:
        """A new tab in a session of its own: what another has stored is not here."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        page.begin(size, dark)
        return page

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)


class Page:
    """A tab, as somebody uses it."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser, self._session, self.context = browser, session, context
        self.events: list[JSON] = []
        #: Addresses it asked for, and connections it opened.
        self.requests: list[str] = []
        self.problems: list[str] = []
        #: Answers given instead of the daemon's, by what is in the address.
        self.answers: Callable[[str, str], tuple[int, JSON] | None] | None = None

    def call(self, method: str, **params: JSON) -> JSON:
        return self._browser.call(method, self._session, **params)

    def begin(self, size: tuple[int, int], dark: bool) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        # Before anything of the page runs: what its policy refuses is written down.
        self.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.__refused = []; addEventListener('securitypolicyviolation', e => "
            "window.__refused.push(`${e.effectiveDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`), true);",
        )
        self.resize(size)
        self.scheme(dark)

    def resize(self, size: tuple[int, int]) -> None:
        phone = size[0] < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def scheme(self, dark: bool) -> None:
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def heard(self, method: str, params: JSON) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            told = params["exceptionDetails"]
            self.problems.append(str(told.get("exception", {}).get("description", told["text"])))
        elif method == "Log.entryAdded" and params["entry"]["source"] == "security":
            self.problems.append(params["entry"]["text"])
        elif method == "Fetch.requestPaused":
            self._answer(params)

    def fake(self, answers: Callable[[str, str], tuple[int, JSON] | None]) -> None:
        """Let ``answers(method, path and query)`` answer requests of the API; None leaves it to the daemon."""
        self.answers = answers
        self.call("Fetch.enable", patterns=[{"urlPattern": "*/api/v1/*"}])

    def _answer(self, params: JSON) -> None:
        """From the thread that reads, so nothing is waited for."""
        assert self.answers is not None
        request = params["request"]
        found = self.answers(request["method"], request["url"].partition("/api/v1")[2])
        if found is None:
            self._browser.post("Fetch.continueRequest", {"requestId": params["requestId"]}, self._session)
            return
        status, value = found
        answer = {
            "requestId": params["requestId"],
            "responseCode": status,
            "responseHeaders": [{"name": "Content-Type", "value": "application/json"}],
            "body": base64.b64encode(json.dumps(value).encode()).decode(),
        }
        self._browser.post("Fetch.fulfillRequest", answer, self._session)

    # ---- look

    def run(self, script: str) -> JSON:
        """The value of an expression; a promise is waited for."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str, what: str = "") -> JSON:
        """Wait until an expression is true; its value."""
        deadline = time.monotonic() + PATIENCE
        while True:
            # While a page is being replaced there is nothing to run a script in.
            with contextlib.suppress(AssertionError):
                if found := self.run(f"(v => v instanceof Node || v)({script})"):
                    return found
            assert time.monotonic() < deadline, (
                f"not in {PATIENCE} s: {what or script}\n{self.text()[-3000:]}"
            )
            time.sleep(0.05)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def see(self, words: str) -> None:
        """Wait until the page shows these words."""
        self.until(f"document.body.innerText.includes({json.dumps(words)})", f"the words {words!r}")

    def refused(self) -> list[str]:
        """What the policy of the page has refused."""
        return list(self.run("window.__refused"))

    def shot(self, name: str) -> None:
        """A picture, where they are kept."""
        if SHOTS is None:
            return
        os.makedirs(SHOTS, exist_ok=True)
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        Path(SHOTS, f"{name}.png").write_bytes(base64.b64decode(data))

    # ---- act

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def reload(self) -> None:
        self.run("window.__old = true")
        self.call("Page.reload")
        self.until("!window.__old && document.readyState === 'complete'")

    def find(self, words: str, kind: str = "button, a, [role=tab], summary, label") -> str:
        """JavaScript that finds what can be pressed, by its words or its label; the innermost, the topmost dialog's."""
        return (
            f"((words) => {{ const top = [...document.querySelectorAll('dialog[open]')].at(-1) ?? document;"
            f" const all = [...top.querySelectorAll({json.dumps(kind)})].filter((e) => e.checkVisibility());"
            f" const name = (e) => (e.getAttribute('aria-label') ?? e.innerText).trim();"
            f" return all.find((e) => name(e) === words) ?? all.find((e) => e.innerText.trim() === words)"
            f" ?? all.find((e) => name(e).startsWith(words)); }})({json.dumps(words)})"
        )

    def press(self, words: str) -> None:
        """Click on it, with the mouse."""
        place = self.until(
            f"(() => {{ const e = {self.find(words)}; if (!e || e.disabled) return null;"
            " e.scrollIntoView({block: 'center', inline: 'nearest'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()",
            f"something to press: {words}",
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1
            )

    def fill(self, label: str, value: str) -> None:
        """Type into a field, over what is there."""
        self.until(
            f"(() => {{ const top = [...document.querySelectorAll('dialog[open]')].at(-1) ?? document;"
            f" const e = [...top.querySelectorAll('input, textarea, select')].find((e) => e.checkVisibility() &&"
            f" ((e.labels?.[0]?.innerText ?? '').trim() === {json.dumps(label)} || e.getAttribute('aria-label') === {json.dumps(label)}));"
            " if (!e) return false; e.focus(); if (e.select) e.select(); return true; })()",
            f"a field {label}",
        )
        if self.run("document.activeElement.tagName") == "SELECT":
            self.run(
                f"(() => {{ const e = document.activeElement; e.value = {json.dumps(value)};"
                " e.dispatchEvent(new Event('change', {bubbles: true})); })()"
            )
        else:
            self.key("Delete")
            self.write(value)

    def write(self, text: str) -> None:
        """Type where the focus is."""
        self.call("Input.insertText", text=text)

    def key(self, name: str, *, code: str | None = None, modifiers: int = 0, text: str | None = None) -> None:
        """Press one key. ``modifiers``: 1 Alt, 2 Ctrl, 4 Meta, 8 Shift."""
        numbers = {
            "Enter": 13,
            "Tab": 9,
            "Escape": 27,
            "Delete": 46,
            "ArrowRight": 39,
            "ArrowLeft": 37,
            "Home": 36,
        }
        number = numbers.get(name, ord(name[0].upper()))
        text = "\r" if name == "Enter" else text
        shared = {"key": name, "code": code or name, "modifiers": modifiers, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", **shared, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self.context)
