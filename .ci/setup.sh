#!/usr/bin/env bash
# Creates everything the project needs: the virtual environment .venv with pinned packages, ROS 2 as wheels if no
# ROS 2 is sourced, and the colcon workspace with the project's messages. Safe to run again; what is up to date is
# not touched. Run it as `make setup`.
#
#   PYTHON=python3.12 make setup     use this interpreter (3.11 or 3.12) instead of the first one that fits
#
# pip is used as configured on this machine (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, pip.conf ...).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
WORKSPACE=$ROOT/ros2_ws
POGEMA=pogema==1.4.0
export PIP_DISABLE_PIP_VERSION_CHECK=1
export MARLGPT_NO_WORKSPACE=1 # the start-up hook of .venv stays out of its own build

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# True if `$1` is a Python 3.11 or 3.12 that can make environments and compile extensions; says on stdout why not.
python_fits() {
    "$1" - 2>/dev/null <<'PY' || { [ "${PIPESTATUS[0]}" = 3 ] || echo "$1 does not run"; return 1; }
import os, sys, sysconfig
def no(reason):
    print(f"{sys.executable} {reason}")
    sys.exit(3)
if sys.version_info[:2] not in ((3, 11), (3, 12)):
    no(f"is Python {sys.version_info[0]}.{sys.version_info[1]}, not 3.11 or 3.12")
try:
    import ensurepip, venv
except ImportError:
    no("has no venv module (Debian, Ubuntu: apt install python3-venv)")
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    no("has no headers, which building messages needs (Debian, Ubuntu: apt install python3-dev)")
PY
}

# True if a ROS 2 installation (not the wheels in .venv) is sourced in this shell.
ros_is_sourced() {
    [ -n "${AMENT_PREFIX_PATH:-}" ] || return 1
    VENV=$VENV "${PYTHON:-python3}" - <<'PY' >/dev/null 2>&1
import os, sys, rclpy
sys.exit(os.path.realpath(rclpy.__file__).startswith(os.path.realpath(os.environ["VENV"]) + os.sep))
PY
}

find_python() {
    local candidate reason reasons=""
    local candidates=(python3.11 python3.12 python3)
    [ "$MODE" = sourced ] && candidates=(python3) # must be the one ROS 2 was built for
    [ -n "${PYTHON:-}" ] && candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if ! command -v "$candidate" >/dev/null; then
            reasons+=$'\n'"  $candidate is not installed"
        elif reason=$(python_fits "$candidate"); then
            PYTHON=$candidate
            return
        else
            reasons+=$'\n'"  $reason"
        fi
    done
    die "needs Python 3.11 or 3.12 with venv and headers (set PYTHON=... to choose one):$reasons"
}

need_tools() {
    local missing=()
    command -v cmake >/dev/null || missing+=("cmake")
    command -v make >/dev/null || command -v ninja >/dev/null || missing+=("make")
    command -v "${CC:-cc}" >/dev/null || missing+=("a C compiler (gcc)")
    command -v "${CXX:-c++}" >/dev/null || missing+=("a C++ compiler (g++)")
    [ ${#missing[@]} -eq 0 ] || die "building the ROS 2 messages needs $(printf '%s, ' "${missing[@]}" | sed 's/, $//')" \
        "(Debian and Ubuntu: apt install build-essential cmake)"
}

# Hash of the contents and names of files and folders.
hash_of() {
    find -L "$@" -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}
is_current() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }

make_environment() {
    local system version
    system=$([ "$MODE" = sourced ] && echo true || echo false)
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ -x "$VENV/bin/python" ] && grep -qx "include-system-site-packages = $system" "$VENV/pyvenv.cfg" &&
        grep -q "^version = $version\." "$VENV/pyvenv.cfg" && "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    say "creating .venv with Python $version (ROS 2: $MODE)"
    local options=(--clear)
    [ "$system" = true ] && options+=(--system-site-packages)
    "$PYTHON" -m venv "${options[@]}" "$VENV"
}

