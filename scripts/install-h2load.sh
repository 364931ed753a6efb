#!/usr/bin/env bash
# Installs h2load, the load generator of benchmarks/load.py.
# Does nothing where it is there; needs apt-get and root (or sudo without a password).
set -euo pipefail
if command -v h2load >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Install h2load (a part of nghttp2) with this system's package manager." >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "Installing h2load needs root. Run: sudo scripts/install-h2load.sh" >&2
        exit 1
    fi
    as_root=(sudo -n)
fi
echo "Installing h2load"
"${as_root[@]}" apt-get update -q >/dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    nghttp2-client >/dev/null
