"""What a bag needs to know of topics and message types: profiles, and where definitions come from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from marlgpt_policy.policy.shipped_files import shipped_file
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_FOREVER = QosTime(9223372036, 854775807)  # how rmw writes "no deadline": 2**63 - 1 nanoseconds


@dataclass(frozen=True)
class TopicSpec:
    """One topic to record.

    Args:
        name: Topic name, relative or absolute; resolved by the recording node.
        type: Message type, ``package/msg/Name``.
        reliable: Ask publishers for reliable delivery. A best effort publisher needs False.
        latched: Ask for the last message of a late-joining transient local publisher (maps).
        depth: Messages that may wait for the recorder [count].
    """

    name: str
    type: str
    reliable: bool = True
    latched: bool = False
    depth: int = 100

    def __post_init__(self) -> None:
        """Refuse a type that is not ``package/msg/Name`` and a depth below 1."""
        parts = self.type.split("/")
        if len(parts) != 3 or parts[1] != "msg" or not all(parts):
            raise ValueError(f"topic {self.name!r}: type {self.type!r} is not like 'nav_msgs/msg/Odometry'")
        if self.depth < 1:
            raise ValueError(f"topic {self.name!r}: depth must be at least 1, got {self.depth}")

    def qos(self) -> Qos:
        """The profile of this specification, in the form a bag stores."""
        return Qos(
            history=QosHistory.KEEP_LAST,
            depth=self.depth,
            reliability=QosReliability.RELIABLE if self.reliable else QosReliability.BEST_EFFORT,
            durability=QosDurability.TRANSIENT_LOCAL if self.latched else QosDurability.VOLATILE,
            deadline=_FOREVER,
            lifespan=_FOREVER,
            liveliness=QosLiveliness.AUTOMATIC,
            liveliness_lease_duration=_FOREVER,
            avoid_ros_namespace_conventions=False,
        )


def message_folders(package: str) -> list[Path]:
    """Folders that may hold the ``.msg`` files of a package, best first.

    Looks at ``share/<package>/msg`` of every prefix in ``AMENT_PREFIX_PATH``, then where files that come with this
    project lie.
    """
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [Path(prefix) / "share" / package / "msg" for prefix in prefixes]
    with contextlib.suppress(FileNotFoundError):
        folders.append(shipped_file(package, "msg"))
    return [folder for folder in folders if folder.is_dir()]


def load_types(packages: Iterable[str]) -> Typestore:
    """Type definitions of ROS 2 Kilted plus the messages of the named packages.

    Args:
        packages: Packages whose messages must be known. Those that ROS itself ships are known already.

    Raises:
        FileNotFoundError: The ``.msg`` files of a package are nowhere to be found.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    known = {name.split("/")[0] for name in store.types}
    for package in sorted(set(packages) - known):
        folders = message_folders(package)
        if not folders:
            raise FileNotFoundError(
                f"no .msg files of package {package!r}: source the install/setup.bash that it was built into"
            )
        definitions = {}
        for path in sorted(folders[0].glob("*.msg")):
            text = path.read_text(encoding="utf-8")
            definitions.update(get_types_from_msg(text, f"{package}/msg/{path.stem}"))
        store.register(definitions)
    return store
