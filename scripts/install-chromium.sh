#!/usr/bin/env bash
# Installs Chromium and its driver, which the tests of the threshold explorer drive.
# Does nothing where both are there; needs apt-get and root (or sudo without a password).
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Install Chromium and chromedriver with this system's package manager, so that both are on PATH." >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "Installing Chromium needs root. Run: sudo scripts/install-chromium.sh" >&2
        exit 1
    fi
    as_root=(sudo -n)
fi
log=${TMPDIR:-/tmp}/thresher-chromium.log
install() {
    "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            chromium chromium-driver fonts-dejavu-core
}
echo "Installing Chromium and its driver (once; 400 MB)"
if ! install >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "Chromium could not be installed; on Ubuntu its packages differ: install chromium and chromedriver by hand." >&2
    exit 1
fi
