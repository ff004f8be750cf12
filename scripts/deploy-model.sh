#!/usr/bin/env bash
# Puts a model directory onto the volume of a gateway in Kubernetes, whole or not at all, and waits until it is served.
#
#     scripts/deploy-model.sh runs/physics/final_model finetuned/physics --namespace models
#
# The directory is judged here first, as the gateway would (an adapter only there, beside its base). It is copied under a
# hidden name, judged again where it has arrived, with the SHA-256 of every file, and then gets its name by a rename. So
# nothing half copied is ever seen, whatever ends this script. Needed here: kubectl, tar, and a `gateway` command.
#
# exit status: 0 it is served; 1 it is not, and the last lines say why; 2 wrong usage, or something is missing here
# shellcheck disable=SC2016  # what is in single quotes is expanded in the pod
set -euo pipefail

usage() {
  cat <<'EOF'
usage: deploy-model.sh DIRECTORY NAMESPACE/NAME [options]

  --namespace NS       of Kubernetes; kubectl's current one without it
  --selector LABELS    of the gateway's pods (app.kubernetes.io/name=dropgate)
  --pod POD            this one, in place of those with the labels
  --container NAME     in the pod (gateway)
  --models-dir DIR     the models volume in the pod (/app/models)
  --timeout SECONDS    to wait until it is served (300)
  --allow-pickle       for a gateway that serves pytorch_model.bin

DROPGATE_API_KEY is the key that the gateway is asked with, where it has keys. GATEWAY is the command that judges the
directory here: `gateway` on the path, or of this checkout.
EOF
}

wrong() { echo "deploy-model: $1" >&2; exit 2; }
failed() { echo "deploy-model: $1" >&2; exit 1; }
say() { echo "deploy-model: $1" >&2; }

namespace='' selector=app.kubernetes.io/name=dropgate pod='' container=gateway
models=/app/models timeout=300 pickle='' directory='' model=''
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --allow-pickle) pickle=--allow-pickle; shift ;;
    --namespace|--selector|--pod|--container|--models-dir|--timeout)
      [ $# -ge 2 ] && [ -n "$2" ] || wrong "$1 needs a value"
      case $1 in
        --namespace) namespace=$2 ;;
        --selector) selector=$2 ;;
        --pod) pod=$2 ;;
        --container) container=$2 ;;
        --models-dir) models=${2%/} ;;
        --timeout) timeout=$2 ;;
      esac
      shift 2 ;;
    -*) wrong "there is no option $1; --help lists them" ;;
    *)
      if [ -z "$directory" ]; then directory=$1
      elif [ -z "$model" ]; then model=$1
      else wrong "what is $1? --help says what is expected"; fi
      shift ;;
  esac
done

[ -n "$model" ] || { usage >&2; exit 2; }
[ -d "$directory" ] || wrong "$directory is not a directory"
name='[A-Za-z0-9][A-Za-z0-9._-]{0,127}'
[[ $model =~ ^$name/$name$ ]] || wrong "$model: expected NAMESPACE/NAME, of letters, digits and ._-"
[[ $timeout =~ ^[0-9]+$ ]] || wrong "--timeout $timeout: expected a whole number of seconds"
for command in kubectl tar; do
  command -v "$command" >/dev/null || wrong "$command is not installed"
done
space=${model%%/*} name=${model#*/}

