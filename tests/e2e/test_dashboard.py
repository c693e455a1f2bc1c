"""The dashboard as a person uses it: in Debian's Chromium, against a real daemon and real sandboxes.

Whatever a test does, the page must ask nobody but its own origin, break no rule of its policy and throw no error
(``page`` looks at the end). Pictures are kept in the folder that NSBOX_TEST_SHOTS names.
"""

# ruff: noqa: E501 - what is sent to the browser is read best unbroken

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.browser import DESKTOP, PATIENCE, PHONE, Browser, Page
from tests.e2e.client import JSON, Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.dashboard_answers import answers, many
from tests.e2e.visitor import start
from tests.registries import tools
from tests.registries.fake import Handler, serving
from tests.registries.images import image, layer

AXE = Path(__file__).parent / "axe" / "axe.min.js"
HOSTILE = [
    "<img src=x onerror=window.__owned=1>",
    "<script>window.__owned=1<",
    "a\nb",
    "gpj.\u202eexe",
    "'\"`&amp;",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def check(page: Page, origin: str) -> None:
    """Nothing left the origin, nothing was refused, nothing was thrown."""
    own = urlsplit(origin).netloc
    strangers = [
        url
        for url in page.requests
        if not url.startswith(("blob:", "data:", "about:")) and urlsplit(url).netloc != own
    ]
    assert strangers == []
    assert page.refused() == []
    assert page.problems == []
    assert page.run("window.__owned ?? null") is None
    assert page.run("document.cookie") == ""


@pytest.fixture
def page(browser: Browser, daemon: Daemon) -> Iterator[Page]:
    one = browser.page()
    one.open(daemon.url + "/")
    yield one
    check(one, daemon.url)
    one.close()


def sign_in(page: Page, key: str | None) -> None:
    page.see("Sign in to nsbox")
    page.fill("API key", key or "")
    page.press("Sign in")
    page.until("document.querySelector('nav a[href=\"#/sandboxes\"]')")


def visit(page: Page, place: str) -> None:
    page.run(f"location.hash = {json.dumps(place)}")


def screen(page: Page) -> str:
    """What the terminal shows."""
    return str(page.run("document.querySelector('.xterm-rows')?.innerText ?? ''"))


def type_line(page: Page, line: str) -> None:
    page.write(line)
    page.key("Enter")


# ---- a day with it


def test_from_signing_in_to_killing(page: Page, daemon: Daemon, api: Api) -> None:
    """Everything that the Getting Started page shows, by hand, with nothing known but an address and a key."""
    page.shot("desktop-signin")
    sign_in(page, daemon.key)
    page.press("New sandbox")
    page.see("Made from")
    page.fill("Memory (MiB)", "600")
    page.shot("desktop-new")
    page.press("Create sandbox")

    # a terminal
    page.until("document.querySelector('.xterm-rows')?.innerText.includes('#')", "a prompt")
    sandbox_id = str(page.run("location.hash.split('/')[2]"))
    made = api.request("GET", f"/sandboxes/{sandbox_id}").json
    assert made["memoryMb"] == 600
    type_line(page, "echo $((6*7))-is-it; pwd")
    page.until("document.querySelector('.xterm-rows').innerText.includes('42-is-it')", "the answer")
    type_line(page, r"printf '\033[38;2;200;80;10mcolour\033[0m\n'")
    colour = (
        "[...document.querySelectorAll('.xterm-rows span')].find(e => e.innerText === 'colour')?.style.color"
    )
    assert page.until(colour).startswith("rgb(")
    page.shot("desktop-terminal")

    # a file, written in the terminal, edited in the page
    type_line(page, "mkdir -p /app && echo old > /app/hello.txt && cd /app && python3 -m http.server 8080 &")
    sandbox = Sandbox(api, sandbox_id)
    wait_until(
        lambda: api.request("GET", f"/sandboxes/{sandbox_id}/files?path=/app/hello.txt").status == 200,
        60,
        "the file",
    )
    page.press("Files")
    page.press("/")
    page.press("app")
    page.press("hello.txt")
    page.until("document.querySelector('dialog textarea')?.value === 'old\\n'")
    page.run("document.querySelector('dialog textarea').select()")
    page.write("new from the page\n")
    page.shot("desktop-editor")
    page.press("Save")
    page.until("!document.querySelector('dialog')")
    assert sandbox.out("cat /app/hello.txt") == "new from the page\n"

    # a port, and its link
    page.press("Ports")
    page.fill("Port", "8080")
    page.press("Open")
    link = page.until("document.querySelector('td a')?.href")
    assert page.run("document.querySelector('td a').rel") == "noopener noreferrer"
    page.shot("desktop-ports")
    told = api.request("GET", f"/sandboxes/{sandbox_id}/ports").json[0]
    assert link == told["url"]

    # gone
    page.press("Kill")
    page.press("Kill it")
    page.see("killed")
    assert api.request("GET", f"/sandboxes/{sandbox_id}").json["status"] == "stopped"
    page.press("Sign out")
    page.see("Sign in to nsbox")
    assert page.run("sessionStorage.length") == 0


def test_the_rest_of_the_seed_page(browser: Browser, daemon: Daemon, api: Api, gail: tuple[str, str]) -> None:
    """What ``test_from_signing_in_to_killing`` leaves out of it, by a user who is no administrator, on a phone:
    a key of her own making, every member of a create, of a command and of a background process."""
    _, key = gail
    page = browser.page(size=PHONE, dark=True)
    page.open(daemon.url + "/")
    sign_in(page, key)
    visit(page, "#/keys")
    page.press("New key")
    page.fill("Name", "phone")
    page.press("Make the key")
    made = str(page.until("document.querySelector('.new-key')?.innerText"))
    page.shot("phone-dark-real-key")
    page.press("I have it")
    with daemon.api(made) as hers:
        assert hers.request("GET", "/me").json["key"]["scopes"] == ["sandboxes", "files"]
        visit(page, "#/new")
        page.fill("Processors", "2")
        page.fill("Memory (MiB)", "1024")
        page.fill("Disk (MiB)", "512")
        page.fill("Time (minutes)", "20")
        page.press("Environment")
        page.fill("Variables for every command", "KEY=value")
        page.shot("phone-dark-real-new")
        page.press("Create sandbox")
        page.until("location.hash.endsWith('/terminal')")
        sandbox = Sandbox(hers, str(page.run("location.hash.split('/')[2]")))
        record = hers.get(sandbox.id)
        told = [record[name] for name in ("vcpus", "memoryMb", "storageMb", "timeoutMs")]
        assert told == [2, 1024, 512, 1_200_000]

        visit(page, f"#/sandbox/{sandbox.id}/processes")
        page.press("Folder, variables, time")
        page.fill("Command", "echo $KEY-$PORT in $PWD; echo bad >&2; exit 7")
        page.fill("Folder", "/tmp")
        page.fill("Variables", "PORT=8080")
        page.press("Run")
        page.see("exit 7")
        page.see("value-8080 in /tmp")
        page.see("bad")
        page.shot("phone-dark-real-run")
        page.fill("Command", "sleep 60")
        page.fill("Time (seconds)", "1")
        page.press("Run")
        page.see("its time was over, 1 s")
        page.fill("Variables", "8080")
        page.press("Run")
        page.see("is not of the form NAME=value")
        page.fill("Variables", "PORT=9090")
        page.until("!document.body.innerText.includes('is not of the form')")
        page.fill("Command", "echo on $PORT; sleep 600")
        page.press("Start in the background")
        page.press("Output of echo on $PORT")
        page.see("on 9090")
        page.press("Close")
        page.press("End all")
        page.press("End them")
        page.see("Nothing runs")
        page.shot("phone-dark-real-processes")
        wide = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
    check(page, daemon.url)
    page.close()


def test_a_ports_link_leads_to_what_listens(
    browser: Browser, page: Page, daemon: Daemon, sandbox: Sandbox
) -> None:
    sandbox.write("/app/index.html", "<h1>hello from inside</h1>")
    start(sandbox, "python3 -m http.server 8080", cwd="/app")
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/ports")
    page.fill("Port", "8080")
    page.press("Open")
    link = str(page.until("document.querySelector('td a')?.href"))
    visitor = browser.page()
    visitor.open(link)
    visitor.see("hello from inside")
    assert visitor.run("sessionStorage.length") == 0
    assert visitor.run("window.opener") is None
    visitor.close()
    page.press("Close port 8080")
    page.see("No port is open")


def test_pause_and_resume(page: Page, daemon: Daemon, api: Api, sandbox: Sandbox) -> None:
    if api.request("POST", f"/sandboxes/{sandbox.id}/pause").status != 200:
        # A host without cgroups cannot; the page says what the daemon says.
        sign_in(page, daemon.key)
        page.press(f"Pause {sandbox.id[:11]}")
        page.until("document.querySelector('.toast.bad')?.innerText")
        return
    assert api.request("POST", f"/sandboxes/{sandbox.id}/resume").status == 200
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}")
    page.press("Pause")
    page.until("document.querySelector('.badge.is-paused')")
    page.press("Resume")
    page.until("document.querySelector('.badge.is-running')")


