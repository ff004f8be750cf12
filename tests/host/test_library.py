"""The transformers library is there whole for whoever asks, or not at all."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

TWO_THREADS: Final = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from gateway.host import library

both = Barrier(2)

def ask():
    both.wait()
    found = library.transformers()
    return found.AutoConfig, found.AutoTokenizer, found.MODEL_MAPPING

with ThreadPoolExecutor(2) as threads:
    first, second = threads.map(lambda _: ask(), range(2))
assert first == second
"""
OFFLINE: Final = """
import os
from gateway.host import library
library.transformers()
from huggingface_hub import constants
assert constants.HF_HUB_OFFLINE
assert os.environ["TRANSFORMERS_OFFLINE"] == "1"
"""


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_two_threads_that_ask_at_once_get_it_whole() -> None:
    run(TWO_THREADS)


def test_it_is_told_that_there_is_no_network_before_it_is_imported() -> None:
    run(OFFLINE)
