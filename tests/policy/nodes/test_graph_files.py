"""The RViz configuration and the SROS2 policy, against the graph of a running fleet node and watchdog."""

import fnmatch
from xml.etree import ElementTree

import pytest
import yaml
from places import ROOT

rclpy = pytest.importorskip("rclpy")

from fleet_bench import open_bench, write_policy  # noqa: E402
from marlgpt_policy.nodes import markers, parameters, watchdog_node  # noqa: E402

PACKAGE = ROOT / "ros2_ws" / "src" / "marlgpt_policy"
ROOT = ElementTree.parse(PACKAGE / "security" / "policy.xml").getroot()
KINDS = {("topics", "publish"), ("topics", "subscribe"), ("services", "reply"), ("services", "request"),
         ("actions", "execute"), ("actions", "call")}  # fmt: skip


def allowed(enclave, kind):
    """What a policy's enclave may publish, subscribe to, and so on; absolute names."""
    profile = next(e for e in ROOT.iter("enclave") if e.get("path") == f"/{enclave}").find("profiles/profile")
    node, names = profile.get("node"), []
    for group in profile:
        if group.get(kind) == "ALLOW":
            names += [name.text for name in group]
    names = [name.replace("~/", f"{node}/") for name in names]
    return [name if name.startswith("/") else f"/{name}" for name in names]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    policy = write_policy(tmp_path_factory.mktemp("policy") / "tiny.onnx")
    bench = open_bench(tmp_path_factory, policy, autostart=True)
    watchdog, _ = bench.spawn("watchdog_node", {"robots": "[a, b]"})
    try:
        bench.until(lambda: bench.logged("configured: "), "configuration")
        bench.until(lambda: bench.press_all.get_subscription_count() == 2, "watchdog")
        bench.until(lambda: bench.press["b"].get_subscription_count() == 2, "watchdog's robots")
        both = {"fleet_node", "watchdog_node"}
        bench.until(lambda: both <= {n for n, _ in bench.node.get_node_names_and_namespaces()}, "node names")
        yield bench
    finally:
        watchdog.terminate()
        watchdog.wait(10)
        bench.close()


def graph(bench, node):
    """What a node really does, by kind; the topics and services of actions are in the actions."""
    asked = bench.node
    found = {
        "publish": asked.get_publisher_names_and_types_by_node(node, "/"),
        "subscribe": asked.get_subscriber_names_and_types_by_node(node, "/"),
        "reply": asked.get_service_names_and_types_by_node(node, "/"),
        "request": asked.get_client_names_and_types_by_node(node, "/"),
    }
    names = {kind: {name for name, _ in pairs} for kind, pairs in found.items()}
    hidden = "/_action/"
    actions = {name.split(hidden)[0] for name in names["reply"] if hidden in name}
    names = {kind: {n for n in found if hidden not in n} for kind, found in names.items()}
    return {**names, "execute": actions}


def test_the_policy_has_the_form_that_sros2_asks_for():
    assert ROOT.tag == "policy" and ROOT.get("version") == "0.2.0"
    paths = [enclave.get("path") for enclave in ROOT.find("enclaves")]
    assert len(set(paths)) == len(paths) and all(path.startswith("/") for path in paths)
    for enclave in ROOT.iter("enclave"):
        profile = enclave.find("profiles/profile")
        assert set(profile.attrib) == {"ns", "node"}
        for group in profile:
            ((kind, rule),) = group.attrib.items()
            assert (group.tag, kind) in KINDS and rule == "ALLOW"
            names = [name.text for name in group]
            assert {name.tag for name in group} == {group.tag[:-1]} and len(set(names)) == len(names)


@pytest.mark.parametrize("node", ["fleet_node", "watchdog_node"])
def test_the_policy_allows_what_the_running_node_does_and_no_more(bench, node):
    done = graph(bench, node)
    assert "/fleet/heartbeat" in done["publish"] | done["subscribe"], "the graph is known"
    for kind, names in done.items():
        rules = allowed(node, kind)
        for name in names:
            assert any(fnmatch.fnmatch(name, rule) for rule in rules), f"{node} may not {kind} {name}"
        # Which of odom and pose is a parameter; the clock is heard with use_sim_time.
        unused = [r for r in rules if not any(fnmatch.fnmatch(name, r) for name in names)]
        assert set(unused) <= {"/*/pose", "/clock"}, f"{node} need not {kind} {unused}"


def test_only_who_drives_may_command_wheels_and_only_fleet_and_watchdog_all_of_them():
    drivers = {
        enclave.get("path"): [n for n in allowed(enclave.get("path")[1:], "publish") if n.endswith("cmd_vel")]
        for enclave in ROOT.iter("enclave")
    }
    assert {path: names for path, names in drivers.items() if names} == {
        "/fleet_node": ["/*/cmd_vel"], "/watchdog_node": ["/*/cmd_vel"], "/robot_00": ["/robot_00/cmd_vel"],
    }  # fmt: skip


def test_the_rviz_configuration_shows_what_the_node_publishes(bench):
    config = yaml.safe_load((PACKAGE / "rviz" / "fleet.rviz").read_text())
    manager = config["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == parameters.PARAMETERS["map_frame"].default
    shown = {display["Topic"]["Value"]: display for display in manager["Displays"]}
    graph_of = graph(bench, "fleet_node")
    own = {topic for topic in shown if topic.startswith("/fleet/")}
    assert own == {"/fleet/markers"} and own <= graph_of["publish"]
    assert set(shown["/fleet/markers"]["Namespaces"]) == set(markers.NAMESPACES)
    assert shown["/map"]["Topic"]["Durability Policy"] == "Transient Local"
    goal = next(tool for tool in manager["Tools"] if tool["Class"].endswith("/SetGoal"))["Topic"]["Value"]
    of_robots = [*(set(shown) - own - {"/map"}), goal]
    assert "/map" in graph_of["subscribe"]
    for topic in of_robots:  # the configuration's robots are not the test's
        assert topic.replace(topic.split("/")[1], "a") in graph_of["subscribe"]


def test_the_configuration_file_holds_every_parameter_with_its_default():
    values = yaml.safe_load((PACKAGE / "config" / "fleet.yaml").read_text())["/**"]["ros__parameters"]
    defaults = {name: spec.default for name, spec in parameters.PARAMETERS.items() if name != "robots"}
    assert {name: value for name, value in values.items() if name != "robots"} == defaults
    for name in set(watchdog_node.PARAMETERS) & set(defaults):
        assert watchdog_node.PARAMETERS[name].default == defaults[name]
