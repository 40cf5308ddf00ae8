"""The limiter: whatever is commanded, what leaves is within the limits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marlgpt_policy.motion.velocity_limiter import limit, within

ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)
POSITIVE = st.floats(0.01, 50.0)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 6), st.floats(0.005, 0.5))
def test_any_command_after_any_other_stays_within_the_limits(data, n, dt):
    commands = data.draw(arrays(np.float64, (n, 3), elements=ANY))
    last = data.draw(arrays(np.float64, (n, 3), elements=ANY))
    limits = data.draw(arrays(np.float64, (n, 4), elements=POSITIVE))
    stop = data.draw(arrays(np.bool_, n))
    out = limit(commands, last, limits, dt, stop)
    assert np.isfinite(out).all()
    assert (np.hypot(out[:, 0], out[:, 1]) <= limits[:, 0] * (1 + 1e-9)).all()
    assert (np.abs(out[:, 2]) <= limits[:, 1] * (1 + 1e-9)).all()
    assert (out[stop] == 0).all()
    before = within(np.where(np.isfinite(last).all(axis=1, keepdims=True), last, 0.0), limits)
    change = (out - before)[~stop]
    assert (np.hypot(change[:, 0], change[:, 1]) <= limits[~stop, 2] * dt * (1 + 1e-6) + 1e-9).all()
    assert (np.abs(change[:, 2]) <= limits[~stop, 3] * dt * (1 + 1e-6) + 1e-9).all()


def test_what_is_within_the_limits_passes_unchanged():
    limits = np.array([[0.5, 2.0, 2.5, 3.5]])
    command = np.array([[0.3, 0.0, 0.5]])
    np.testing.assert_allclose(limit(command, command - 0.05, limits, 0.05, np.zeros(1, bool)), command)


def test_a_command_that_is_not_finite_brakes():
    limits = np.array([[0.5, 2.0, 2.0, 4.0]])
    out = limit(np.array([[np.nan, 0.0, 1.0]]), np.array([[0.5, 0.0, 1.0]]), limits, 0.05, np.zeros(1, bool))
    np.testing.assert_allclose(out, [[0.4, 0.0, 0.8]])
