"""Defaults of the library and of the node are the same."""

import dataclasses

import pytest
from marlgpt_policy.fleet.fleet_config import FleetConfig

parameters = pytest.importorskip("marlgpt_policy.nodes.parameters", reason="needs ROS 2")


def test_the_library_drives_as_the_node_does_unless_told_otherwise():
    defaults = {name: spec.default for name, spec in parameters.PARAMETERS.items()}
    for field in dataclasses.fields(FleetConfig):
        if field.name in ("turn_latency",):  # no parameter: two periods
            assert field.default is None and field.name not in defaults
        elif field.name == "control_period":
            assert field.default == 1.0 / defaults["control_rate"]
        elif field.name == "pose_error":
            assert field.default is None and defaults["pose_error"] < 0
        elif field.name == "step_minimum":  # no parameter
            assert field.name not in defaults
        else:
            assert field.default == defaults[field.name], field.name
