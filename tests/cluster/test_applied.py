"""What deploy/ renders is taken by an API server from the real kubectl, as docs/deploying.md says."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster.api import ApiServer
from tests.cluster.manifests import DEPLOY
from tests.kube import NAMESPACE, require_kubectl

OVERLAYS: Final = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
EVERYTHING: Final = [f"overlays/{name}" for name in OVERLAYS] + ["trainer"]
COMPONENTS: Final = ["ingress", "monitoring", "autoscaling", "outbound", "proxy"]


@pytest.fixture(autouse=True)
def _kubectl() -> None:
    require_kubectl()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer(tmp_path) as server:
        assert (await server.kubectl("create", "namespace", NAMESPACE)).status == 0
        yield server


def ours(folder: Path, overlay: str = "cpu", tag: str = "0.1.0", settings: tuple[str, ...] = (), **more: Any) -> Path:
    """A kustomization of an operator's own."""
    folder.mkdir(exist_ok=True)
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(DEPLOY / "overlays" / overlay, folder)],
        "images": [{"name": "dropgate", "newName": "registry.example.org/dropgate", "newTag": tag}],
        "configMapGenerator": [{"name": "dropgate-settings", "behavior": "merge", "literals": ["A=b", *settings]}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document | more))
    return folder


def lines(text: str) -> dict[str, str]:
    """What kubectl says of each object: created, configured, unchanged."""
    return dict(line.split(" ", 1) for line in text.splitlines())


@pytest.mark.parametrize("path", EVERYTHING)
async def test_what_is_applied_is_created_and_applied_again_is_unchanged(path: str, api: ApiServer) -> None:
    first = await api.kubectl("apply", "-k", DEPLOY / path)
    assert (first.status, first.err) == (0, "")
    assert set(lines(first.out).values()) == {"created"}
    kept = dict(api.objects)
    again = await api.kubectl("apply", "-k", DEPLOY / path)
    assert (again.status, again.err) == (0, "")
    told = lines(again.out)
    told.pop("poddisruptionbudget.policy/dropgate", None)  # kubectl patches its selector every time, with the same one
    assert set(told.values()) == {"unchanged"}
    assert api.objects == kept
    assert (await api.kubectl("diff", "-k", DEPLOY / path)).status == 0


@pytest.mark.parametrize("path", EVERYTHING)
async def test_the_server_can_apply_it_too(path: str, api: ApiServer) -> None:
    done = await api.kubectl("apply", "--server-side", "-k", DEPLOY / path)
    assert (done.status, done.err) == (0, "")
    assert set(lines(done.out).values()) == {"serverside-applied"}


async def test_with_every_component_it_is_taken_and_all_of_it_is_deleted(api: ApiServer, tmp_path: Path) -> None:
    components = [os.path.relpath(DEPLOY / "components" / each, tmp_path / "ours") for each in COMPONENTS]
    folder = ours(tmp_path / "ours", "several", components=components)
    done = await api.kubectl("apply", "-k", folder)
    assert (done.status, done.err) == (0, "")
    kinds = {place.resource.kind for place in api.objects}
    assert {"Ingress", "ServiceMonitor", "PrometheusRule", "ScaledObject", "PodDisruptionBudget"} <= kinds
    assert (await api.kubectl("delete", "-k", folder)).status == 0
    assert {place.resource.kind for place in api.objects} == {"Namespace"}


async def test_a_dry_run_is_judged_by_the_server_and_keeps_nothing(api: ApiServer) -> None:
    done = await api.kubectl("apply", "--dry-run=server", "-k", DEPLOY / "overlays/cpu")
    assert (done.status, done.err) == (0, "")
    assert set(lines(done.out).values()) == {"created (server dry run)"}
    assert {place.resource.kind for place in api.objects} == {"Namespace"}


@pytest.mark.parametrize("option", ["--dry-run=none", "--dry-run=server"])
async def test_a_misspelt_field_is_refused_by_its_name(option: str, api: ApiServer, tmp_path: Path) -> None:
    patch = "- {op: add, path: /spec/template/spec/containers/0/livenesProbe, value: {}}"
    target = {"kind": "StatefulSet", "name": "dropgate"}
    folder = ours(tmp_path / "ours", patches=[{"target": target, "patch": patch}])
    done = await api.kubectl("apply", option, "-k", folder)
    assert done.status == 1
    assert "livenesProbe" in done.err
    assert api.kept("StatefulSet") == []


