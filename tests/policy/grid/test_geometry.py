"""Yaw, quaternions and rotations against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.grid.geometry import quaternion_of, rotate, tilt_of, wrap_angle, yaw_of

angles = st.floats(-50.0, 50.0)


@given(angles)
def test_yaw_survives_the_quaternion(yaw):
    assert abs(wrap_angle(yaw_of(quaternion_of(yaw)) - yaw)) < 1e-9


@given(angles)
def test_quaternion_is_the_half_angle_form(yaw):
    x, y, z, w = quaternion_of(yaw)
    sign = math.copysign(1.0, w * math.cos(yaw / 2) + z * math.sin(yaw / 2))
    np.testing.assert_allclose(
        [x, y, sign * z, sign * w], [0, 0, math.sin(yaw / 2), math.cos(yaw / 2)], atol=1e-9
    )


@given(angles, st.sampled_from([1e-4, 1.0, 1e200]))
def test_norm_and_sign_do_not_matter(yaw, scale):
    scaled = -scale * np.array(quaternion_of(yaw))
    assert abs(wrap_angle(yaw_of(scaled) - yaw)) < 1e-9
    assert tilt_of(scaled) < 1e-9


@pytest.mark.parametrize(
    "bad", [(0, 0, 0, 0), (0, 0, math.nan, 1), (math.inf, 0, 0, 1), (0, 0, 1), (1e-9,) * 4]
)
def test_useless_quaternions_are_refused(bad):
    with pytest.raises(ValueError, match="quaternion"):
        yaw_of(bad)
    with pytest.raises(ValueError, match="quaternion"):
        tilt_of(bad)


def test_tilt_is_the_angle_of_the_z_axis():
    assert tilt_of((math.sin(0.15), 0, 0, math.cos(0.15))) == pytest.approx(0.3)
    assert tilt_of((1, 0, 0, 0)) == pytest.approx(math.pi)


def test_yaw_must_be_finite():
    with pytest.raises(ValueError, match="yaw"):
        quaternion_of(math.nan)


def test_rotation_and_wrapping():
    np.testing.assert_allclose(
        rotate(np.array([[1.0, 0.0], [0.0, 2.0]]), math.pi / 2), [[0, 1], [-2, 0]], atol=1e-12
    )
    np.testing.assert_allclose(
        wrap_angle(np.array([math.pi, -math.pi, 7.0])), [-math.pi, -math.pi, 7 - 2 * math.pi]
    )
