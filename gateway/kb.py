"""`gateway kb ...`: knowledge bases of a running gateway, from the command line, with a bar on a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.ask.passage import check_name
from gateway.errors import GatewayError
from gateway.remote import attempt, base_url, call, columns, variable

if TYPE_CHECKING:
    from gateway.ask.qdrant import Imported

SUFFIXES: Final = (".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm", ".xhtml", ".pdf")
BITE_BYTES: Final = 8 * 1024**2  # of files in one request
BITE_FILES: Final = 32
BITE_CHARACTERS: Final = 10**6  # of texts, which may take some bytes each as JSON
GLANCE: Final = 0.5  # seconds between two looks at what the gateway is indexing
BAR: Final = 30  # characters
SHOWN: Final = 300  # characters of a passage
COLUMNS: Final = ("NAME", "STATE", "DOCUMENTS", "CHUNKS", "GENERATION", "MODEL")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0 done, 1 the gateway refused or cannot be reached, or a document failed."""
    base = base_url(options.url)
    try:
        check_name(getattr(options, "name", "any"))  # here too: `GET /kb/list` is something else
    except GatewayError as error:
        return _refused(error)
    verbs = {
        "import": _import,
        "list": _list, "show": _show, "add": _add, "delete": _delete, "search": _search, "reindex": _reindex,
        "evaluate": _evaluate,
    }  # fmt: skip
    return attempt(base, lambda: verbs[options.action](base, options))


def _refused(error: GatewayError) -> int:
    print(f"gateway: {error.message} ({error.code})", file=sys.stderr)
    return 1


def _list(base: str, options: argparse.Namespace) -> int:
    document = call("GET", f"{base}/kb")
    bases = document["knowledge_bases"]
    if options.json:
        print(json.dumps(document, indent=2))
    elif not bases:
        print("there is no knowledge base yet; make one with: gateway kb add NAME FILE...")
    else:
        columns([COLUMNS, *(_row(each) for each in bases)])
    return 0


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    state = each["state"] + (f" ({each['pending']} left)" if each["pending"] else "")
    counts = (str(each["documents"]), str(each["chunks"]))
    return (each["name"], state, *counts, each["generation"] or "-", each["embedding_model"])


def _show(base: str, options: argparse.Namespace) -> int:
    print(json.dumps(call("GET", _url(base, options.name)), indent=2))
    return 0


def _reindex(base: str, options: argparse.Namespace) -> int:
    document = call("POST", _url(base, options.name, "reindex"), b"")
    print(json.dumps(document, indent=2) if options.json else f"{document['name']}: its index is made anew")
    return 0


def _delete(base: str, options: argparse.Namespace) -> int:
    url = _url(base, options.name)
    if options.document:
        url = _url(base, options.name, "documents", _id(base, options.name, options.document))
    document = call("DELETE", url)
    print(json.dumps(document) if options.json else f"deleted: {options.document or options.name}")
    return 0


def _id(base: str, name: str, wanted: str) -> str:
    """Of a document that is named by its name or its id."""
    offset = 0
    while True:
        page = call("GET", f"{_url(base, name, 'documents')}?offset={offset}")
        for each in page["documents"]:
            if wanted in {each["name"], each["id"]}:
                return str(each["id"])
        offset += len(page["documents"])
        if offset >= page["total"] or not page["documents"]:
            return wanted  # the gateway says that it is not there


def _search(base: str, options: argparse.Namespace) -> int:
    body = {"query": options.query, "limit": options.limit}
    found = call("POST", _url(base, options.name, "search"), json.dumps(body).encode())
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for number, hit in enumerate(found["hits"], 1):
        page = f", page {hit['page']}" if hit["page"] else ""
        score = "-" if hit["score"] is None else f"{hit['score']:.3f}"
        text = " ".join(hit["text"].split())
        print(f"[{number}] {hit['name']}{page}  {score}\n    {text[:SHOWN]}{'...' if len(text) > SHOWN else ''}")
    if not found["hits"]:
        print("nothing found")
    return 0


def _evaluate(base: str, options: argparse.Namespace) -> int:
    from gateway import evaluate  # noqa: PLC0415  # numpy, which nothing else here needs

    bar = Bar(options.name, 0, "questions")

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        return call("POST", _url(base, options.name, "search"), json.dumps(body).encode())

    def told(done: int, total: int) -> None:
        bar.total = total
        bar.show(done, "asked")
        if done == total:
            bar.end()

    return evaluate.run(Path(options.questions), ask, options, told)


def _add(base: str, options: argparse.Namespace) -> int:
    if missing := [path for path in options.paths if not os.path.exists(path)]:
        print(f"gateway: no such file: {', '.join(missing)}", file=sys.stderr)
        return 1
    files = list(_files(options.paths))
    if not files:
        print(f"gateway: no files there that can be read: {', '.join(SUFFIXES)}", file=sys.stderr)
        return 1
    bar = Bar(options.name, len(files))
    taken: list[dict[str, Any]] = []
    for bite in _bites(files):
        taken += _send(base, options, bite)["documents"]
        bar.show(len(taken), "sent")
    state = _watch(base, options.name, bar) if options.wait and _stored(taken) else {}
    bar.end()
    return _tell(options, taken, state)


