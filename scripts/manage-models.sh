#!/usr/bin/env bash
# The models beside this checkout: what is there, whether it would be served, and bringing it to a cluster.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/manage-models.sh VERB [MODEL] [ARGUMENT...]

  list                         every directory, and whether a gateway would serve it
  validate MODEL               the same of one, with all reasons and what to do about them
  create MODEL                 an empty directory with its metadata, to copy a model into
  metadata MODEL [KEY=VALUE..] show model_metadata.json, or change it; KEY= removes a key
  upload MODEL [OPTION...]     bring it to a gateway in Kubernetes: validates, copies, waits until it is served;
                               options are those of scripts/deploy-model.sh
  test [MODEL...]              embed a sentence with them, or with all, by the running gateway at DROPGATE_URL
  -h, --help                   this

MODEL is NAME, which lies in finetuned/, or NAMESPACE/NAME.

variables
  MODELS_DIR     where the models are; models/ of this checkout if unset
  DROPGATE_URL   the gateway of `test`, http://127.0.0.1:8001 if unset; DROPGATE_API_KEY its key
  PYTHON         a Python with the gateway's packages; .venv/bin/python of this checkout if unset
TEXT
}

ROOT=$(cd "$(dirname "$0")/.." && pwd)
MODELS_DIR=${MODELS_DIR:-$ROOT/models}
PYTHON=${PYTHON:-$(if [[ -x $ROOT/.venv/bin/python ]]; then echo "$ROOT/.venv/bin/python"; else echo python3; fi)}
PART='[A-Za-z0-9][A-Za-z0-9._-]{0,127}'
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}

fail() { echo "manage-models: $*" >&2; exit 1; }

misuse() { echo "manage-models: $*" >&2; usage >&2; exit 2; }

check() { "$PYTHON" -m gateway check --bases "$MODELS_DIR" "$@"; }

# --- names ------------------------------------------------------------------------------------------------------------

choose() {  # sets MODEL and DIRECTORY
  [[ -n ${1:-} ]] || misuse "which model?"
  [[ $1 =~ ^$PART(/$PART)?$ ]] || misuse "$1: expected NAME or NAMESPACE/NAME, of letters, digits, '.', '_' and '-'"
  if [[ $1 == */* ]]; then MODEL=$1; else MODEL=finetuned/$1; fi
  DIRECTORY=$MODELS_DIR/$MODEL
}

must_exist() { [[ -d $DIRECTORY ]] || fail "$DIRECTORY: no such directory; '$0 list' says what there is"; }

# --- verbs ------------------------------------------------------------------------------------------------------------

list() {
  [[ -d $MODELS_DIR ]] || fail "$MODELS_DIR: no such directory"
  local directory found=0
  while IFS= read -r directory; do
    found=1
    printf '%-44s %s\n' "${directory#"$MODELS_DIR"/}" "$(verdict "$directory")"
  done < <(directories)
  ((found)) || echo "no models in $MODELS_DIR"
}

# NAMESPACE/NAME, and NAME where the files of a model lie in it
directories() {
  local path
  for path in "$MODELS_DIR"/*/; do
    if [[ -f ${path}config.json || -f ${path}adapter_config.json ]]; then
      echo "${path%/}"
    else
      find "$path" -mindepth 1 -maxdepth 1 -type d ! -name '.*' | sort
    fi
  done
}

verdict() {
  local told
  if told=$(check --json "$1"); then
    "$PYTHON" -c 'import json, sys; m = json.load(sys.stdin)["manifest"]; print("ok", m["kind"], m["dim"] or "")' <<<"$told"
  else
    "$PYTHON" -c 'import json, sys; print("REJECTED", *(r["code"] for r in json.load(sys.stdin)["reasons"]))' <<<"$told"
  fi
}

validate() { check "$DIRECTORY"; }

create() {
  [[ ! -e $DIRECTORY ]] || fail "$DIRECTORY is there already"
  mkdir -p "$DIRECTORY"
  "$PYTHON" "$ROOT/scripts/model_metadata.py" "$DIRECTORY" "training_date=$(date -u +%F)" version=1 >/dev/null
  echo "$DIRECTORY: copy the model's files into it; a gateway serves it when it is whole"
}

upload() {
  local deploy=$ROOT/scripts/deploy-model.sh
  [[ -x $deploy ]] || fail "$deploy is not there"
  # an adapter is judged beside its base, which need not be here: deploy-model.sh has the gateway's machine do that
  [[ -f $DIRECTORY/adapter_config.json ]] || check "$DIRECTORY" || fail "$MODEL is not uploaded: a gateway would not serve it"
  GATEWAY=${GATEWAY:-$PYTHON -m gateway} exec "$deploy" "$DIRECTORY" "$MODEL" "$@"
}

must_run() { "$PYTHON" -c 'import gateway.check' 2>/dev/null || fail "$PYTHON lacks the gateway's packages: make run, or set PYTHON"; }

main() {
  local verb=${1:-}
  case $verb in
    -h | --help | help) usage; return ;;
    '') usage >&2; exit 2 ;;
  esac
  shift
  must_run
  case $verb in
    list) [[ $# == 0 ]] || misuse "list takes no arguments"; list ;;
    test) exec "$PYTHON" "$ROOT/scripts/try_models.py" "$@" ;;
    create) choose "$@"; create ;;
    validate) choose "$@"; must_exist; validate ;;
    metadata) choose "$@"; must_exist; shift; exec "$PYTHON" "$ROOT/scripts/model_metadata.py" "$DIRECTORY" "$@" ;;
    upload) choose "$@"; must_exist; shift; upload "$@" ;;
    *) misuse "$verb: no such verb" ;;
  esac
}

main "$@"
