"""How an API server lays a patch over an object: plainly (RFC 7386), or as Kubernetes does, lists by their keys."""

from __future__ import annotations

from typing import Any, Final

Tree = dict[str, Any]
KEYS: Final = {  # list -> what its items are known by; all others are replaced as a whole
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "topologySpreadConstraints": ("topologyKey",),
    "imagePullSecrets": ("name",),
}


def merged_plainly(old: Tree, patch: Tree) -> Tree:
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict) and isinstance(new.get(key), dict):
            new[key] = merged_plainly(new[key], value)
        else:
            new[key] = value
    return new


def merged(old: Tree, patch: Tree) -> Tree:
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    kept = patch.get("$retainKeys")
    new = {key: value for key, value in old.items() if kept is None or key in kept}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            new[key] = merged(new.get(key) or {}, value)
        elif isinstance(value, list) and key in KEYS:
            new[key] = _list(new.get(key) or [], value, KEYS[key])
        else:
            new[key] = value
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.partition("/")[2]
            new[name] = _ordered(new.get(name) or [], order, KEYS.get(name, ()))
    return new


def _list(old: list[Tree], patch: list[Tree], keys: tuple[str, ...]) -> list[Tree]:
    found = {_key(each, keys): each for each in old}
    for each in patch:
        key = _key(each, keys)
        if each.get("$patch") == "delete":
            found.pop(key, None)
        elif each.get("$patch") == "replace":
            found = {}
        else:
            found[key] = merged(found.get(key, {}), each)
    return list(found.values())


def _ordered(items: list[Any], order: list[Any], keys: tuple[str, ...]) -> list[Any]:
    places = {_key(each, keys): place for place, each in enumerate(order)}
    return sorted(items, key=lambda each: places.get(_key(each, keys), len(places)))


def _key(item: Any, keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if key in item), None) if isinstance(item, dict) else item
