"""The nouns. All are immutable; those that cross a process or lie on disk are msgspec structs, so that their
one definition is also their wire and file format."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from gateway.errors import InvalidModelId
from gateway.wish import Wish

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SUBMODULE: Final = re.compile(r"\d+_[A-Z][A-Za-z]*")  # 1_Pooling, 2_Dense: a part of a model, never a model
PREFIX: Final = "huggingface:"
HUB_CACHE: Final = "models--"
VERSION: Final = re.compile(r"0|[1-9][0-9]{0,17}")  # a directory of this name in a model's directory is a version of it
DEFAULT_NAMESPACE: Final = "finetuned"  # where a bare name is looked up first
MAX_ID_BYTES: Final = 512
WIDEST: Final = 4  # bytes of a number that is computed with, unless it is one of these
PARTLY_WIDE: Final = ("deberta", "mt5", "t5", "umt5")  # some of their layers stay in float32
WIDTHS: Final = {"bfloat16": 2, "float16": 2}
AS_STORED: Final = ("bitsandbytes", "torchao")


class ModelId(msgspec.Struct, frozen=True, order=True):
    """The public name of a model. `namespace` is None for a model that lies directly under the root, `version` for
    one that has no numbered versions."""

    namespace: str | None
    name: str
    version: int | None = None

    def __str__(self) -> str:
        return PREFIX + self.path

    @property
    def path(self) -> str:
        """`namespace/name` or `namespace/name/version`, as it stands in URLs, logs and metric labels."""
        name = self.name if self.version is None else f"{self.name}/{self.version}"
        return name if self.namespace is None else f"{self.namespace}/{name}"

    @property
    def family(self) -> ModelId:
        """The id that all versions of this model share."""
        return self if self.version is None else ModelId(self.namespace, self.name)

    @classmethod
    def of(cls, path: str) -> ModelId:
        """The id whose `path` this is. For strings of our own making; a client's go through `ModelRef.parse`."""
        parts = path.split("/")
        if len(parts) == 1:
            return cls(None, path)
        return cls(parts[0], parts[1], int(parts[2]) if len(parts) > 2 else None)


class ModelRef(msgspec.Struct, frozen=True):
    """What a client asked for: the ids that its spelling may mean, best first, and perhaps one generation.

    `bare` says that the spelling was a single name, which may stand in any namespace.
    """

    spelling: str
    candidates: tuple[ModelId, ...]
    generation: str | None = None
    bare: bool = False

    @classmethod
    def parse(cls, text: str, models_dir: str) -> ModelRef:
        """The one parser of model identifiers.

        `models_dir` is the absolute models root; an absolute path is accepted only inside it.
        Raises InvalidModelId for anything that escapes the root, has control characters, is over 512 bytes,
        or is no name at all.
        """
        if len(text.encode(errors="surrogatepass")) > MAX_ID_BYTES:  # a URL and JSON can spell half of a character
            raise InvalidModelId(f"a model id has at most {MAX_ID_BYTES} bytes")
        if not text.isprintable():
            raise InvalidModelId("a model id has no control characters", model=ascii(text))
        spelling, at, generation = text.strip().removeprefix(PREFIX).partition("@")
        if at and not re.fullmatch(r"[0-9a-f]{6,64}", generation):
            raise InvalidModelId("after @ comes a generation: 6 to 64 hexadecimal digits", model=text)
        parts = _parts(spelling, models_dir, text)
        candidates, bare = _candidates(parts, os.path.basename(models_dir), spelling.startswith("/"), text)
        return cls(text, candidates, generation or None, bare)


def _parts(spelling: str, models_dir: str, text: str) -> list[str]:
    if spelling.startswith("/"):
        root = models_dir.rstrip("/") + "/"
        if not spelling.startswith(root):
            raise InvalidModelId(f"the path is outside the models root {models_dir}", model=text)
        spelling = spelling[len(root) :]
    parts = spelling.rstrip("/").split("/")
    if not all(NAME.fullmatch(part) for part in parts):
        raise InvalidModelId(
            "a model id is huggingface:<namespace>/<name>; each part begins with a letter or digit and has "
            "only letters, digits, '.', '_' and '-'",
            model=text,
        )
    return parts


