"""The gateway's own HTTP protocol: decode, call the service, encode. `docs/api.md` is held to these routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson
from aiohttp import web

from gateway.ask.providers import EXTRACTIVE
from gateway.catalog.alias_edit import Pointer
from gateway.engine.engine import DeviceState, Residence
from gateway.errors import InvalidBody
from gateway.host.wire import Side
from gateway.model import PREFIX, ModelId
from gateway.requests import Embedding
from gateway.web import answers, asking, vectors
from gateway.web.asking import SERVICE
from gateway.web.body import Inputs, Int64, decode, inputs, read
from gateway.web.contract import JSON, OCTETS, says
from gateway.web.errors import LINE

routes: Final = web.RouteTableDef()


class EmbedBody(msgspec.Struct):
    """`POST /embed`. `texts` is the older name of `inputs`; what a client sends beyond these is ignored."""

    inputs: Inputs | msgspec.UnsetType = msgspec.UNSET
    texts: Inputs | msgspec.UnsetType = msgspec.UNSET
    model: str | None = None
    normalize: bool | None = None
    truncate: bool | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: Int64 | None = None
    truncation_side: Side | None = None
    encoding_format: Literal["float", "base64"] = "float"


class RollbackBody(msgspec.Struct):
    """`POST /models/{model}/rollback`, which needs none. `to` is the beginning of a generation's digest."""

    to: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{6,64}$")] | None = None


class AliasBody(msgspec.Struct):
    """`PUT /aliases/{alias}`: all of it; without `canary` and `share` there is no canary any more."""

    to: Annotated[str, msgspec.Meta(min_length=1)]
    canary: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


EXAMPLE: Final = {"inputs": ["how is a beam stored?", "the ring holds the beam"]}
_embed_body: Final = msgspec.json.Decoder(EmbedBody)
_alias_body: Final = msgspec.json.Decoder(AliasBody)
_rollback_body: Final = msgspec.json.Decoder(RollbackBody)


@routes.post("/embed")
@routes.post("/model/embed")
@routes.post("/models/{model:.+}/embed")
@says(body=EmbedBody, example=EXAMPLE, answer=answers.Embeddings, media=(JSON, OCTETS))
async def embed(request: web.Request) -> web.StreamResponse:
    """Texts or token ids to vectors, as JSON floats, base64 or raw float32."""
    body = decode(_embed_body, await read(request))
    texts = body.inputs if body.inputs is not msgspec.UNSET else body.texts
    if isinstance(texts, msgspec.UnsetType):
        raise InvalidBody("the body lacks `inputs`: a text or a list of texts", field="inputs")
    embedding = await asking.embed(
        request,
        inputs(texts, "inputs"),
        model=body.model,
        normalize=body.normalize,
        truncate=body.truncate is not False,
        prompt=body.prompt,
        prompt_name=body.prompt_name,
        dimensions=body.dimensions,
        truncation_side=body.truncation_side,
    )
    if vectors.OCTETS in request.headers.get("Accept", ""):
        response = vectors.octets(embedding)
    else:
        response = vectors.json(embedding, body.encoding_format)
    asking.name(response, embedding)
    response.headers["Server-Timing"] = _server_timing(embedding)
    return response


@routes.get("/models")
@says(answer=answers.Models)
async def models(request: web.Request) -> web.Response:
    """Every model seen, with its state; aliases; and the names that are no models, with the reason."""
    catalog = request[SERVICE].catalog
    listing = {"models": catalog.listing(), "aliases": catalog.aliases()}
    return answer(listing | {"ignored": msgspec.to_builtins(catalog.ignored)})


@routes.get("/models/embeddings")
@routes.get("/models/llms")
@routes.get("/models/finetuned")
@says(answer=answers.OlderModels)
async def older_listing(request: web.Request) -> web.Response:
    """The listings of an earlier system: ids of what can be asked for, and of who can answer; `finetuned` with names to
    show."""
    catalog = request[SERVICE].catalog
    if request.path.endswith("/llms"):
        return answer({"models": [EXTRACTIVE, *await request.app[asking.ROSTER].offered(request[SERVICE])]})
    served = [entry for entry in catalog.listing() if entry["generation"] and entry["kind"] == "encoder"]
    if request.path.endswith("/embeddings"):
        aliases = [alias["id"] for alias in catalog.aliases() if alias["model"] in {entry["id"] for entry in served}]
        return answer({"models": [*(entry["id"] for entry in served), *aliases]})
    return answer({"models": [_finetuned(entry) for entry in served if entry["namespace"]]})


