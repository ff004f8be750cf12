"""The console's files, without a browser: what is served, under which guards, and whose code is among it."""

from __future__ import annotations

import gzip
import hashlib
import re

import pytest

from gateway.web import console
from tests.running import RunningGateway

VENDOR = console.FOLDER / "vendor"
OURS = [name for name in console.NAMES if not name.startswith("vendor/")]
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Accept-Encoding": "gzip"}
ROW = re.compile(r"^\| `([^`]+)` \| .* \| `([^`]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)


def test_other_peoples_files_are_as_they_were_published_and_bring_their_licences() -> None:
    listed = {name: (licence, digest) for name, licence, digest in ROW.findall((VENDOR / "README.md").read_text())}
    licences = {licence for licence, _ in listed.values()}
    assert {path.name for path in VENDOR.iterdir()} == {*listed, *licences, "README.md"}
    for name, (licence, digest) in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
        assert "Copyright" in (VENDOR / licence).read_text()


@pytest.mark.parametrize("name", OURS)
def test_our_own_files_take_no_markup_and_name_no_other_host(name: str) -> None:
    text = (console.FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert re.findall(r"https?://(?!localhost|www\.w3\.org/2000/svg)[\w.]+", text) == []


@pytest.mark.asyncio(loop_scope="session")
async def test_browsers_get_the_console_and_everybody_else_what_they_always_got(gateway: RunningGateway) -> None:
    async with gateway.session.get("/", headers=BROWSER) as reply:
        assert (reply.status, reply.content_type) == (200, "text/html")
        policy = reply.headers["Content-Security-Policy"]
        assert "Accept" in reply.headers.getall("Vary")
    assert "unsafe" not in policy
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    for accept in ("*/*", "application/json"):
        async with gateway.session.get("/", headers={"Accept": accept}) as reply:
            assert (reply.content_type, await reply.text()) == ("text/plain", "Dropgate is running\n")


@pytest.mark.asyncio(loop_scope="session")
async def test_files_are_packed_and_sent_again_only_when_they_have_changed(gateway: RunningGateway) -> None:
    for name in console.NAMES:
        async with gateway.session.get(f"/console/{name}", headers=BROWSER, auto_decompress=False) as reply:
            content = await reply.read()
            packed = reply.headers.get("Content-Encoding") == "gzip"
            assert (gzip.decompress(content) if packed else content) == (console.FOLDER / name).read_bytes()
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            tag = reply.headers["ETag"]
        async with gateway.session.get(f"/console/{name}", headers={"If-None-Match": tag}) as reply:
            assert (reply.status, await reply.read()) == (304, b"")


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("path", ["nothing.js", "..%2f..%2fconsole.py", "vendor/../../docs.html", "vendor/"])
async def test_nothing_but_the_consoles_files_is_served(gateway: RunningGateway, path: str) -> None:
    async with gateway.session.get(f"/console/{path}", allow_redirects=False) as reply:
        assert reply.status == 404
