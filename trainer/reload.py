"""What a model answers when somebody else loads it: vectors made in another process, from the files alone.

A model that is right in the memory that made it may be wrong on the disk, and may change what it answers after the
first call. So nothing is believed that was not loaded anew.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer import openvino_model, quiet
from trainer.errors import NotAModel, TrainerError

SECONDS: Final = 900.0  # a process that hangs is ended
Matrix = npt.NDArray[np.float32]
Role = Literal["", "query", "document"]  # which of a model's own prompts is meant; "" is its default


class Answer(NamedTuple):
    """`seconds` is what the vectors took, without the loading."""

    vectors: Matrix
    seconds: float


def vectors(directory: Path, texts: Sequence[str], *, base: Path | None = None, device: str = "cpu") -> Matrix:
    """One row for each text, as `encode` makes them with the model's own default prompt and nothing else.

    `base` is the directory of an adapter's base. Raises NotAModel when the model does not load or embed, TrainerError
    when the process that tried was killed or took too long.
    """
    return answered(directory, texts, base=base, device=device).vectors


def answered(
    directory: Path, texts: Sequence[str], *, role: Role = "", base: Path | None = None, device: str = "cpu"
) -> Answer:
    """As `vectors`, with what it took."""
    wanted = {"directory": str(directory), "texts": list(texts), "base": base and str(base), "device": device}
    wanted |= {"role": role}
    told = ask(directory, wanted, "from trainer.reload import answer; answer()")
    with np.load(io.BytesIO(told), allow_pickle=False) as found:
        return Answer(found["vectors"], float(found["seconds"]))


def ask(directory: Path, wanted: Mapping[str, Any], entry: str) -> bytes:
    """What another process, which begins at `entry`, says to what is `wanted` of a model. Raises as `vectors` does."""
    try:
        done = elsewhere(entry, json.dumps(dict(wanted)).encode())
    except subprocess.TimeoutExpired:
        raise TrainerError(f"{directory}: did not load and embed in {SECONDS:.0f} seconds") from None
    if done.returncode < 0:
        raise TrainerError(f"{directory}: the process that loaded it was ended by signal {-done.returncode}")
    if done.returncode > 0:
        raise NotAModel(f"{directory}: does not load: {_last_line(done.stderr)}")
    return done.stdout


def elsewhere(entry: str, wanted: bytes) -> subprocess.CompletedProcess[bytes]:
    """Another process, from its beginning to its end. Raises subprocess.TimeoutExpired."""
    command = [sys.executable, "-c", entry]
    return subprocess.run(command, input=wanted, capture_output=True, env=environment(), timeout=SECONDS, check=False)


def environment() -> dict[str, str]:
    """This one, with this very trainer first on the path, and no hub to ask."""
    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _last_line(told: bytes) -> str:
    lines = [line.strip() for line in told.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:1000] if lines else "it said nothing"


def answer() -> None:
    """The other process, for vectors."""
    answering(_timed)


def _timed(wanted: dict[str, Any]) -> bytes:
    """The vectors, and what they took, as a .npz file."""
    base = Path(wanted["base"]) if wanted["base"] else None
    model = _model(Path(wanted["directory"]), base, wanted["device"])
    encode(model, wanted["texts"][:1])  # what happens at the first call alone is not what a text takes
    started = time.perf_counter()
    made = encode(model, wanted["texts"], wanted["role"])
    seconds = time.perf_counter() - started
    found = io.BytesIO()  # into memory first: saving asks for positions, and a pipe has none
    np.savez(found, vectors=made, seconds=seconds)
    return found.getvalue()


def answering(make: Callable[[dict[str, Any]], bytes]) -> None:
    """The other process: what is wanted comes on stdin, what was made of it goes to stdout."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not spoil them
    wanted = json.load(sys.stdin)
    try:
        made = make(wanted)
    except Exception as error:
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))  # the last line is what is told
    with results:
        results.write(made)


def embed(directory: Path, texts: Sequence[str], *, base: Path | None = None, device: str = "cpu") -> Matrix:
    """The vectors, made in this process."""
    return encode(_model(directory, base, device), texts)


def _model(directory: Path, base: Path | None, device: str) -> Any:
    return _adapted(directory, base, device) if _is_adapter(directory) else load(directory, device)


def encode(model: Any, texts: Sequence[str], role: Role = "") -> Matrix:
    """One row for each text: the same calls wherever it is done, so that equal models answer equally to the bit."""
    call = {"": model.encode, "query": model.encode_query, "document": model.encode_document}[role]
    made = call(list(texts), convert_to_numpy=True, show_progress_bar=False)
    return np.asarray(made, dtype=np.float32)


def load(directory: Path, device: str = "cpu") -> Any:
    """A model of any form that we make, as sentence-transformers has it; half weights in float32, as the gateway
    computes them. It never runs code that comes with a model, and never asks a hub."""
    quiet.libraries()
    if openvino_model.is_one(directory):
        return openvino_model.load(directory)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  seconds: only where a model is loaded

    precision = {} if _is_quantized(directory) else {"dtype": "float32"}
    return SentenceTransformer(
        str(directory), device=device, local_files_only=True, trust_remote_code=False, model_kwargs=precision
    )


def _is_adapter(directory: Path) -> bool:
    return (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file()


def _is_quantized(directory: Path) -> bool:
    configs = [directory / "config.json", *directory.glob("*/config.json")]
    return any("quantization_config" in json.loads(path.read_bytes()) for path in configs if path.is_file())


def _adapted(directory: Path, base: Path | None, device: str) -> Any:
    from peft import PeftModel  # noqa: PLC0415

    if base is None:
        raise NotAModel(f"{directory}: an adapter, and its base was not given")
    model = load(base, device)
    PeftModel.from_pretrained(model.transformers_model, str(directory))  # in place
    return model