@routes.get("/models/{model:.+}")
async def model(request: web.Request) -> web.Response:
    """One directory."""
    service = request[SERVICE]
    return answer(service.catalog.show(service.resolve(request.match_info["model"])))


@routes.post("/models/{model:.+}/{verb:load|unload|pin|unpin}")
async def operate(request: web.Request) -> web.Response:
    """What operators do to a model; doing it twice is doing it once."""
    service, spelling = request[SERVICE], request.match_info["model"]
    match request.match_info["verb"]:
        case "load":
            done = await service.load(spelling)
        case "unload":
            done = await service.unload(spelling)
        case verb:
            done = await service.pin(spelling, pinned=verb == "pin")
    request[LINE]["model"] = done.path
    return answer(service.catalog.show(done))


@routes.post("/models/{model:.+}/rollback")
@says(body=RollbackBody, example={"to": "b07c48456b11"}, optional=True)
async def rollback(request: web.Request) -> web.Response:
    """Makes an earlier generation live, until something newer is dropped."""
    service = request[SERVICE]
    raw = await read(request)
    body = decode(_rollback_body, raw) if raw.strip() else RollbackBody()
    done = await service.rollback(request.match_info["model"], body.to)
    request[LINE]["model"] = done.path
    return answer(service.catalog.show(done))


@routes.put("/aliases/{alias:.+}")
@says(body=AliasBody, example={"to": "finetuned/physics"})
async def alias(request: web.Request) -> web.Response:
    """Has an alias lead to a model, and a share of the clients to a canary; written into aliases.toml on the volume."""
    body = decode(_alias_body, await read(request))
    if (body.canary is None) != (body.share is None):
        raise InvalidBody("a canary has a share, and a share has a canary", field="share")
    pointer = Pointer(body.to, body.canary, body.share or 0.0)
    return answer(await request[SERVICE].alias(request.match_info["alias"], pointer))


@routes.get("/healthz")
async def healthz(request: web.Request) -> web.Response:
    """Alive: the event loop turns. Says nothing about models."""
    return answer({"status": "ok"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """Whether requests may be sent here, and if not, why not."""
    service = request[SERVICE]
    checks = {
        "volume": service.catalog.usable,
        "host": service.engine.ready,
        "not_draining": not service.leaving,
    }
    response = answer({"ready": service.ready, "checks": checks}, 200 if service.ready else 503)
    if not service.ready:
        response.headers["Retry-After"] = "1"
    return response


@routes.get("/info")
@says(query={"model": "any spelling of a model; without it the default model"})
async def info(request: web.Request) -> web.Response:
    """What the default model is, or the one named by `?model=`."""
    service = request[SERVICE]
    found = await service.find(request.query.get("model"))
    generation, manifest = found.generation, found.generation.manifest
    residences = service.engine.residences().get(generation.digest, [])
    devices = service.engine.devices()
    shown = devices if service.caller.unrestricted else []  # they count what others have loaded, too
    return answer(
        {
            "model": str(found.model),
            "generation": generation.short,
            "device": _device(residences, devices),
            "loaded": any(residence.state == "loaded" for residence in residences),
            "dim": manifest.dim,
            "max_tokens": manifest.max_tokens,
            "normalize": manifest.normalized if service.settings.normalize is None else service.settings.normalize,
            "quantized": manifest.quantization is not None,
            "batch_size": service.settings.max_batch_texts or None,
            "prompts": manifest.prompts,
            "default_prompt_name": manifest.default_prompt_name,
            "devices": [msgspec.to_builtins(device) for device in shown],
        }
    )


def _device(residences: Sequence[Residence], devices: Sequence[DeviceState]) -> str | None:
    """Where it is, or would be; None where no device is known, as of a cluster that has not been joined yet."""
    return residences[0].device if residences else devices[0].device if devices else None


def answer(document: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")


def _finetuned(entry: dict[str, Any]) -> dict[str, Any]:
    model_id = ModelId.of(entry["id"].removeprefix(PREFIX))
    return {
        "path": entry["path"],
        "namespace": model_id.namespace,
        "name": model_id.name,
        "namespaced_name": model_id.path,
        "display_name": entry["display_name"],
        "id": entry["id"],
    }


def _server_timing(embedding: Embedding) -> str:
    """Where the time went, in milliseconds (https://www.w3.org/TR/server-timing/)."""
    seconds = {"load": embedding.load_seconds, "queue": embedding.queue_seconds, "compute": embedding.compute_seconds}
    return ", ".join(f"{name};dur={1000 * each:.3f}" for name, each in seconds.items())
