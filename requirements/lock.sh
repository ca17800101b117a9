#!/bin/sh
# Writes the locks: versions that work together on CPython 3.10 to 3.12 (gpu.txt, torch.txt: 3.11,
# 3.12).
# Needs uv (`pip install uv`). Without options it keeps the locked versions and adds new packages of
# pyproject.toml; `--upgrade` updates all. Then run `make test`.
set -eu
cd "$(dirname "$0")/.."
upgrade=${1:-}
pins=$(mktemp -d)
trap 'rm -r "$pins"' EXIT
echo torch==2.13.0 > "$pins/torch"
# On GPUs: the PyTorch with the release of Triton that `engines/cuda/kernels/hopper` is written for.
echo torch==2.11.0 > "$pins/torch-gpu"
compile() {
    out=$1
    shift
    [ ! -f "$out" ] || cp "$out" "$out.new"
    # shellcheck disable=SC2086 # an empty option must vanish
    uv pip compile pyproject.toml --quiet $upgrade --universal --python-version "${oldest:-3.10}" \
        --no-annotate --no-header "$@" --output-file "$out.new"
    {
        echo "# Exact versions that work together, written by requirements/lock.sh: do not edit."
        # pyproject.toml limits the lock to this platform. Without it in each line one sees which
        # lines depend on the Python version.
        sed -E -e "/implementation_name == 'pypy'/d" \
            -e "s/ and platform_machine == 'x86_64' and platform_python_implementation == 'CPython' and sys_platform == 'linux'//" \
            -e "s/ ; python_full_version < '3.13'$//" -e "s/ and python_full_version < '3.13'$//" \
            "$out.new"
    } > "$out.tmp"
    rm "$out.new"
    mv "$out.tmp" "$out"
}
compile requirements/server.txt --extra server --extra landmarks
compile requirements/dev.txt --extra dev --constraint requirements/server.txt \
    --constraint "$pins/torch"
compile requirements/ui.txt --extra ui --constraint requirements/server.txt \
    --constraint requirements/dev.txt
# For the images, besides server.txt and ui.txt: the packages of the steps and the API server for
# NVIDIA's Triton, what replaces onnxruntime on a GPU, without and with PyTorch, and the converter.
compile requirements/steps.txt --extra steps --extra api --constraint requirements/server.txt
oldest=3.11 compile requirements/gpu.txt --extra gpu --constraint requirements/server.txt
oldest=3.11 compile requirements/torch.txt --extra torch --extra gpu \
    --constraint requirements/server.txt --constraint "$pins/torch-gpu"
compile requirements/export.txt --extra export --constraint requirements/dev.txt
