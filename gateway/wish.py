"""What a model is wished to be computed with: a runtime and a number format.

A wish may leave either open. Who is nearer wins, field by field: the operator's rule for a model, then what its
directory says, then the settings. `auto` is a wish too: it leaves the choice to the host, which never lets it change
the vectors by more than LEAST_COSINE says.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

AUTO: Final = "auto"
RUNTIMES: Final = (AUTO, "torch", "openvino")
DTYPES: Final = (AUTO, "float32", "bfloat16", "float16", "int8")
# The lowest cosine, of the texts that a number format is measured with, to the vectors of torch in float32. Formats
# of 16 bits stay above 0.9999 on models that tolerate them; int8, calibrated, above 0.98.
LEAST_COSINE: Final = {"float32": 0.9999, "bfloat16": 0.999, "float16": 0.999, "int8": 0.97}


class Wish(msgspec.Struct, frozen=True):
    """`runtime` is one of RUNTIMES and `dtype` one of DTYPES; "" is left open."""

    runtime: str = ""
    dtype: str = ""

    def over(self, other: Wish) -> Wish:
        """This wish, and what it leaves open as `other` has it."""
        return Wish(self.runtime or other.runtime, self.dtype or other.dtype)


class Rule(msgspec.Struct, frozen=True):
    """An operator's wish for the models whose id matches `pattern`, as a shell would match it."""

    pattern: str
    wish: Wish

    def matches(self, models: tuple[str, ...]) -> bool:
        return any(fnmatchcase(model, self.pattern) for model in models)


class Wishes(msgspec.Struct, frozen=True):
    """All that an operator wishes: `rules`, of which the first that matches counts, and `default` for the rest."""

    default: Wish = Wish(AUTO, AUTO)
    rules: tuple[Rule, ...] = ()

    def of(self, models: tuple[str, ...], own: Wish) -> Wish:
        """What is wished for content that these models share, and whose directory says `own`. Nothing is left open."""
        return _resolved(self, models, own)


@functools.lru_cache(maxsize=4096)  # it is asked with every request
def _resolved(wishes: Wishes, models: tuple[str, ...], own: Wish) -> Wish:
    rule = next((rule for rule in wishes.rules if rule.matches(models)), None)
    nearest = rule.wish.over(own) if rule else own
    return nearest.over(wishes.default).over(Wish(AUTO, AUTO))


def parse_rules(text: str) -> tuple[Rule, ...]:
    """'intfloat/*=openvino/bfloat16,finetuned/x=torch' -> rules, in their order. Raises ValueError."""
    return tuple(_parse_rule(part.strip()) for part in text.split(",") if part.strip())


def _parse_rule(text: str) -> Rule:
    pattern, equals, wished = (part.strip() for part in text.partition("="))
    runtime, slash, dtype = (part.strip() for part in wished.partition("/"))
    if not slash and runtime in DTYPES and runtime not in RUNTIMES:
        runtime, dtype = "", runtime
    known = runtime in ("", *RUNTIMES) and dtype in ("", *DTYPES) and (runtime or dtype)
    if not (pattern and equals and known):
        raise ValueError(
            f"{text!r} is not PATTERN=RUNTIME/DTYPE, with a runtime of {', '.join(RUNTIMES)} and a dtype of "
            f"{', '.join(DTYPES)}"
        )
    return Rule(pattern.removeprefix("huggingface:"), Wish(runtime, dtype))


def read(fields: Mapping[str, Any]) -> tuple[Wish, str]:
    """What `runtime` and `dtype` of a model's metadata wish, and what is wrong with them: such a field is left open."""
    runtime, odd_runtime = _read(fields, "runtime", RUNTIMES)
    dtype, odd_dtype = _read(fields, "dtype", DTYPES)
    return Wish(runtime, dtype), "; ".join(filter(None, (odd_runtime, odd_dtype)))


def _read(fields: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> tuple[str, str]:
    value = fields.get(name)
    if value is None:
        return "", ""
    return (value, "") if value in choices else ("", f"{name} is none of {', '.join(choices)}")
