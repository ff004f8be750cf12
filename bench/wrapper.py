"""A server as people write it in ten minutes: FastAPI around `SentenceTransformer.encode`. It runs in an environment of
its own, below uvicorn, and imports nothing of ours:  MODEL=DIRECTORY uvicorn wrapper:app"""

import os

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(os.environ["MODEL"], device="cpu")


class Request(BaseModel):
    inputs: list[str]


@app.post("/embed")  # type: ignore[untyped-decorator]  # its types are in the wrapper's own environment alone
def embed(request: Request) -> dict[str, list[list[float]]]:
    return {"embeddings": model.encode(request.inputs).tolist()}
