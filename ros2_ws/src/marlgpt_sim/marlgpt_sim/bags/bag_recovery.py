"""Make a complete bag of the file that a killed recorder left."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import get_types_from_msg

from marlgpt_sim.bags.bag_writer import BagWriter
from marlgpt_sim.bags.mcap_scan import Channel, Damage, scan


def recover(broken: str | Path, target: str | Path) -> int:
    """Copy every whole message of an MCAP file, finished or torn, into a new bag.

    A process that was killed leaves a file without index, which few readers open.

    Args:
        broken: The ``.mcap`` file; its chunks may be compressed.
        target: Folder of the new bag; must not exist.

    Returns:
        Messages recovered [count].

    Raises:
        ValueError: `broken` is not an MCAP file, or so damaged that no message is left.
        FileExistsError: `target` exists already.
    """
    damage = Damage()
    with BagWriter(target, flush_period=60.0) as bag:
        try:
            with open(broken, "rb") as file:
                _copy(scan(file, damage), bag, damage)
        except ValueError as error:
            damage.note(str(error))
    if not bag.messages and damage.reasons:
        shutil.rmtree(target)
        raise ValueError(f"{broken}: no message can be read: {'; '.join(damage.reasons[:3])}")
    return bag.messages


def _copy(messages: Iterable[tuple[Channel, int, bytes]], bag: BagWriter, damage: Damage) -> None:
    """Write the messages of a file to ``bag``, except those of topics whose definitions are damaged."""
    known: dict[Channel, bool] = {}
    for channel, stamp, data in messages:
        if channel not in known:
            try:
                if channel.encoding != "ros2msg":
                    raise ValueError(f"{channel.type!r} is defined in {channel.encoding!r}, not in 'ros2msg'")
                new = get_types_from_msg(channel.definition, channel.type)
                bag.types.register({key: value for key, value in new.items() if key not in bag.types.types})
                bag.add_topic(
                    channel.topic, channel.type, parse_qos(channel.profiles) if channel.profiles else []
                )
                known[channel] = True
            except Exception as error:  # damaged definitions can fail in many ways
                damage.note(f"topic {channel.topic!r} is lost: {error!r}")
                known[channel] = False
        if known[channel] and stamp < 2**63:
            bag.write(channel.topic, channel.type, data, stamp)