def test_a_terminal_is_found_again(page: Page, daemon: Daemon, sandbox: Sandbox) -> None:
    """A reload loses the page, not what runs; and what it showed comes back."""
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/terminal")
    page.until("document.querySelector('.xterm-rows')?.innerText.includes('#')")
    type_line(page, "MARK=here; echo is-$MARK")
    page.until("document.querySelector('.xterm-rows').innerText.includes('is-here')")
    page.reload()
    page.until(
        "document.querySelector('.xterm-rows')?.innerText.includes('is-here')", "what it showed before"
    )
    type_line(page, "echo still-$MARK")
    page.until("document.querySelector('.xterm-rows').innerText.includes('still-here')")
    page.key("L", code="KeyL", modifiers=2 | 8)
    assert page.run("document.activeElement.innerText") == "Terminal 1"


def test_a_terminal_survives_its_connection(page: Page, daemon: Daemon, sandbox: Sandbox) -> None:
    page.run(
        "window.__sockets = []; window.WebSocket = class extends WebSocket { constructor(...a) { super(...a); window.__sockets.push(this); } }"
    )
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/terminal")
    page.until("document.querySelector('.xterm-rows')?.innerText.includes('#')")
    type_line(page, "echo before-$((1+1))")
    page.until("document.querySelector('.xterm-rows').innerText.includes('before-2')")
    page.run("window.__sockets[0].close()")
    page.until("window.__sockets.length === 2 && window.__sockets[1].readyState === 1", "a second connection")
    type_line(page, "echo after-$((1+2))")
    page.until("document.querySelector('.xterm-rows').innerText.includes('after-3')")
    assert screen(page).count("before-2") == 1  # from where it was on, not from the beginning


