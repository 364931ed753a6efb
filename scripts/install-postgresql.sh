#!/usr/bin/env bash
# Installs PostgreSQL's server programs, which the test of MLflow on a server starts a cluster with.
# Does nothing where they are there; needs apt-get and root (or sudo without a password).
# No cluster is made and nothing is started: whoever needs one runs initdb and pg_ctl.
set -euo pipefail
if command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Install PostgreSQL's server with this system's package manager, so that initdb and pg_ctl are on PATH." >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "Installing PostgreSQL needs root. Run: sudo scripts/install-postgresql.sh" >&2
        exit 1
    fi
    as_root=(sudo -n)
fi
log=${TMPDIR:-/tmp}/thresher-postgresql.log
install() {
    "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            postgresql-common &&
        # Debian would make a cluster and start it
        "${as_root[@]}" sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' \
            /etc/postgresql-common/createcluster.conf &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            postgresql
}
echo "Installing PostgreSQL's server programs (once; 60 MB)"
if ! install >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "PostgreSQL could not be installed; the whole output is in $log." >&2
    exit 1
fi
