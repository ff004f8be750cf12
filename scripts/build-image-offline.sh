#!/usr/bin/env bash
# Builds the images of the Dockerfile without a Docker engine or a registry of images, and proves the gateway's.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/build-image-offline.sh VERB

  base                     a stand-in for the Python image, from Debian packages
  gateway                  localhost/dropgate:dev
  trainer                  localhost/dropgate-trainer:dev
  baked DIR NAMESPACE/NAME localhost/dropgate-baked:dev, with the model of DIR in it
  check DIR                runs the gateway's image with every restriction on, drops the model of DIR with tar through
                           exec, embeds with it, and stops it: exit 0 if all of that went well
  check-baked NAMESPACE/NAME
                           the same for the image with a model in it, which needs no volume of models
  check-trainer DIR        fine-tunes the model of DIR for a moment in the trainer's image, with every restriction on, and
                           serves what that has published onto the volume with the gateway's
  bucket                   localhost/dropgate-bucket:dev, moto's S3-compatible server: it stands in for SeaweedFS in `compose`
  compose DIR              what `check` does, for docker-compose.local.yml, with podman-compose; with its profile `bucket`, if there is
                           an image of `bucket`: a knowledge base is put into it and searched

As root, with what Debian has: apt install buildah podman crun mmdebstrap. A build takes minutes, and a few GB of disk.

variables
  PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_CERT   pip's own, for a mirror of packages behind a certificate of its own
  PIP_FIND_LINKS     a folder of wheels on this machine (torch's, say), read before anything is fetched
  SOURCES            sources of the Debian packages of `base`; this machine's own if it is Debian
  BUILD_ARGS         further options of buildah, such as '--build-arg EXTRAS=ask'
  PORT, BUCKET_PORT  of the checks and of `compose`, 18001 and 18333 if unset
TEXT
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
PORT=${PORT:-18001}
BUCKET_PORT=${BUCKET_PORT:-18333}
NAME=dropgate-check-$$
# what a machine without systemd, and without the right to raise limits, needs of podman
WORK=''
RESTRICTED=(--read-only --read-only-tmpfs=false --tmpfs /tmp:size=1g --cap-drop ALL --security-opt no-new-privileges --user 10001:10001)
RUN_HERE=(--network host --cgroups=disabled --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --no-healthcheck)

fail() { echo "build-image-offline: $*" >&2; exit 1; }

need() {
  local program
  for program; do
    command -v "$program" >/dev/null || fail "$program is not installed (apt install buildah podman crun mmdebstrap)"
  done
}

model_in() {
  [[ -n ${1:-} ]] || fail "which model? Name its directory"
  [[ -f $1/config.json ]] || fail "$1: no config.json there, so it is not a model's directory"
}

model_id() {
  [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$ ]] || fail "which id? Such as finetuned/mine"
}

# --- building ---------------------------------------------------------------------------------------------------------

make_base() (  # a process of its own, whose end removes the packages
  need mmdebstrap buildah
  local work container own=/etc/apt/sources.list.d/debian.sources
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  local sources=${SOURCES:-$([[ -f $own ]] && echo "$own")}
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates,tar \
    bookworm "$work/root.tar" ${sources:+"$sources"}
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/root.tar" / >/dev/null
  buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
  buildah commit --quiet --rm "$container" "$PYTHON_IMAGE" >/dev/null
  echo "$PYTHON_IMAGE stands in for the published one"
)

build() { build_in "$ROOT" "$@"; }  # build TARGET TAG [OPTION...]

build_in() {  # build_in FOLDER TARGET TAG [OPTION...]
  need buildah
  local folder=$1 target=$2 tag=$3 name
  shift 3
  buildah inspect --type image "$PYTHON_IMAGE" >/dev/null 2>&1 || fail "no $PYTHON_IMAGE here: $0 base"
  local options=(--pull-never --isolation chroot --network host --format docker --layers)
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
    [[ -n ${!name:-} ]] && options+=(--build-arg "$name=${!name}")
  done
  if [[ -n ${PIP_CERT:-} ]]; then
    options+=(--volume "$PIP_CERT:/certificate.pem:ro" --build-arg PIP_CERT=/certificate.pem)
  fi
  if [[ -n ${PIP_FIND_LINKS:-} ]]; then
    options+=(--volume "$PIP_FIND_LINKS:/wheels:ro" --build-arg PIP_FIND_LINKS=/wheels)
  fi
  options+=(--build-arg "REVISION=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)")
  # shellcheck disable=SC2086  # BUILD_ARGS is several words on purpose
  buildah bud "${options[@]}" ${BUILD_ARGS:-} "$@" --target "$target" --tag "$tag" "$folder"
}

build_bucket() (
  need buildah
  local folder
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  cp "$ROOT/requirements.lock" "$folder/"
  cat >"$folder/Dockerfile" <<TEXT
FROM $PYTHON_IMAGE AS bucket
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
COPY requirements.lock /
RUN python3 -m venv /opt/moto && /opt/moto/bin/pip install --quiet --no-cache-dir -c /requirements.lock 'moto[s3]' flask flask-cors
USER 10001:10001
ENV HOME=/tmp
ENTRYPOINT ["/opt/moto/bin/moto_server"]
TEXT
  build_in "$folder" bucket localhost/dropgate-bucket:dev
)

