#!/bin/sh
# Install one list of hashed requirements into /opt/venv, compiled: one layer of the image.
# Runs from a mounted folder, so neither this script nor uv nor uv's cache is part of the layer.
set -eu
export TMPDIR=/tmp UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
# The builder's own cache; or the machine's, where the build mounts it (buildah --volume …:/mnt/uv-cache).
export UV_CACHE_DIR=/var/cache/uv
if mountpoint -q /mnt/uv-cache; then UV_CACHE_DIR=/mnt/uv-cache; fi
exec /opt/uv/bin/uv pip install --python /opt/venv/bin/python --no-deps "$@"