def test_hostile_names_and_output_are_text(page: Page, daemon: Daemon, sandbox: Sandbox) -> None:
    for name in HOSTILE:
        sandbox.write(f"/root/{name}", name)
    sandbox.run(["python3", "-c", r"open(b'/root/\xff\xfe', 'w').write('bytes')"])
    sandbox.run(["python3", "-c", "import os; os.symlink('<b>nowhere', '/root/link')"])
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/files")
    page.see(HOSTILE[0])
    page.see("a␊b")
    page.see("gpj.⟨U+202E⟩exe")
    page.see("→ <b>nowhere")
    assert page.run("document.querySelectorAll('main img, main script, main b').length") == 0
    page.shot("desktop-hostile-names")
    page.press(HOSTILE[0])
    page.until(f"document.querySelector('dialog textarea')?.value === {json.dumps(HOSTILE[0])}")
    page.press("Close")
    page.press("\ufffd\ufffd")  # it is opened by its bytes, not by what is shown
    page.until("document.querySelector('dialog textarea')?.value === 'bytes'")
    page.press("Close")
    page.press("Delete \ufffd\ufffd")
    page.press("Delete")
    page.see("Deleted")
    assert sandbox.run(["python3", "-c", r"open(b'/root/\xff\xfe')"])["exitCode"] == 1
    visit(page, f"#/sandbox/{sandbox.id}/processes")
    page.fill(
        "Command", "echo '<img src=x onerror=window.__owned=1>'; printf '\\033[31mred\\033[0m' >&2; exit 3"
    )
    page.press("Run")
    page.see("exit 3")
    page.see("<img src=x onerror=window.__owned=1>")
    page.see("red")
    assert page.run("document.querySelectorAll('main img').length") == 0


