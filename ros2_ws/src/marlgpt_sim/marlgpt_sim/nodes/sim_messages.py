"""The simulator's messages as CDR bytes.

Thousands of messages per second pass through the simulator, so they are written and read as bytes: the layout
of a message comes from ROS's own serialization, once, and only the numbers in it change.
"""

from __future__ import annotations

import sys
from struct import Struct, pack

import numpy as np
from geometry_msgs.msg import Pose, PoseArray, PoseStamped, PoseWithCovarianceStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message

_TWIST, _STAMP, _LENGTH, _NUMBER = Struct("=6d"), Struct("=iI"), Struct("=I"), Struct("=d")
_NATIVE = b"\x00\x01" if sys.byteorder == "little" else b"\x00\x00"  # CDR in this machine's byte order


def _covariance(noise_xy: float, noise_yaw: float) -> np.ndarray:
    """Return float64[36] as in messages: 6 x 6, row by row, x, y, z and rotations about them."""
    covariance = np.zeros(36)
    covariance[[0, 7, 35]] = noise_xy**2, noise_xy**2, noise_yaw**2
    return covariance


def _layout(message: object, marks: list[float]) -> tuple[bytearray, list[int]]:
    """Return a message's CDR bytes and where in them the unique float64 numbers `marks` lie."""
    data = bytearray(serialize_message(message))
    at = [data.find(pack("=d", mark)) for mark in marks]
    if min(at) < 0:
        raise RuntimeError(f"{type(message).__name__} is not laid out as expected")
    return data, at


class OdometryBytes:
    """Odometry of one robot as CDR bytes: laid out by ROS once, then only its numbers change.

    Args:
        frame: frame of the pose.
        body: frame of the robot's body, in which its twist is.
        noise_xy: standard deviation of x and y, m, for the covariance.
        noise_yaw: standard deviation of the yaw, rad, for the covariance.
    """

    def __init__(self, frame: str, body: str, noise_xy: float, noise_yaw: float) -> None:
        message, marks = Odometry(), [k + 1.25e100 * k for k in range(1, 8)]
        message.header.frame_id, message.child_frame_id = frame, body
        pose, twist = message.pose.pose, message.twist.twist
        pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w = marks[:4]
        twist.linear.x, twist.linear.y, twist.angular.z = marks[4:]
        message.pose.covariance = _covariance(noise_xy, noise_yaw)
        self._data, self._at = _layout(message, marks)

    def write(self, stamp: tuple[int, int], row: list[float]) -> bytes:
        """Return the bytes for a stamp (s, ns) and x, y, quaternion z and w, vx, vy, yaw rate."""
        _STAMP.pack_into(self._data, 4, *stamp)  # after the 4 bytes that name the encoding
        for at, value in zip(self._at, row, strict=True):
            _NUMBER.pack_into(self._data, at, value)
        return bytes(self._data)


class PoseBytes:
    """PoseStamped or PoseWithCovarianceStamped of one robot as CDR bytes.

    Args:
        kind: one of the two types.
        frame: frame of the pose.
        noise_xy: standard deviation of x and y, m, for the covariance.
        noise_yaw: standard deviation of the yaw, rad, for the covariance.
    """

    def __init__(
        self,
        kind: type[PoseStamped | PoseWithCovarianceStamped],
        frame: str,
        noise_xy: float,
        noise_yaw: float,
    ) -> None:
        message, marks = kind(), [k + 1.25e100 * k for k in range(1, 5)]
        message.header.frame_id = frame
        pose = message.pose
        if isinstance(message, PoseWithCovarianceStamped):
            pose.covariance = _covariance(noise_xy, noise_yaw)
            pose = pose.pose
        pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w = marks
        self._data, self._at = _layout(message, marks)

    def write(self, stamp: tuple[int, int], row: list[float]) -> bytes:
        """Return the bytes for a stamp (s, ns) and x, y, quaternion z and w; what else is in the row is left out."""
        _STAMP.pack_into(self._data, 4, *stamp)
        for at, value in zip(self._at, row[:4], strict=True):
            _NUMBER.pack_into(self._data, at, value)
        return bytes(self._data)


class TruthBytes:
    """PoseArray of a fleet of n >= 1 robots as CDR bytes."""

    def __init__(self, frame: str, n: int) -> None:
        message = PoseArray()
        message.header.frame_id = frame
        message.poses = [Pose() for _ in range(n)]
        message.poses[0].position.x = 1.25e100
        self._data, (self._at,) = _layout(message, [1.25e100])
        self._rows = np.zeros((n, 7))

    def write(self, stamp: tuple[int, int], xy: np.ndarray, zw: np.ndarray) -> bytes:
        """Return the bytes for positions float[n, 2] and the quaternions' z and w float[n, 2]."""
        self._rows[:, :2], self._rows[:, 5:] = xy, zw
        _STAMP.pack_into(self._data, 4, *stamp)
        self._data[self._at : self._at + self._rows.nbytes] = self._rows.tobytes()
        return bytes(self._data)


def read_twist(data: bytes) -> tuple[int, float, float, float]:
    """Return 0 and vx, vy, yaw rate of a serialized Twist."""
    if data[:2] != _NATIVE:
        twist = deserialize_message(data, Twist)
        return 0, twist.linear.x, twist.linear.y, twist.angular.z
    values = _TWIST.unpack_from(data, 4)
    return 0, values[0], values[1], values[5]


def read_twist_stamped(data: bytes) -> tuple[int, float, float, float]:
    """Return the stamp in nanoseconds and vx, vy, yaw rate of a serialized TwistStamped."""
    if data[:2] != _NATIVE:
        message = deserialize_message(data, TwistStamped)
        twist, stamp = message.twist, message.header.stamp
        return stamp.sec * 10**9 + stamp.nanosec, twist.linear.x, twist.linear.y, twist.angular.z
    seconds, nanoseconds = _STAMP.unpack_from(data, 4)
    end = 12 + _LENGTH.unpack_from(data, 12)[0]  # of the frame name, counted after the 4 bytes of CDR header
    values = _TWIST.unpack_from(data, 4 + (end + 7) // 8 * 8)
    return seconds * 10**9 + nanoseconds, values[0], values[1], values[5]
