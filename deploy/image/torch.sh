# Installs the build of torch that a flavour of the image wants:
#
#     torch.sh FLAVOR VERSION INDEX COMMAND...
#
# FLAVOR is cpu; cuda, which is the build on PyPI; or the name of one of torch's own indexes, such as cu126. INDEX may
# be empty. COMMAND is pip's.
set -eu

flavor=$1 version=$2 index=$3
shift 3

case $flavor in
  cpu) index=${index:-https://download.pytorch.org/whl/cpu} ;;
  cuda) ;;
  cu[0-9]*) index=${index:-https://download.pytorch.org/whl/$flavor} ;;
  *)
    echo "FLAVOR=$flavor: expected cpu, cuda, or a build of torch's for one CUDA such as cu126" >&2
    exit 2
    ;;
esac

if [ "$flavor" = cuda ]; then
  # three equals signs: with two, a folder of wheels that has the build for CPUs would win, since its version is longer
  exec "$@" ${index:+--index-url "$index"} "torch===$version"
fi
# a mirror or a folder of wheels may have it; then torch's own index is not asked
"$@" "torch==$version+$flavor" || exec "$@" --index-url "$index" "torch==$version+$flavor"
