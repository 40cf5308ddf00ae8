"""The wheel of the project, installed into an environment of its own, holds and finds all that it needs."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging_builds import PACKAGES, copy, environment, without_training
from places import ROOT

pytest.importorskip("pip")
SHIPPED = {
    "marlgpt_msgs": ("msg",),
    "marlgpt_policy": ("config", "foxglove", "models", "rviz", "security"),
    "marlgpt_sim": ("maps",),
}
"""Folders that the wheel carries for each ROS package."""


def run(*command, **options):
    """Standard output of a command that must succeed."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built as `pip wheel .` does from a clean checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("ros2_ws/src", "training"):
        copy(ROOT / name, source / name)
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", source, *options, env=environment())
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of an environment that holds the wheel, and what processes in it start with; PyTorch is not in it.

    Other packages come from the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("robot")
    prefix = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", prefix, env=environment())
    options = ["--no-deps", "--no-index", "--quiet", "--no-compile"]
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        prefix / "bin" / "python",
        "install",
        *options,
        wheel,
        env=environment(),
    )
    missing = without_training(folder / "missing")
    (missing / "marlgpt_training.py").unlink()  # the wheel has it
    return prefix, environment(missing, Path(sysconfig.get_paths()["purelib"]))


def test_the_wheel_holds_every_module_and_shipped_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = [PACKAGES / "marlgpt_policy", PACKAGES / "marlgpt_sim", ROOT / "training"]
    modules = {
        str(path.relative_to(folder))
        for folder in folders
        for package in folder.glob("marlgpt_*")
        for path in package.rglob("*.*")
        if "__pycache__" not in path.parts
    }
    assert len(modules) > 150 and not modules - names
    for package, parts in SHIPPED.items():
        for part in parts:
            expected = {path.name for path in (PACKAGES / package / part).iterdir()}
            start = f".data/data/share/{package}/{part}/"
            found = {Path(name).name for name in names if start in name}
            assert expected and found == expected, f"{package}/{part}"


def test_shipped_files_are_found_in_the_environment(installed):
    prefix, env = installed
    code = (
        "from marlgpt_policy.policy.shipped_files import shipped_file, shipped_policy\n"
        "from marlgpt_sim.bags.bag_types import load_types\n"
        "for name in 'config/fleet.yaml', 'config/robots.yaml', 'models/pogema.safetensors', 'rviz/fleet.rviz':\n"
        "    print(shipped_file('marlgpt_policy', name))\n"
        "print(shipped_file('marlgpt_sim', 'maps/warehouse.yaml'))\n"
        "print(shipped_policy())\n"
        "assert 'marlgpt_msgs/msg/FleetState' in load_types(['marlgpt_msgs']).types\n"
        "print(load_types.__code__.co_filename)\n"
    )
    paths = run(prefix / "bin" / "python", "-c", code, env=env).split()
    assert len(paths) == 7
    for path in paths:
        assert Path(path).is_relative_to(prefix), path


def test_the_command_runs_from_the_environment(installed, tmp_path):
    prefix, env = installed
    marlgpt = prefix / "bin" / "marlgpt"
    usage = run(marlgpt, "--help", env=env)
    assert "  demo " in usage and "  train " in usage
    found = json.loads(
        run(
            prefix / "bin" / "python",
            "-c",
            "import json; from marlgpt_policy.policy.shipped_files import shipped_file\n"
            "print(json.dumps([str(shipped_file('marlgpt_sim', 'maps/warehouse.yaml')),"
            " str(shipped_file('marlgpt_policy', 'config/robots.yaml'))]))",
            env=env,
        )
    )
    quick = env | {"NUMBA_DISABLE_JIT": "1"}  # the installed kernels are in no cache yet
    said = run(marlgpt, "map", "--map", found[0], "--out", tmp_path / "map.png", env=quick)
    assert "connected parts" in said
    assert "robots in frame" in run(marlgpt, "robots", "--file", found[1], env=quick)
    run(marlgpt, "gazebo", "--robots", 2, "--out", tmp_path / "gazebo", env=quick)
    assert (tmp_path / "gazebo" / "world.sdf").is_file()


def test_the_shipped_policy_decides_in_the_environment(installed):
    """As a robot's computer loads it: by onnxruntime alone; masked moves are never chosen."""
    prefix, env = installed
    code = (
        "import numpy as np\n"
        "from marlgpt_policy.encoders.token_layout import MAX_ACTIONS, POGEMA_LAYOUT\n"
        "from marlgpt_policy.policy.onnx_policy import OnnxPolicy\n"
        "from marlgpt_policy.policy.shipped_files import shipped_policy\n"
        "shape, mask = (3, len(POGEMA_LAYOUT)), np.zeros((3, MAX_ACTIONS), bool)\n"
        "mask[[0, 1, 2], [0, 2, 4]] = True\n"
        "policy = OnnxPolicy(shipped_policy(), POGEMA_LAYOUT)\n"
        "print(policy(np.zeros(shape, np.float32), np.ones(shape, bool), mask).logits.argmax(1).tolist())"
    )
    assert run(prefix / "bin" / "python", "-c", code, env=env).strip() == "[0, 2, 4]"


def test_training_asks_for_its_extra(installed):
    prefix, env = installed
    done = subprocess.run(
        [prefix / "bin" / "marlgpt", "export", "--help"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and 'pip install "marlgpt-ros2[training]"' in done.stderr
