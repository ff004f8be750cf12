"""rsync's remote shell, for `rsync -e`: runs the other end here, and stalls what is sent to it.

    DROPGATE_STALLS='[[bytes, seconds], ...]' rsync -a -e 'python relay.py' source/ host:target/

The arguments are the host's name and rsync's own command; it is a process of its own, as it is behind ssh.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import IO, Final

BLOCK: Final = 65536


def relay(command: list[str], stalls: list[tuple[int, float]]) -> int:
    """Runs the command, with our standard input after its stalls; -> its status."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    # rsync leaves our input open until we end, and we end when the other end does: as ssh does it
    threading.Thread(target=pump, args=(process.stdin, stalls), daemon=True).start()
    return process.wait()


def pump(stream: IO[bytes], stalls: list[tuple[int, float]]) -> None:
    sent = 0
    while True:
        room = stalls[0][0] - sent if stalls else BLOCK
        if room <= 0:
            time.sleep(stalls.pop(0)[1])
            continue
        block = os.read(0, min(room, BLOCK))
        if not block:
            break
        stream.write(block)
        stream.flush()
        sent += len(block)
    stream.close()


if __name__ == "__main__":
    planned = sorted((int(at), float(seconds)) for at, seconds in json.loads(os.environ["DROPGATE_STALLS"]))
    sys.exit(relay(sys.argv[2:], planned))
