"""openai-python. It asks for base64 unless told otherwise, and decodes it itself."""

from __future__ import annotations

from typing import Any

import openai
from telling import Target, tell


def client(target: Target) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{target.url}/v1", api_key=target.key, max_retries=0)


def embeddings(target: Target, texts: list[str]) -> list[list[float]]:
    """One text goes as a string, many as a list."""
    given = texts[0] if len(texts) == 1 else texts
    answer = client(target).embeddings.create(model=target.model, input=given)
    return [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]


def floats(target: Target, texts: list[str]) -> list[list[float]]:
    answer = client(target).embeddings.create(model=target.model, input=texts, encoding_format="float")
    return [each.embedding for each in answer.data]


def shortened(target: Target, texts: list[str]) -> list[list[float]]:
    answer = client(target).embeddings.create(model=target.model, input=texts, dimensions=64)
    return [each.embedding for each in answer.data]


def ids(target: Target, rows: list[list[int]]) -> list[list[float]]:
    """Token ids in place of texts."""
    answer = client(target).embeddings.create(model=target.model, input=rows)
    return [each.embedding for each in answer.data]


def usage(target: Target, texts: list[str]) -> dict[str, Any]:
    answer = client(target).embeddings.create(model=target.model, input=texts)
    return {"model": answer.model, "object": answer.object, **answer.usage.model_dump()}


def models(target: Target, _: None) -> list[str]:
    return [model.id for model in client(target).models.list()]


def model(target: Target, _: None) -> str:
    """Its slash arrives percent-encoded."""
    return client(target).models.retrieve(target.model).id


def code(target: Target, texts: list[str]) -> dict[str, Any]:
    """What the library reads of an error's body."""
    try:
        client(target).embeddings.create(model=target.model, input=texts)
    except openai.APIStatusError as error:
        return {"code": error.code, "type": error.type, "param": error.param}
    return {}


def chat(target: Target, text: str) -> dict[str, Any]:
    answer = client(target).chat.completions.create(
        model=target.model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=8
    )
    first = answer.choices[0]
    usage = answer.usage.total_tokens if answer.usage else None
    return {"model": answer.model, "content": first.message.content, "finish": first.finish_reason, "tokens": usage}


def chat_stream(target: Target, text: str) -> dict[str, Any]:
    stream = client(target).chat.completions.create(
        model=target.model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=8, stream=True
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1]
    return {"models": sorted({chunk.model for chunk in chunks}), "pieces": pieces, "finish": finish}


def completion(target: Target, text: str) -> dict[str, Any]:
    answer = client(target).completions.create(model=target.model, prompt=text, max_tokens=8)
    usage = answer.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) if answer.usage else {}
    return {"text": answer.choices[0].text, "finish": answer.choices[0].finish_reason, **usage}


def completion_stream(target: Target, text: str) -> dict[str, Any]:
    stream = client(target).completions.create(
        model=target.model, prompt=text, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    last = chunks[-1].usage
    return {"text": "".join(each.text for each in said), "finish": said[-1].finish_reason, "usage": last is not None}


def likely(target: Target, text: str) -> dict[str, Any]:
    """How likely the tokens of a conversation's answer were, whole and streamed; as the client's types have it."""
    asked = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "logprobs": True, "top_logprobs": 2}
    chat = client(target).chat.completions
    whole = chat.create(model=target.model, **asked).choices[0].logprobs.content
    chunks = [chunk.choices[0] for chunk in chat.create(model=target.model, **asked, stream=True) if chunk.choices]
    streamed = [each for choice in chunks if choice.logprobs for each in choice.logprobs.content]
    dumped = [each.model_dump() for each in whole]
    return {"tokens": dumped, "same": dumped == [each.model_dump() for each in streamed]}


def likely_text(target: Target, text: str) -> dict[str, Any]:
    """The same of a text that is continued."""
    answer = client(target).completions.create(model=target.model, prompt=text, max_tokens=8, logprobs=2)
    return answer.choices[0].logprobs.model_dump()


def raw(target: Target, text: str) -> dict[str, Any]:
    """What a user of the headers sees."""
    answer = client(target).chat.completions.with_raw_response.create(
        model=target.model, messages=[{"role": "user", "content": text}], max_tokens=8
    )
    found = answer.parse()
    said = found.choices[0].message.content
    return {"status": answer.status_code, "speaker": answer.headers.get("x-model"), "content": said}


def refused(target: Target, text: str) -> str:
    """A parameter that is not served."""
    client(target).chat.completions.create(model=target.model, messages=[{"role": "user", "content": text}], n=2)
    return ""


tell(
    embeddings,
    floats,
    shortened,
    ids,
    usage,
    models,
    model,
    code,
    chat,
    chat_stream,
    completion,
    completion_stream,
    likely,
    likely_text,
    raw,
    refused,
)
