"""The dashboard's files as they are served, and what must be true of them for the page's policy to hold."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

import nsbox.web
from nsbox.api import assets
from nsbox.settings import Settings
from tests.unit.api.client import Answer, Server, running

STATIC = Path(nsbox.web.__file__).parent / "static"
OURS = sorted(path for path in STATIC.rglob("*.js") if "vendor" not in path.parts)


async def get(server: Server, path: str, method: str = "GET", **headers: str) -> Answer:
    """Without a key: whoever has none must see where to sign in."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    # A second slash is the client's word for "as it is".
    return await server.ask(method, "/" + path, key=None, headers=sent)


async def test_the_page_and_all_it_needs() -> None:
    async with running() as server:
        page = await get(server, "/")
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        needed = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
        assert needed
        for path in needed:
            answer = await get(server, f"/{path}")
            assert answer.status == 200, path
            assert answer.headers["content-type"].startswith(("text/css", "text/javascript", "image/svg+xml"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_module_that_is_imported_is_there(path: Path) -> None:
    for name in re.findall(r'^(?:import|export)[^;]*?from "([^"]+)";', path.read_text(), re.MULTILINE):
        assert (path.parent / name).resolve().is_file(), f"{path.name} imports {name}"


async def test_headers_that_keep_others_out() -> None:
    async with running() as server:
        for path in ("/", "/assets/main.js", "/assets/tokens.css"):
            headers = (await get(server, path)).headers
            policy = dict(
                part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
            )
            assert policy["default-src"] == "'none'"
            assert policy["frame-ancestors"] == "'none'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert policy["trusted-types"] == "'none'"
            for directive in ("script-src", "style-src", "connect-src", "img-src"):
                assert policy[directive] == "'self'"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-cache"
            assert "set-cookie" not in headers


async def test_a_file_that_is_known_is_not_sent_again() -> None:
    async with running() as server:
        first = await get(server, "/assets/main.js")
        tag = first.headers["etag"]
        for condition in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await get(server, "/assets/main.js", if_none_match=condition)
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == tag
        other = await get(server, "/assets/main.js", if_none_match='"other"')
        assert (other.status, other.body) == (200, first.body)


async def test_gzip_for_those_who_take_it() -> None:
    async with running() as server:
        plain = await get(server, "/assets/main.js")
        assert "content-encoding" not in plain.headers
        packed = await get(server, "/assets/main.js", accept_encoding="br, gzip;q=0.5")
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "accept-encoding"
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body)
        assert packed.headers["etag"] != plain.headers["etag"]  # they are other bytes
        for refused in ("identity", "gzip;q=0", "gzip; q=0.0, br", ""):
            assert "content-encoding" not in (await get(server, "/", accept_encoding=refused)).headers


async def test_head_and_what_is_no_reading() -> None:
    async with running() as server:
        whole = await get(server, "/")
        head = await get(server, "/", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.body))
        for method in ("POST", "PUT", "DELETE"):
            answer = await get(server, "/", method)
            assert (answer.status, answer.code) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    [
        "/assets",
        "/assets/",
        "/assets/none.js",
        "/assets/../index.html",
        "/assets/../../api/assets.py",
        "/assets/%2e%2e/index.html",
        "/assets/..%2findex.html",
        "/assets//main.js",
        "/assets/main.js/",
        "/assets/main.js%00",
        "/assets/views/../main.js",
        "/index.html",
        "/__init__.py",
        "/static/index.html",
        "//etc/passwd",
    ],
)
async def test_nothing_else_is_served(path: str) -> None:
    async with running() as server:
        answer = await get(server, path)
        assert (answer.status, answer.code) == (404, "route_not_found")


async def test_without_the_dashboard() -> None:
    settings = Settings(state_dir="/nonexistent", shutdown_grace_s=1, dashboard=False)
    async with running(settings) as server:
        assert (await get(server, "/")).code == "route_not_found"
        assert (await get(server, "/assets/main.js")).code == "route_not_found"


def test_only_files_of_known_kinds_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text("<p>hello")
    (tmp_path / "sub" / "one.js").write_text("1")
    (tmp_path / "sub" / "secret.py").write_text("1")
    assert set(assets.routes(str(tmp_path))) == {"/", "/sub/one.js"}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_way_from_text_to_html_in_our_code(path: Path) -> None:
    """The policy would stop it in browsers that have Trusted Types; not all have."""
    wrong = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|setHTML"
    assert re.search(wrong, path.read_text()) is None
    assert re.search(r"https?://(?!www\.w3\.org/2000/svg)\w", path.read_text()) is None, (
        "an address of elsewhere"
    )


def test_nothing_inline_in_the_page() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?:", page) is None
    assert re.search(r"<script(?![^>]*\ssrc=)", page) is None
    for sheet in STATIC.rglob("*.css"):
        assert re.search(r"@import|url\(", sheet.read_text()) is None, sheet


def test_what_is_not_ours_has_its_licence_beside_it() -> None:
    vendor = STATIC / "assets" / "vendor"
    for name in ("xterm", "addon-fit"):
        assert (vendor / f"{name}.mjs").is_file()
        assert "Permission is hereby granted" in (vendor / f"LICENSE.{name}.txt").read_text()
