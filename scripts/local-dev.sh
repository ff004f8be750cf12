#!/usr/bin/env bash
# The containers of docker-compose.local.yml, on this machine, with docker or podman.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/local-dev.sh VERB [OPTION...]

  build [--no-cache]      the gateway's image; the verb if none is given
  build-all [--no-cache]  the trainer's too
  up [--with PROFILE,...] start what is not running, and wait until the gateway is ready; profiles: observe, llm, bucket
  down                    stop and remove the containers; models and state stay
  restart [--with ...]    the same containers anew: for another image or setting. A new model needs none
  logs [SERVICE...]       follow what they log
  clean                   down, and remove state, volumes and images; models/ stays
  health                  what each endpoint answers; status 1 unless all is well
  -h, --help              this

variables
  ENGINE             docker or podman; else the first of them that runs here
  DROPGATE_PORT      the gateway's port on this machine, 8001 if unset
  WAIT               seconds that up and restart wait for it, 180 if unset
  others             docker-compose.local.yml has them: DROPGATE_FLAVOR=cuda, DROPGATE_DEFAULT_MODEL, DROPGATE_MEMORY
  COMPOSE_OVERRIDE   one more compose file, laid over that one
TEXT
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
URL=http://127.0.0.1:${DROPGATE_PORT:-8001}
WAIT=${WAIT:-180}
NO_CACHE=()
PROFILES=()

fail() { echo "local-dev: $*" >&2; exit 1; }

misuse() { echo "local-dev: $*" >&2; usage >&2; exit 2; }

# --- docker or podman -------------------------------------------------------------------------------------------------

engine() {
  local candidate
  for candidate in ${ENGINE:-docker podman}; do
    [[ $candidate == docker || $candidate == podman ]] || misuse "ENGINE=$candidate: expected docker or podman"
    command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1 && { echo "$candidate"; return; }
  done
  [[ -z ${ENGINE:-} ]] || fail "$ENGINE does not run here: start it, or leave ENGINE unset"
  fail "neither docker nor podman runs here: start one of them, or install it"
}

choose_engine() {
  CHOSEN=$(engine)
  case $CHOSEN in
    docker) COMPOSE=(docker compose) ;;
    podman) if command -v podman-compose >/dev/null; then COMPOSE=(podman-compose); else COMPOSE=(podman compose); fi ;;
  esac
  "${COMPOSE[@]}" version >/dev/null 2>&1 || fail "'${COMPOSE[*]}' does not work here: install docker-compose-plugin or podman-compose"
  COMPOSE+=(--file "$ROOT/docker-compose.local.yml" ${COMPOSE_OVERRIDE:+--file "$COMPOSE_OVERRIDE"})
}

compose() {
  local options=() profile
  for profile in "${PROFILES[@]}"; do options+=(--profile "$profile"); done
  (cd "$ROOT" && "${COMPOSE[@]}" "${options[@]}" "$@")
}

# --- HTTP -------------------------------------------------------------------------------------------------------------

status_of() { curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}' "$1" || true; }

tell() { if [[ -t 1 ]]; then printf '\r\033[K%s' "$1"; fi; }

wait_until_ready() {
  local began=$SECONDS status
  while status=$(status_of "$URL/readyz") && [[ $status != 200 ]]; do
    if ((SECONDS - began >= WAIT)); then
      tell ''
      compose logs --tail 20 gateway >&2 || true
      fail "$URL/readyz answered $status and not 200 within $WAIT seconds"
    fi
    tell "waiting for $URL/readyz: $((SECONDS - began)) of $WAIT s, $status"
    sleep 1
  done
  tell ''
  echo "ready: $URL, after $((SECONDS - began)) s. Drop models into models/finetuned/; nothing needs a restart"
}

# one line for each endpoint; fails if one that must answer 200 does not
health() {
  local path status well=0
  for path in /healthz /readyz /models /metrics; do
    status=$(status_of "$URL$path")
    if [[ $status == 200 ]]; then echo "ok      $URL$path"; else echo "FAILED  $URL$path answered $status"; well=1; fi
  done
  optional prometheus "http://127.0.0.1:${PROMETHEUS_PORT:-9090}/-/ready" || well=1
  optional ollama "http://127.0.0.1:${OLLAMA_PORT:-11434}/api/version" || well=1
  optional bucket "http://127.0.0.1:${BUCKET_PORT:-8333}/healthz" || well=1
  return "$well"
}

optional() {  # optional NAME URL: nothing listening there is well, an answer other than 200 is not
  local status
  status=$(status_of "$2")
  case $status in
    200) echo "ok      $2" ;;
    000) echo "off     $2 ($1)" ;;
    *) echo "FAILED  $2 ($1) answered $status"; return 1 ;;
  esac
}

# --- verbs ------------------------------------------------------------------------------------------------------------

read_options() {
  while (($#)); do
    case $1 in
      --no-cache) NO_CACHE=(--no-cache) ;;
      --with) [[ -n ${2:-} ]] || misuse "--with which profiles?"; add_profiles "$2"; shift ;;
      --with=*) add_profiles "${1#--with=}" ;;
      *) misuse "$1: not an option here" ;;
    esac
    shift
  done
}

add_profiles() {
  local profile
  for profile in ${1//,/ }; do
    case $profile in
      llm) export OLLAMA_BASE_URL=${OLLAMA_BASE_URL:-http://ollama:11434} ;;
      bucket) export DROPGATE_KNOWLEDGE_DIR=${DROPGATE_KNOWLEDGE_DIR:-s3://dropgate/knowledge} ;;
      observe) ;;
      *) misuse "--with $profile: expected observe, llm or bucket" ;;
    esac
    PROFILES+=("$profile")
  done
}

start() {
  mkdir -p "$ROOT/models/finetuned" "$ROOT/models/base"  # kubectl cp and docker cp want the parent to be there
  compose up --detach "$@"
  wait_until_ready
}

everything() { PROFILES=(train observe llm bucket); }

main() {
  local verb=build
  if [[ ${1:-} != --no-cache && $# -gt 0 ]]; then verb=$1; shift; fi
  case $verb in
    -h | --help | help) usage; return ;;
    health) [[ $# == 0 ]] || misuse "health takes no options"; health; return ;;
    logs) choose_engine; everything; compose logs --follow "$@"; return ;;
    build | build-all | up | down | restart | clean) ;;
    *) misuse "$verb: no such verb" ;;
  esac
  read_options "$@"
  choose_engine
  case $verb in
    build) compose build "${NO_CACHE[@]}" gateway ;;
    build-all) PROFILES=(train); compose build "${NO_CACHE[@]}" gateway trainer ;;
    up) start ;;
    restart) start --force-recreate ;;
    down) everything; compose down ;;
    clean) everything; compose down --volumes; remove_images ;;
  esac
}

remove_images() {
  "$CHOSEN" image rm "dropgate:${DROPGATE_TAG:-dev}" "dropgate-trainer:${DROPGATE_TAG:-dev}" >/dev/null 2>&1 || true
  echo "clean; models/ is as it was"
}

main "$@"
