"""The other side of `bench.http`: `SentenceTransformer.encode`, asked over standard input, a line of JSON each time."""

from __future__ import annotations

import json
import sys
import time

from sentence_transformers import SentenceTransformer


def main() -> None:
    model = SentenceTransformer(sys.argv[1], device="cpu")
    for line in sys.stdin:
        question = json.loads(line)
        if "ready" in question:
            model.encode(["warm"])
            print("{}", flush=True)
            continue
        texts = [f"{question['text']} {number}" for number in range(question["texts"])]
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < question["seconds"]:
            model.encode(texts)
            done += len(texts)
        print(json.dumps({"texts_per_second": done / (time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main()