def _import(base: str, options: argparse.Namespace) -> int:
    """Texts and metadata of a collection; its vectors are made anew."""
    from gateway.ask import qdrant  # noqa: PLC0415  # which has an extra of its own

    try:
        client = qdrant.connect(options.qdrant_url, options.qdrant_path, variable("QDRANT_API_KEY") or None)
        found = list(qdrant.documents(client, options.collection, options.text_field, options.source_field))
    except GatewayError as error:
        return _refused(error)
    bar = Bar(options.name, len(found))
    taken: list[dict[str, Any]] = []
    for bite in _texts([_new(each) for each in found]):
        body = {"documents": bite} | ({"embedding_model": options.embedding_model} if options.embedding_model else {})
        url = f"{_url(base, options.name, 'documents')}?wait=false"
        taken += _told(url, json.dumps(body).encode(), "application/json")["documents"]
        bar.show(len(taken), "sent")
    state = _watch(base, options.name, bar) if options.wait and _stored(taken) else {}
    bar.end()
    return _tell(options, taken, state)


def _new(imported: Imported) -> dict[str, Any]:
    source, metadata = imported.source, imported.metadata
    return {"name": imported.name, "content": imported.text, "source": source, "metadata": metadata}


def _texts(documents: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As many at once as a request may well have."""
    bite: list[dict[str, Any]] = []
    for each in documents:
        bite.append(each)
        if len(bite) >= BITE_FILES or sum(len(one["content"]) for one in bite) >= BITE_CHARACTERS:
            yield bite
            bite = []
    if bite:
        yield bite


def _files(paths: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Names and places: in a directory every file of a known kind, named by its path in there; a file by its own."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path.name, path
            continue
        for place in sorted(path.rglob("*")):
            inside = place.relative_to(path)
            hidden = any(part.startswith(".") for part in inside.parts)
            if place.suffix.lower() in SUFFIXES and place.is_file() and not hidden:
                yield inside.as_posix(), place


def _bites(files: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, bytes]]]:
    bite: list[tuple[str, bytes]] = []
    size = 0
    for name, path in files:
        content = _content(path)
        if bite and (size + len(content) > BITE_BYTES or len(bite) >= BITE_FILES):
            yield bite
            bite, size = [], 0
        bite.append((name, content))
        size += len(content)
    if bite:
        yield bite


def _content(path: Path) -> bytes:
    """Raises SystemExit: one that cannot be read is a slip of whoever named it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SystemExit(f"gateway: {path}: {error.strerror}") from error


def _send(base: str, options: argparse.Namespace, bite: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    query = {"wait": "false"} | ({"embedding_model": options.embedding_model} if options.embedding_model else {})
    boundary = uuid.uuid4().hex
    url = f"{_url(base, options.name, 'documents')}?{urllib.parse.urlencode(query)}"
    media = f"multipart/form-data; boundary={boundary}"
    return _told(url, _multipart(bite, options.metadata, boundary), media)


def _told(url: str, body: bytes, media: str) -> dict[str, Any]:
    """What became of documents, also where that is nothing but errors. Raises SystemExit for any other refusal."""
    try:
        return call("POST", url, body, media)
    except urllib.error.HTTPError as error:
        told = json.load(error)["error"]
        if "documents" in told:
            return {"documents": told["documents"]}
        raise SystemExit(f"gateway: {told['message']} ({told['code']})") from error


def _multipart(bite: Sequence[tuple[str, bytes]], metadata: dict[str, Any], boundary: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{json.dumps(metadata)}\r\n'
    parts = [head.encode()]
    for name, content in bite:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'.encode()
            + content
            + b"\r\n"
        )
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def _stored(taken: Sequence[dict[str, Any]]) -> bool:
    return any(each["status"] != "failed" for each in taken)


def _watch(base: str, name: str, bar: Bar) -> dict[str, Any]:
    """Until all can be found, or something keeps the gateway from going on."""
    while True:
        state = call("GET", _url(base, name))
        bar.show(max(0, bar.total - state["pending"]), "indexed")
        if not state["pending"] or state["error"]:
            return state
        time.sleep(GLANCE)


def _tell(options: argparse.Namespace, taken: list[dict[str, Any]], state: dict[str, Any]) -> int:
    ids = {each["id"] for each in taken}
    late = [each for each in state.get("failed", []) if each["id"] in ids]
    failed = [each for each in taken if each["status"] == "failed"] + late
    if options.json:
        print(json.dumps({"knowledge_base": options.name, "documents": taken, "failed": failed, "state": state}))
    else:
        for each in failed:
            print(f"gateway: {each['name']}: {each['error']['message']} ({each['error']['code']})", file=sys.stderr)
        if error := state.get("error"):
            print(f"gateway: stored, and not indexed yet: {error['message']} ({error['code']})", file=sys.stderr)
        counts = {
            status: sum(each["status"] == status for each in taken) for status in ("added", "replaced", "unchanged")
        }
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing added"
        print(f"{options.name}: {told}" + (f", {len(failed)} failed" if failed else ""))
    return 1 if failed or state.get("error") else 0


def _url(base: str, name: str, *more: str) -> str:
    return "/".join([f"{base}/kb", *(urllib.parse.quote(part, safe="") for part in (name, *more))])


class Bar:
    """How many documents (or what `noun` says) are done, on one line of standard error; nothing where that is no
    terminal."""

    def __init__(self, name: str, total: int, noun: str = "documents") -> None:
        self.total = total
        self._noun = noun
        self._name = name
        self._shown = False

    def show(self, done: int, what: str) -> None:
        if os.isatty(sys.stderr.fileno()) and self.total:
            print(
                "\r" + line(self._name, done, self.total, what, self._noun), end="\x1b[K", file=sys.stderr, flush=True
            )
            self._shown = True

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)


def line(name: str, done: int, total: int, what: str, noun: str = "documents") -> str:
    filled = min(BAR, done * BAR // total)
    return f"{name} [{'#' * filled}{'.' * (BAR - filled)}] {done} of {total} {noun} {what}"
