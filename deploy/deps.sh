#!/usr/bin/env bash
# Everything that `make demo`, `make test` and `make check` need: a virtual environment with the pinned
# packages, the servers of the integration tests (Debian packages, as root only), and helm for the chart.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    local name
    for name in python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 is needed and was not found (looked for python3.11 and python3)" >&2
    return 1
}

install_packages() {
    if [ ! -x .venv/bin/pip ]; then
        "$(find_python)" -m venv .venv
    fi
    echo "installing the packages of requirements.lock into .venv (a few minutes the first time)" >&2
    # torch comes first and in one command with the rest. DeepSpeed builds from source; with
    # DS_BUILD_OPS=0 that is pure Python and needs no compiler.
    DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet -r requirements.lock
    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
}

missing_servers() {
    command -v redis-server >/dev/null || echo redis-server
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || echo postgresql
    command -v radosgw >/dev/null || echo radosgw
    command -v ceph-mon >/dev/null || echo ceph-mon
    command -v ceph-osd >/dev/null || echo ceph-osd
}

install_servers() {
    local missing
    missing="$(missing_servers | tr '\n' ' ')"
    if [ -z "$missing" ]; then
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "not installed: $missing" >&2
        echo "the tests that need them will be skipped; on Debian, as root:" >&2
        echo "  apt-get install --no-install-recommends $missing" >&2
        return
    fi
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # a list of names
    if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends $missing >/dev/null; }; then
        echo "apt-get could not install: $missing (the tests that need them will be skipped)" >&2
    fi
}

install_packages
install_servers
if ! .venv/bin/python deploy/get_helm.py .cache/helm; then
    echo "helm could not be fetched (the tests of the chart will be skipped)" >&2
fi