async def test_a_changed_setting_is_shown_by_diff_and_restarts_the_gateway(api: ApiServer, tmp_path: Path) -> None:
    assert (await api.kubectl("apply", "-k", ours(tmp_path / "ours"))).status == 0
    (before,) = api.kept("StatefulSet")
    changed = ours(tmp_path / "ours", settings=("DROPGATE_LOG_LEVEL=debug",))
    shown = await api.kubectl("diff", "-k", changed)
    assert shown.status == 1, shown.err
    assert "+  DROPGATE_LOG_LEVEL: debug" in shown.out
    done = await api.kubectl("apply", "-k", changed)
    assert (done.status, done.err) == (0, "")
    told = lines(done.out)
    assert told.pop("statefulset.apps/dropgate") == "configured"
    assert [each for each in told.values() if each != "unchanged"] == ["created"]
    (after,) = api.kept("StatefulSet")
    named = [each["configMapRef"]["name"] for each in containers(after)[1]["envFrom"]]
    assert [each["metadata"]["name"] for each in api.kept("ConfigMap")][-1:] == named
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


async def test_another_tag_changes_the_images_and_nothing_else(api: ApiServer, tmp_path: Path) -> None:
    assert (await api.kubectl("apply", "-k", ours(tmp_path / "ours"))).status == 0
    (before,) = api.kept("StatefulSet")
    assert (await api.kubectl("apply", "-k", ours(tmp_path / "ours", tag="0.2.0"))).status == 0
    (after,) = api.kept("StatefulSet")
    images = {each["name"]: each.pop("image") for each in containers(after)}
    assert set(images.values()) == {"registry.example.org/dropgate:0.2.0"}
    for each in containers(before):
        assert each.pop("image") == "registry.example.org/dropgate:0.1.0"
    assert after["spec"] == before["spec"]


async def test_what_a_cluster_never_changes_is_refused_and_the_page_says_what_to_do(
    api: ApiServer, tmp_path: Path
) -> None:
    """The volume claims of a StatefulSet are of one size for ever: so `small` does not grow into `cpu` by an apply."""
    assert (await api.kubectl("apply", "-k", DEPLOY / "overlays/small")).status == 0
    refused = await api.kubectl("apply", "-k", DEPLOY / "overlays/cpu")
    assert refused.status == 1
    assert "Forbidden: updates to volumeClaimTemplates" in refused.err
    page = (DEPLOY.parent / "docs/deploying.md").read_text()
    (command,) = re.findall(r"`kubectl (delete statefulset dropgate[^`]*)`", page)
    assert (await api.kubectl(*command.split())).status == 0
    assert (await api.kubectl("apply", "-k", DEPLOY / "overlays/cpu")).status == 0


def containers(each: dict[str, Any]) -> list[dict[str, Any]]:
    spec = each["spec"]["template"]["spec"]
    return [*spec["initContainers"], *spec["containers"]]


async def test_the_ten_minutes_of_the_page_are_as_they_stand_there(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs/deploying.md").read_text()
    section = page.split("## In ten minutes", 1)[1]
    script = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
    assert "kubectl apply -k ours" in script
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"gateway": f'exec "{sys.executable}" -m gateway "$@"', "pip": "exit 0"}.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    (tmp_path / "deploy").symlink_to(DEPLOY)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(DEPLOY.parent)}
    async with ApiServer(tmp_path) as api:
        applied, _, waits = script.partition("kubectl rollout")
        done = await api.run("bash", "-euc", applied, cwd=tmp_path, env=environment)
        assert done.status == 0, done.err
        await api.settle()
        done = await api.run("bash", "-euc", f"kubectl rollout{waits}", cwd=tmp_path, env=environment)
        assert done.status == 0, done.err
        (secret,) = api.kept("Secret", "dropgate-keys")
        (stateful,) = api.kept("StatefulSet")
    assert "keys.json" in secret["data"]
    volumes = {each["name"]: each for each in stateful["spec"]["template"]["spec"]["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == "dropgate-keys"
    assert stateful["metadata"]["namespace"] == NAMESPACE
    assert {each["image"] for each in containers(stateful)} == {"registry.example.org/dropgate:0.1.0"}
