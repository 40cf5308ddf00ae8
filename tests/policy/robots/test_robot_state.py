"""Each per-robot array has one writer."""

import ast
from pathlib import Path

import marlgpt_policy
import marlgpt_sim
import numpy as np
import pytest
from marlgpt_policy.robots.robot_config import RobotConfig
from marlgpt_policy.robots.robot_state import PER_ROBOT, Robots

HOLDERS = {"robots", "self", "fleet", "f"}
"""Names under which the runtime holds the arrays."""
NOT_A_FLEET = {
    "robot_controller", "move_choice", "peer_messages", "watchdog", "soak_run", "drivers",
}  # fmt: skip
"""Modules in which ``self`` has attributes of the same names that are something else."""
STORE = "robot_state"


def assigned(node):
    """Targets of an assignment, tuples taken apart."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
            continue
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Attribute):
            yield target


def writes(folder):
    """(array, module, line) of each place that writes an array of a fleet."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Assign | ast.AugAssign):
                continue
            for target in assigned(node):
                holder = (
                    target.value.attr
                    if isinstance(target.value, ast.Attribute)
                    else getattr(target.value, "id", "")
                )
                if target.attr in PER_ROBOT and holder in HOLDERS:
                    if not (holder == "self" and file.stem in NOT_A_FLEET):
                        yield target.attr, file.stem, node.lineno


def test_every_array_is_written_by_its_owner_alone():
    folder = Path(marlgpt_policy.__file__).parent
    found = [
        write
        for part in ("robots", "motion", "deadlock", "fleet", "nodes", "kernels")
        for write in writes(folder / part)
    ]
    foreign = [write for write in found if write[1] not in (PER_ROBOT[write[0]][3], STORE)]
    assert foreign == []
    assert {name for name, *_ in found} == set(PER_ROBOT), "an array that nobody writes"


def test_the_simulator_writes_none_but_to_break_a_rule_and_after_a_restart():
    found = {(module, name) for name, module, _ in writes(Path(marlgpt_sim.__file__).parent / "soak")}
    assert found == {("broken_rules", "goals"), ("drivers", "halted")}


def test_a_write_by_another_module_is_noticed(tmp_path):
    (tmp_path / "edges.py").write_text(
        "def f(robots):\n    a, robots.poses[3][0] = 1, 2\n    self.robots.goals += 1\n"
    )
    assert list(writes(tmp_path)) == [("poses", "edges", 2), ("goals", "edges", 3)]


def test_a_robot_that_joins_or_is_forgotten_has_the_values_of_a_new_one():
    robots = Robots([RobotConfig("a")])
    for name in PER_ROBOT:
        getattr(robots, name)[:] = 1
    robots.grow([RobotConfig("b")])
    robots.forget(0)
    for name, (value, kind, columns, _) in PER_ROBOT.items():
        rows = getattr(robots, name)
        assert rows.dtype == kind and rows.shape == ((2, columns) if columns else (2,))
        np.testing.assert_array_equal(rows[1], np.full(rows[1].shape, value, kind))
        if name not in ("goals_reached", "vetoes"):  # counts stay
            np.testing.assert_array_equal(rows[0], rows[1])


def test_names_are_needed_and_different():
    with pytest.raises(ValueError, match="no robots"):
        Robots([])
    with pytest.raises(ValueError, match="used twice: a"):
        Robots([RobotConfig("a"), RobotConfig("a")])
