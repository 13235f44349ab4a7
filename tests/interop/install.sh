#!/usr/bin/env bash
# Installs what the interop tests run: nginx and Caddy from Debian, Synapse from PyPI into target/interop-venv. Does only what
# is not done yet; with everything there it takes no time.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

synapse=1.163.2
venv=target/interop-venv
# Made last, so that an install that broke off is done again.
stamp=$venv/synapse-$synapse-url-preview

# Where Debian has nginx; not on the path of every user.
PATH=$PATH:/usr/sbin

packages=()
command -v nginx >/dev/null || packages+=(nginx)
command -v caddy >/dev/null || packages+=(caddy)
# Debian splits what a virtual environment needs from Python.
[[ -e $stamp ]] || python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
if ((${#packages[@]})); then
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

if [[ ! -e $stamp ]]; then
    mkdir -p target
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "matrix-synapse[url-preview]==$synapse"
    touch "$stamp"
fi
