"""Reading and placing the tensors of a model alone: from the page cache into memory of their own, and nothing else.

python -m bench.tensors FILE TIMES        seconds of each time, as a line of JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path


def seconds(file: Path, times: int) -> list[float]:
    """In a process of its own, whose torch is imported already when the clock starts."""
    command = [sys.executable, "-m", "bench.tensors", str(file), str(times)]
    found: list[float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    from safetensors.torch import load_file

    taken = []
    for _ in range(int(sys.argv[2]) + 1):
        began = time.perf_counter()
        placed = {name: tensor.clone() for name, tensor in load_file(sys.argv[1]).items()}
        taken.append(time.perf_counter() - began)
        del placed
    print(json.dumps(taken[1:]))  # the first has read the file into the page cache


if __name__ == "__main__":
    main()
