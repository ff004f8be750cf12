"""The forms that a model's weights can be given, and how each is written: from float32, and before any call.

bitsandbytes packs 4-bit weights anew at the first call where the processor knows bfloat16, and what is saved after
that is not what was measured; so nothing here ever calls the model that it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from trainer import openvino_model, quiet, reload
from trainer.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Form:
    """`write(source, target)` makes the directory. `requirements` are what whoever serves it must have installed;
    `least_cosine` is of the mean over texts, `most_loss` of MRR@10: what is further off is refused."""

    name: str
    bits: int
    write: Callable[[Path, Path], None]
    requirements: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # to be importable here
    least_cosine: float = 0.98
    most_loss: float = 0.01
    embeddings_stay: bool = True  # in float32

    def demand_libraries(self) -> None:
        """Raises InvalidInput."""
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            raise InvalidInput(
                f"{self.name} needs {' and '.join(missing)}, not installed here: pip install 'dropgate[train]'"
            )


def _bf16(source: Path, target: Path) -> None:
    import torch  # noqa: PLC0415  seconds

    model = reload.load(source)
    model.transformers_model.to(torch.bfloat16)
    _save(model, target)


def _bnb_int8(source: Path, target: Path) -> None:
    from transformers import BitsAndBytesConfig  # noqa: PLC0415  seconds

    _save(_loaded(source, BitsAndBytesConfig(load_in_8bit=True)), target)


def _bnb_nf4(source: Path, target: Path) -> None:
    from transformers import BitsAndBytesConfig  # noqa: PLC0415  seconds

    # doubly always: without it the library cannot take back what it does to the weights at the first call
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    _save(_loaded(source, four), target)


def _torchao_int8(source: Path, target: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415  seconds
    from transformers import TorchAoConfig  # noqa: PLC0415

    _save(_loaded(source, TorchAoConfig(Int8WeightOnlyConfig())), target)


def _openvino_int8(source: Path, target: Path) -> None:
    model = reload.load(source)
    openvino_model.write(model.transformers_model, target)
    _save(model, target)
    for path in target.glob("model*.safetensors*"):  # what the network holds now; other modules keep theirs
        path.unlink()


def _loaded(source: Path, quantization: Any) -> Any:
    import torch  # noqa: PLC0415  seconds
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    options = {"quantization_config": quantization, "dtype": torch.float32}
    return SentenceTransformer(
        str(source), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
    )


def _save(model: Any, target: Path) -> None:
    model.save_pretrained(str(target), create_model_card=False)


FORMS: Final = {
    form.name: form
    for form in (
        Form("bnb-int8", 8, _bnb_int8, ("bitsandbytes>=0.50", "accelerate>=1.3"), ("bitsandbytes", "accelerate")),
        Form(
            "bnb-nf4",
            4,
            _bnb_nf4,
            ("bitsandbytes>=0.50", "accelerate>=1.3"),
            ("bitsandbytes", "accelerate"),
            least_cosine=0.95,  # of a small encoder 4 bits cost 3%: what counts is what it finds
            most_loss=0.02,
        ),
        Form("torchao-int8", 8, _torchao_int8, ("torchao>=0.18",), ("torchao",)),
        Form("openvino-int8", 8, _openvino_int8, ("openvino>=2026.4",), ("openvino", "nncf"), embeddings_stay=False),
        Form("bf16", 16, _bf16, least_cosine=0.999, embeddings_stay=False),
    )
}
OLDER: Final = {"int8": "bnb-int8", "int4": "bnb-nf4"}  # as `--dtype` of the earlier tool said


def named(name: str) -> Form:
    """Raises InvalidInput."""
    form = FORMS.get(OLDER.get(name, name))
    if form is None:
        raise InvalidInput(f"no form {name!r}; there are {', '.join(FORMS)}")
    return form


def write(form: Form, source: Path, target: Path) -> None:
    """Raises InvalidInput where a library cannot do it with this model."""
    form.demand_libraries()
    quiet.libraries()
    try:
        form.write(source, target)
    except (MemoryError, OSError, InvalidInput):
        raise
    except Exception as error:  # the libraries have no list of what they raise
        raise InvalidInput(f"{source}: cannot be made {form.name}: {quiet.one_line(error)}") from error
