"""What deploy/ renders: strictly valid, locked down, and settings that the gateway takes."""

from __future__ import annotations

import copy
import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway import cli, settings
from tests.cluster.manifests import (
    DEPLOY,
    Object,
    Wrong,
    containers,
    environment,
    one,
    pod_templates,
    render,
    render_with,
    validate,
)

OVERLAYS: Final = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
WITH_A_VOLUME: Final = [name for name in OVERLAYS if name != "bucket"]
COMPONENTS: Final = sorted(path.name for path in (DEPLOY / "components").iterdir())
EVERYTHING: Final = [f"overlays/{name}" for name in OVERLAYS] + ["trainer"]
UNITS: Final = {"Gi": 2**30, "Mi": 2**20}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which renders, is not installed")


def rendered(path: str) -> list[Object]:
    return render(DEPLOY / path)


def quantity(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("path", EVERYTHING)
def test_what_is_rendered_is_strictly_valid(path: str) -> None:
    found = rendered(path)
    assert found
    for each in found:
        validate(each)


@pytest.mark.parametrize("component", [each for each in COMPONENTS if each not in {"keys", "insecure"}])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_component_goes_with_every_overlay(overlay: str, component: str, tmp_path: Path) -> None:
    """Of those two each overlay has chosen one."""
    for each in render_with(tmp_path, overlay, [component]):
        validate(each)


def test_all_components_go_together(tmp_path: Path) -> None:
    found = render_with(tmp_path, "several", ["ingress", "monitoring", "autoscaling", "ouragboros"])
    for each in found:
        validate(each)
    assert {"Ingress", "ServiceMonitor", "PrometheusRule", "ScaledObject"} <= {each["kind"] for each in found}
    callers = one(found, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    named = [each["namespaceSelector"]["matchLabels"] for each in callers if "namespaceSelector" in each]
    assert {"kubernetes.io/metadata.name": "monitoring"} in named
    assert {"kubernetes.io/metadata.name": "ingress-nginx"} in named


def gateway_of(each: Object) -> Object:
    return each["spec"]["template"]["spec"]["containers"][0]


PLANTED: Final[dict[str, tuple[str, Callable[[Object], Any]]]] = {
    "a misspelt field": ("StatefulSet", lambda each: gateway_of(each).update(livenesProbe={})),
    "a field of another level": ("StatefulSet", lambda each: each["spec"].update(strategy={"type": "Recreate"})),
    "a number as text": ("StatefulSet", lambda each: each["spec"].update(replicas="1")),
    "a field that is missing": ("StatefulSet", lambda each: each["spec"].pop("selector")),
    "a policy with an unknown field": ("NetworkPolicy", lambda each: each["spec"].update(outgress=[])),
    "a service of the wrong type": ("Service", lambda each: each["spec"].update(ports="8001")),
    "a kind that there is not": ("Service", lambda each: each.update(kind="Servise")),
    "a monitor with a misspelt field": (
        "ServiceMonitor",
        lambda each: each["spec"]["endpoints"][0].update(intervall="15s"),
    ),
    "a monitor without a unit": ("ServiceMonitor", lambda each: each["spec"]["endpoints"][0].update(interval="15")),
    "a rule with a misspelt field": (
        "PrometheusRule",
        lambda each: each["spec"]["groups"][0]["rules"][0].update(forr="2m"),
    ),
    "a scaler without a threshold": (
        "ScaledObject",
        lambda each: each["spec"]["triggers"][0]["metadata"].pop("threshold"),
    ),
    "a scaler's count as text": ("ScaledObject", lambda each: each["spec"].update(maxReplicaCount="6")),
    "a cluster with a misspelt field": (
        "RayCluster",
        lambda each: each["spec"]["workerGroupSpecs"][0].update(maxReplica=3),
    ),
    "a cluster whose node has a misspelt field": (
        "RayCluster",
        lambda each: each["spec"]["headGroupSpec"]["template"]["spec"].update(toleration=[]),
    ),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return render_with(tmp_path_factory.mktemp("all"), "several", ["ingress", "monitoring", "autoscaling", "ray"])


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(fault: str, everything: list[Object]) -> None:
    kind, plant = PLANTED[fault]
    planted = copy.deepcopy(next(each for each in everything if each["kind"] == kind))
    validate(planted)
    plant(planted)
    with pytest.raises(Wrong):
        validate(planted)


def test_every_patch_has_something_to_change() -> None:
    """kustomize says nothing of a patch whose target is not there."""
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered("base")}
    for path in DEPLOY.rglob("kustomization.yaml"):
        for patch in yaml.safe_load(path.read_text()).get("patches", []):
            assert (patch["target"]["kind"], patch["target"]["name"]) in there, path


# The gateway would take it.


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_settings_that_there_are_and_of_the_right_form(overlay: str) -> None:
    given = environment(rendered(f"overlays/{overlay}"))
    known = {name for field in fields(settings.Settings) for name in settings.environment_names(field.name)}
    others = {name for name in given if not name.startswith("AWS_")}
    assert others <= known
    chosen = settings.load({}, environment=given)
    assert (chosen.host, chosen.port) == ("0.0.0.0", 8001)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_may_come_in_is_said_by_keys_or_by_saying_that_everybody_may(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    chosen = settings.load({}, environment=environment(found))
    assert bool(chosen.keys_file) != chosen.insecure
    mounted = {each["mountPath"] for each in gateway_of(one(found, "StatefulSet"))["volumeMounts"]}
    assert (str(Path(chosen.keys_file).parent) in mounted) == (not chosen.insecure)


def test_gateways_over_a_bucket_have_no_volume_in_common_and_the_image_has_what_it_takes() -> None:
    found = rendered("overlays/bucket")
    chosen = settings.load({}, environment=environment(found))
    assert chosen.models_dir.startswith(settings.BUCKET)
    assert chosen.knowledge_dir.startswith(settings.BUCKET)
    assert not any(each["kind"] == "PersistentVolumeClaim" for each in found)
    stateful = one(found, "StatefulSet")["spec"]
    assert stateful["replicas"] > 1
    assert not stateful["template"]["spec"].get("initContainers")
    assert {each["name"] for each in stateful["template"]["spec"]["volumes"]} == {"tmp", "keys"}
    assert {each["mountPath"] for each in gateway_of({"spec": stateful})["volumeMounts"]} >= {chosen.state_dir, "/tmp"}
    assert "secretRef" in str(gateway_of({"spec": stateful})["envFrom"])
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    assert "bucket" in re.findall(r"^ARG EXTRAS=(.*)$", dockerfile, re.MULTILINE)[0].split(",")


@pytest.mark.parametrize("overlay", WITH_A_VOLUME)
def test_what_the_gateway_writes_lies_on_volumes_and_the_namespaces_are_made(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    chosen = settings.load({}, environment=environment(found))
    stateful = one(found, "StatefulSet")
    mounted = {each["mountPath"] for each in gateway_of(stateful)["volumeMounts"]}
    assert {chosen.models_dir, chosen.state_dir, "/tmp"} <= mounted
    made = stateful["spec"]["template"]["spec"]["initContainers"][0]["command"]
    assert f"{chosen.models_dir}/finetuned" in made


@pytest.mark.parametrize("overlay", WITH_A_VOLUME)
def test_the_state_has_room_for_every_model_and_for_the_earlier_ones(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    chosen = settings.load({}, environment=environment(found))
    models = quantity(one(found, "PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"])
    template = one(found, "StatefulSet")["spec"]["volumeClaimTemplates"][0]
    state = quantity(template["spec"]["resources"]["requests"]["storage"])
    assert chosen.generations_budget > 0
    assert state > models + chosen.generations_budget


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_requests_in_flight_have_the_time_to_finish(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    pod = one(found, "StatefulSet")["spec"]["template"]["spec"]
    wait = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    chosen = settings.load({}, environment=environment(found))
    assert pod["terminationGracePeriodSeconds"] >= wait + chosen.drain_timeout + 10


def test_the_gateway_is_started_with_a_command_that_there_is() -> None:
    found = rendered("overlays/cpu")
    options = cli.parser().parse_args(gateway_of(one(found, "StatefulSet"))["args"])
    assert options.run is not None


def test_probes_ask_for_the_process_and_never_for_models() -> None:
    container = gateway_of(one(rendered("overlays/cpu"), "StatefulSet"))
    asked = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": 8001}


# It is locked down.


@pytest.mark.parametrize("path", EVERYTHING)
def test_every_pod_meets_the_restricted_standard_with_a_read_only_root(path: str) -> None:
    templates = list(pod_templates(rendered(path)))
    assert templates
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            assert name not in pod
        assert not [each for each in pod["volumes"] if "hostPath" in each]
        for container in containers(template):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"memory", "cpu"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("path", EVERYTHING)
def test_no_variable_of_a_service_link_can_be_mistaken_for_a_setting(path: str) -> None:
    for template in pod_templates(rendered(path)):
        assert template["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("path", EVERYTHING)
def test_no_secret_and_no_namespace_stands_in_the_manifests(path: str) -> None:
    for each in rendered(path):
        assert each["kind"] != "Secret"
        assert "namespace" not in each["metadata"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_selector_is_of_the_gateways_pods_and_no_others(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    labels = one(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "dropgate"}
    assert wanted.items() <= labels.items()
    assert one(found, "StatefulSet")["spec"]["selector"] == {"matchLabels": wanted}
    assert one(found, "Service")["spec"]["selector"] == wanted
    assert one(found, "NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": wanted}
    for budget in (each for each in found if each["kind"] == "PodDisruptionBudget"):
        assert budget["spec"]["selector"] == {"matchLabels": wanted}


def test_only_names_are_asked_for_outside_unless_more_is_opened() -> None:
    closed = one(rendered("overlays/cpu"), "NetworkPolicy")["spec"]
    assert {port["port"] for rule in closed["egress"] for port in rule["ports"]} == {53}
    several = one(rendered("overlays/several"), "NetworkPolicy")["spec"]
    assert {port["port"] for rule in several["egress"] for port in rule["ports"]} == {53, 443}


# Each overlay is what it says.


def test_several_gateways_share_models_and_knowledge_and_never_a_state_directory() -> None:
    found = rendered("overlays/several")
    stateful = one(found, "StatefulSet")
    assert stateful["spec"]["replicas"] > 1
    assert one(found, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert settings.load({}, environment=environment(found)).knowledge_dir.startswith("s3://")
    assert [each["metadata"]["name"] for each in stateful["spec"]["volumeClaimTemplates"]] == ["state"]
    assert {"secretRef": {"name": "dropgate-bucket"}} in gateway_of(stateful)["envFrom"]
    assert one(found, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("overlay", ["small", "cpu", "gpu"])
def test_a_single_gateway_does_not_hold_up_the_draining_of_its_node(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    assert one(found, "StatefulSet")["spec"]["replicas"] == 1
    assert "PodDisruptionBudget" not in {each["kind"] for each in found}


def test_the_gpu_overlay_asks_for_a_gpu_and_tolerates_its_nodes() -> None:
    found = rendered("overlays/gpu")
    pod = one(found, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" in {each["key"] for each in pod["tolerations"]}
    assert environment(found)["DROPGATE_DEVICE"] == "cuda"


def test_with_autoscaling_an_apply_does_not_set_the_number_of_gateways_back(everything: list[Object]) -> None:
    stateful = one(everything, "StatefulSet")
    assert "replicas" not in stateful["spec"]
    scaled = one(everything, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == stateful["metadata"]["name"]
    assert scaled["minReplicaCount"] > 1


def test_what_is_scaled_by_and_scraped_is_what_the_gateway_tells(everything: list[Object]) -> None:
    told = (DEPLOY.parent / "docs/operations.md").read_text()
    query = one(everything, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    assert query.removeprefix("sum(").partition("{")[0] in told
    monitor = one(everything, "ServiceMonitor")["spec"]
    service = one(everything, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {each["name"] for each in service["spec"]["ports"]}


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return render_with(tmp_path_factory.mktemp("ray"), "several", ["ray"])


def test_the_nodes_of_a_ray_cluster_are_locked_down_as_gateways_are(on_ray: list[Object]) -> None:
    templates = list(pod_templates(on_ray))
    assert len(templates) == 3
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in containers(template):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_a_ray_cluster_and_its_gateways_are_of_one_mind(on_ray: list[Object]) -> None:
    cluster = one(on_ray, "RayCluster")
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["ray"] == [f"ray[serve]=={cluster['spec']['rayVersion']}"]
    chosen = settings.load({}, environment=environment(on_ray))
    assert (chosen.engine, chosen.ray_address) == ("ray", "auto")
    gateway = gateway_of(one(on_ray, "StatefulSet"))
    assert f"--address={cluster['metadata']['name']}-head-svc:6379" in gateway["args"][0]
    assert gateway["args"][0].endswith("exec gateway serve")
    for template in pod_templates([cluster]):
        (node,) = containers(template)
        mounted = {each["mountPath"] for each in node["volumeMounts"]}
        assert {chosen.ray_models_dir or chosen.models_dir, chosen.ray_state_dir, "/tmp", "/dev/shm"} <= mounted
    workers = cluster["spec"]["workerGroupSpecs"][0]
    gpus = containers(workers["template"])[0]["resources"]["limits"]["nvidia.com/gpu"]
    assert workers["rayStartParams"]["num-gpus"] == gpus == "1"


def test_only_members_reach_a_ray_cluster_and_each_shows_the_token(on_ray: list[Object]) -> None:
    policy = next(
        each for each in on_ray if each["metadata"]["name"] == "dropgate-ray" and each["kind"] == "NetworkPolicy"
    )
    members = [
        {"podSelector": {"matchLabels": labels}}
        for labels in ({"ray.io/cluster": "dropgate-ray"}, {"app.kubernetes.io/name": "dropgate"})
    ]
    assert policy["spec"]["ingress"] == [{"from": members}]
    assert environment(on_ray)["RAY_AUTH_MODE"] == "token"
    secret = {"secretKeyRef": {"name": "dropgate-ray", "key": "token"}}
    for template in pod_templates(on_ray):
        shown = {each["name"]: each.get("valueFrom") for each in template["spec"]["containers"][0]["env"]}
        assert shown["RAY_AUTH_TOKEN"] == secret


def test_who_comes_from_ouragboros_keeps_the_claim_and_the_label(tmp_path: Path) -> None:
    found = render_with(tmp_path, "cpu", ["ouragboros"])
    assert "PersistentVolumeClaim" not in {each["kind"] for each in found}
    template = one(found, "StatefulSet")["spec"]["template"]
    assert template["metadata"]["labels"]["io.kompose.service"] == "ouragboros"
    claims = [
        each["persistentVolumeClaim"]["claimName"]
        for each in template["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    ]
    assert claims == ["ouragboros-models"]


def test_the_job_trains_with_settings_that_the_trainer_takes_and_publishes_to_the_gateways_volume(
    tmp_path: Path,
) -> None:
    from trainer.cli import parser
    from trainer.config import resolve_options

    found = rendered("trainer")
    pod = one(found, "Job")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    run = tmp_path / "run.yaml"
    run.write_text(one(found, "ConfigMap")["data"]["run.yaml"])
    arguments = [str(run) if each == "/app/run/run.yaml" else each for each in container["args"]]
    assert str(run) in arguments
    resolved = resolve_options(parser().parse_args(arguments), {}).config
    served = rendered("overlays/cpu")
    assert str(resolved.models_dir) == environment(served)["DROPGATE_MODELS_DIR"]
    assert [each for each in container["volumeMounts"] if each["mountPath"] == str(resolved.models_dir)]
    claims = [each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each]
    assert claims == [one(served, "PersistentVolumeClaim")["metadata"]["name"]]
    assert pod["restartPolicy"] == "Never"


def test_every_file_of_the_cluster_is_yaml_and_is_used() -> None:
    files = {path for folder in ("base", "overlays", "components", "trainer") for path in (DEPLOY / folder).rglob("*")}
    for path in sorted(each for each in files if each.is_file() and each.name != "kustomization.yaml"):
        kustomization = (path.parent / "kustomization.yaml").read_text()
        assert path.name in kustomization, f"nothing uses {path}"
        if path.suffix == ".yaml":
            assert list(yaml.safe_load_all(path.read_text()))


def test_the_page_about_deploying_knows_every_overlay_and_component_and_no_others() -> None:
    page = (DEPLOY.parent / "docs/deploying.md").read_text()
    named = set(re.findall(r"`deploy/((?:overlays|components)/[a-z]+)`", page))
    assert named == {f"overlays/{each}" for each in OVERLAYS} | {f"components/{each}" for each in COMPONENTS}


def test_the_kustomization_on_that_page_renders(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs/deploying.md").read_text()
    shown = re.search(r"<<'EOF'\n(.*?)EOF\n", page, re.DOTALL)
    assert shown is not None
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/kustomization.yaml").write_text(shown[1])
    found = render(tmp_path / "ours")
    for each in found:
        validate(each)
    assert gateway_of(one(found, "StatefulSet"))["image"] == "registry.example.org/dropgate:0.1.0"
    assert environment(found)["DROPGATE_DEFAULT_MODEL"] == "finetuned/physics"
