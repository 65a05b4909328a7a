#!/usr/bin/env bash
# An environment for one of the engines that scoring_vs_peers.py measures against: .peers/NAME in the checkout.
#
#   benchmarks/peers/install.sh xgrammar|openvino|vllm
#
# Never the project's own environment. Does nothing where the same versions stand already. PYTHON names the project's
# Python (default: .venv/bin/python, else python3). The versions in requirements-NAME.txt are complete, so nothing is
# resolved anew: pip gets --no-deps.
set -euo pipefail

name=${1:?"which engine: xgrammar, openvino or vllm"}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
place=$root/.peers/$name
pins=$here/requirements-$name.txt
[ -f "$pins" ] || { echo "there is no engine '$name': xgrammar, openvino or vllm" >&2; exit 2; }
if [ -f "$place/installed.txt" ] && cmp -s "$pins" "$place/installed.txt"; then
    echo "$place stands already"
    exit 0
fi
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3

# Begun anew: a half-made environment, or one of other versions, is of no use.
rm -rf "$place"
"$python" -m venv "$place"
install() { "$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }

case $name in
xgrammar)
    # transformers and torch are the project's own: its packages are seen from here, behind those of this environment.
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$place/bin/python" -c \
        'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
    # xgrammar asks for triton, a gigabyte that a CPU has no use for; --no-deps leaves it out.
    install -r "$pins"
    ;;
openvino | vllm)
    # torch first and from its own line: the pin takes the build that the machine's package index is set up for.
    grep '^torch==' "$pins" >"$place/torch.txt"
    install -r "$place/torch.txt"
    grep -v '^torch==' "$pins" >"$place/others.txt"
    install -r "$place/others.txt"
    ;;
esac
cp "$pins" "$place/installed.txt"
echo "$place is ready"
