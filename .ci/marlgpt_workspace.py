"""Start-up hook of the project's virtual environment: makes the colcon workspace usable without sourcing it.

`.ci/setup.sh` copies this file into the site-packages of `.venv`, next to a `.pth` file that imports it.
Every Python of that environment then finds the message packages built in `ros2_ws/install`: their Python
modules on `sys.path`, their resources through `AMENT_PREFIX_PATH` and their shared libraries through
`LD_LIBRARY_PATH`. The dynamic loader reads that last variable only when a process starts, so the hook starts
Python once more with the same arguments if the workspace is not yet in it. Without a built workspace, or with
`MARLGPT_NO_WORKSPACE` set, it does nothing.
"""

import os
import sys


def _prepend(variable, path):
    """Put `path` at the front of a search-path variable; return whether it was missing."""
    parts = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    if path in parts:
        return False
    os.environ[variable] = os.pathsep.join([path, *parts])
    return True


def _activate():
    install = os.path.join(os.path.dirname(sys.prefix), "ros2_ws", "install")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    modules = os.path.join(install, "lib", python, "site-packages")
    if not os.path.isdir(os.path.join(modules, "marlgpt_msgs")):
        return
    if modules not in sys.path:
        sys.path.append(modules)

    wheels = os.path.isdir(os.path.join(sys.prefix, "share", "rclpy"))
    if wheels:  # ROS 2 itself lies in the environment and nothing else announces it
        _prepend("AMENT_PREFIX_PATH", sys.prefix)
    _prepend("AMENT_PREFIX_PATH", install)
    if not _prepend("LD_LIBRARY_PATH", os.path.join(install, "lib")):
        return
    if wheels and not os.environ.get("_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
        return  # the hook of the ROS 2 wheels starts Python again right after this one, with this environment
    os.execve(sys.executable, sys.orig_argv, os.environ)


if sys.prefix != sys.base_prefix and not os.environ.get("MARLGPT_NO_WORKSPACE"):
    _activate()
