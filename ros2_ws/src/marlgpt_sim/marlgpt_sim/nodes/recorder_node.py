"""Record topics to an MCAP bag: a class for programs that own a node, and a node of its own.

`PARAMETERS` lists the parameters of the node `recorder`. It subscribes to whatever the named topics turn out to be, as
their publishers appear. Where the bag cannot be written any more (no space left), it says so and ends with exit
status 1.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from marlgpt_policy.nodes.parameters import STRINGS, Spec, declare
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from marlgpt_sim.bags.bag_types import TopicSpec
from marlgpt_sim.bags.bag_writer import BagWriter

_DISCOVERY_PERIOD = 0.5  # s between two looks at the graph
_UNRECORDED = ("/rosout", "/parameter_events")

PARAMETERS: dict[str, Spec] = {
    "output": Spec("", "Folder of the bag; must not exist."),
    "topics": Spec(STRINGS, "Topics to record, relative or absolute names; empty: every topic."),
    "flush_period": Spec(0.5, "Longest time in s that a message stays in memory only.", 0.0, 60.0),
    "max_size": Spec(
        0, "Bytes of messages after which the next file of the bag begins; 0: no limit.", 0, 2**62
    ),
    "max_duration": Spec(
        0.0, "Seconds of messages after which the next file of the bag begins; 0: no limit.", 0.0, 1e9
    ),
}


class BagRecorder:
    """Record topics with the subscriptions of a node; a context manager that closes the bag.

    Messages are stored as the bytes that crossed the wire and stamped with the node's clock, so with
    simulation time if the node uses that. The bag is complete once `close` returns.

    Args:
        node: Node that subscribes; whoever owns it spins it.
        path: Folder of the bag; must not exist.
        topics: What to record; more can follow with `add`.
        flush_period: Longest time that a message stays in memory only [s, wall time].
        max_size: Bytes of messages after which the next file of the bag begins; zero for no limit.
        max_duration: Seconds of messages in one file; zero for no limit.

    Attributes:
        failure: Why the bag takes no more messages (no space left); None as long as it does.

    Raises:
        FileExistsError: `path` exists already.
        OSError: The folder cannot be made.
        FileNotFoundError: The ``.msg`` files of a package are missing.
        ModuleNotFoundError: The Python messages of a package are missing.
        KeyError: A message type is unknown.
    """

    def __init__(
        self,
        node: Node,
        path: str | Path,
        topics: Sequence[TopicSpec],
        flush_period: float = 0.5,
        max_size: int = 0,
        max_duration: float = 0.0,
    ) -> None:
        """Open the bag and subscribe."""
        self._node = node
        self._subscriptions: dict[str, object] = {}
        self._announced: set[str] = set()
        self._specs: dict[str, TopicSpec] = {}
        self._writer = BagWriter(
            path, {topic.type.split("/")[0] for topic in topics}, flush_period, max_size, max_duration
        )
        self._logged = False
        try:
            for topic in topics:
                self.add(topic)
        except Exception:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Folder of the bag."""
        return self._writer.path

    @property
    def parts(self) -> list[Path]:
        """Files of the bag so far."""
        return self._writer.parts

    @property
    def failure(self) -> OSError | None:
        """Why nothing is recorded any more."""
        return self._writer.failure

    @property
    def messages(self) -> int:
        """Messages recorded so far [count]."""
        return self._writer.messages

    def add(self, topic: TopicSpec) -> None:
        """Record one more topic; a second request for the same name changes nothing."""
        name = self._node.resolve_topic_name(topic.name)
        if name in self._subscriptions:
            return
        package, _, kind = topic.type.split("/")
        message = getattr(importlib.import_module(f"{package}.msg"), kind)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=topic.depth,
            reliability=ReliabilityPolicy.RELIABLE if topic.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
        )
        self._writer.learn(topic.type)
        self._specs[name] = topic
        self._subscriptions[name] = self._node.create_subscription(
            message, name, lambda data: self._write(name, topic, data), profile, raw=True
        )

    def close(self) -> None:
        """Unsubscribe, list the silent topics too, and complete the bag; more calls do nothing."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        for name, topic in self._specs.items():
            if name not in self._announced:
                self._writer.add_topic(name, topic.type, [topic.qos()])
        self._writer.close()

    def __enter__(self) -> BagRecorder:
        """Return the open recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag, also after an error."""
        self.close()

    def _write(self, name: str, topic: TopicSpec, data: bytes) -> None:
        stamp = self._node.get_clock().now().nanoseconds
        if name not in self._announced:
            offered = [_stored(info.qos_profile) for info in self._node.get_publishers_info_by_topic(name)]
            self._writer.add_topic(name, topic.type, offered or [topic.qos()])
            self._announced.add(name)
        try:
            self._writer.write(name, topic.type, data, stamp)
        except OSError as error:
            if not self._logged:
                self._logged = True
                self._node.get_logger().error(f"recording has ended: {error}")


class RecorderNode(Node):
    """Node that records the topics named by its parameters until it is stopped."""

    def __init__(self, **options: object) -> None:
        """Declare the parameters and open the bag.

        Raises:
            ValueError: ``output`` is empty.
            FileExistsError: ``output`` exists already.
        """
        super().__init__("recorder", **options)
        declare(self, PARAMETERS, read_only=True)
        output, period, size, duration = (
            self.get_parameter(name).value for name in ("output", "flush_period", "max_size", "max_duration")
        )
        topics = self.get_parameter_or("topics", None)
        if not output:
            raise ValueError("parameter 'output' is empty: set it to the folder of the bag")
        wanted = topics.value if topics is not None else None
        self._wanted = {self.resolve_topic_name(name) for name in wanted or () if name}
        self._unusable: set[str] = set()
        self.recorder = BagRecorder(self, output, [], period, size, duration)
        self.get_logger().info(f"recording to {output}")
        self.create_timer(_DISCOVERY_PERIOD, self._discover, clock=_steady_clock())

    def _discover(self) -> None:
        """Subscribe to the wanted topics that have a publisher, in the way its publishers offer.

        Raises:
            OSError: Nothing can be recorded any more.
        """
        if self.recorder.failure is not None:
            raise self.recorder.failure
        for name, types in self.get_topic_names_and_types():
            if name in self._unusable or not self._is_wanted(name):
                continue
            profiles = [info.qos_profile for info in self.get_publishers_info_by_topic(name)]
            if not profiles:
                continue
            reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
            latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
            try:
                self.recorder.add(TopicSpec(name, types[0], reliable, latched))
            except Exception as error:  # a type that is not installed here can fail in many ways
                self._unusable.add(name)
                self.get_logger().warning(f"cannot record {name}: {error}")

    def _is_wanted(self, name: str) -> bool:
        """Named by the parameter; without one: not hidden (an action's inner topics) and not ROS's own."""
        return name in self._wanted if self._wanted else "/_" not in name and name not in _UNRECORDED


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM, then complete the bag.

    Returns:
        0, or 1 if the bag could not be written; the reason is printed.
    """
    rclpy.init(args=args)
    try:
        node = RecorderNode()
    except (OSError, ValueError) as error:
        print(f"recorder: {error}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 1
    failure: OSError | None = None
    try:
        rclpy.spin(node)
    except OSError as error:
        failure = error
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # a signal that comes while the executor is not waiting takes the context from it
        if rclpy.ok():
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not tear the index
            signal.signal(number, signal.SIG_IGN)
        try:
            node.recorder.close()
        except OSError as error:
            failure = error
        print(f"recorded {node.recorder.messages} messages to {node.recorder.path}", flush=True)
        node.destroy_node()
        rclpy.try_shutdown()
    failure = failure or node.recorder.failure
    if failure is not None:
        print(f"recorder: {failure}", file=sys.stderr, flush=True)
    return 0 if failure is None else 1


def _steady_clock() -> Clock:
    """A clock that goes on while simulation time stands still."""
    return Clock(clock_type=ClockType.STEADY_TIME)


def _stored(profile: QoSProfile) -> Qos:
    """The form in which a bag stores a profile; both number the policies as ``rmw`` does."""
    return Qos(
        history=QosHistory(int(profile.history)),
        depth=profile.depth,
        reliability=QosReliability(int(profile.reliability)),
        durability=QosDurability(int(profile.durability)),
        deadline=_time(profile.deadline),
        lifespan=_time(profile.lifespan),
        liveliness=QosLiveliness(int(profile.liveliness)),
        liveliness_lease_duration=_time(profile.liveliness_lease_duration),
        avoid_ros_namespace_conventions=profile.avoid_ros_namespace_conventions,
    )


def _time(duration: Duration) -> QosTime:
    return QosTime(*divmod(duration.nanoseconds, 10**9))


if __name__ == "__main__":
    sys.exit(main())
