"""What a language model said when it was made: to prompts of nobody's, digests of its greedy answers, and some of the
numbers behind the first token. They go with the model, and it is published only when, loaded anew by another process,
it says them again. The answers themselves stay behind: they may be what it was trained on.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer import reload
from trainer.errors import InvalidInput, QualityGate
from trainer.golden import LEAST_COSINE, cosines

KEY: Final = "golden_answers"  # in model_metadata.json
PROMPTS: Final = (
    "How is a beam of light stored?",
    "The invoice was paid on the third of March.",
    "Wie lange dauert die Lieferung nach Österreich?",
    "SELECT name FROM models",
)
TOKENS: Final = 12
PLACES: Final = 64  # of the vocabulary, evenly spread: their logits behind a prompt
CLOSE: Final = 1e-3  # of logits on one kind of device, relative to the largest; measured: 0 on one machine
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Form:
    """How it was computed. On the same kind of device, in the same numbers, it answers the same."""

    device: str = "cpu"
    dtype: str = "float32"
    nf4: bool = False
    threads: int = 0
    templated: bool = False


@dataclass(frozen=True, slots=True)
class Spoken:
    """`answers` are digests of the tokens; `logits` has a row for each prompt."""

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    logits: Matrix
    form: Form

    def to_json(self) -> dict[str, Any]:
        rows = [[float(f"{x:.9g}") for x in row] for row in self.logits]
        return {
            **asdict(self.form),
            "prompts": list(self.prompts),
            "answers": list(self.answers),
            "logits": rows,
        }

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Spoken | None:
        """What a model's metadata says; None where it says nothing that can be compared."""
        try:
            told = metadata[KEY]
            form = Form(**{key: told[key] for key in Form.__dataclass_fields__})
            answers = tuple(map(str, told["answers"]))
            logits = np.asarray(told["logits"], dtype=np.float32)
            prompts = tuple(map(str, told["prompts"]))
        except (KeyError, TypeError, ValueError):
            return None
        whole = prompts and logits.ndim == 2 and len(logits) == len(prompts) == len(answers)
        return cls(prompts, answers, logits, form) if whole else None


def speak(model: Any, tokenizer: Any, endings: Sequence[int], form: Form, prompts: Sequence[str] = PROMPTS) -> Spoken:
    """As the model in memory answers: one prompt at a time, the same calls wherever it is done."""
    import torch  # noqa: PLC0415  heavy

    was_training = model.training
    model.eval()
    answers, logits = [], []
    with torch.inference_mode():
        for prompt in prompts:
            answer, first = _answer(model, torch.tensor([_ids(tokenizer, prompt, form.templated)]), set(endings))
            answers.append(hashlib.sha256(json.dumps(answer).encode()).hexdigest())
            logits.append(first)
    model.train(was_training)
    return Spoken(tuple(prompts), tuple(answers), np.stack(logits), form)


def _ids(tokenizer: Any, prompt: str, templated: bool) -> list[int]:
    if not templated:
        return [int(token) for token in tokenizer(prompt, verbose=False)["input_ids"]]
    said = [{"role": "user", "content": prompt}]
    shown = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    return [int(token) for token in tokenizer(shown, add_special_tokens=False, verbose=False)["input_ids"]]


def _answer(model: Any, ids: Any, endings: set[int]) -> tuple[tuple[int, ...], Matrix]:
    """Greedily, token by token with the keys and values kept."""
    import torch  # noqa: PLC0415  heavy

    said: list[int] = []
    kept, given, first = None, ids.to(model.device), None
    while len(said) < TOKENS and not (said and said[-1] in endings):
        made = model(input_ids=given, past_key_values=kept, use_cache=True)
        last, kept = made.logits[0, -1].float(), made.past_key_values
        if first is None:
            places = torch.linspace(0, len(last) - 1, min(PLACES, len(last))).long()
            first = last.cpu()[places].numpy()
        said.append(int(last.argmax()))
        given = torch.tensor([[said[-1]]], device=model.device)
    assert first is not None  # there is room for a token
    return tuple(said), first


