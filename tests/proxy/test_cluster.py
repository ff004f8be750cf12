"""The proxy in a cluster: the same configuration, for gateways that are found by their names."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from tests.cluster.manifests import DEPLOY, Object, containers, render_with, validate
from tests.proxy.fleet import MODELS, OPTIONS
from tests.proxy.haproxy import CONFIG, RunningProxy, free_port, needs_haproxy
from tests.proxy.names import NameServer
from tests.running import RunningGateway

IN_CLUSTER = DEPLOY / "components" / "proxy" / "haproxy.cfg"
GATEWAYS, PROXY = {"app.kubernetes.io/name": "dropgate"}, {"app.kubernetes.io/name": "dropgate-proxy"}


@pytest.fixture
def found(tmp_path: Path) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders, is not installed")
    return render_with(tmp_path, "several", ["proxy", "ingress", "monitoring", "autoscaling"])


def named(found: list[Object], kind: str, name: str) -> Object:
    (each,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"] == name)
    return each


def servers() -> list[str]:
    return re.findall(r'^    server gateway-\d+ "([^"]+)"', IN_CLUSTER.read_text(), re.MULTILINE)


def test_but_for_the_gateways_and_the_user_it_is_the_same_configuration() -> None:
    def lines(path: Path) -> list[str]:
        """Without the words at its head, and without the gateways."""
        text = path.read_text()
        return re.sub(r"(?s)^.*?(?=^global$)", "", text, count=1, flags=re.MULTILINE).splitlines()

    changes = [each for each in difflib.ndiff(lines(CONFIG), lines(IN_CLUSTER)) if each[0] in "+-"]
    ours = re.compile(
        r"[+-]\s*(server gateway-\d+ .*|#.*|user haproxy|group haproxy|default-server resolvers .*|resolvers cluster"
        r"|parse-resolv-conf|accepted_payload_size .*|timeout (resolve|retry) .*|hold .*)?"
    )
    assert [each for each in changes if not ours.fullmatch(each)] == []
    assert len(servers()) == 6


@needs_haproxy
@pytest.mark.parametrize("path", [CONFIG, IN_CLUSTER], ids=["machine", "cluster"])
def test_haproxy_takes_it(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"^    (user|group) haproxy\n", "", path.read_text(), flags=re.MULTILINE))
    done = subprocess.run(
        ["haproxy", "-c", "-f", config],
        env={**os.environ, "POD_NAMESPACE": "models"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


def test_everything_of_it_is_valid_and_its_pods_are_locked_down(found: list[Object]) -> None:
    for each in found:
        validate(each)
    template = named(found, "Deployment", "dropgate-proxy")["spec"]["template"]
    pod = template["spec"]
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(template):
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_every_selector_is_of_the_pods_that_it_means(found: list[Object]) -> None:
    def selected(kind: str, name: str) -> Any:
        selector = named(found, kind, name)["spec"]["selector"]
        return selector.get("matchLabels", selector)

    template = named(found, "Deployment", "dropgate-proxy")["spec"]["template"]
    assert template["metadata"]["labels"] == PROXY
    assert selected("Deployment", "dropgate-proxy") == PROXY
    assert selected("PodDisruptionBudget", "dropgate-proxy") == PROXY
    assert selected("Service", "dropgate-proxy") == PROXY
    assert selected("Service", "dropgate-gateways") == selected("Service", "dropgate") == GATEWAYS
    ports = {each["name"] for each in template["spec"]["containers"][0]["ports"]}
    assert {each["targetPort"] for each in named(found, "Service", "dropgate-proxy")["spec"]["ports"]} <= ports
    policy = named(found, "NetworkPolicy", "dropgate-proxy")["spec"]
    assert policy["podSelector"] == {"matchLabels": PROXY}
    assert policy["egress"][0]["to"] == [{"podSelector": {"matchLabels": GATEWAYS}}]
    monitored = {each["port"] for each in named(found, "ServiceMonitor", "dropgate")["spec"]["endpoints"]}
    for name in ("dropgate-proxy", "dropgate-gateways"):  # each gateway is read once, and no other by chance
        assert not monitored & {each["name"] for each in named(found, "Service", name)["spec"]["ports"]}


def test_the_gateways_have_the_names_that_the_proxy_looks_for(found: list[Object]) -> None:
    stateful = named(found, "StatefulSet", "dropgate")["spec"]
    headless = named(found, "Service", stateful["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True
    domain = f"{stateful['serviceName']}.${{POD_NAMESPACE}}.svc.${{CLUSTER_DOMAIN-cluster.local}}:8001"
    assert servers() == [f"dropgate-{number}.{domain}" for number in range(6)]
    assert named(found, "ScaledObject", "dropgate")["spec"]["maxReplicaCount"] <= len(servers())
    given = {
        each["name"]
        for each in named(found, "Deployment", "dropgate-proxy")["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    used = set(re.findall(r"\$\{(\w+)[}-]|env\((\w+)\)", IN_CLUSTER.read_text()))
    without = {"CLUSTER_DOMAIN", "DROPGATE_BALANCE", "DROPGATE_PROXY_BIND"}  # what they are by default is right
    assert {one or other for one, other in used} - without == given


def test_the_gateways_are_left_before_they_stop_and_have_the_time_to_finish(found: list[Object]) -> None:
    (given,) = (each["data"] for each in found if each["kind"] == "ConfigMap" and "DROPGATE_HOST" in each["data"])
    chosen = settings.load({}, environment=given)
    assert chosen.drain_delay >= 3  # two looks of the proxy, and one that has just begun
    pod = named(found, "StatefulSet", "dropgate")["spec"]["template"]["spec"]
    wait = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= wait + chosen.drain_delay + chosen.drain_timeout + 10


@needs_haproxy
async def test_gateways_are_found_by_name_missing_ones_get_nothing_and_a_new_address_is_followed(
    tmp_path: Path, made: list[str]
) -> None:
    """Two gateways of six. Then the second has another address, as a pod that was moved has."""
    port = free_port()
    volume = tmp_path / "models"
    for number, model in enumerate(MODELS[:6]):
        shutil.copytree(made[number], volume / model)

    def name(number: int) -> str:
        return f"dropgate-{number}.dropgate-gateways.models.svc.cluster.local"

    def gateway(number: int, host: str) -> RunningGateway:
        found = RunningGateway(volume, tmp_path / f"state-{number}", *OPTIONS, f"--host={host}")
        found.command[found.command.index("--port=0")] = f"--port={port}"
        return found

    async with (
        NameServer({name(0): "127.0.0.21", name(1): "127.0.0.22"}) as names,
        gateway(0, "127.0.0.21") as first,
        gateway(1, "127.0.0.22") as second,
    ):
        config = IN_CLUSTER.read_text().replace(':8001"', f':{port}"')
        config = config.replace("    parse-resolv-conf\n", f"    nameserver ours {names.address}\n")
        for each in (first, second):
            for model in MODELS[:6]:
                await each.wait_for(f"huggingface:{model}", "ready")
        proxy = RunningProxy(tmp_path / "proxy", config=config, environment={"POD_NAMESPACE": "models"})
        async with proxy:
            await proxy.until_up("gateway-1", "gateway-2")
            by = {model: (await proxy.try_embed(["x"], model))[1]["by"] for model in MODELS[:6]}
            assert set(by.values()) == {"gateway-1", "gateway-2"}
            await second.stop()
            await proxy.until_up("gateway-1")
            async with gateway(1, "127.0.0.23"):
                names.known[name(1)] = "127.0.0.23"
                await proxy.until_up("gateway-1", "gateway-2")
                for model, place in by.items():
                    status, body = await proxy.try_embed(["x"], model)
                    assert (status, body["by"]) == (200, place)
