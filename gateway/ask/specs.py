"""Which providers there are: those of the environment, and those of the file that `--providers` names.

A key is read when it is used, so that one that was replaced counts at once, and it stands in no repr and no message.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from gateway import settings
from gateway.ask.providers import EXTRACTIVE, LOCAL
from gateway.errors import ProviderFailed
from gateway.settings import Settings, SettingsError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
BASE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,255}(@[0-9a-f]{6,64})?")
URL: Final = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**6)]


class Adapters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a provider that serves language models of the volume. `bases` has their ids, `namespace/name` with perhaps a
    generation, and what it calls them; `paths` has folders of this machine, and where it finds them."""

    bases: dict[str, str]
    paths: dict[str, str] = {}
    interval: Seconds = 10.0
    load_timeout: Seconds = 120.0


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file. `models` pins what may be asked for; without it the provider's own list is shown, and
    whatever is asked for is passed on. `context` is what a prompt and its answer may have in tokens."""

    base_url: Annotated[str, msgspec.Meta(pattern=URL)]
    api_key_env: str = ""
    api_key_file: str = ""
    models: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    context: Count = 8192
    max_concurrency: Count = 64
    connect_timeout: Seconds = 5.0
    first_token_timeout: Seconds = 60.0
    idle_timeout: Seconds = 30.0
    timeout: Seconds = 300.0
    adapters: Adapters | None = None

    @property
    def pinned(self) -> tuple[str, ...]:
        """What clients may ask for by its name there. Names of adapters are none of theirs: whoever may ask for an
        adapter has its id on the volume."""
        if self.models or self.adapters is None:
            return self.models
        return tuple(self.adapters.bases.values())


class Key:
    """How a provider knows us. `read` takes it from where it is."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def read(self, provider: str) -> str:
        """Empty where there is none. Raises ProviderFailed where it cannot be read, or could not be sent."""
        try:
            key = self._read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderFailed(f"the key of {provider} cannot be read", provider=provider) from error
        if not key.isascii() or not (key.isprintable() or not key):
            raise ProviderFailed(f"the key of {provider} has characters that no header may", provider=provider)
        return key


def specs(chosen: Settings) -> dict[str, tuple[Spec, Key]]:
    """By name; the file wins over the environment. Raises SettingsError."""
    found = _of_environment(chosen)
    if chosen.providers:
        found |= _of_file(chosen.providers)
    return found


def _of_environment(chosen: Settings) -> dict[str, tuple[Spec, Key]]:
    found: dict[str, tuple[Spec, Key]] = {}
    if chosen.openai_api_key or chosen.openai_base_url:
        url = chosen.openai_base_url or "https://api.openai.com/v1"
        found["openai"] = Spec(base_url=url), Key(lambda: chosen.openai_api_key)
    if chosen.stanford_base_url:
        found["stanford"] = Spec(base_url=chosen.stanford_base_url), Key(lambda: chosen.stanford_api_key)
    if chosen.ollama_base_url:
        url = chosen.ollama_base_url.removesuffix("/v1") + "/v1"
        found["ollama"] = Spec(base_url=url, first_token_timeout=300.0, timeout=600.0), Key(str)  # it loads models
    return found


def _of_file(path: str) -> dict[str, tuple[Spec, Key]]:
    try:
        tables = msgspec.convert(tomllib.loads(Path(path).read_text(encoding="utf-8")), dict[str, Spec])
    except OSError as error:
        raise SettingsError(f"--providers {path}: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"--providers {path}: {error}") from error
    for name in tables:
        if not NAME.fullmatch(name) or name in {EXTRACTIVE, LOCAL}:
            raise SettingsError(f"--providers {path}: {name!r} cannot be the name of a provider")
    _demand_apart(path, tables)
    return {name: (spec, _key(spec)) for name, spec in tables.items()}


def _demand_apart(path: str, tables: Mapping[str, Spec]) -> None:
    """Each base is at one provider, and no client can name an adapter there."""
    seen: dict[str, str] = {}
    for name, spec in tables.items():
        for base in spec.adapters.bases if spec.adapters else ():
            if not BASE.fullmatch(base):
                raise SettingsError(f"--providers {path}: {base!r} is no id of a model on the volume, namespace/name")
            model = base.partition("@")[0]
            if model in seen:
                raise SettingsError(f"--providers {path}: {model} is a base of {seen[model]} and of {name}")
            seen[model] = name
        if spec.adapters and (adapter := next((each for each in spec.models if "@" in each), None)):
            raise SettingsError(f"--providers {path}: {adapter!r} may be an adapter of a tenant: it cannot be pinned")


def _key(spec: Spec) -> Key:
    if spec.api_key_file:
        return Key(lambda: Path(spec.api_key_file).read_text(encoding="utf-8"))
    if spec.api_key_env:
        return Key(lambda: settings.variable(spec.api_key_env))
    return Key(str)