def test_upload_and_download(
    page: Page, daemon: Daemon, sandbox: Sandbox, tmp_path: Path, browser: Browser
) -> None:
    """A download goes to the disk by a ticket: the page never has it in memory."""
    folder = tmp_path / "saved"
    folder.mkdir()
    browser.call(
        "Browser.setDownloadBehavior",
        behavior="allow",
        downloadPath=str(folder),
        browserContextId=page.context,
    )
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/files")
    page.see("Nothing in here")
    page.run(
        "(() => { const d = new DataTransfer(); d.items.add(new File([new Uint8Array(3e6).fill(7)], 'big.bin'));"
        " const i = document.querySelector('input[type=file]'); i.files = d.files; i.dispatchEvent(new Event('change')); })()"
    )
    page.see("big.bin is there")
    assert sandbox.out("wc -c < /root/big.bin").strip() == "3000000"
    page.press("Download big.bin")
    wait_until(
        lambda: (folder / "big.bin").exists() and (folder / "big.bin").stat().st_size == 3_000_000,
        60,
        "the download",
    )
    assert any("/files/ticket?" in url for url in page.requests)
    assert not any("raw=true" in url for url in page.requests)


def test_logs_go_on(page: Page, daemon: Daemon, sandbox: Sandbox) -> None:
    start(sandbox, "echo first; until test -e /tmp/go; do sleep 0.1; done; echo second; exit 4")
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/processes")
    page.press("Output of echo first")
    page.until("document.querySelector('pre.log')?.innerText.includes('first')")
    sandbox.run("touch /tmp/go")
    page.until("document.querySelector('pre.log').innerText.includes('second')")
    page.see("[ended: 4]")


def test_errors_stand_at_their_fields(page: Page, daemon: Daemon) -> None:
    sign_in(page, daemon.key)
    visit(page, "#/new")
    page.fill("Processors", "99")
    page.press("Create sandbox")
    page.until("document.querySelector('[data-member=vcpus][aria-invalid=true]')")
    assert page.run("document.activeElement.dataset.member") == "vcpus"
    page.see("vcpus must be between 1 and 4")
    page.shot("desktop-wrong-field")
    page.fill("Processors", "1")
    page.press("Network")
    page.fill("It reaches", "allowlist")
    page.fill("Allowed", "not a name!")
    page.press("Create sandbox")
    page.until("document.querySelector('[data-member=\"network.allow\"][aria-invalid=true]')")


def test_a_wrong_key_is_told_and_not_kept(page: Page, daemon: Daemon) -> None:
    page.see("Sign in to nsbox")
    page.fill("API key", "nsbox_wrong")
    page.press("Sign in")
    page.see("the API key is not known")
    assert page.run("sessionStorage.length") == 0


def test_network_and_snapshots(page: Page, daemon: Daemon, api: Api, sandbox: Sandbox) -> None:
    sandbox.write("/root/kept", "kept")
    sign_in(page, daemon.key)
    visit(page, f"#/sandbox/{sandbox.id}/network")
    page.fill("It reaches", "allowlist")
    page.fill("Allowed", "192.0.2.7\nexample.com")
    page.press("Apply")
    page.see("Applied")
    policy = sandbox.request("GET", "/network").json
    assert (policy["mode"], policy["allow"]) == ("allowlist", ["192.0.2.7", "example.com"])
    visit(page, f"#/sandbox/{sandbox.id}/snapshots")
    page.press("Take a snapshot")
    page.fill("Name", "<b>mine</b>")
    page.press("Take it")
    page.see("<b>mine</b>")
    page.press("New sandbox")
    page.see("Made from")
    page.press("Create sandbox")
    page.until("location.hash.endsWith('/terminal')")
    forked = str(page.run("location.hash.split('/')[2]"))
    try:
        assert api.request("GET", f"/sandboxes/{forked}/files?path=/root/kept").json["content"] == "kept"
    finally:
        assert api.kill(forked).status == 200
    for one in api.request("GET", "/snapshots").json:
        api.request("DELETE", f"/snapshots/{one['id']}")


