"""The replicas of a cluster, through Ray Serve: deployed, asked one at a time, and told all together.

Ray's own errors end here. What became of a replica is `Lost`, for whoever asked to ask again: Ray does so itself only
until a replica has taken the request, and waits for ever where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from gateway import __version__
from gateway.cluster.messages import Lost, Need
from gateway.cluster.replica import Config, Replica
from gateway.cluster.router import STATS, Router
from gateway.cluster.scaling import OnePerDevice
from gateway.errors import Internal, Overloaded
from gateway.host import wire
from gateway.lane import Lane

PREFIX: Final = "host-"  # of the deployment's name; what follows says by which version and how its replicas are set up
PERIOD: Final = 0.5  # seconds between two statistics of a replica
HEALTH: Final = 5.0  # seconds between two questions for its health
GRACE: Final = 30.0
MOST: Final = 10_000  # replicas
CONTROL: Final = 3.0  # seconds that a replica has to answer what all of them are asked
RETRY: Final = 1.0
GPU: Final = "GPU"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Where replicas run. `resource` is what one device is to Ray; so many `replicas`, 0 for as many as the cluster has
    devices; each works on `ongoing` requests at once, and `queued` ones may wait in this gateway before more are
    refused."""

    app: str = "dropgate"
    address: str
    resource: str = GPU
    replicas: int = 0
    ongoing: int = 256
    queued: int = 1024


class Deployed(Replica):
    """The replica, as Serve makes it and asks it for its health and its statistics."""

    async def __init__(self, config: bytes) -> None:  # type: ignore[misc]  # as Serve has it
        context = ray.get_runtime_context()
        node = ray.util.get_node_ip_address()
        given = msgspec.json.decode(config, type=Config)
        devices = [each for ids in context.get_accelerator_ids().values() for each in ids]
        name = f"{node}/{devices[0] if devices else 'cpu'}"
        super().__init__(given, node, name)
        await self.start()  # a replica that Serve takes to be there can answer

    def check_health(self) -> None:
        self.check()

    def record_replica_metadata(self) -> dict[str, Any]:
        """What is known of it until the first statistics come."""
        return self.record_routing_stats()

    def record_routing_stats(self) -> dict[str, Any]:
        return {STATS: msgspec.json.encode(self.told()).decode()}


