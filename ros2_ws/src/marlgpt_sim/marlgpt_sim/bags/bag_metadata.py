"""``metadata.yaml`` of a bag that consists of several files."""

from __future__ import annotations

from pathlib import Path

import yaml


def write_metadata(folder: Path, finished: list[dict]) -> None:
    """Write the metadata of a bag's finished parts, in one step.

    Args:
        folder: Of the bag.
        finished: Content of the metadata that each part has by itself, in the order of the parts; at least one.
    """
    parts = [part["rosbag2_bagfile_information"] for part in finished]
    whole = dict(parts[0])
    filled = [part for part in parts if part["message_count"]] or parts[:1]
    begin = min(part["starting_time"]["nanoseconds_since_epoch"] for part in filled)
    end = max(
        part["starting_time"]["nanoseconds_since_epoch"] + part["duration"]["nanoseconds"] for part in filled
    )
    whole["starting_time"] = {"nanoseconds_since_epoch": begin}
    whole["duration"] = {"nanoseconds": end - begin}
    whole["message_count"] = sum(part["message_count"] for part in parts)
    for name in ("relative_file_paths", "files"):
        whole[name] = [entry for part in parts for entry in part[name]]
    topics: dict[tuple, dict] = {}
    for topic in (topic for part in parts for topic in part["topics_with_message_count"]):
        key = topic["topic_metadata"]["name"], topic["topic_metadata"]["type"]
        entry = topics.setdefault(key, {**topic, "message_count": 0})
        entry["message_count"] += topic["message_count"]
    whole["topics_with_message_count"] = list(topics.values())
    temporary = folder / ".metadata.yaml"
    text = yaml.safe_dump({"rosbag2_bagfile_information": whole}, sort_keys=False)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / "metadata.yaml")