bake() {
  model_in "${1:-}"
  model_id "${2:-}"
  build baked localhost/dropgate-baked:dev --build-context "model=$(cd "$1" && pwd)" --build-arg "MODEL=$2"
}

# --- running ----------------------------------------------------------------------------------------------------------

# crun wants a pure cgroup2: where the machine has a mixed one, this script goes on in a mount namespace that has none
own_cgroups() {
  [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]] && return
  [[ -z ${DROPGATE_OWN_CGROUPS:-} ]] || fail "no pure cgroup2 can be mounted here"
  # shellcheck disable=SC2016  # expanded by the inner shell
  DROPGATE_OWN_CGROUPS=1 exec unshare --mount bash -c \
    'umount --lazy --recursive /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' - "$0" "$@"
}

until_true() {  # until_true SECONDS WHAT COMMAND...
  local seconds=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "$what: not within $seconds seconds"
    sleep 0.5
  done
  echo "$what"
}

status_is() { [[ $(curl --silent --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$PORT$2") == "$1" ]]; }

listed() { curl --silent --fail "http://127.0.0.1:$PORT/models" | grep -q "$1\""; }

embeds() {
  curl --silent --fail --json '{"model": "'"$1"'", "input": "does it serve?"}' \
    "http://127.0.0.1:$PORT/v1/embeddings" | grep -q '"embedding":'
}

drop() {  # drop CONTAINER DIR: what `kubectl cp` does
  tar -C "$(dirname "$2")" -cf - "$(basename "$2")" | podman exec -i "$1" tar -xmf - -C /app/models/finetuned
}

clean_up() {
  podman rm --force --volumes "$NAME" "$NAME-trainer" >/dev/null 2>&1 || true
  podman volume rm --force "$NAME-models" "$NAME-state" >/dev/null 2>&1 || true
  [[ -z $WORK ]] || rm -rf "$WORK"
}

start_restricted() {  # start_restricted IMAGE [OPTION...]: read-only, without rights, its state in a volume of its own
  local image=$1
  shift
  trap clean_up EXIT
  podman run --detach --name "$NAME" "${RUN_HERE[@]}" "${RESTRICTED[@]}" --volume "$NAME-state:/app/state" \
    --env DROPGATE_INSECURE=true --env DROPGATE_HOST=127.0.0.1 --env "DROPGATE_PORT=$PORT" "$@" "$image" >/dev/null
  until_true 120 "ready" status_is 200 /readyz
  [[ $(podman exec "$NAME" id -u) == 10001 ]] || fail "it does not run as 10001"
  podman exec "$NAME" touch /anywhere 2>/dev/null && fail "its root can be written"
  podman exec "$NAME" python /opt/dropgate/health.py
}

stop_well() {
  local code
  podman stop --time 40 "$NAME" >/dev/null
  code=$(podman inspect --format '{{.State.ExitCode}}' "$NAME")
  [[ $code == 0 ]] || { podman logs "$NAME" 2>&1 | tail -n 20; fail "it stopped with status $code"; }
  echo "stopped with status 0"
}

check() {
  need podman crun curl
  model_in "${1:-}"
  own_cgroups check "$@"
  local directory model
  directory=$(cd "$1" && pwd) && model=$(basename "$directory")
  start_restricted localhost/dropgate:dev --volume "$NAME-models:/app/models"
  drop "$NAME" "$directory"
  until_true 120 "$model is listed" listed "finetuned/$model"
  until_true 120 "$model embeds" embeds "finetuned/$model"
  stop_well
}

check_baked() {
  need podman crun curl
  model_id "${1:-}"
  own_cgroups check-baked "$@"
  start_restricted localhost/dropgate-baked:dev
  podman exec "$NAME" touch "/app/models/$1/config.json" 2>/dev/null && fail "its model can be written"
  until_true 120 "$1 is listed" listed "$1"
  until_true 120 "$1 embeds" embeds "$1"
  stop_well
}

check_trainer() {
  need podman crun curl python3
  model_in "${1:-}"
  own_cgroups check-trainer "$@"
  local directory model
  directory=$(cd "$1" && pwd) && model=$(basename "$directory")
  WORK=$(mktemp -d)
  trap clean_up EXIT
  mkdir -p "$WORK"/data "$WORK"/runs "$WORK"/models/base "$WORK"/models/finetuned
  cp -r "$directory" "$WORK/models/base/"
  python3 "$ROOT/scripts/docstring_pairs.py" --train 64 --held-out 24 "$WORK/data"
  chmod -R a+rX "$WORK"
  chown -R 10001:10001 "$WORK/runs" "$WORK/models"
  podman run --name "$NAME-trainer" "${RUN_HERE[@]}" "${RESTRICTED[@]}" --env HF_HUB_OFFLINE=1 --env HF_HOME=/app/runs/.hub \
    --volume "$WORK/models:/app/models" --volume "$WORK/data:/app/data:ro" --volume "$WORK/runs:/app/runs" \
    localhost/dropgate-trainer:dev finetune --data data/train.jsonl --validation data/held_out.jsonl \
    --base-model "models/base/$model" --lora --epochs 1 --batch-size 8 --max-seq-length 32 --output runs/first \
    --publish finetuned/checked --models-dir models
  start_restricted localhost/dropgate:dev --volume "$WORK/models:/app/models"
  until_true 120 "what was published is listed" listed finetuned/checked
  until_true 120 "it embeds" embeds finetuned/checked
  stop_well
}

# What compose.yml asks of an engine with systemd and bridges, taken out; the rest stays as it is.
without_engine() {  # without_engine MODELS_DIR
  cat <<TEXT
services:
  gateway:
    network_mode: host
    ports: !reset []
    deploy: !reset {}
    pids_limit: !reset null
    healthcheck: !override {disable: true}
    ulimits: {nofile: 1024, nproc: 4096}
    volumes: ["$1:/app/models"]
    environment:
      DROPGATE_HOST: 127.0.0.1
      DROPGATE_PORT: "$PORT"
TEXT
}

with_bucket() {  # what is added to it for the profile `bucket`
  cat <<TEXT
      DROPGATE_KNOWLEDGE_DIR: s3://dropgate/knowledge
      AWS_ENDPOINT_URL: http://127.0.0.1:$BUCKET_PORT
  bucket:
    image: localhost/dropgate-bucket:dev
    command: !override [-H, 127.0.0.1, -p, "$BUCKET_PORT"]
    network_mode: host
    ports: !reset []
    deploy: !reset {}
    ulimits: {nofile: 1024, nproc: 4096}
TEXT
}

finds_knowledge() {
  curl --silent --fail --json '{"query": "When was the beam lost?"}' "http://127.0.0.1:$PORT/kb/ring/search" \
    | grep -q "lost twice in March"
}

keeps_knowledge() {  # in the bucket, and finds it there
  local url=http://127.0.0.1:$PORT
  curl --silent --fail --request PUT "http://127.0.0.1:$BUCKET_PORT/dropgate" >/dev/null
  curl --silent --fail --json '{"embedding_model": "'"$1"'", "documents": [{"name": "ring.md", "content": "The beam was lost twice in March."}]}' \
    "$url/kb/ring/documents" >/dev/null
  finds_knowledge || fail "the knowledge base does not find what was put into it"
  curl --silent --fail "http://127.0.0.1:$BUCKET_PORT/dropgate?list-type=2" | grep -q "<Key>knowledge/" \
    || fail "nothing of the knowledge base lies in the bucket"
  echo "a knowledge base is kept in the bucket, and searched"
}

compose() {
  need podman crun curl podman-compose
  model_in "${1:-}"
  own_cgroups compose "$@"
  local directory model work profiles=()
  directory=$(cd "$1" && pwd) && model=$(basename "$directory")
  work=$(mktemp -d)
  mkdir -p "$work/models/finetuned"
  chmod 755 "$work" "$work/models" "$work/models/finetuned"
  without_engine "$work/models" >"$work/compose.yml"
  if podman image exists localhost/dropgate-bucket:dev; then
    profiles=(--with bucket)
    with_bucket >>"$work/compose.yml"
  fi
  printf '[containers]\ncgroups = "disabled"\n' >"$work/containers.conf"
  export CONTAINERS_CONF=$work/containers.conf COMPOSE_OVERRIDE=$work/compose.yml COMPOSE_PROJECT_NAME=$NAME
  export ENGINE=podman DROPGATE_PORT=$PORT
  # shellcheck disable=SC2064  # what $work is now
  trap "'$ROOT/scripts/local-dev.sh' down >/dev/null 2>&1 || true; podman volume rm --force '${NAME}_state' '${NAME}_bucket' >/dev/null 2>&1 || true; rm -rf '$work'" EXIT
  "$ROOT/scripts/local-dev.sh" up "${profiles[@]}"
  cp -r "$directory" "$work/models/finetuned/"
  chmod -R a+rX "$work/models"
  until_true 120 "$model embeds" embeds "finetuned/$model"
  [[ ${#profiles[@]} == 0 ]] || keeps_knowledge "finetuned/$model"
  "$ROOT/scripts/local-dev.sh" health
  "$ROOT/scripts/local-dev.sh" restart
  until_true 120 "$model embeds after a restart" embeds "finetuned/$model"
  [[ ${#profiles[@]} == 0 ]] || until_true 120 "its knowledge base is found after a restart" finds_knowledge
}

main() {
  local verb=${1:-}
  case $verb in
    -h | --help | '') usage; [[ -n $verb ]] || exit 2; return ;;
  esac
  shift
  case $verb in
    base) make_base ;;
    gateway) build gateway localhost/dropgate:dev ;;
    trainer) build trainer localhost/dropgate-trainer:dev ;;
    baked) bake "$@" ;;
    check) check "$@" ;;
    check-baked) check_baked "$@" ;;
    check-trainer) check_trainer "$@" ;;
    bucket) build_bucket ;;
    compose) compose "$@" ;;
    *) usage >&2; exit 2 ;;
  esac
}

main "$@"
