"""Ending a run by a signal, so that it can go on as if nothing had been.

The first SIGINT or SIGTERM lets the step end, saves, and stops: the random generators stand where the next step wants
them. The second ends the program at once; what was saved before is used then.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from transformers import TrainerCallback

from trainer.console import say
from trainer.errors import Interrupted

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """`stopped` tells afterwards that the run ended because of a signal."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._asked = self.stopped = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        say(f"{signal.Signals(number).name}: this step is finished and saved; once more ends at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._agreed(args.device):
            self.stopped = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def _agreed(self, device: Any) -> bool:
        """Of several processes one may have the signal before the others: all stop at the same step."""
        if self._processes == 1:
            return self._asked
        import torch  # noqa: PLC0415  heavy

        asked = torch.tensor(int(self._asked), device=device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        return bool(asked.item())


def to_the_end(loop: Any, stopper: StopOnSignal, checkpoint: str | None) -> list[dict[str, Any]]:
    """Trains from the beginning, or from a checkpoint -> the log, whose last line has the last step. Raises
    Interrupted."""
    with stopper.listening():
        loop.train(resume_from_checkpoint=checkpoint)
    state = loop.state
    if stopper.stopped:
        raise Interrupted(
            f"stopped at step {state.global_step} of {state.max_steps}, which is saved: the same command goes on"
        )
    return [*state.log_history, {"step": state.global_step}]