def again(directory: Path, base: Path | None, form: Form, prompts: Sequence[str] = PROMPTS) -> Spoken:
    """What the model says when another process loads it. Raises as `reload.vectors` does."""
    wanted = {"directory": str(directory), "base": base and str(base), "form": asdict(form), "prompts": list(prompts)}
    told = reload.ask(directory, wanted, "from trainer.language.golden import answer; answer()")
    with np.load(io.BytesIO(told), allow_pickle=False) as found:
        return Spoken(tuple(prompts), tuple(map(str, found["answers"])), found["logits"], form)


def answer() -> None:
    """The other process."""
    reload.answering(_spoken)


def _spoken(wanted: dict[str, Any]) -> bytes:
    import torch  # noqa: PLC0415  heavy

    from trainer.language import speaker  # noqa: PLC0415  heavy

    form = Form(**wanted["form"])
    if form.threads:
        torch.set_num_threads(form.threads)  # the same sum over other threads has other last digits
    base = Path(wanted["base"]) if wanted["base"] else None
    loaded = speaker.whole(Path(wanted["directory"]), base, device=form.device, dtype=form.dtype, nf4=form.nf4)
    found = speak(loaded.model, loaded.tokenizer, sorted(loaded.endings), form, wanted["prompts"])
    made = io.BytesIO()
    np.savez(made, answers=np.array(found.answers), logits=found.logits)
    return made.getvalue()


def prove(directory: Path, base: Path | None, recorded: Spoken | None) -> tuple[Spoken, str]:
    """The answers that go with the model, and in a line what was found. Raises NotAModel when it does not load,
    QualityGate when it answers other than recorded, or what no model should."""
    form = here(recorded.form) if recorded else Form()
    made = again(directory, base, form, recorded.prompts if recorded else PROMPTS)
    if not np.isfinite(made.logits).all():
        raise QualityGate("the model answers with numbers that are not finite")
    if recorded is None:
        return made, f"loaded anew, it answers {len(made.prompts)} prompts; its answers go with it"
    compare(made, recorded)
    return recorded, f"loaded anew, it answers {len(made.prompts)} prompts as when it was made"


def here(form: Form) -> Form:
    """As it was computed, as far as this machine can. Raises InvalidInput for 4 bits without CUDA."""
    if form.device == "cpu":
        return form
    import torch  # noqa: PLC0415  heavy

    if torch.cuda.is_available():
        return form
    if form.nf4:
        raise InvalidInput(
            "trained over a base in 4 bits, which is computed on CUDA only: publish it from such a machine"
        )
    return Form("cpu", "float32", False, 0, form.templated)


def compare(made: Spoken, recorded: Spoken) -> None:
    """To the token where both were computed alike; else the numbers are about the same. Raises QualityGate."""
    changed = "the model does not answer as it did when it was made"
    if made.logits.shape != recorded.logits.shape:
        raise QualityGate(f"{changed}: it has another vocabulary")
    lowest = float(cosines(_centred(made.logits), _centred(recorded.logits)).min())
    if lowest < LEAST_COSINE:
        raise QualityGate(f"{changed}: a cosine of {lowest:.4f} to the numbers that were recorded, not {LEAST_COSINE}")
    if made.form != recorded.form:
        return
    off = float(np.abs(made.logits - recorded.logits).max() / max(1.0, float(np.abs(recorded.logits).max())))
    if off > CLOSE:
        raise QualityGate(f"{changed}: its numbers are off by {off:.1e} of the largest, and {CLOSE:g} is allowed")
    if made.answers != recorded.answers and off == 0:
        raise QualityGate(f"{changed}: its answers have other tokens")


def _centred(logits: Matrix) -> Matrix:
    found: Matrix = logits - logits.mean(axis=1, keepdims=True)
    return found
