"""The transformers library, offline and quiet. Importing this module imports it, which takes seconds.

Two threads may want it at once, and while it is imported it is not whole: Python has the second one wait for this
module, as it does not for one that, like transformers, puts another object in its own place.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["transformers"]

# No network; and no threads for each load, whose arenas keep memory: our tensors are mapped, there is nothing to read.
SWITCHES: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DEACTIVATE_ASYNC_LOAD")
LAZY: Final = ("AutoConfig", "AutoTokenizer", "PreTrainedModel", "MODEL_MAPPING")

for switch in SWITCHES:
    os.environ[switch] = "1"  # most are read once, while huggingface_hub is imported

import transformers  # noqa: E402 - after the switches

for name in LAZY:  # the package imports these when they are first named, which takes longer than the package itself
    getattr(transformers, name)
transformers.utils.logging.set_verbosity_error()  # a host's standard error is a log
transformers.utils.logging.disable_progress_bar()
