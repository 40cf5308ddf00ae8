"""Qualities of service that the nodes share."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LAST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
REQUESTS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
"""Of services: what does not fit is never answered, and the usual 10 are less than a few clients send at once."""
