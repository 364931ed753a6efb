#!/usr/bin/env bash
# Makes the environment in $VENV (default .venv) with the exact versions that were tested.
# A second call does nothing while pyproject.toml and constraints.txt are unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
mark="$venv/.installed-from"
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ -f "$mark" ] && [ "$(cat "$mark")" = "$wanted" ] && "$venv/bin/thresher" --version >/dev/null 2>&1; then
    exit 0
fi

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if suits "$candidate"; then python=$candidate && break; fi
done
if [ -z "$python" ]; then
    echo "Thresher needs Python 3.11, 3.12 or 3.13; none was found on PATH." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 1
fi
echo "Setting up $venv with $("$python" --version) (once; some minutes, 3 GB)"
rm -rf "$venv"
if ! "$python" -m venv "$venv" 2>"${TMPDIR:-/tmp}/thresher-venv.log"; then
    tail -n 3 "${TMPDIR:-/tmp}/thresher-venv.log" >&2
    echo "Python cannot make an environment. On Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --constraint constraints.txt "$@"; }
echo "  torch"
pip torch # first and alone: nothing else may pull another build
echo "  everything else"
pip --editable '.[dev]'
echo "$wanted" >"$mark"
