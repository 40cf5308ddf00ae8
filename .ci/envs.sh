#!/usr/bin/env bash
# Installs the optional games into .venv: SMAX, SMACv2's wrapper, Google Research Football (GRF) and the example of
# docs/new-environment.md. GRF comes as source only: it is compiled once (10 to 20 minutes) and the wheel kept. Safe to run again; what is there is not
# touched. Run it as `make envs`.
#
#   MARLGPT_WHEELS=DIR make envs     keep the wheel in DIR instead of ~/.cache/marlgpt/wheels
#
# pip is used as configured on this machine. Debian packages are installed as root or with a sudo that asks nothing;
# otherwise this script says which ones are missing.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
WHEELS=${MARLGPT_WHEELS:-$HOME/.cache/marlgpt/wheels}
GRF=2.10.2
SMACV2="smacv2 @ git+https://github.com/oxwhirl/smacv2@577ab5a2cff2391f8df582da5731ea9cd6adf3c6"
JOBS=2
# The engine is linked to SDL (which GRF needs even without a window) and Boost.Python.
LIBRARIES=(libsdl2-dev libsdl2-image-dev libsdl2-ttf-dev libsdl2-gfx-dev libboost-python-dev libboost-thread-dev
    libboost-filesystem-dev libboost-system-dev libgl1-mesa-dev libegl1-mesa-dev cmake make g++)
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'envs: %s\n' "$*" >&2
    exit 1
}

# "$@", up to three times: package mirrors fail now and then.
retry() {
    local try
    for try in 1 2 3; do
        "$@" && return
        [ "$try" = 3 ] || sleep $((5 * try))
    done
    return 1
}

missing_libraries() {
    local package
    for package in "${LIBRARIES[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

install_libraries() {
    command -v dpkg-query >/dev/null || {
        say "no Debian or Ubuntu: taking SDL2 (image, ttf, gfx), Boost (python, thread, filesystem) and GL for installed"
        return
    }
    local missing sudo=()
    mapfile -t missing < <(missing_libraries)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
            die "Google Research Football needs Debian packages; install them with: sudo apt install ${missing[*]}"
        sudo=(sudo -n)
    fi
    say "installing Debian packages (${missing[*]})"
    retry "${sudo[@]}" apt-get update -qq >/dev/null ||
        die "'apt-get update' failed three times; check the network, then run 'make envs' again"
    retry "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "installing Debian packages failed three times; try yourself: sudo apt install ${missing[*]}"
}

# The engine's build uses as many jobs as there are cores, at 1 GB each, and has no switch for it.
make_with_few_jobs() {
    local folder=$1 make
    make=$(command -v make)
    printf '#!/bin/sh\nexec %q "$@" -j%d\n' "$make" "$JOBS" >"$folder/make"
    chmod +x "$folder/make"
}

find_wheel() {
    local tag
    [ -d "$WHEELS" ] || return 0
    tag=$("$VENV/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    find "$WHEELS" -maxdepth 1 -name "gfootball-$GRF-$tag-*.whl" | sort | tail -n 1
}

build_wheel() {
    install_libraries
    say "compiling Google Research Football $GRF: 10 to 20 minutes, once; the wheel is kept in $WHEELS"
    "$VENV/bin/pip" install --quiet --constraint constraints.txt setuptools wheel==0.48.0
    local log=$WHEELS/gfootball.log
    mkdir -p "$WHEELS"
    WORK=$(mktemp -d "$WHEELS/build.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
    make_with_few_jobs "$WORK"
    # The build calls `python3` (needs psutil) and CMake looks for the first Python: both must be the environment's.
    if ! PATH=$WORK:$VENV/bin:$PATH VIRTUAL_ENV=$VENV "$VENV/bin/pip" wheel --no-build-isolation --no-deps --verbose \
        --no-cache-dir --wheel-dir "$WORK" "gfootball==$GRF" >"$log" 2>&1; then
        grep -n -i -E 'error|not find|cannot' "$log" | tail -n 20 >&2 || true
        die "compiling Google Research Football failed; the whole output is in $log"
    fi
    mv "$WORK"/gfootball-*.whl "$WHEELS/" # complete or not at all
}

install_packages() {
    say "installing the games' packages"
    retry "$VENV/bin/pip" install --quiet --no-deps --requirement .ci/games.txt ||
        die "installing the games' packages failed three times; check the network, then run 'make envs' again"
}

# Only its repository has it. Everything else works without, so that a closed network is no failure.
install_smacv2() {
    if "$VENV/bin/python" -c 'import smacv2' 2>/dev/null; then return; fi
    GIT_TERMINAL_PROMPT=0 timeout 120 "$VENV/bin/pip" install --quiet --no-deps "$SMACV2" >/dev/null 2>&1 ||
        say "SMACv2's package could not be fetched from its repository; its tests are skipped. Try later: pip install --no-deps '$SMACV2'"
}

install_football() {
    local wheel
    wheel=$(find_wheel)
    if [ -z "$wheel" ]; then
        build_wheel
        wheel=$(find_wheel)
        [ -n "$wheel" ] || die "no gfootball wheel for this Python in $WHEELS after building it"
    else
        say "using $wheel"
        install_libraries # what the engine is linked to
    fi
    "$VENV/bin/pip" install --quiet --no-deps --force-reinstall "$wheel"
}

check() {
    "$VENV/bin/python" -c 'from marlgpt_training.environments.grf_gym import import_gfootball; import_gfootball()' ||
        die "Google Research Football was installed but does not import; remove $WHEELS/gfootball-$GRF-*.whl and try again"
}

cd "$ROOT"
[ -x "$VENV/bin/python" ] || die "there is no .venv; run 'make setup' first"
STAMP=$VENV/.envs
KEY=$(cat .ci/games.txt .ci/envs.sh | sha256sum | cut -d' ' -f1)-$("$VENV/bin/python" -V)
if [ "$(cat "$STAMP" 2>/dev/null)" = "$KEY" ] && [ "$STAMP" -nt "$VENV/pyvenv.cfg" ]; then exit 0; fi
rm -f "$STAMP"
install_packages
install_smacv2
install_football
check
echo "$KEY" >"$STAMP"
say "ready: SMAX, SMACv2's wrapper and Google Research Football are in .venv"
