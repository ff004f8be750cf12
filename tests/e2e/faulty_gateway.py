"""`python -m tests.e2e.faulty_gateway serve ...`: the gateway's own command line over hosts that do what they are told
to do wrong (`tests.engine.faulty_host`)."""

from __future__ import annotations

import functools
import sys

from gateway import cli, life

HOST_COMMAND = (sys.executable, "-m", "tests.engine.faulty_host")

if __name__ == "__main__":
    life.run = functools.partial(life.run, host_command=HOST_COMMAND)
    sys.exit(cli.main())