# ---- how it behaves


def test_two_hundred_sandboxes_are_no_storm(page: Page, daemon: Daemon) -> None:
    """Also where all of them are on the screen at once."""
    page.resize((1280, 14_000))
    sign_in(page, daemon.key)
    asked: list[str] = []
    page.fake(lambda method, path: (asked.append(path), many(200)(method, path))[1])
    begun = time.monotonic()
    page.press("Ended ones, too")
    page.until("document.querySelectorAll('.box').length === 200")
    time.sleep(6)  # a rate is counted in time
    each_second = len(asked) / (time.monotonic() - begun)
    assert each_second <= 6, asked
    assert page.run("document.querySelectorAll('.box .spark path').length > 0")
    page.resize(DESKTOP)
    page.shot("desktop-two-hundred")


def test_a_hidden_page_asks_for_nothing(page: Page, daemon: Daemon) -> None:
    sign_in(page, daemon.key)
    asked: list[str] = []
    page.fake(lambda method, path: (asked.append(path), many(3)(method, path))[1])
    page.press("Ended ones, too")
    page.until("document.querySelectorAll('.box').length === 3")
    page.run(
        "Object.defineProperty(document, 'hidden', {get: () => window.__hidden, configurable: true});"
        "window.__hidden = true; document.dispatchEvent(new Event('visibilitychange'))"
    )
    time.sleep(1)  # what is under way comes to its end
    before = len(asked)
    time.sleep(14)  # it would have asked for the list, and for each measurement anew
    assert asked[before:] == []
    page.run("window.__hidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.until("true")
    wait_until(lambda: len(asked) > before, 30, "a request once it is seen again")


def test_by_keyboard(page: Page, daemon: Daemon, sandbox: Sandbox) -> None:
    sign_in(page, daemon.key)
    page.see("New sandbox")
    page.reload()
    page.see("New sandbox")
    page.key("Tab")
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().top >= 0")
    page.key("Enter")
    assert page.run("document.activeElement.id") == "main"
    visit(page, f"#/sandbox/{sandbox.id}/ports")
    page.see("Open a port")
    page.run("document.querySelector('[role=tab][aria-selected=true]').focus()")
    page.key("ArrowRight")
    page.until("location.hash.endsWith('/network')")
    assert page.run("document.activeElement.innerText") == "Network"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Kill")
    page.until("document.querySelector('dialog[open]')")
    assert page.run("document.activeElement.innerText") == "Cancel"  # not what cannot be taken back
    page.key("Escape")
    page.until("!document.querySelector('dialog')")
    assert page.run("document.activeElement.innerText") == "Kill"


def test_the_switch_of_colours(page: Page, daemon: Daemon) -> None:
    sign_in(page, daemon.key)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.fill("Colours", "dark")
    dark = page.run(ground)
    assert dark != light
    page.reload()
    page.until("document.querySelector('main h1')")
    assert page.run(ground) == dark
    page.fill("Colours", "")
    assert page.run(ground) == light


def test_getting_started_without_a_key(page: Page, daemon: Daemon) -> None:
    """The examples have the visitor's own address in them, and run as they are."""
    page.press("Getting started")
    page.see(f'curl -X POST "{daemon.url}/api/v1/sandboxes"')
    page.press("Python")
    page.see("import requests")
    page.press("Node")
    page.see("await fetch(")
    page.shot("desktop-start")


@pytest.mark.parametrize("language", ["curl", "Node", "Python"])
def test_the_examples_run_as_they_are(
    page: Page, daemon: Daemon, api: Api, tmp_path: Path, language: str
) -> None:
    """With the visitor's own key in them; but for the last, which pulls an image from a registry."""
    sign_in(page, daemon.key)
    page.press("Getting started")
    page.press("Put my key into the examples")
    page.press(language)
    codes = page.run("[...document.querySelectorAll('.snippet pre')].map(e => e.textContent)")[:-1]
    assert len(codes) == 10
    sandbox_id = ""
    for code in codes:
        told = _run(language, code, sandbox_id, tmp_path)
        sandbox_id = sandbox_id or told["id"]
        # A host without cgroups can pause nothing, and then there is nothing to resume.
        assert told.get("code") in (
            None,
            *((503, "host_lacks", 409, "wrong_state") if "/pause" in code or "/resume" in code else ()),
        ), told
    assert api.get(sandbox_id)["status"] == "stopped"


def _run(language: str, code: str, sandbox_id: str, folder: Path) -> JSON:
    """What the request was answered."""
    if language == "curl":
        command = ["sh", "-c", code.replace("curl ", "curl -s ").replace("SANDBOX_ID", sandbox_id)]
    elif language == "Node":
        file = folder / "example.mjs"
        known = f"const sandbox = {{id: '{sandbox_id}'}};" if sandbox_id else ""
        shown = (
            "process.stdout.write('\\n=' + JSON.stringify(res.ok ? {id: sandbox.id} : {code: res.status}));"
        )
        file.write_text(f"{known}\n{code}\n{shown}")
        command = [shutil.which("node") or pytest.skip("there is no Node here"), str(file)]
    else:
        known = f"sandbox = {{'id': '{sandbox_id}'}}\n" if sandbox_id else ""
        command = [sys.executable, "-c", f"{known}{code}\nprint('\\n=' + res.text)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    return json.loads(done.stdout.rpartition("\n=")[2])


# ---- for everybody

PLACES = [
    "sandboxes", "new", "images", "snapshots", "keys", "users", "usage", "audit", "start",
    *(f"sandbox/ID/{tab}" for tab in ("overview", "terminal", "files", "processes", "ports", "network", "snapshots")),
]  # fmt: skip
FOUND = """axe.run({resultTypes: ['violations']}).then(r => r.violations.map(v =>
    `${v.id}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' — ' + n.failureSummary.slice(0, 200)).join(' | ')}`))"""


def axe(page: Page) -> list[str]:
    return list(page.run(FOUND))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_violation_of_accessibility(
    browser: Browser, daemon: Daemon, sandbox: Sandbox, size: tuple[int, int], dark: bool
) -> None:
    """axe-core on every page; those whose routes may not be there yet, with answers as they are agreed on."""
    sandbox.write("/root/<b>file", "x")
    start(sandbox, "sleep 1000")
    assert sandbox.request("POST", "/ports", {"port": 8080}).status == 201
    assert sandbox.request("POST", "/snapshots", {"name": "one"}).status == 201
    page = browser.page(size=size, dark=dark)
    how = f"{'phone' if size == PHONE else 'desktop'}-{'dark' if dark else 'light'}"
    page.call("Page.addScriptToEvaluateOnNewDocument", source=AXE.read_text())
    page.fake(answers)
    page.open(daemon.url + "/")
    page.see("Sign in to nsbox")
    wrong = {"signin": axe(page)}
    page.shot(f"{how}-signin")
    sign_in(page, daemon.key)
    for place in PLACES:
        visit(page, f"#/{place.replace('ID', sandbox.id)}")
        settled(page)
        name = place.replace("/ID/", "-")
        wrong[name] = axe(page)
        wide = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{place} is {wide} pixels too wide"
        page.shot(f"{how}-{name}")
    visit(page, f"#/sandbox/{sandbox.id}/overview")
    page.press("Kill")
    page.until("document.querySelector('dialog[open]')")
    wrong["dialog"] = axe(page)
    page.shot(f"{how}-dialog")
    told = "\n".join(f"{name}: {one}" for name, found in wrong.items() for one in found)
    assert told == "", told
    check(page, daemon.url)
    page.close()
    for one in sandbox.request("GET", "/snapshots").json:
        sandbox.api.request("DELETE", f"/snapshots/{one['id']}")


def settled(page: Page) -> None:
    """A page is there, and all that it asked for."""
    page.until("document.querySelector('main h1') && !document.body.innerText.includes('Loading…')")
    before = -1
    while before != (before := len(page.requests)):
        time.sleep(0.4)  # that nothing more comes can only be seen in time


# ---- accounts, by the answers that are agreed on


def test_a_key_is_shown_once(page: Page, daemon: Daemon) -> None:
    page.fake(answers)
    sign_in(page, daemon.key)
    page.press("Keys")
    page.press("New key")
    page.fill("Name", "laptop")
    page.press("Make the key")
    page.see("nsbox_shown_once")
    page.shot("desktop-new-key")
    page.press("I have it")
    page.until("!document.body.innerText.includes('nsbox_shown_once')")


def test_an_administrator_acts_for_somebody(page: Page, daemon: Daemon) -> None:
    page.fake(answers)
    sign_in(page, daemon.key)
    page.press("Users")
    page.press("Act for bob")
    page.see("You act for bob")
    page.until("document.querySelector('main h1').innerText === 'Sandboxes'")
    wait_until(
        lambda: any(tenant(event) == "us_bob" for event in list(page.events)), 30, "a request in their name"
    )
    page.press("Stop")
    page.until("!document.body.innerText.includes('You act for')")


def tenant(event: JSON) -> str | None:
    if event["method"] != "Network.requestWillBeSent":
        return None
    headers: dict[str, str] = event["params"]["request"]["headers"]
    return headers.get("Nsbox-User")


@pytest.fixture
def gail(daemon: Daemon, api: Api) -> Iterator[tuple[str, str]]:
    """Another user, and a key of hers."""
    user = api.request("POST", "/users", {"name": "gail", "plan": "free"}).json["id"]
    acting = {"Nsbox-User": user}
    yield user, api.request("POST", "/keys", {"name": "hers"}, headers=acting).json["key"]
    for one in api.request("GET", "/sandboxes", headers=acting).json:
        assert api.request("DELETE", f"/sandboxes/{one['id']}", headers=acting).status == 200
    assert api.request("DELETE", f"/users/{user}").status == 200


def test_what_it_has_cost_and_who_did_it(page: Page, daemon: Daemon, api: Api, gail: tuple[str, str]) -> None:
    """With the daemon's own answers."""
    user, key = gail
    with daemon.api(key) as hers:
        sandbox = hers.sandbox()
        assert sandbox.exec("sleep 1.2").status == 200
        port = api.request(
            "POST", f"/sandboxes/{sandbox.id}/ports", {"port": 8080}, headers={"Nsbox-User": user}
        )
        assert port.status == 201
        assert sandbox.request("DELETE", "/ports/8080").status == 200
        assert hers.kill(sandbox.id).status == 200
        spent = hers.request("GET", "/usage?by=total").json["computeSeconds"]
        events = hers.request("GET", f"/audit?sandboxId={sandbox.id}").json["events"]
        sign_in(page, key)
        page.press("Usage")
        page.see("Plan: free")
        page.see(f"{spent} s of 1 h")
        page.see(f"{spent} s in all.")
        rows = "[...document.querySelectorAll('tbody tr')].map(e => e.innerText.split(/\\s{1,}/).join(' ').trim())"
        page.until(f"{rows}.includes({json.dumps(f'{sandbox.id[:11]}… {spent} s')})", "the sandbox's line")
        assert any(line.startswith("key_") and line.endswith(f" {spent} s") for line in page.run(rows))
        settled(page)
        page.shot("desktop-real-usage")
        page.press("Audit")
        page.fill("Sandbox", sandbox.id)
        page.press("Show")
        page.until(f"document.querySelectorAll('tbody tr').length === {len(events)}")
        lines = page.run(rows)
        for line, event in zip(lines, events, strict=True):
            assert event["action"] in line, lines
            assert f"127.0.0.1 done {event['status']}" in line, lines
        assert "remove_port 8080" in lines[1]
        assert f"for {user[:11]}…" in lines[2]
        page.shot("desktop-real-audit")


def test_what_a_daemon_does_not_have_is_hidden(page: Page, daemon: Daemon) -> None:
    def none(method: str, path: str) -> tuple[int, JSON] | None:
        gone = ("/me", "/keys", "/users", "/usage", "/audit")
        return (404, {"code": "route_not_found", "status": 404}) if path.startswith(gone) else None

    page.fake(none)
    sign_in(page, daemon.key)
    names = page.run("[...document.querySelectorAll('nav a')].map(e => e.innerText)")
    assert names == ["Sandboxes", "Images", "Snapshots", "Getting started"]


def test_a_pull_tells_how_far_it_is(page: Page, daemon: Daemon) -> None:
    """Events as the daemon sends them; a real pull is over before it can be looked at."""
    page.run(
        """(() => { const real = window.fetch; window.fetch = (url, options) => {
        if (options?.method !== 'POST' || !url.endsWith('/images')) return real(url, options);
        const lines = [{stage: 'resolving'}, {stage: 'downloading', layer: 'sha256:abcdef0123456789', current: 25, total: 100}]
          .map(d => `event: progress\\ndata: ${JSON.stringify(d)}\\n\\n`).join('');
        const body = new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode(lines)); window.__end = () => {
          c.enqueue(new TextEncoder().encode('event: image\\ndata: {}\\n\\n')); c.close(); }; } });
        return Promise.resolve(new Response(body, {status: 200})); }; })()"""
    )
    sign_in(page, daemon.key)
    visit(page, "#/images")
    page.fill("Image", "python:3.12-slim")
    page.press("Pull")
    page.until("document.querySelector('.pull progress')?.value === 25")
    page.see("25 B of 100 B")
    page.run("window.__end()")
    page.see("The image is here")


def test_a_real_pull_from_a_registry(page: Page, daemon: Daemon, api: Api) -> None:
    """The registry sends half of a layer and waits until it has been seen."""
    made = image([layer({"f": os.urandom(4 << 20), "bin/sh": tools.busybox()})])
    with serving() as registry:
        seen = threading.Event()

        def halting(handler: Handler) -> None:
            data, kind = registry.documents[handler.path]
            handler.reply(200, data[: len(data) // 2], kind, length=len(data))
            handler.wfile.flush()
            seen.wait(PATIENCE)
            handler.wfile.write(data[len(data) // 2 :])

        name = registry.push("team/slow", made)
        big = max(made.blobs, key=lambda digest: len(made.blobs[digest]))
        registry.lies[f"/v2/team/slow/blobs/{big}"] = halting
        sign_in(page, daemon.key)
        visit(page, "#/images")
        page.fill("Image", name)
        page.press("Pull")
        try:
            half = len(made.blobs[big]) // 2
            page.until(f"document.querySelector('.pull progress')?.value >= {half // 2}", "half of it")
            value, most = page.run(
                "[...document.querySelectorAll('.pull progress')].map(e => [e.value, e.max])"
            )[0]
            assert (value <= half, most) == (True, len(made.blobs[big]))
            page.shot("desktop-pull")
        finally:
            seen.set()
        page.see("The image is here")
        page.until(
            f"[...document.querySelectorAll('td')].some(e => e.innerText.includes({json.dumps(name)}))"
        )
        page.press(f"Remove {name}")
        page.press("Remove")
        page.until(
            f"![...document.querySelectorAll('td')].some(e => e.innerText.includes({json.dumps(name)}))"
        )
    assert name not in [one["image"] for one in api.request("GET", "/images").json["images"]]


def test_a_pull_that_fails_says_why(page: Page, daemon: Daemon) -> None:
    sign_in(page, daemon.key)
    visit(page, "#/images")
    page.fill("Image", "localhost:1/none:1")
    page.press("Pull")
    page.until(
        "document.querySelector('[data-member=image][aria-invalid=true]') || document.querySelector('form .trouble:not([hidden])')"
    )
    page.see("localhost:1")
    assert page.run("document.querySelector('.pull')") is None
