"""The catalog's maps without what a caller may not see. Nothing is copied: each name is asked about when it is
looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from gateway.catalog import names
from gateway.catalog.aliases import Alias, Table, find
from gateway.catalog.entry import Entry
from gateway.errors import ModelNotFound
from gateway.model import ModelId, ModelRef
from gateway.tenants.caller import Caller


class SeenEntries(Mapping[ModelId, Entry]):
    """Whether a name may be there is asked before whether it is, so that both kinds of absence take the same time."""

    def __init__(self, entries: Mapping[ModelId, Entry], caller: Caller) -> None:
        self._entries = entries
        self._caller = caller

    def __getitem__(self, model: ModelId) -> Entry:
        if not self._caller.sees(model):
            raise KeyError(model)
        return self._entries[model]

    def __iter__(self) -> Iterator[ModelId]:
        return (model for model in self._entries if self._caller.sees(model))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class SeenAliases(Mapping[ModelId, Alias]):
    """An alias is seen by who sees its name and what it leads to; a canary that is not seen is left out of it."""

    def __init__(self, table: Table, entries: SeenEntries, caller: Caller) -> None:
        self._table = table
        self._entries = entries
        self._caller = caller
        self._known: dict[ModelId, Alias | None] = {}  # many aliases may lead through one

    def __getitem__(self, name: ModelId) -> Alias:
        if not self._caller.sees(name):
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._seen(self._table[name])
        alias = self._known[name]
        if alias is None:
            raise KeyError(name)
        return alias

    def _seen(self, alias: Alias) -> Alias | None:
        if not self._leads_somewhere(alias.to):
            return None
        if alias.canary is not None and not self._leads_somewhere(alias.canary):
            return msgspec.structs.replace(alias, canary=None, share=0.0)
        return alias

    def __iter__(self) -> Iterator[ModelId]:
        return (name for name in self._table if self.get(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _leads_somewhere(self, ref: ModelRef) -> bool:
        """A table in force has no cycles."""
        return names.exact(self._entries, ref) is not None or find(self, ref) is not None or self._is_bare_name(ref)

    def _is_bare_name(self, ref: ModelRef) -> bool:
        try:
            return names.bare(self._entries, ref) is not None
        except ModelNotFound:
            return False