install_packages() {
    local stamp=$VENV/.packages key
    key=$(hash_of "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/.ci/setup.sh")-$MODE
    if is_current "$stamp" "$key"; then return; fi
    local extras=dev,training,pogema,ray
    [ "$MODE" = wheels ] && extras+=,ros,ros-build
    say "installing packages ($extras)"
    rm -f "$stamp"
    "$VENV/bin/pip" install --quiet --constraint constraints.txt setuptools
    "$VENV/bin/pip" install --quiet --constraint constraints.txt --no-build-isolation --editable ".[$extras]"
    "$VENV/bin/pip" install --quiet --no-deps "$POGEMA"
    echo "$key" >"$stamp"
}

# The wheels' CMake files name the Python of the machine that built them: point them at this one.
patch_wheels() {
    "$VENV/bin/python" - <<'PY'
import pathlib, re, sys, sysconfig
import numpy

include = sysconfig.get_paths()["include"]
for path in pathlib.Path(sys.prefix, "share").glob("*/cmake/*.cmake"):
    old = path.read_text()
    new = re.sub(r'[^;"\s]*/include/python3\.\d+(?=[;"])', lambda _: include, old)
    new = re.sub(r'[^;"\s]*/numpy/_core/include(?=[;"])', lambda _: numpy.get_include(), new)
    if new != old:
        path.unlink()  # pip may have linked the file to its cache
        path.write_text(new)
PY
}

install_hook() {
    local site
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    cp "$ROOT/.ci/marlgpt_workspace.py" "$site/"
    echo "import marlgpt_workspace" >"$site/marlgpt_workspace.pth"
}

build_workspace() {
    local stamp=$WORKSPACE/install/.built key sources=("$WORKSPACE/src/marlgpt_msgs") package
    # Python modules are linked, not copied: only what is packaged decides whether to build again.
    for package in marlgpt_policy marlgpt_sim; do
        sources+=("$WORKSPACE/src/$package"/{package.xml,setup.py,setup.cfg})
    done
    key=$(hash_of "${sources[@]}")-$(cat "$VENV/.packages")-$(
        cd "$WORKSPACE/src" && find -L marlgpt_policy/{config,foxglove,launch,models,rviz,security} marlgpt_sim/{bin,launch,maps} \
            -type f 2>/dev/null | sort | sha256sum | cut -d' ' -f1 || true
    )
    if is_current "$stamp" "$key"; then return; fi
    need_tools
    say "building the workspace"
    rm -f "$stamp"
    if [ "$MODE" = wheels ]; then
        patch_wheels
        unset PYTHONPATH COLCON_PREFIX_PATH
        export AMENT_PREFIX_PATH=$VENV CMAKE_PREFIX_PATH=$VENV
    elif ! "$VENV/bin/python" -c 'import colcon_core' 2>/dev/null; then
        die "colcon is missing from this ROS 2 installation (Ubuntu: apt install python3-colcon-common-extensions)"
    fi
    # Links to files that have moved: colcon leaves them behind, and setup.py's glob would find them.
    for folder in build install; do
        [ ! -d "$WORKSPACE/$folder" ] || find "$WORKSPACE/$folder" -xtype l -delete
    done
    # Through the environment's Python, so that the nodes start with it, too.
    local log=$WORKSPACE/log/setup.log
    mkdir -p "$WORKSPACE/log"
    if ! (cd "$WORKSPACE" && PATH=$VENV/bin:$PATH "$VENV/bin/python" -m colcon build \
        --merge-install --symlink-install \
        --packages-select marlgpt_msgs marlgpt_policy marlgpt_sim \
        --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$VENV/bin/python" --no-warn-unused-cli) >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        die "building the workspace failed; the whole output is in ros2_ws/log/setup.log"
    fi
    echo "$key" >"$stamp"
}

check() {
    env -u MARLGPT_NO_WORKSPACE "$VENV/bin/python" -c 'import marlgpt_msgs.msg, marlgpt_policy, rclpy' ||
        die "the environment was built but its packages do not import; try again after: rm -rf .venv ros2_ws/install"
}

cd "$ROOT"
if ros_is_sourced; then MODE=sourced; else MODE=wheels; fi
find_python
[ -e "$WORKSPACE/install/.built" ] || need_tools # before minutes of installing
make_environment
install_packages
install_hook
build_workspace
check
say "ready: .venv/bin/marlgpt, .venv/bin/python (ROS 2: $MODE)"
