"""gazebo.launch.py against the launch files it goes with, read as source: ROS 2's launch is not on the registry."""

from __future__ import annotations

import ast
from pathlib import Path

from places import ROOT

LAUNCH = ROOT / "launch"
PACKAGES = ROOT / "ros2_ws" / "src"
SHARED = PACKAGES / "marlgpt_sim" / "marlgpt_sim" / "launch_support.py"


def table(path: Path, variable: str) -> dict[str, str]:
    """Names and default values, as source text, of the arguments that a file writes out in a table of its own."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable:
            own = node.value.right if isinstance(node.value, ast.BinOp) else node.value
            pairs = zip(own.keys, own.values, strict=True)
            return {ast.literal_eval(key): ast.unparse(value.elts[0]) for key, value in pairs if key}
    raise AssertionError(f"{path.name} has no {variable}")


def test_both_simulators_take_the_shared_arguments_and_replace_none():
    assert "\nARGUMENTS = launching.SIMULATION\n" in (LAUNCH / "sim.launch.py").read_text()
    assert "\nARGUMENTS = launching.SIMULATION | {\n" in (LAUNCH / "gazebo.launch.py").read_text()
    own = table(LAUNCH / "gazebo.launch.py", "ARGUMENTS")
    assert not own.keys() & (table(SHARED, "SIMULATION").keys() | table(SHARED, "FLEET").keys())


def test_what_is_passed_on_is_an_argument_of_the_fleet():
    assert table(SHARED, "FLEET").keys() <= table(LAUNCH / "fleet.launch.py", "ARGUMENTS").keys()


def test_the_watchdog_waits_no_longer_than_usual():
    """Gazebo's drives hold the last command for ever; only the watchdog ends it."""
    usual = float(ast.literal_eval(table(LAUNCH / "fleet.launch.py", "ARGUMENTS")["watchdog_timeout"]))
    gazebo = table(LAUNCH / "gazebo.launch.py", "ARGUMENTS")["watchdog_timeout"]
    assert float(ast.literal_eval(gazebo)) <= usual


def test_in_slow_motion_the_watchdog_waits_longer_in_both_simulators():
    """The watchdog's clock is the wall's; a fleet node on slower simulated time shows signs of life less often."""
    shared = SHARED.read_text()
    assert 'slowness = 1.0 / min(float(value["real_time_factor"]) or 1.0, 1.0)' in shared
    assert '"watchdog_timeout": str(watchdog_timeout * slowness)' in shared
    for name in ("sim.launch.py", "gazebo.launch.py"):
        assert "launching.fleet(value, " in (LAUNCH / name).read_text()


def test_the_launch_folder_shows_every_launch_file_of_the_packages():
    """The files themselves lie in their packages: a package that is copied elsewhere has them."""
    own = {path.name: path for path in PACKAGES.glob("*/launch/*.launch.py")}
    assert own.keys() == {f"{name}.launch.py" for name in ("fleet", "gazebo", "record", "sim", "view")}
    for name, path in own.items():
        assert path.resolve() == path and path.is_file(), f"{path} leads out of its package"
        assert (LAUNCH / name).resolve() == path
    assert {path.name for path in LAUNCH.iterdir() if path.suffix == ".py"} == own.keys()


def test_the_fleet_needs_no_simulator():
    """Its launch file lies in marlgpt_policy and imports and starts nothing of marlgpt_sim."""
    path = PACKAGES / "marlgpt_policy" / "launch" / "fleet.launch.py"
    tree = ast.parse(path.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "launch_ros.actions" in imported
    assert not {name for name in imported if name.startswith(("marlgpt_sim", "marlgpt_training"))}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert "marlgpt_policy" in texts and "marlgpt_sim" not in texts
    found = 'PathJoinSubstitution([FindPackageShare("marlgpt_policy"), "launch", "fleet.launch.py"])'
    assert found in SHARED.read_text()


def test_gazebo_is_started_without_a_shell():
    """A shell does not pass on the signals with which launch ends its processes: the server would live on."""
    calls = [
        node
        for node in ast.walk(ast.parse((LAUNCH / "gazebo.launch.py").read_text()))
        if isinstance(node, ast.Call)
    ]
    started = [call for call in calls if ast.unparse(call.func) == "ExecuteProcess"]
    assert len(started) == 1
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in started[0].keywords}
    assert "shell" not in keywords and keywords["cmd"].startswith("['gz', 'sim', ")
    assert "Shutdown" in keywords["on_exit"]
