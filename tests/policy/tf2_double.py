"""Stands in for tf2_ros and tf2_msgs where they are not installed: planar, without interpolation of rotations.

The tests of poses run with this double and, where there is one, with the real tf2_ros: both must agree.
"""

import math
import sys
from types import ModuleType, SimpleNamespace

from geometry_msgs.msg import TransformStamped
from marlgpt_policy.grid.geometry import quaternion_of, yaw_of
from rclpy.time import Time


class TransformException(Exception):
    """As tf2's base class of what a lookup can raise."""


class TFMessage(SimpleNamespace):
    """Has ``transforms``, as the message."""


class Buffer:
    """Transforms by child frame: its parent and stamped places; static ones have no stamps."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.found = {}

    def set_transform(self, transform, _, static=False):
        child, parent = transform.child_frame_id, transform.header.frame_id
        move, turn = transform.transform.translation, transform.transform.rotation
        numbers = (move.x, move.y, move.z, turn.x, turn.y, turn.z, turn.w)
        length = sum(v * v for v in numbers[3:])
        if not child or not parent or child == parent or not all(map(math.isfinite, numbers)):
            return
        if abs(length - 1.0) > 1e-2:
            return
        place = (move.x, move.y, yaw_of(numbers[3:]))
        stamp = None if static else transform.header.stamp.sec * 10**9 + transform.header.stamp.nanosec
        known = self.found.get(child)
        if known is None or known[0] != parent or static:
            known = self.found[child] = (parent, {})
        known[1][stamp] = place

    def set_transform_static(self, transform, authority):
        self.set_transform(transform, authority, static=True)

    def lookup_transform_core(self, target, source, time):
        chain, frame = [], source
        while frame != target:
            if frame not in self.found or len(chain) > 50:
                raise TransformException(
                    f'"{frame}" passed to lookupTransform does not exist or is not connected'
                )
            chain.append(self.found[frame][1])
            frame = self.found[frame][0]
        moving = [places for places in chain if None not in places]
        stamp = time.nanoseconds or min((max(places) for places in moving), default=0)
        x = y = yaw = 0.0
        for places in chain:  # from the source up to the target
            fx, fy, turn = places[None] if None in places else between(places, stamp)
            cos, sin = math.cos(turn), math.sin(turn)
            x, y, yaw = fx + cos * x - sin * y, fy + sin * x + cos * y, yaw + turn
        result = TransformStamped(child_frame_id=source)
        result.header.frame_id = target
        result.header.stamp = Time(nanoseconds=stamp).to_msg()
        result.transform.translation.x, result.transform.translation.y = x, y
        q = result.transform.rotation
        q.x, q.y, q.z, q.w = quaternion_of(yaw)
        return result


def between(places, stamp):
    """The place at ``stamp``, in a straight line between those before and after."""
    before, after = [s for s in places if s <= stamp], [s for s in places if s >= stamp]
    if not before or not after:
        raise TransformException(f"Lookup would require extrapolation: requested time {stamp * 1e-9:.6f}")
    first, last = max(before), min(after)
    share = (stamp - first) / (last - first) if last > first else 0.0
    return tuple(a + share * (b - a) for a, b in zip(places[first], places[last], strict=True))


def install(monkeypatch):
    """Make ``import tf2_ros`` and ``import tf2_msgs.msg`` find the double."""
    ros, msgs, msg = ModuleType("tf2_ros"), ModuleType("tf2_msgs"), ModuleType("tf2_msgs.msg")
    ros.Buffer, ros.TransformException = Buffer, TransformException
    msg.TFMessage, msgs.msg = TFMessage, msg
    for name, module in (("tf2_ros", ros), ("tf2_msgs", msgs), ("tf2_msgs.msg", msg)):
        monkeypatch.setitem(sys.modules, name, module)


def hide(monkeypatch):
    """Make both imports fail, also where tf2 is installed."""
    for name in ("tf2_ros", "tf2_msgs", "tf2_msgs.msg"):
        monkeypatch.setitem(sys.modules, name, None)
