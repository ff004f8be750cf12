"""`POST /ask` and `/ask/stream`: questions answered from a knowledge base, as earlier systems were asked, and more."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson
from aiohttp import web

from gateway.ask.citations import Citation
from gateway.ask.grounds import File, Ground
from gateway.ask.local import named
from gateway.ask.passage import Where
from gateway.ask.providers import EXTRACTIVE, LOCAL, Message, Sampling
from gateway.ask.question import Answered, AskRequest, Cleared, Done, Event, Found, Said, Status
from gateway.ask.retrieval import MOST_HITS
from gateway.errors import GatewayError
from gateway.model import PREFIX
from gateway.web import answers, asking, sse
from gateway.web.asking import ANSWERER, SERVICE
from gateway.web.body import Value, decode, read, timeout
from gateway.web.contract import EVENTS, says
from gateway.web.errors import LINE
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
SNIPPET: Final = 200  # characters
SHIFT: Final = 1.0  # between a cosine and the scores of an earlier system, 0 to 2


class AskBody(msgspec.Struct):
    """`POST /ask`. `use_qdrant` and `use_opensearch` chose a store once and choose nothing now; what a client sends
    beyond these is ignored. `partial_answer` is of the stream: everything so far, again with each piece."""

    query: str
    embedding_model: str | None = None
    llm_model: str | None = None
    fallback_model: str | None = None
    prompt: str | None = None
    knowledge_base: str = "default"
    use_rag: bool = True
    max_documents: Annotated[int, msgspec.Meta(ge=1, le=MOST_HITS)] = 5
    score_threshold: float | None = 0.0
    score_scale: Literal["cosine", "cosine+1"] = "cosine"
    filter: dict[str, Value | list[Value]] | None = None
    hybrid: bool = True
    rerank_model: str | None = None
    mmr: float | None = None
    files: list[File] | None = None
    history: list[Message] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    on_no_documents: Literal["refuse", "answer"] = "refuse"
    partial_answer: bool = True
    use_qdrant: bool | None = None
    use_opensearch: bool | None = None


EXAMPLE: Final = {"query": "how is a beam stored?", "knowledge_base": "physics", "llm_model": "extractive"}
_body: Final = msgspec.json.Decoder(AskBody)


@routes.post("/ask")
@says(body=AskBody, example=EXAMPLE, answer=answers.Asked)
async def ask(request: web.Request) -> web.Response:
    """An answer from a knowledge base, with the passages it rests on and its citations."""
    body = decode(_body, await read(request))
    asked = _asked(request, body)
    with request[SERVICE].at_work():
        async with asking.within(asked.timeout):
            done = await _answered(request, asked)
    response = answer(_document(done, _shift(body)))
    if done.model is not None and done.generation is not None:
        response.headers["X-Model"] = done.model
        response.headers["X-Model-Generation"] = done.generation
    return response


@routes.post("/ask/stream")
@says(body=AskBody, example=EXAMPLE, answer=str, media=(EVENTS,))
async def stream(request: web.Request) -> web.StreamResponse:
    """The same as server-sent events: status, documents, token, clear_response, complete, error, end."""
    body = decode(_body, await read(request))
    asked = _asked(request, body)
    with request[SERVICE].at_work():
        told = _told(request, asked, body)
        return await sse.send(request, told, _failed, seconds=asked.timeout)


def _asked(request: web.Request, body: AskBody) -> AskRequest:
    """What the body means. Raises what is wrong with it before anything is done."""
    asking.count(request, [body.query])
    shift, threshold = _shift(body), body.score_threshold
    asked = AskRequest(
        query=body.query,
        kb=body.knowledge_base,
        embedding_model=body.embedding_model or None,
        llm=body.llm_model or None,
        fallback=body.fallback_model or None,
        prompt=body.prompt or None,
        use_rag=body.use_rag,
        limit=body.max_documents,
        threshold=None if threshold is None else threshold - shift,
        where=_where(body.filter),
        hybrid=body.hybrid,
        rerank=body.rerank_model or None,
        mmr=body.mmr,
        files=tuple(body.files or ()),
        history=tuple(body.history or ()),
        sampling=Sampling(temperature=body.temperature, max_tokens=body.max_tokens),
        without_grounds=body.on_no_documents,
        key=asking.client(request),
        timeout=timeout(request),
    )
    request.app[ANSWERER].on_behalf_of(request[SERVICE]).check(asked)
    return asked


def _where(given: dict[str, Value | list[Value]] | None) -> Where | None:
    """Metadata that passages must have: a value, or one of some."""
    if not given:
        return None
    return Where(metadata={name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _shift(body: AskBody) -> float:
    return SHIFT if body.score_scale == "cosine+1" else 0.0


def _events(request: web.Request, asked: AskRequest) -> AsyncGenerator[Event]:
    return request.app[ANSWERER].on_behalf_of(asking.asked(request)).ask(asked)


async def _answered(request: web.Request, asked: AskRequest) -> Answered:
    async with aclosing(_events(request, asked)) as events:
        async for event in events:
            _note(request, event)
            if isinstance(event, Done):
                return event.answer
    raise AssertionError("an answer has a last event")


def _note(request: web.Request, event: Event) -> None:
    """For the log, and for whoever pays."""
    match event:
        case Found(model=str(model)):
            request[LINE].update(model=model.removeprefix(PREFIX), generation=event.generation)
        case Done(answer=done):
            if not _is_local(done.llm):  # what those on the volume said was counted as it came
                request[LINE]["tokens"] = request[LINE].get("tokens", 0) + done.spent.total


def _is_local(llm: str) -> bool:
    return llm != EXTRACTIVE and named(llm).provider == LOCAL


async def _told(request: web.Request, asked: AskRequest, body: AskBody) -> AsyncGenerator[bytes]:
    """The events, as an earlier system told them. Its `status` comes with what follows, so that what fails before that
    can be an answer with a status of its own."""
    waiting, text, shown = b"", "", None
    async with aclosing(_events(request, asked)) as events:
        async for event in events:
            _note(request, event)
            match event:
                case Status(message=message):
                    waiting += _line("status", message=f"{message.capitalize()}...")
                    continue
                case Found(grounds=grounds, seconds=seconds):
                    documents = _documents(grounds, _shift(body))
                    shown = orjson.Fragment(orjson.dumps(documents))  # they are told twice
                    line = _line("documents", data=shown, count=len(documents), retrieval_time=round(seconds, 6))
                case Said(content=content):
                    text += content
                    line = _line("token", content=content, **({"partial_answer": text} if body.partial_answer else {}))
                case Cleared(message=message):
                    text = ""
                    line = _line("clear_response", message=message)
                case Done(answer=done):
                    line = _complete(done, _shift(body), shown) + END
            yield waiting + line
            waiting = b""


def _complete(done: Answered, shift: float, shown: Any = None) -> bytes:
    """`shown` are the documents, where they were told before."""
    document = _document(done, shift, shown)
    times = {"total_time": round(done.timings.total, 6), "llm_time": round(done.timings.llm, 6)}
    return _line("complete", final_answer=document.pop("answer"), **times, **document)


def _failed(error: GatewayError) -> bytes:
    wait = {} if error.retry_after is None else {"retry_after": error.retry_after}
    return _line("error", message=error.message, code=error.code, **wait, timestamp=time.time()) + END


def _line(kind: str, **fields: Any) -> bytes:
    return b"data: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"


END: Final = _line("end")


def _document(done: Answered, shift: float, shown: Any = None) -> dict[str, Any]:
    return {
        "answer": done.text,
        "documents": _documents(done.grounds, shift) if shown is None else shown,
        "citations": [_citation(citation) for citation in done.citations],
        "supported": done.supported,
        "refused": done.refused,
        "left_out": done.left_out,
        "finish_reason": done.finish,
        "llm_model": done.llm,
        "embedding_model": done.model,
        "generation": done.generation,
        "usage": {"prompt_tokens": done.spent.prompt, "completion_tokens": done.spent.completion},
        "timings": {name: round(seconds, 6) for name, seconds in msgspec.structs.asdict(done.timings).items()},
    }


def _documents(grounds: tuple[Ground, ...], shift: float) -> list[dict[str, Any]]:
    return [
        {
            "id": ground.id,
            "score": None if ground.cosine is None else round(ground.cosine + shift, 6),
            "snippet": ground.text[:SNIPPET],
            "source": ground.source,
            "page_number": ground.page,
            "chunk_index": ground.index,
            "number": ground.number,
        }
        for ground in grounds
        if not ground.is_file
    ]


def _citation(citation: Citation) -> dict[str, Any]:
    """Where the statement is in the answer, and where in the document what it rests on."""
    ground = citation.ground
    return {
        "number": ground.number,
        "id": ground.id,
        "source": ground.source,
        "page_number": ground.page,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
        "quote_start": ground.start + citation.quote_start,
        "quote_end": ground.start + citation.quote_end,
        "overlap": citation.overlap,
    }
