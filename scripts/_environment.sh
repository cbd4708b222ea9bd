# Sourced by the other scripts: creates .venv once, with the dependencies of pyproject.toml at tested versions.
# Needs Python 3.10 to 3.13 with the venv module (PYTHON=/path/to/python selects one) and a package registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pick_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 to 3.13 found; set PYTHON: PYTHON=/path/to/python $0" >&2
    exit 2
}

# uv takes a fraction of pip's CPU time. It does not read pip's configuration, so the indexes and folders named
# there are passed on, and searched as pip does. Where uv cannot be installed, or fails, pip installs everything.
install_packages() { # OPTION ...: what `pip install` takes
    local pip=(.venv/bin/python -m pip --disable-pip-version-check) places=() option place
    if "${pip[@]}" install --quiet uv==0.13.8; then
        for option in index-url extra-index-url find-links; do
            for place in $("${pip[@]}" config list | sed -n "s/^[a-z:]*\.$option='\(.*\)'\$/\1/p"); do
                places+=("--$option" "$place")
            done
        done
        .venv/bin/uv pip install --quiet --python .venv/bin/python --index-strategy unsafe-best-match \
            ${places[@]+"${places[@]}"} "$@" && return
        echo "uv did not succeed: pip installs" >&2
    fi
    "${pip[@]}" install --quiet --no-compile "$@"
}

# Checksum of the files that determine what is installed and compiled; .venv is rebuilt only if it changes.
stamp="$(cat pyproject.toml scripts/constraints.txt lstm_sentiment/kernels/*.[ch] | cksum)"
if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
    python="$(pick_python)"
    echo "setting up .venv with $("$python" --version) (once; a few minutes)" >&2
    "$python" -m venv --clear .venv
    install_packages --constraint scripts/constraints.txt --editable '.[all,dev,docs]' >&2
    echo "$stamp" > .venv/stamp
fi
export PATH="$PWD/.venv/bin:$PATH"
