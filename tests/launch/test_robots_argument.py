"""What the launch files make of ``robots_file:=`` and its rivals; needs a ROS 2 with launch_ros."""

import importlib.util
from types import SimpleNamespace

import pytest
from places import ROOT

pytest.importorskip("launch_ros")

FOLDER = ROOT / "launch"


def load(name):
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), FOLDER / f"{name}.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sim, gazebo, fleet = load("sim"), load("gazebo"), load("fleet")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "robots.yaml"
    path.write_text("map_frame: site\nrobots: [alice, bob]\n")
    return path


def given(module, **values):
    return {name: "" for name in module.ARGUMENTS} | values


def test_the_simulation_takes_a_file_or_a_number(file):
    assert sim.robots_of(given(sim)) == {
        "robots": [f"robot_0{i}" for i in range(8)], "radius": 0.22, "drive": "differential",
    }  # fmt: skip
    assert sim.robots_of(given(sim, robots="2", radius="0.3"))["robots"] == ["robot_00", "robot_01"]
    bodies = sim.robots_of(given(sim, robots_file=str(file)))
    assert bodies == sim.fleet_arguments(bodies) == {"robots_file": str(file)}
    assert sim.map_frame(bodies) == {"map_frame": "site"} and sim.map_frame({"robots": ["a"]}) == {}


@pytest.mark.parametrize("rival", ["robots", "radius", "drive"])
def test_a_file_and_its_rivals_are_refused_together(file, rival):
    with pytest.raises(ValueError, match=f"{rival}:= and robots_file:= are both given"):
        sim.robots_of(given(sim, robots_file=str(file), **{rival: "1"}))
    with pytest.raises(ValueError, match=f"{rival}:= and robots_file:= are both given"):
        fleet.overrides(given(fleet, robots_file=str(file), **{rival: "1"}))


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_of_robots_that_is_none_is_refused(number):
    for act in (sim.robots_of, gazebo.write):
        with pytest.raises(ValueError, match=f"robots:={number}: give the number of robots"):
            act(given(sim, robots=number))


def test_both_simulators_ask_for_the_same_fleet_node():
    """Names, body and what is passed on agree, so that the two can be compared."""
    bodies = sim.robots_of(given(sim, robots="3"))
    plan = SimpleNamespace(fleet=SimpleNamespace(names=bodies["robots"]))
    assert gazebo.fleet_arguments(given(gazebo), plan, None) == sim.fleet_arguments(bodies)
    shared = {name: text for name, (_, text) in sim.ARGUMENTS.items()}
    assert shared.items() <= {name: text for name, (_, text) in gazebo.ARGUMENTS.items()}.items()


def test_a_file_that_is_not_there():
    for act in (sim.robots_of, gazebo.write, fleet.overrides):
        with pytest.raises(FileNotFoundError, match="robots_file:=none.yaml: no such file"):
            act(given(sim, use_sim_time="false", robots_file="none.yaml"))


def test_a_relative_path_is_made_absolute_for_the_nodes(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert fleet.overrides(given(fleet, robots_file="robots.yaml"))["robots_file"] == str(file)


def test_one_robot_node_for_each_robot_of_the_file(file):
    value = given(fleet, robots_file=str(file), only="bob")
    (node,) = fleet.robot_nodes(value, fleet.overrides(value))
    assert node.node_executable == "robot_node"
    with pytest.raises(ValueError, match="carol is not among the robots of the fleet"):
        value = given(fleet, robots_file=str(file), only="carol")
        fleet.robot_nodes(value, fleet.overrides(value))