# The commands that run in the pod: $1 the models volume, $2 the namespace, $3 the name, $4 what the hidden name ends in.
# What lies under a hidden name for a day was left by a copy that was killed. Where there is something in `old`, the pod
# itself ended between two renames, and both models are there still for somebody to look at.
readonly BEGIN='set -eu
[ -d "$1" ] || { echo "there is no $1 in the pod; --models-dir says where the volume is" >&2; exit 1; }
for old in "$1/$2/$3"/*/; do
  number=$(basename "$old")
  case $number in *[!0-9]*) ;; *)
    [ ! -d "$old" ] || { echo "$2/$3 has numbered versions, which this would replace; use trainer publish, or another name" >&2; exit 1; } ;;
  esac
done
mkdir -p "$1/$2"
find "$1/$2" -maxdepth 1 -name ".incoming-*" -mmin +1440 | while IFS= read -r left; do
  [ -e "$left/old" ] || rm -rf "$left"
done
mkdir "$1/$2/.incoming-$4" "$1/$2/.incoming-$4/$3"'
readonly UNPACK='exec tar -xmf - -C "$1/$2/.incoming-$4/$3"'
readonly LIST='exec cat > "$1/$2/.incoming-$4/$3/SHA256SUMS"'
readonly CHECK='exec gateway check $5 --bases "$1" "$1/$2/.incoming-$4/$3"'
readonly DISCARD='rm -rf "$1/$2/.incoming-$4" 2>/dev/null || { sleep 1; rm -rf "$1/$2/.incoming-$4"; }'
# One exchange of two names where the pod has it; else two renames, which the gateway takes for one.
readonly PUBLISH='set -eu
trap "" HUP INT TERM
cd "$1/$2"
new=.incoming-$4/$3 old=.incoming-$4/old
if [ -e "$3" ] || [ -L "$3" ]; then
  mv -T --exchange "$new" "$3" 2>/dev/null || {
    mv -T "$3" "$old"
    mv -T "$new" "$3" || { mv -T "$old" "$3"; exit 1; }
  }
else
  mv -T "$new" "$3"
fi
stat -c %i "$3"
rm -rf ".incoming-$4"'
# The key comes by standard input: an argument is for all to see.
readonly WAIT='IFS= read -r key || true
[ -z "$key" ] || export DROPGATE_API_KEY="$key"
exec gateway models wait "$1/$2" --inode "$3" --timeout "$4"'

kube() { kubectl ${namespace:+--namespace="$namespace"} "$@"; }

in_pod() {  # [-i] SCRIPT [FIFTH ARGUMENT]
  local input=''
  if [ "$1" = -i ]; then input=-i; shift; fi
  kube exec ${input:+"$input"} "$pod" --container="$container" -- sh -c "$1" sh "$models" "$space" "$name" "$token" "${2:-}"
}

# Runs its arguments in a group of their own, so that a signal ends them at once.
job=''
interruptible() {
  set -m
  "$@" &
  job=$!
  set +m
  local status=0
  wait "$job" || status=$?
  job=''
  return "$status"
}

work=$(mktemp -d) token=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
staged=''
clean() {
  status=$?
  trap '' INT TERM
  [ -z "$job" ] || { kill -TERM -- "-$job" 2>/dev/null || true; wait "$job" 2>/dev/null || true; }
  if [ -n "$staged" ]; then
    in_pod "$DISCARD" || say "$models/$space/.incoming-$token is left in $pod; the next copy of a day later removes it"
  fi
  rm -rf "$work"
  exit "$status"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Here: is it whole?
if [ -f "$directory/adapter_config.json" ]; then
  say "$directory is an adapter: it is judged where its base is"
else
  if [ -n "${GATEWAY:-}" ]; then read -r -a gateway <<<"$GATEWAY"
  elif command -v gateway >/dev/null; then gateway=(gateway)
  elif [ -x "$(dirname "$0")/../.venv/bin/gateway" ]; then gateway=("$(dirname "$0")/../.venv/bin/gateway")
  else wrong "there is no gateway command to judge the directory with: pip install dropgate, or set GATEWAY"; fi
  "${gateway[@]}" check ${pickle:+"$pickle"} "$directory" >"$work/verdict" \
    || { cat "$work/verdict" >&2; failed "$directory would not be served; nothing was copied"; }
fi

# Hidden files and checkpoints are no part of a model.
(cd "$directory" && find -L . -mindepth 1 \( -name '.*' -o -name 'checkpoint-*' \) -prune \
  -o -type f ! -path ./SHA256SUMS -print0) >"$work/files"
[ -s "$work/files" ] || failed "$directory has no files"
if command -v sha256sum >/dev/null; then sums=(sha256sum); else sums=(shasum -a 256); fi
(cd "$directory" && xargs -0 "${sums[@]}" <"$work/files") >"$work/SHA256SUMS"

# There: under a hidden name, until every byte has come.
if [ -n "$pod" ]; then
  pods=$pod
else
  pods=$(kube get pods --selector="$selector" --field-selector=status.phase=Running \
    -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{"\n"}{end}' | awk 'NF == 1 {print $1}') \
    || failed "kubectl does not reach the cluster"
  [ -n "$pods" ] || failed "no pod with the labels $selector runs; see: kubectl get pods, --namespace, --selector, --pod"
  pod=${pods%%$'\n'*}
fi

send() { COPYFILE_DISABLE=1 tar -C "$directory" -chf - --null -T "$work/files" | in_pod -i "$UNPACK"; }

staged=yes
interruptible in_pod "$BEGIN" || { staged=''; failed "nothing was copied"; }
say "copying $(tr -cd '\0' <"$work/files" | wc -c | tr -d ' ') files to $pod"
interruptible send || failed "the copy was cut; the volume is as it was"
in_pod -i "$LIST" <"$work/SHA256SUMS" || failed "the copy was cut; the volume is as it was"
interruptible in_pod "$CHECK" "$pickle" >"$work/verdict" 2>"$work/trouble" \
  || { cat "$work/verdict" "$work/trouble" >&2; failed "what has arrived in $pod would not be served; the volume is as it was"; }

staged=''  # from here on the pod itself puts it right
in_pod "$PUBLISH" >"$work/inode" || failed "it could not be renamed in $pod"
say "$model is on the volume; waiting until it is served"

told() {
  printf '%s\n' "${DROPGATE_API_KEY:-}" \
    | kube exec -i "$pod" --container="$container" -- sh -c "$WAIT" sh "$space" "$name" "$(cat "$work/inode")" "$timeout"
}
for pod in $pods; do
  interruptible told || failed "$model is on the volume, and $pod does not serve it"
done
