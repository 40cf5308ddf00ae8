"""gazebo.launch.py against the launch files it goes with, read as source: ROS 2's launch is not on the registry."""

from __future__ import annotations

import ast
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def arguments(name: str) -> dict[str, str]:
    """Argument names of a launch file and their defaults as source text."""
    for node in ast.parse((LAUNCH / name).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS":
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(key): ast.unparse(value.elts[0]) for key, value in pairs}
    raise AssertionError(f"{name} has no ARGUMENTS")


def constant(name: str, variable: str) -> object:
    """Value of a constant of a launch file."""
    for node in ast.parse((LAUNCH / name).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{name} has no {variable}")


def test_both_simulators_take_the_same_arguments_with_the_same_defaults():
    own, gazebo = arguments("sim.launch.py"), arguments("gazebo.launch.py")
    assert {name: gazebo.get(name) for name in own} == own


def test_what_is_passed_on_is_an_argument_of_both():
    gazebo, fleet = arguments("gazebo.launch.py"), arguments("fleet.launch.py")
    for name in constant("gazebo.launch.py", "PASSED_ON"):
        assert name in gazebo and name in fleet
    passed = set(constant("sim.launch.py", "PASSED_ON")) - {"robots_file"}
    assert passed <= set(constant("gazebo.launch.py", "PASSED_ON"))


def test_the_watchdog_waits_no_longer_than_usual():
    """Gazebo's drives hold the last command for ever; only the watchdog ends it."""
    usual = float(ast.literal_eval(arguments("fleet.launch.py")["watchdog_timeout"]))
    assert float(ast.literal_eval(arguments("gazebo.launch.py")["watchdog_timeout"])) <= usual


def test_in_slow_motion_the_watchdog_waits_longer_in_both_simulators():
    """The watchdog's clock is the wall's; a fleet node on slower simulated time shows signs of life less often."""
    scaling = 'slowness = 1.0 / min(float(value["real_time_factor"]) or 1.0, 1.0)'
    for name, timeout in (
        ("sim.launch.py", "str(WATCHDOG_TIMEOUT * slowness)"),
        ("gazebo.launch.py", 'str(float(value["watchdog_timeout"]) * slowness)'),
    ):
        source = (LAUNCH / name).read_text()
        assert scaling in source and f'"watchdog_timeout": {timeout}' in source


def test_every_file_of_the_launch_folder_is_installed():
    linked = LAUNCH.parent / "ros2_ws" / "src" / "marlgpt_sim" / "launch"
    assert linked.resolve() == LAUNCH and (linked / "gazebo.launch.py").is_file()


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
