"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import HealthCheck, settings

# Files of tests run at the same time: a thread that waits for work by spinning takes a core from the others.
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # read when torch is loaded

from tests import making

# A busy machine is no fault of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="session")
def minilm() -> str:
    """The path of the real all-MiniLM-L6-v2. Read-only: copy it before changing it."""
    path = making.minilm()
    with open(os.path.join(path, "model.safetensors"), "rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == MINILM_SHA256
    return path
