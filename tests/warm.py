"""Processes of their own that begin warm: forks of one that has imported what takes seconds, and did nothing else.

For tests in which it matters that another process does something, and not how it came to its libraries. Nothing of the
test's own process is known to a fork; where the beginning itself is tested, the process is a cold one.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
SECONDS: Final = 3600  # a fork that hangs is ended
_turn = threading.Lock()


def run(
    code: str, *arguments: str, input: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """As `python -c code arguments` would end, with what it said; `environment` is all of its environment."""
    with tempfile.TemporaryDirectory() as folder, _turn:
        (Path(folder) / "0").write_bytes(input)
        wanted = {"code": code, "arguments": arguments, "folder": folder, "directory": os.getcwd()}
        wanted["environment"] = dict(os.environ if environment is None else environment)
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(wanted).encode() + b"\n")
        server.stdin.flush()
        told = server.stdout.readline()
        assert told, f"`python -m tests.warm` ended with status {server.wait()}; run by hand, it says why"
        said = [(Path(folder) / name).read_bytes() for name in "12"]
    return subprocess.CompletedProcess(["python", "-c", code, *arguments], int(told), *said)


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    """One for all tests of this process, started when the first needs it; it ends with its standard input."""
    # what a library reads once, when it is imported
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.warm"]
    # what libraries say while they are imported belongs to no test
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()

    atexit.register(end)
    return server


def _serve() -> None:
    from trainer import quiet

    results = os.fdopen(os.dup(1), "w")  # what a library prints is no answer
    os.dup2(2, 1)
    quiet.libraries()
    for name in ("peft", "sentence_transformers", "trainer.train", "trainer.language.train"):
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(wanted)
        _, status = os.waitpid(child, 0)
        results.write(f"{os.waitstatus_to_exitcode(status)}\n")
        results.flush()


def _become(wanted: dict[str, Any]) -> None:
    """The child: never returns."""
    status = 70
    try:
        for number in (0, 1, 2):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            os.dup2(os.open(Path(wanted["folder"]) / str(number), flags, 0o600), number)
        sys.stdin = os.fdopen(0)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w")
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["directory"])
        sys.argv = ["-c", *wanted["arguments"]]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(SECONDS)
        status = _status(wanted["code"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(code: str) -> int:
    """What python would exit with."""
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve()
