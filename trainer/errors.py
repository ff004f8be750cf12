"""What can go wrong, as the trainer's user sees it; each has the exit status of the command that ends with it.

TrainerError          1   the machine: no space, no permission, an unwritable volume
├── InvalidInput      2   what was asked for cannot be done, here or anywhere
│   └── NotAModel     2   the directory is no model, or not a whole one
├── QualityGate       3   what was made is not good enough, and goes nowhere
└── Interrupted       4   stopped by a signal; what was done is kept, and `--resume auto` goes on
"""

from __future__ import annotations

from typing import ClassVar


class TrainerError(Exception):
    exit_status: ClassVar[int] = 1


class InvalidInput(TrainerError):
    exit_status = 2


class NotAModel(InvalidInput):
    pass


class QualityGate(TrainerError):
    exit_status = 3


class Interrupted(TrainerError):
    exit_status = 4