class RayFleet:
    """Of one gateway. What blocks is done on a thread of its own."""

    def __init__(self, shape: Shape, config: Config) -> None:
        self._shape = shape
        self._config = msgspec.json.encode(config, order="sorted")
        self._thread = Lane("ray")  # also since Ray takes over SIGTERM where it is joined from the main thread
        self._handle: Any = None
        self._named = ""
        self._replaced: asyncio.Future[None] | None = None  # done when what is deployed has become something else

    async def join(self, *, again: bool = False) -> None:
        """Joins the cluster, and has replicas deployed unless they are; `again`, those that somebody has deployed since
        are as good. Raises Lost."""
        before = self._named
        try:
            await self._run(functools.partial(self._join, again))
        except Lost:
            await self._run(ray.shutdown)  # the next try begins anew: it may be another cluster by then
            self._handle, self._named = None, ""
            raise
        finally:
            if self._named != before or self._replaced is None:
                if self._replaced is not None:
                    self._replaced.set_result(None)
                self._replaced = asyncio.get_running_loop().create_future()

    async def call(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> tuple[bytes, wire.Payload]:
        """Raises Lost, Overloaded, and TimeoutError."""
        with _ours():
            response = self._ready().call.remote(tuple(need), list(avoid), frame)
            try:
                header, payload = await self._first(response, seconds)
            except (Lost, TimeoutError, asyncio.CancelledError):
                response.cancel()
                raise
        return header, payload

    async def stream(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> AsyncIterator[bytes]:
        """Raises as `call`."""
        with _ours():
            pieces = self._ready().options(stream=True).stream.remote(tuple(need), list(avoid), frame)
            try:
                async with asyncio.timeout(seconds):
                    yield await self._first(anext(pieces), seconds)
                    async for piece in pieces:
                        yield piece
            except (Lost, TimeoutError, asyncio.CancelledError, GeneratorExit):
                pieces.cancel()
                raise

    async def follow(self, gateway: str, told: Mapping[str, int]) -> list[bytes]:
        """The states of those replicas that answer."""
        return [found for found in await self._all("follow", gateway, dict(told)) if isinstance(found, bytes)]

    async def keep(self, gateway: str, version: int, live: Collection[str], pinned: Collection[str]) -> None:
        await self._all("keep", gateway, version, list(live), list(pinned))

    async def unload(self, digest: str) -> None:
        await self._all("unload", digest)

    async def leave(self) -> None:
        """The replicas stay: they are other gateways' too, and this one's when it comes back."""
        with contextlib.suppress(Lost):
            await self._run(ray.shutdown)
        self._thread.close(wait=False)

    async def _first(self, answer: Awaitable[Any], seconds: float) -> Any:
        """What comes, unless what is deployed is replaced meanwhile: what no replica has taken yet would wait for ever.
        Raises Lost, and TimeoutError."""
        assert self._replaced is not None, "there is a handle"
        coming = asyncio.ensure_future(_awaited(answer))
        try:
            await asyncio.wait({coming, self._replaced}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            if self._replaced.done():
                raise Lost("the replicas have been replaced")
            raise TimeoutError
        finally:
            coming.cancel()

    def _ready(self) -> Any:
        if self._handle is None:
            raise Lost("the cluster has not been joined")
        return self._handle

    async def _run(self, work: Any) -> None:
        try:
            await self._thread.run(work)
        except Exception as error:  # whatever the parts of Ray raise: none of it is a reason to end
            raise Lost(f"{type(error).__name__}: {error}") from error

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """What each replica answers, or how it failed. One that hangs takes nothing from what the others say, which is
        why the answers are not waited for together."""
        with _ours():
            response = self._ready().broadcast(method, *arguments)
            async with asyncio.timeout(CONTROL):
                asked = await response._fetch_replica_results_async()

        async def answer(result: Any) -> Any:
            try:
                async with asyncio.timeout(CONTROL):
                    return await result.get_async()
            except (RayError, RayServeException, TimeoutError) as error:
                return error

        return list(await asyncio.gather(*(answer(result) for result in asked)))

    # On the thread.

    def _join(self, again: bool) -> None:
        if not ray.is_initialized():
            host = self._shape.address.rpartition(":")[0]
            local = {"_node_ip_address": host} if host.startswith("127.") else {}  # else Ray asks the machine's address
            ray.init(self._shape.address, namespace="serve", log_to_driver=False, logging_level="ERROR", **local)
            logging.getLogger("ray.serve").setLevel(logging.ERROR)  # whatever concerns us comes out as an error
        found = self._found()
        running = self._name() if self._name() in found else found[0] if found and again else self._deploy()
        if running != self._named:
            self._handle = serve.get_deployment_handle(running, self._shape.app)
            self._named = running

    def _found(self) -> list[str]:
        """The names of what is deployed."""
        app = serve.status().applications.get(self._shape.app)
        return [name for name in (app.deployments if app else {}) if name.startswith(PREFIX)]

    def _name(self) -> str:
        shape = msgspec.structs.replace(self._shape, address="")  # each gateway has its own way there
        what = (__version__.encode(), self._config, msgspec.json.encode(shape))
        return PREFIX + hashlib.sha256(b"".join(what)).hexdigest()[:12]

    def _deploy(self) -> str:
        needs = {"num_gpus": 1} if self._resource() == GPU else {"resources": {self._resource(): 1}}
        deployment = serve.deployment(
            Deployed,
            name=self._name(),
            ray_actor_options={"num_cpus": 0, **needs},
            max_ongoing_requests=self._shape.ongoing,
            max_queued_requests=self._shape.queued,
            health_check_period_s=HEALTH,
            health_check_timeout_s=2 * HEALTH,
            graceful_shutdown_timeout_s=GRACE,
            request_router_config=RequestRouterConfig(
                request_router_class=Router,
                request_routing_stats_period_s=PERIOD,
                request_routing_stats_timeout_s=HEALTH,
            ),
            **self._scale(),
        )
        serve.start(proxy_location="Disabled")  # clients come in by the gateway
        app = serve.RunTarget(deployment.bind(self._config), name=self._shape.app, route_prefix=None)
        serve.run_many([app], wait_for_applications_running=False)
        return self._name()

    def _resource(self) -> str:
        """As Ray spells it."""
        return GPU if self._shape.resource.upper() == GPU else self._shape.resource

    def _scale(self) -> dict[str, Any]:
        if self._shape.replicas:
            return {"num_replicas": self._shape.replicas}
        policy = AutoscalingPolicy(policy_function=OnePerDevice, policy_kwargs={"resource": self._resource()})
        return {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=1, max_replicas=MOST, upscale_delay_s=1.0, downscale_delay_s=1.0, policy=policy
            )
        }


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@contextlib.contextmanager
def _ours() -> Any:
    """Ray's errors as ours."""
    try:
        yield
    except BackPressureError as error:
        raise Overloaded("every device of the cluster has as much to do as it may", retry_after=RETRY) from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise Lost(str(error)) from error
    except RayTaskError as error:
        raise Internal(f"{type(error.cause).__name__} in a replica") from error
    except (RayError, RayServeException) as error:
        raise Lost(str(error)) from error
