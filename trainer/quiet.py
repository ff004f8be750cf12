"""The noise of libraries, silenced: bars, advice, and warnings about parts that are not needed here.

What a library says of an error is not noise; it comes with the error.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import Final

# each says something of a kernel or a format that is not used here, some of them once for every layer and call
LOUD: Final = (
    "bitsandbytes.backends.cpu.ops",
    "bitsandbytes.autograd._functions",
    "torchao",
    "torch.utils._pytree",
    "nncf",
    "openvino",
    "sentence_transformers",
)


def libraries() -> None:
    """To be called before they are imported. Once is enough; twice does no harm."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"(torch|torchao|transformers|bitsandbytes|nncf)\b.*"
    )
    from transformers.utils import logging as told  # noqa: PLC0415  only where a model is loaded

    told.set_verbosity_error()
    told.disable_progress_bar()


def one_line(error: BaseException) -> str:
    """What an error says, short enough for a line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}"[:500] if said else type(error).__name__
