"""One frozen record of everything an operator can set, and the only reader of the environment.

The command line wins over the environment, which wins over the file (TOML), which wins over the default. Every
error names the flag, the variable or the key that it is about. `docs/settings.md` is held to this table by a test.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from gateway import shares, wish
from gateway.parsing import BUCKET, PARSERS
from gateway.shares import Shares
from gateway.wish import Wish, Wishes

ENV_PREFIX: Final = "DROPGATE_"


class SettingsError(ValueError):
    """A setting that cannot be used; the message names where it came from."""


def _setting(default: Any, help: str, *env: str, parse: str = "text", secret: bool = False) -> Any:
    """A field with its older environment names and the parser of its text form. A secret shows in no repr."""
    return field(default=default, repr=not secret, metadata={"help": help, "env": env, "parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    models_dir: str = _setting(
        "models",
        "the volume to watch: a directory, or s3://BUCKET/PATH for several gateways without a file system in common",
        "MODELS_DIR",
        "SENTENCE_TRANSFORMERS_HOME",
        parse="volume",
    )
    state_dir: str = _setting(
        "state", "where accepted generations are kept; a disk, outside the models directory", parse="path"
    )
    host: str = _setting("127.0.0.1", "address to listen on", "SERVE_HOST")
    insecure: bool = _setting(
        False, "serve other machines, and whatever they are called, without API keys too", parse="switch"
    )
    keys_file: str = _setting(
        "", "where the API keys are; keys.json in the state directory if unset", parse="maybe_path"
    )
    open_metrics: bool = _setting(False, "let anybody read /metrics, also without a key", parse="switch")
    cors_origins: str = _setting(
        "", "web pages that may ask, such as https://app.example, with commas between", parse="origins"
    )
    port: int = _setting(8001, "port to listen on; 0 takes a free one", "SERVE_PORT", parse="port")
    default_model: str = _setting(
        "",
        "the model of requests that name none",
        "SERVE_MODEL",
        "HUGGINGFACE_EMBEDDING_MODEL_DEFAULT",
        "EMBEDDING_MODEL",
        "HUGGINGFACE_FINETUNED_EMBEDDING_MODEL",
    )
    expect_dim: int = _setting(
        0, "warn when the default model's measured dimension is another", "EMBEDDING_DIM", parse="count"
    )
    device: str = _setting(
        "auto",
        "auto, cpu, cuda, or a list such as cuda:0,cuda:1: one host process for each",
        "SERVE_DEVICE",
        "EMBEDDING_DEVICE",
    )
    engine: str = _setting(
        "process",
        "where models run: process, on this machine, or ray, on the nodes of a Ray cluster (an extra)",
    )
    ray_address: str = _setting(
        "auto", "the cluster that this machine is a node of, as ADDRESS:PORT; auto finds the one that runs here"
    )
    ray_app: str = _setting(
        "dropgate", "what the replicas are called in Ray Serve; gateways with one name share their replicas"
    )
    ray_resource: str = _setting("GPU", "what a replica takes one of on its node: GPU, or a custom resource of Ray's")
    ray_replicas: int = _setting(
        0, "replicas in the cluster; 0 is one for each device that it has, also of nodes that come later", parse="count"
    )
    ray_ongoing: int = _setting(
        256, "requests that one replica works on at once; enough of them fill its batches", parse="positive"
    )
    ray_queue: int = _setting(
        1024,
        "requests that may wait in this gateway for a place at a replica before more are refused",
        parse="positive",
    )
    ray_models_dir: str = _setting(
        "", "where the nodes have the volume, {node} being their address; as in this gateway if unset"
    )
    ray_state_dir: str = _setting(
        "",
        "where each node keeps its copies of generations, {node} being its address; a directory in its own for "
        "temporary files if unset",
    )
    runtime: str = _setting(
        "auto", "what computes: torch, or openvino (an extra, on the CPU alone); auto is torch, and openvino for int8"
    )
    dtype: str = _setting(
        "auto",
        "the numbers it computes with: float32, bfloat16, float16 or int8; auto is float32, and on a GPU that of the "
        "stored weights",
    )
    model_runtimes: str = _setting(
        "",
        "the same for some models, such as intfloat/*=openvino/bfloat16,finetuned/x=torch; the first that matches "
        "wins, also over what a model's own metadata says",
        parse="rules",
    )
    model_shares: str = _setting(
        "",
        "weights of models that want a device at once, such as finetuned/hot=4,org/*=0.5; the first that matches "
        "counts, and others have 1",
        parse="shares",
    )
    memory_budget: int = _setting(
        0, "bytes of models on each device (2GiB, 500MB); 0 takes what the device has", parse="bytes"
    )
    host_memory_budget: int | None = _setting(
        None,
        "bytes of main memory for models that were evicted from a device, for each device; auto takes a share where "
        "devices have memory of their own, and none where main memory is the device's",
        parse="bytes_or_auto",
    )
    preload: str = _setting(
        "", "model ids, with commas between, to be loaded at the start; last means those that were loaded at the end"
    )
    max_loaded_models: int = _setting(
        0, "a limit on the number of loaded models, beside the bytes; 0 is none", "MODEL_CACHE_SIZE", parse="count"
    )
    max_replicas: int = _setting(
        0, "devices that may hold one model at once, when one cannot keep up; 0 is all, 1 is never two", parse="count"
    )
    adapter_memory: int = _setting(
        0,
        "bytes of adapters on each device, beside those of models; 0 takes a thirty-second part of these, at least "
        "64 MiB",
        parse="bytes",
    )
    max_loaded_adapters: int = _setting(
        0, "a limit on the number of loaded adapters, beside their bytes; 0 is none", parse="count"
    )
    normalize: bool | None = _setting(
        None, "auto leaves vectors as the model makes them; true makes unit vectors", "SERVE_NORMALIZE", parse="maybe"
    )
    max_batch_tokens: int = _setting(
        0, "tokens of one device call, padding counted; 0 chooses by device", parse="count"
    )
    max_batch_texts: int = _setting(0, "texts of one device call; 0 is no limit", "SERVE_BATCH_SIZE", parse="count")
    max_queue_tokens: int = _setting(
        0, "tokens that may wait on a device before requests are refused; 0 chooses by device", parse="count"
    )
    tokenizer_threads: int = _setting(0, "requests tokenized at once; 0 chooses", "SERVE_CONCURRENCY", parse="count")
    compute_threads: int = _setting(0, "threads of a CPU host's arithmetic; 0 takes the cores there are", parse="count")
    max_inputs: int = _setting(2048, "texts in one request", parse="positive")
    max_body_bytes: int = _setting(16 * 1024**2, "bytes of one request's body", parse="bytes")
    max_request_tokens: int = _setting(
        0, "tokens in one request, all its texts and prompts together; 0 is no limit", parse="count"
    )
    max_connections: int = _setting(
        0, "connections at once; 0 takes what the limit of open files leaves, 10,000 at most", parse="count"
    )
    header_timeout: float = _setting(
        30.0, "seconds in which a request's headers must have come; 0 is no limit", parse="seconds"
    )
    body_timeout: float = _setting(60.0, "the same for its body; 0 is no limit", parse="seconds")
    idle_timeout: float = _setting(
        620.0, "seconds that an idle connection is kept: longer than load balancers do", parse="seconds"
    )
    request_timeout: float = _setting(60.0, "seconds after which a request is given up", parse="seconds")
    completion_timeout: float = _setting(
        600.0, "seconds after which the answer of a language model on the volume is given up", parse="seconds"
    )
    kv_cache_tokens: int = _setting(
        32_768,
        "tokens of all conversations with a language model that may be kept on the device together; they count as part "
        "of the model",
        parse="positive",
    )
    hang_timeout: float = _setting(
        120.0,
        "seconds that one device call, or one request's tokenizing, may take before its host is restarted",
        parse="seconds",
    )
    load_timeout: float = _setting(600.0, "seconds that a load may take before its host is restarted", parse="seconds")
    drain_delay: float = _setting(
        0.0,
        "seconds after the signal to stop in which new requests are still taken, while /readyz sends them elsewhere",
        parse="seconds",
    )
    drain_timeout: float = _setting(
        25.0, "seconds that requests in flight have when the gateway stops", parse="seconds"
    )
    scan_interval: float = _setting(
        0.0, "seconds between looks at the volume; 0 takes 5, or 2 where a file system is polled", parse="seconds"
    )
    watch: str = _setting(
        "auto",
        "how changes of a directory are noticed: events, with a timer behind them; polling, where other machines write "
        "and no events come; auto asks the file system",
    )
    settle_seconds: float = _setting(1.0, "how long a new directory must have stopped changing", parse="seconds")
    settle_in_place_seconds: float = _setting(
        10.0, "the same for a served directory that is overwritten by a writer we cannot see", parse="seconds"
    )
    settle_writer_seconds: float = _setting(0.3, "the same once the writer was seen to leave", parse="seconds")
    keep_generations: int = _setting(2, "earlier generations kept of each model", parse="count")
    generations_budget: int = _setting(
        0, "bytes that earlier generations of all models may take on the disk, the oldest go first; 0 is no limit",
        parse="bytes",
    )  # fmt: skip
    disk_budget: int = _setting(
        0, "bytes of weights of a bucket's models that stay on this node's disk; those that were not asked for longest "
        "are let go, and fetched again when they are; 0 keeps all",
        parse="bytes",
    )  # fmt: skip
    swap_policy: str = _setting(
        "availability",
        "where new and old do not fit together: availability evicts others, resource unloads the old one first",
    )
    copy_budget: int = _setting(
        0, "bytes of the largest model that is copied; larger ones are served in place; 0 copies all", parse="bytes"
    )
    serve_in_place: bool = _setting(
        False, "serve a model in place when the state directory has no room for its copy", parse="switch"
    )
    allow_pickle: bool = _setting(False, "serve pytorch_model.bin too, unpickled with weights_only", parse="switch")
    hub_endpoint: str = _setting("https://huggingface.co", "the hub to pull from", "HF_ENDPOINT", parse="url")
    hub_token: str = _setting(
        "",
        "what the hub knows us by; best given as a variable, for others can see command lines",
        "HF_TOKEN",
        secret=True,
    )
    hub_offline: bool = _setting(False, "never speak to a hub", "HF_HUB_OFFLINE", parse="switch")
    hub_allow: str = _setting(
        "", "hub ids, or patterns such as intfloat/*, with commas between: the first request for one pulls it"
    )
    reindex_gate: bool = _setting(
        True,
        "keep a knowledge base's old index when the new generation's finds much less of what the documents say",
        parse="switch",
    )
    knowledge_dir: str = _setting(
        "",
        "where knowledge bases are kept: a directory, or s3://BUCKET/PATH for several gateways; knowledge in the state "
        "directory if unset",
        parse="place",
    )
    knowledge_memory: int = _setting(
        256 * 1024**2,
        "bytes of memory for the knowledge bases that are searched; 0 searches all of them on the disk",
        parse="bytes",
    )
    documents_dir: str = _setting(
        "",
        "a directory to watch: what is dropped into a folder of it goes into the knowledge base of that name; none if "
        "unset",
        parse="maybe_path",
    )
    documents_tenant: str = _setting("", "the tenant whose knowledge bases those are, where there are API keys")
    runs_dir: str = _setting(
        "",
        "where training runs are, for people to see how they do; a directory runs beside the models root if unset",
        parse="maybe_path",
    )
    max_document_bytes: int = _setting(
        64 * 1024**2, "bytes of one document that is put into a knowledge base, sent as a file", parse="bytes"
    )
    llm_default: str = _setting(
        "extractive",
        "who answers `/ask` where the request names nobody: extractive, which quotes and needs no language model, or "
        "PROVIDER:MODEL",
    )
    answer_threshold: float = _setting(
        0.3, "cosine that a sentence must reach to be quoted as an answer; below it the answer is that nobody knows",
        parse="cosine",
    )  # fmt: skip
    providers: str = _setting(
        "", "a TOML file of OpenAI-compatible servers of language models; docs/ask.md describes it", parse="maybe_path"
    )
    openai_api_key: str = _setting("", "with it there is the provider openai", "OPENAI_API_KEY", secret=True)
    openai_base_url: str = _setting(
        "", "where that is; https://api.openai.com/v1 if unset", "OPENAI_BASE_URL", parse="maybe_url"
    )
    stanford_api_key: str = _setting("", "the key of the provider stanford", "STANFORD_API_KEY", secret=True)
    stanford_base_url: str = _setting(
        "", "with it there is the provider stanford", "STANFORD_BASE_URL", parse="maybe_url"
    )
    ollama_base_url: str = _setting("", "with it there is the provider ollama", "OLLAMA_BASE_URL", parse="maybe_url")
    audit_log: str = _setting("", "file for a line about each use and change; none if unset", parse="maybe_path")
    audit_log_bytes: int = _setting(100 * 1000**2, "bytes of it until the next file is begun", parse="bytes")
    audit_log_files: int = _setting(10, "how many of them are kept", parse="positive")
    audit_texts: bool = _setting(False, "what was asked for stands in it too", parse="switch")
    otlp_endpoint: str = _setting(
        "",
        "the collector that requests are traced to, such as http://localhost:4318; nothing is traced if unset",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        parse="maybe_url",
    )
    log_format: str = _setting("auto", "json, console, or auto: console on a terminal")
    log_level: str = _setting("info", "debug, info, warning or error")

    @property
    def shares(self) -> Shares:
        """`model_shares`, read."""
        return shares.parse(self.model_shares)

    @property
    def wishes(self) -> Wishes:
        """`runtime`, `dtype` and `model_runtimes` as one."""
        return Wishes(Wish(self.runtime, self.dtype), wish.parse_rules(self.model_runtimes))


CHOICES: Final = {
    "engine": {"process", "ray"},
    "runtime": set(wish.RUNTIMES),
    "dtype": set(wish.DTYPES),
    "log_format": {"auto", "json", "console"},
    "log_level": {"debug", "info", "warning", "error"},
    "swap_policy": {"availability", "resource"},
    "watch": {"auto", "events", "polling"},
}


def variable(name: str) -> str:
    """An environment variable that a file of ours names, as it is now; empty where there is none."""
    return os.environ.get(name, "")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def environment_names(name: str) -> tuple[str, ...]:
    """The variables that set `name`, the one that wins first."""
    spec = next(f for f in fields(Settings) if f.name == name)
    return (ENV_PREFIX + name.upper(), *spec.metadata["env"])


def load(
    command_line: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: str | None = None,
) -> Settings:
    """The settings of this run. `command_line` is by field name; None as `environment` reads the process's own.

    Raises SettingsError, naming the flag, the variable or the key of the file.
    """
    environment = os.environ if environment is None else environment
    file = file or environment.get(ENV_PREFIX + "CONFIG")
    texts = _from_file(file) if file else {}
    texts |= _from_environment(environment)
    texts |= {name: (flag(name), text) for name, text in (command_line or {}).items()}
    values = {spec.name: _parse(spec.name, *texts[spec.name]) for spec in fields(Settings) if spec.name in texts}
    for spec in fields(Settings):
        if spec.metadata["parse"] in {"path", "volume"}:
            values.setdefault(spec.name, PARSERS["path"](str(spec.default)))
    settings = Settings(**values)
    _check(settings)
    return settings


def _from_file(path: str) -> dict[str, tuple[str, str]]:
    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
    except (OSError, ValueError) as error:  # the second: not TOML, or not even UTF-8
        raise SettingsError(f"{path}: {error}") from error
    known = {spec.name for spec in fields(Settings)}
    if unknown := sorted(set(document) - known):
        raise SettingsError(f"{path}: no such setting: {', '.join(unknown)}")
    return {name: (f"{path}: {name}", str(value)) for name, value in document.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {}
    for spec in fields(Settings):
        for variable in environment_names(spec.name):
            if environment.get(variable, "").strip():  # a variable that is set to nothing is not set
                found[spec.name] = (variable, environment[variable])
                break
    return found


def _parse(name: str, where: str, text: str) -> Any:
    spec = next(f for f in fields(Settings) if f.name == name)
    try:
        value = PARSERS[spec.metadata["parse"]](text)
    except ValueError as error:
        raise SettingsError(f"{where}={text!r}: {error}") from error
    if name in CHOICES and value not in CHOICES[name]:
        raise SettingsError(f"{where}={text!r}: expected one of {', '.join(sorted(CHOICES[name]))}")
    return value


def _check(settings: Settings) -> None:
    if settings.models_dir.startswith(BUCKET):
        _check_bucket(settings)
        return
    models, state = os.path.realpath(settings.models_dir), os.path.realpath(settings.state_dir)
    if os.path.commonpath([state, models]) == models:
        raise SettingsError(f"--state-dir {state} lies inside --models-dir {models}: generations would be watched")


def _check_bucket(settings: Settings) -> None:
    """What needs a file system cannot be had without one."""
    for name in ("copy_budget", "serve_in_place", "hub_allow"):
        if getattr(settings, name):
            raise SettingsError(f"{flag(name)} needs a directory: --models-dir is the bucket {settings.models_dir}")
    if settings.engine == "ray" and settings.disk_budget:
        raise SettingsError(
            "--disk-budget is of this machine's disk: with --engine ray models lie on those of the nodes"
        )
    if settings.engine == "ray" and not settings.ray_models_dir:
        bucket = settings.models_dir
        raise SettingsError(f"--engine ray needs --ray-models-dir: a folder by which nodes read the bucket {bucket}")
    if settings.watch == "events":
        raise SettingsError(f"--watch events: the bucket {settings.models_dir} says nothing by itself; it is polled")
