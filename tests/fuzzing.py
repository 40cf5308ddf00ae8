"""What all fuzz tests share."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def fuzz(examples):
    """Settings of a fuzz test; its examples share a node, or a folder in which they overwrite their file."""
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=shared)


@st.composite
def damaged(draw, data):
    """``data`` with some bits flipped, bytes replaced, cut out or repeated, or its end missing."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(["flip", "cut", "replace", "repeat", "remove"])):
            case "flip" if found:
                found[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del found[at:]
            case "replace":
                new = draw(st.binary(min_size=1, max_size=9))
                found[at : at + len(new)] = new
            case "repeat":
                found[at:at] = found[at : at + draw(st.integers(1, 64))]
            case "remove":
                del found[at : at + draw(st.integers(1, 64))]
    return bytes(found)
