"""A table of settings: a record of pydantic whose fields say what each is. Its flags, its environment and its file are
made from it.

A flag wins over the environment (`TRAINER_` and the key in capitals), which wins over the file (JSON, TOML or YAML),
which wins over the default. The older names of a key are understood everywhere. Unknown keys are errors.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from trainer.config_file import read_settings
from trainer.errors import InvalidInput

ENV_PREFIX: Final = "TRAINER_"
CLOSE: Final = 0.85  # from which similarity a variable of ours is taken for misspelt
S = TypeVar("S", bound=BaseModel)


def setting(default: Any, help: str, *older: str, group: str, flag: str = "") -> Any:
    """A field: its older names, the part of the docs it belongs to, and its flag where that is not `--key`."""
    extra: dict[str, Any] = {"older": list(older), "group": group, "flag": flag}
    return Field(default, description=help, json_schema_extra=extra)


@dataclass(frozen=True, slots=True)
class Resolved(Generic[S]):
    """The settings of a run, and for each key where its value came from."""

    config: S
    sources: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, and where, in words for a message."""

    key: str
    value: Any
    source: str


class Table(Generic[S]):
    """`converted` are older names that say the same in another way: the key, and what their value means for it."""

    def __init__(self, kind: type[S], converted: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> None:
        self.kind, self._fields = kind, kind.model_fields
        self._converted = {name: pair for name, pair in converted.items() if pair[0] in self._fields}
        self.groups: Final = tuple(dict.fromkeys(self.group(key) for key in self._fields))
        self.names: Final = {name: key for key in self._fields for name in (key, *self.older(key))}

    def group(self, key: str) -> str:
        """The part of the docs, of the help and of a file that a key belongs to."""
        return str(self._extra(key)["group"])

    def older(self, key: str) -> list[str]:
        """The older names of a key, those that are converted among them."""
        converted = (name for name, (target, _) in self._converted.items() if target == key)
        return [*self._extra(key)["older"], *converted]

    def _extra(self, key: str) -> dict[str, Any]:
        extra = self._fields[key].json_schema_extra
        assert isinstance(extra, dict)  # `setting` gives every one
        return extra

    def resolve(self, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Resolved[S]:
        """The settings: flags before the environment, that before the file, that before the defaults.

        Raises InvalidInput with one line for each value that is wrong, saying where it was given.
        """
        layers = (self._from_file(file), self._from_environment(environ), self._from_flags(flags))
        given: dict[str, _Given] = {}
        for layer in layers:
            given |= _once(layer)
        try:
            config = self.kind(**{key: one.value for key, one in given.items()})
        except ValidationError as error:
            told = dict.fromkeys(self._told(each, given) for each in error.errors())
            raise InvalidInput("\n".join(told)) from error
        return Resolved(config, {key: given[key].source if key in given else "default" for key in self._fields})

    def resolve_options(self, options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Resolved[S]:
        """The settings that a command line with `add_flags` asks for."""
        return self.resolve(options.config, environ, options.flags)

    # what was given

    def _from_file(self, file: Path | None) -> Iterator[_Given]:
        if file is None:
            return
        for spelled, value in read_settings(file, self.groups):
            key = self._key_of(spelled.rpartition(".")[2], f"{file}: {spelled}")
            yield self._given(key, spelled.rpartition(".")[2], value, f"{file}: {spelled}")

    def _from_environment(self, environ: Mapping[str, str]) -> Iterator[_Given]:
        """Variables that are like no key are other people's: Kubernetes sets TRAINER_PORT for a service `trainer`."""
        for variable, text in sorted(environ.items()):
            if not variable.startswith(ENV_PREFIX) or not text:
                continue
            name = variable.removeprefix(ENV_PREFIX).lower()
            if name in self.names or difflib.get_close_matches(name, self.names, 1, CLOSE):
                yield self._given(self._key_of(name, variable), name, text, variable)

    def _from_flags(self, flags: Mapping[str, Any]) -> Iterator[_Given]:
        for spelled, value in flags.items():
            name = _name(spelled)
            yield self._given(self._key_of(name, spelled), name, value, f"--{name.replace('_', '-')}")

    def _key_of(self, spelled: str, where: str) -> str:
        name = _name(spelled)
        if name in self.names:
            return self.names[name]
        close = difflib.get_close_matches(name, self.names, 1)
        hint = f"; did you mean {close[0]}?" if close else f"; the keys are {', '.join(self._fields)}"
        raise InvalidInput(f"{where}: unknown key{hint}")

    def _given(self, key: str, spelled: str, value: Any, source: str) -> _Given:
        converted = self._converted.get(_name(spelled))
        if converted:
            try:
                value = converted[1](value)
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"{source}: expected a number, got {value!r}") from error
        return _Given(key, self._plain(key, value, source), source)

    def _plain(self, key: str, value: Any, source: str) -> Any:
        """A list where the key is a list; nothing that pydantic would take for something else."""
        field = self._fields[key]
        if isinstance(value, bool) and field.annotation is not bool:
            raise InvalidInput(f"{source}: expected {_expected(field)}, got {str(value).lower()}")
        if not _is_list(field):
            return value
        mark = os.pathsep if _is_paths(field) else ","
        if isinstance(value, str):
            value = value.split(mark)
        elif mark == "," and isinstance(value, list):  # `--matryoshka 64,32` as well as `--matryoshka 64 32`
            value = [part for each in value for part in (each.split(mark) if isinstance(each, str) else [each])]
        return [part for part in value if part != ""] if isinstance(value, list) else value

    def _told(self, error: Any, given: Mapping[str, _Given]) -> str:
        """One line: where, what was expected, what was there."""
        key = str(error["loc"][0])
        field = self._fields[key]
        if error["type"].startswith(("greater_than", "less_than", "finite")):
            expected = str(error["msg"]).removeprefix("Input should be ")
        else:
            expected = _expected(field)
        return f"{given[key].source}: expected {expected}, got {str(error['input'])!r}"

    # flags

    def add_flags(self, parser: argparse.ArgumentParser, groups: Sequence[str] | None = None) -> None:
        """`--config`, and a flag for every key of these groups; older names, and underscores, are understood too."""
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings as JSON, TOML or YAML")
        parser.set_defaults(flags={})
        self.add_keys(parser, groups)

    def add_keys(
        self, parser: argparse.ArgumentParser, groups: Sequence[str] | None = None, but: Collection[str] = ()
    ) -> None:
        """The flags alone, without those of the keys in `but`: where another table has the same ones."""
        for name in self.groups if groups is None else groups:
            keys = [key for key in self._fields if self.group(key) == name and key not in but]
            shown = parser.add_argument_group(name)  # of which an empty one is not shown
            for key in keys:
                self._add(shown, key)

    def _add(self, shown: argparse._ArgumentGroup, key: str) -> None:
        field = self._fields[key]
        is_bool = field.annotation is bool
        options: dict[str, Any] = {"action": _Keep, "dest": "flags", "default": argparse.SUPPRESS}
        options |= {"nargs": 0} if is_bool else {"nargs": "+" if _is_list(field) else None, "metavar": _metavar(field)}
        shown.add_argument(*_spellings(key), help=field.description, **options)
        hidden = [name for name in self.older(key) if name not in self._converted]
        for name in hidden:
            shown.add_argument(*_spellings(name), help=argparse.SUPPRESS, **options)
        for name in (key, *hidden) if is_bool else ():
            arguments = {**options, "const": False}
            shown.add_argument(*_spellings(f"no-{name}"), help=argparse.SUPPRESS, **arguments)
        for name in set(self.older(key)) - set(hidden):
            arguments = {**options, "nargs": 0 if name.startswith("no_") else None}
            shown.add_argument(*_spellings(name), help=argparse.SUPPRESS, **arguments)


def _name(spelled: str) -> str:
    return spelled.lstrip("-").replace("-", "_").lower()


def _once(layer: Iterable[_Given]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for one in layer:
        other = found.setdefault(one.key, one)
        if other is not one and other.value != one.value:
            raise InvalidInput(f"{one.source} and {other.source} both set {one.key}, to different values")
    return found


def _expected(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return "one of " + ", ".join(choices)
    text = str(field.annotation)
    kinds = (("tuple", "a list"), ("bool", "true or false"), ("int", "a whole number"), ("float", "a number"))
    return next((told for kind, told in kinds if kind in text), "a text")


def _is_list(field: FieldInfo) -> bool:
    return "tuple" in str(field.annotation)


def _is_paths(field: FieldInfo) -> bool:
    return _is_list(field) and "Path" in str(field.annotation)


def is_true(value: Any) -> bool:
    """Raises ValueError for what is neither true nor false."""
    if isinstance(value, bool):
        return value
    if str(value).lower() in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        return str(value).lower() in {"1", "true", "yes", "on"}
    raise ValueError(value)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}")))


def _metavar(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    kinds = {"Path": "PATH", "int": "N", "float": "X"}
    text = str(field.annotation)
    return "|".join(choices) if choices else next((told for kind, told in kinds.items() if kind in text), "TEXT")


class _Keep(argparse.Action):
    """Keeps a flag under the name that it was given by, so that a message can say it; lists go on."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name = _name(str(option))
        flags = dict(namespace.flags)
        if self.nargs == 0:
            negated = self.const is False
            flags[name.removeprefix("no_") if negated else name] = not negated
        else:
            flags[name] = [*flags.get(name, []), *values] if isinstance(values, list) else values
        namespace.flags = flags