def _candidates(parts: list[str], root_name: str, absolute: bool, text: str) -> tuple[tuple[ModelId, ...], bool]:
    if len(parts) > 1 and parts[0] == root_name and parts[1].startswith(HUB_CACHE) and not absolute:
        parts = parts[1:]
    if parts[0].startswith(HUB_CACHE):  # also as a path that goes on to snapshots/<sha>
        parts = parts[0].removeprefix(HUB_CACHE).split("--")
        if len(parts) > 2 or not all(NAME.fullmatch(part) for part in parts):
            raise InvalidModelId("a directory of the Hub cache is models--<org>--<name>", model=text)
        absolute = True  # its one place is directly under the root
    if len(parts) == 1:
        name = parts[0]
        if absolute:
            return (ModelId(None, name),), False
        return (ModelId(DEFAULT_NAMESPACE, name), ModelId(None, name)), True
    return _named(parts, root_name if not absolute else None, text), False


def _named(parts: list[str], root_name: str | None, text: str) -> tuple[ModelId, ...]:
    """What two names and more may mean; `root_name` is None where a path can not begin with the root's own name."""
    found = []
    if len(parts) == 2:
        namespace, name = parts
        found.append(ModelId(namespace, name))
        if NAME.fullmatch(flat := f"{namespace}_{name}"):  # the flat cache
            found.append(ModelId(None, flat))
        if namespace == root_name:
            found.append(ModelId(None, name))
        if VERSION.fullmatch(name):
            found.append(ModelId(DEFAULT_NAMESPACE, namespace, int(name)))
    elif len(parts) == 3 and VERSION.fullmatch(parts[2]):
        found.append(ModelId(parts[0], parts[1], int(parts[2])))
    if 3 <= len(parts) <= 4 and parts[0] == root_name:
        found += _named(parts[1:], None, text)
    if not found:
        message = "a model id has a namespace, a name, perhaps the number of a version, and nothing below them"
        raise InvalidModelId(message, model=text)
    return tuple(found)


class Pooling(msgspec.Struct, frozen=True, tag=True):
    """Token vectors to one vector. `modes` are concatenated in this order; source: sentence-transformers."""

    modes: tuple[str, ...]
    include_prompt: bool = True


class Dense(msgspec.Struct, frozen=True, tag=True):
    """A linear layer and its activation; `path` is the folder of its weights, relative to the model."""

    path: str
    in_features: int
    out_features: int
    bias: bool
    activation: str  # a class name of torch.nn.modules.activation, or Identity


class LayerNorm(msgspec.Struct, frozen=True, tag=True):
    path: str
    dimension: int


class Normalize(msgspec.Struct, frozen=True, tag=True):
    """To unit length."""


Stage = Pooling | Dense | LayerNorm | Normalize


Kind = Literal["encoder", "reranker", "generator"]


