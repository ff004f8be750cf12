"""The transformers library: imported when the first load needs it, offline, quiet, and once.

Nothing here fetches: every load names a local directory, and the library is told that there is no network.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Final

# No network; and no threads for each load, whose arenas keep memory: our tensors are mapped, there is nothing to read.
SWITCHES: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DEACTIVATE_ASYNC_LOAD")
# What every `from_pretrained` gets: a directory's own code is never run.
LOCAL: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}


LAZY: Final = ("AutoConfig", "AutoTokenizer", "PreTrainedModel", "MODEL_MAPPING")


@functools.cache
def transformers() -> Any:
    """The module, with its progress bars and advice switched off: a host's standard error is a log."""
    for name in SWITCHES:
        os.environ[name] = "1"  # most are read once, while huggingface_hub is imported
    import transformers as library  # noqa: PLC0415 - seconds, which a host imports in the background

    for name in LAZY:  # the package imports these when they are first named, which takes longer than the package itself
        getattr(library, name)
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library
