"""Where an OpenVINO network lies in a model's directory, and the library that reads it."""

from __future__ import annotations

import sys
from typing import Any, Final

FOLDER: Final = "openvino"
XML: Final = "openvino_model.xml"
BIN: Final = "openvino_model.bin"
INPUTS: Final = ("input_ids", "attention_mask")


def library() -> Any:
    """The module. A package beside it tells the library's maker of each conversion, over the network; not here."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it is not to be found
    import openvino  # noqa: PLC0415  an extra

    return openvino
