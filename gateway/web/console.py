"""The console: a page that shows what is served and lets people try it. Its files are plain, and the same for
everybody; what it shows it asks for like any other client."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import re
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.web.auth import is_browsing
from gateway.web.contract import TEXT, says

FOLDER: Final = Path(__file__).parent / "pages" / "console"
INDEX: Final = "index.html"
TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".md": "text/plain",
    ".txt": "text/plain",
}
SMALL: Final = 1024  # bytes that are not worth packing
INLINE: Final = re.compile(rb"<script type=\"importmap\">(.*?)</script>", re.DOTALL)
routes: Final = web.RouteTableDef()


class File(msgspec.Struct, frozen=True):
    """One of the console's, ready to be sent."""

    content: bytes
    packed: bytes | None
    tag: str
    kind: str


def _read(path: Path) -> File:
    content = path.read_bytes()
    packed = gzip.compress(content, mtime=0) if len(content) > SMALL else None
    return File(content, packed, hashlib.sha256(content).hexdigest()[:32], TYPES[path.suffix])


def _names() -> dict[str, Path]:
    """Every file by its name in the folder. Only these are served, whatever a path says."""
    paths = (path for path in FOLDER.rglob("*") if path.is_file() and path.suffix in TYPES)
    return {path.relative_to(FOLDER).as_posix(): path for path in sorted(paths)}


NAMES: Final = _names()
PATHS: Final = frozenset(f"/console/{name}" for name in NAMES)  # need no key


@functools.cache
def file(name: str) -> File:
    """Read when it is first asked for."""
    return _read(NAMES[name])


@functools.cache
def guards() -> dict[str, str]:
    """What a browser is told to refuse. The one script in the page itself says where modules are, and is known by its
    hash."""
    inline = INLINE.search(file(INDEX).content)
    digest = base64.b64encode(hashlib.sha256(inline[1]).digest()).decode() if inline else ""
    return {
        "Content-Security-Policy": f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


@routes.get("/")
@says(answer=str, media=(TEXT, "text/html"))
async def root(request: web.Request) -> web.Response:
    """The console, for browsers; for other clients, that something runs here."""
    response = _send(request, INDEX) if is_browsing(request) else web.Response(text="Dropgate is running\n")
    response.headers.add(hdrs.VARY, hdrs.ACCEPT)
    return response


@routes.get("/console/{file:.+}")
@says(answer=str, media=tuple(sorted(set(TYPES.values()))))
async def part(request: web.Request) -> web.Response:
    """A file of the console; it loads nothing from elsewhere."""
    name = request.match_info["file"]
    if name not in NAMES:
        raise web.HTTPNotFound
    return _send(request, name)


def _send(request: web.Request, name: str) -> web.Response:
    found = file(name)
    headers = {**guards(), "ETag": f'"{found.tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if any(etag.value == found.tag for etag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    content = found.content
    if found.packed and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        content = found.packed
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=content, content_type=found.kind, charset="utf-8", headers=headers)
