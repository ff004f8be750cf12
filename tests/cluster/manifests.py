"""What `kubectl apply -k` would send: rendered by the real client, and held to the schemas of the kinds in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import kubernetes_validate
import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
OLDEST: Final = "1.30"  # of Kubernetes, that deploy/ is for
NEWEST: Final = "1.37"
Object = dict[str, Any]


class Wrong(AssertionError):
    """A manifest that a cluster would refuse, or take and silently leave a field of it out."""


def render(directory: Path) -> list[Object]:
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(done.stderr)
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def render_with(folder: Path, overlay: str, components: Sequence[str]) -> list[Object]:
    """An overlay with further components, as an operator puts them together in a kustomization of their own."""
    deploy = os.path.relpath(DEPLOY, folder)
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{deploy}/overlays/{overlay}"],
        "components": [f"{deploy}/components/{component}" for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return render(folder)


def validate(found: Object) -> None:
    """Raises Wrong for a field that there is not, one of another type, or one that is missing."""
    name = f"{found.get('kind')}/{found.get('metadata', {}).get('name')}"
    schema = RESOURCES.get((found.get("apiVersion", ""), found.get("kind", "")))
    if schema is not None:
        error = next(jsonschema_rs.validator_for(schema).iter_errors(found), None)
        if error is not None:
            raise Wrong(f"{name}: {error.message}")
        if found["kind"] == "RayCluster":
            for template in pod_templates([found]):
                validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": template["spec"]})
        return
    for version in (OLDEST, NEWEST):
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            raise Wrong(f"{name}, Kubernetes {version}: {error.message}") from error


def one(found: Sequence[Object], kind: str) -> Object:
    matching = [each for each in found if each["kind"] == kind]
    assert len(matching) == 1, [each["kind"] for each in found]
    return matching[0]


def pod_templates(found: Sequence[Object]) -> Iterator[Object]:
    for each in found:
        spec = each.get("spec", {})
        groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])]  # of a RayCluster
        yield from (holder["template"] for holder in (spec, *groups) if "template" in holder)


def containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def environment(found: Sequence[Object]) -> dict[str, str]:
    """The settings of the gateway."""
    return dict(one(found, "ConfigMap")["data"])


# The kinds that are no part of Kubernetes: only the fields that we use, so that any other is refused.


def _closed(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {
        "type": "object",
        "required": sorted(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _list(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": of}


TEXT: Final = {"type": "string", "minLength": 1}
COUNT: Final = {"type": "integer", "minimum": 0}
NAMES: Final = {"type": "object", "additionalProperties": TEXT}
METADATA: Final = _closed({"name": TEXT}, {"labels": NAMES, "annotations": NAMES})
DURATION: Final = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}


def _resource(version: str, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return _closed({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": METADATA, "spec": spec})


MONITOR: Final = _resource(
    "monitoring.coreos.com/v1",
    "ServiceMonitor",
    _closed(
        {
            "selector": _closed({"matchLabels": NAMES}),
            "endpoints": _list(
                _closed(
                    {"port": TEXT},
                    {
                        "path": TEXT,
                        "interval": DURATION,
                        "scrapeTimeout": DURATION,
                        "authorization": _closed(
                            {"credentials": _closed({"name": TEXT, "key": TEXT})}, {"type": {"const": "Bearer"}}
                        ),
                    },
                )
            ),
        }
    ),
)
RULES: Final = _resource(
    "monitoring.coreos.com/v1",
    "PrometheusRule",
    _closed(
        {
            "groups": _list(
                _closed(
                    {
                        "name": TEXT,
                        "rules": _list(
                            _closed(
                                {"alert": TEXT, "expr": TEXT, "labels": NAMES, "annotations": NAMES}, {"for": DURATION}
                            )
                        ),
                    }
                )
            )
        }
    ),
)
PROMETHEUS: Final = _closed(
    {"serverAddress": {"type": "string", "pattern": "^https?://"}, "query": TEXT, "threshold": TEXT},
    {"activationThreshold": TEXT, "namespace": TEXT},
)
SCALED: Final = _resource(
    "keda.sh/v1alpha1",
    "ScaledObject",
    _closed(
        {
            "scaleTargetRef": _closed({"name": TEXT}, {"apiVersion": TEXT, "kind": TEXT}),
            "triggers": _list(_closed({"type": {"const": "prometheus"}, "metadata": PROMETHEUS})),
        },
        {"minReplicaCount": COUNT, "maxReplicaCount": COUNT, "pollingInterval": COUNT, "cooldownPeriod": COUNT},
    ),
)
POD: Final = _closed({"spec": {"type": "object"}}, {"metadata": {"type": "object"}})  # a pod's own schema holds for it
RAY: Final = _resource(
    "ray.io/v1",
    "RayCluster",
    _closed(
        {
            "rayVersion": TEXT,
            "headGroupSpec": _closed({"rayStartParams": NAMES, "template": POD}),
            "workerGroupSpecs": _list(
                _closed(
                    {
                        "groupName": TEXT,
                        "replicas": COUNT,
                        "minReplicas": COUNT,
                        "maxReplicas": COUNT,
                        "rayStartParams": NAMES,
                        "template": POD,
                    }
                )
            ),
        }
    ),
)
RESOURCES: Final = {
    (schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]): schema
    for schema in (MONITOR, RULES, SCALED, RAY)
}