class Lora(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter says of itself. `base` is the id of its base on the volume; `alphas` hold for the layers that
    their patterns match, `alpha` for all others. Pooling and what follows, the tokenizer and the chat template are the
    base's unless they are its own."""

    base: str
    rank: int
    alpha: float
    alphas: dict[str, float] = {}
    rslora: bool = False
    dora: bool = False
    own_stages: bool = False
    own_tokenizer: bool = False
    own_template: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a directory says it is, checked, with the weights unread.

    `files` are the relative paths that are loaded, sorted: they and the `wish` make up a generation's digest.
    `parameters` counts numbers, `stored_bytes` the bytes of the tensors on disk. `samples` are texts of its maker's,
    on which the cost of a lower precision is measured. An encoder makes vectors of `dim` numbers; a reranker makes one
    score of a pair of texts, and `activation` (a class name as in `Dense`) comes between its logit and the score; a
    generator continues texts, and keeps `cache_width` numbers of each token for that.
    An adapter has a `lora`; its `weights`, `parameters` and bytes are its own, and the network is its base's.
    """

    kind: Kind
    library: Literal["sentence-transformers", "transformers"]
    model_type: str
    architecture: str
    dim: int
    max_tokens: int
    vocab_size: int
    transformer_path: str  # the folder of config.json and the weights, relative to the model; "" is the model itself
    tokenizer_path: str
    stages: tuple[Stage, ...]
    weights: tuple[str, ...]
    files: tuple[str, ...]
    parameters: int
    stored_bytes: int
    stored_dtype: str
    quantization: str | None = None
    lower_case: bool = False
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    warnings: tuple[str, ...] = ()
    wish: Wish = Wish()
    samples: tuple[str, ...] = ()
    activation: str = ""
    cache_width: int = 0
    lora: Lora | None = None

    def bytes_as(self, dtype: str) -> int:
        """What this model takes once it is loaded: every number as wide as `dtype`, whatever it is on disk. What is
        computed in fewer bits than 16 keeps layers that are wider. Tables that code makes and no file has, of rotary
        positions, are some hundred bytes more. Weights that a library quantized stay as they are stored."""
        if self.quantization in AS_STORED:
            return self.stored_bytes
        width = WIDEST if self.model_type in PARTLY_WIDE else WIDTHS.get(dtype, WIDEST)
        return self.parameters * width + _behind_pooling(self.stages) * (WIDEST - width)

    def cache_bytes(self, tokens: int) -> int:
        """What the keys and values of so many tokens take at most."""
        return tokens * self.cache_width * WIDEST

    @property
    def width(self) -> int:
        """Numbers of a token's vector, before the pooling."""
        pooled = next((stage.in_features for stage in self.stages if isinstance(stage, Dense)), self.dim)
        return pooled // next((len(stage.modes) for stage in self.stages if isinstance(stage, Pooling)), 1)

    @property
    def normalized(self) -> bool:
        """Whether the model's own last step makes unit vectors."""
        return bool(self.stages) and isinstance(self.stages[-1], Normalize)


def _behind_pooling(stages: tuple[Stage, ...]) -> int:
    """Numbers of the modules behind the pooling, which are always computed in float32."""
    dense = sum(stage.out_features * (stage.in_features + stage.bias) for stage in stages if isinstance(stage, Dense))
    return dense + sum(2 * stage.dimension for stage in stages if isinstance(stage, LayerNorm))


class Reason(msgspec.Struct, frozen=True):
    """Why a directory is not served. `kind` groups the codes by who can heal it:

    incomplete   something has not arrived; copying the rest heals it
    invalid      the content is wrong; a better copy heals it
    refused      it asks for what this gateway never does (custom code, pickles, paths outside the volume)
    unreadable   the operating system says no
    """

    code: str
    kind: Literal["incomplete", "invalid", "refused", "unreadable"]
    message: str
    remedy: str
    file: str | None = None


class Accepted(msgspec.Struct, frozen=True, tag=True):
    manifest: Manifest


class Rejected(msgspec.Struct, frozen=True, tag=True):
    reasons: tuple[Reason, ...]


Verdict = Accepted | Rejected


class Place(msgspec.Struct, frozen=True):
    """The volume's own directory, for a generation that is served in place. It has the generation's content as long as
    it has this fingerprint; `root`, `name` and `apart` are what looking at it once more needs."""

    root: str
    name: str
    apart: tuple[str, ...]
    fingerprint: str


class Generation(msgspec.Struct, frozen=True):
    """One immutable state of a model: its content's digest, where its private copy lies, and what it is.

    Two directories of equal content are the same generation: it is loaded once. One that is too large to be copied
    has a `place`: its `path` is the dropped directory itself, which anybody may change. An adapter has a `base`, which
    is a part of its content: over another base it is another generation.
    """

    digest: str
    path: str
    manifest: Manifest
    place: Place | None = None
    base: Generation | None = None

    @property
    def short(self) -> str:
        """How answers, logs and `@generation` name it."""
        return self.digest[:12]


def metadata_display_name(metadata: Mapping[str, Any], model_id: ModelId) -> str:
    """The name people see: the metadata's own, else one made from the directory's name."""
    given = metadata.get("display_name")
    if isinstance(given, str) and given.strip():
        return given.strip()
    words = model_id.name.replace("-", " ").replace("_", " ").split()
    return " ".join(word[:1].upper() + word[1:] for word in words)
