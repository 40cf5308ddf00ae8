"""The packages, copied into an empty ROS 2 workspace and built there, hold all that a robot needs."""

import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import domains
import pytest
from packaging_builds import PACKAGES, copy, environment

pytest.importorskip("colcon_core")
NAMES = ("marlgpt_policy", "marlgpt_sim")
SHARED = ("config", "foxglove", "launch", "maps", "models", "rviz", "security")
"""Folders of a package that belong into its share folder."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace in which both Python packages were built; the messages come from the project's own workspace."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in NAMES:
        copy(PACKAGES / name, folder / "src" / name)
    done = subprocess.run(
        [sys.executable, "-m", "colcon", "build"],
        cwd=folder,
        env=environment(AMENT_PREFIX_PATH=os.environ["AMENT_PREFIX_PATH"]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def sourced(workspace):
    """Start a command line in a shell that has sourced the workspace, in a DDS domain of its own."""
    import marlgpt_msgs

    python = sysconfig.get_paths()["purelib"]
    messages = Path(marlgpt_msgs.__file__).parents[1]
    started = environment(
        *([] if str(messages) == python else [messages]),
        AMENT_PREFIX_PATH=os.environ["AMENT_PREFIX_PATH"],
        ROS_DOMAIN_ID=str(domains.take()),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        NUMBA_DISABLE_JIT="1",  # the copied kernels are in no cache, and compiling them takes half a minute
    )

    def start(*words):
        line = shlex.join(map(str, words))
        return subprocess.Popen(
            ["bash", "-c", f"source install/setup.bash && exec {line}"],
            cwd=workspace,
            env=started,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


def executable(package, name):
    """Where `ros2 run` finds a node."""
    return f"install/{package}/lib/{package}/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_share_folder_holds_every_file_of_the_package(workspace, name):
    share = workspace / "install" / name / "share" / name
    expected = {
        path.relative_to(PACKAGES / name): path.read_bytes()
        for folder in SHARED
        for path in (PACKAGES / name / folder).glob("*")
        if path.is_file()
    }
    installed = {
        path.relative_to(share): path.read_bytes() for folder in SHARED for path in (share / folder).glob("*")
    }
    assert installed == expected
    folders = {path.parts[0] for path in installed}
    assert folders >= ({"config", "launch", "models"} if name == "marlgpt_policy" else {"launch", "maps"})
    assert (workspace / "install" / name / "share/ament_index/resource_index/packages" / name).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_every_module_and_data_file_of_the_package_is_installed(workspace, name):
    installed = next((workspace / "install" / name / "lib").glob("python3*/site-packages")) / name

    def files(folder):
        return {
            path.relative_to(folder)
            for path in folder.rglob("*.*")
            if "__pycache__" not in path.parts and path.is_file()
        }

    assert files(installed) == files(workspace / "src" / name / name)


def test_what_is_imported_and_shipped_comes_from_the_install(workspace, sourced):
    code = (
        "import marlgpt_policy, marlgpt_sim\n"
        "from marlgpt_policy.policy.shipped_files import shipped_file, shipped_policy\n"
        "print(marlgpt_policy.__file__, marlgpt_sim.__file__, shipped_policy(), shipped_file('marlgpt_sim', 'maps'))"
    )
    said, _ = sourced(sys.executable, "-c", code).communicate(timeout=60)
    paths = said.split()
    assert len(paths) == 4, said
    for path in paths:
        assert Path(path).is_relative_to(workspace / "install"), path


def test_the_fleet_node_configures_itself_from_the_install(workspace, sourced):
    """As fleet.launch.py starts it: with the installed parameters, which name no policy: it finds the shipped one."""
    parameters = "install/marlgpt_policy/share/marlgpt_policy/config/fleet.yaml"
    settings = ["--params-file", parameters, "-p", "autostart:=true", "-p", "robots:=[alice, bob]"]
    node = sourced(executable("marlgpt_policy", "fleet_node"), "--ros-args", *settings)
    lines = []
    try:
        for line in node.stdout:
            lines.append(line)
            if "configured: 2 robots" in line:
                assert "policy=pogema.onnx" in line
                break
        else:
            pytest.fail("".join(lines))
        node.send_signal(signal.SIGINT)
        assert node.wait(20) == 0, node.stdout.read()
    finally:
        node.kill()


def test_nodes_of_the_install_refuse_wrong_parameters(sourced):
    wrong = {
        ("marlgpt_policy", "fleet_node"): (["autostart:=true", "robots:=[alice]", "policy:=none.onnx"], "none.onnx"),
        ("marlgpt_policy", "watchdog_node"): (["robots:=[alice]", "timeout:=-1.0"], "timeout"),
        ("marlgpt_sim", "map_publisher"): (["map_yaml:=none.yaml"], "none.yaml"),
        ("marlgpt_sim", "simulator"): (["map_yaml:=none.yaml", "robots:=[alice]"], "none.yaml"),
    }  # fmt: skip
    started = {}
    for (package, name), (settings, _) in wrong.items():
        words = [word for setting in settings for word in ("-p", setting)]
        started[package, name] = sourced(executable(package, name), "--ros-args", *words)
    for key, node in started.items():
        said, _ = node.communicate(timeout=60)
        assert node.returncode not in (0, None) and wrong[key][1] in said, f"{key}: {said}"


def test_the_command_is_on_the_path_and_is_found_by_ros2_run(workspace, sourced):
    """`marlgpt` after sourcing, `ros2 run marlgpt_sim marlgpt` without."""
    for command in ("marlgpt", executable("marlgpt_sim", "marlgpt")):
        picture = workspace / "map.png"
        picture.unlink(missing_ok=True)
        shipped = "install/marlgpt_sim/share/marlgpt_sim/maps/warehouse.yaml"
        said, _ = sourced(command, "map", "--map", shipped, "--out", picture).communicate(timeout=60)
        assert "connected parts" in said and picture.stat().st_size > 100, said


@pytest.mark.slow  # half a minute of it compiles kernels, as the first start on any machine does
def test_a_fleet_drives_from_the_install(workspace, sourced):
    """All five nodes of sim.launch.py, found in the install; robots drive on the shipped map by the shipped policy."""
    command = ["marlgpt", "demo", "--robots", 2, "--duration", 3, "--out", workspace / "demo"]
    done = sourced("env", "NUMBA_DISABLE_JIT=0", "OMP_NUM_THREADS=1", *command)
    said, _ = done.communicate(timeout=240)
    assert done.returncode == 0, said
    summary = json.loads((workspace / "demo" / "summary.json").read_text())
    assert summary["policy"] == "pogema.onnx" and summary["decisions"] > 0 and summary["late_ticks"] == 0
    assert (workspace / "demo" / "bag").is_dir()


def test_launch_files_load_from_the_install(workspace, sourced):
    """Their arguments and defaults; needs ROS 2's launch, which comes with a full ROS 2."""
    pytest.importorskip("launch_ros")
    files = sorted((workspace / "install").glob("*/share/*/launch/*.launch.py"))
    assert len(files) == 5
    code = (
        "import sys\n"
        "from launch.launch_description_sources import get_launch_description_from_python_launch_file as load\n"
        "for path in sys.argv[1:]:\n"
        "    print(len(load(path).get_launch_arguments()))"
    )
    node = sourced(sys.executable, "-c", code, *files)
    said, _ = node.communicate(timeout=60)
    assert node.returncode == 0 and len(said.split()) == 5 and all(int(word) > 8 for word in said.split()), (
        said
    )
