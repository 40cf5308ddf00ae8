"""``marlgpt view``: the fleet live in a web browser."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass
class Args:
    """Serve a live page of the fleet: map, robots, goals, throughput; set goals, stop and resume.

    The page works on this machine only, unless --host says otherwise; commands then need the token in the URL that is
    printed (or in the environment variable MARLGPT_VIEW_TOKEN).
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets the network in."""
    port: int = 8420
    """TCP port; 0 for any free one."""
    namespace: str = "/"
    """Namespace of the fleet."""
    use_sim_time: bool = False
    """Whether the fleet follows /clock, as in a simulation."""
    read_only: bool = False
    """Whether browsers may only watch."""
    rate: float = 10.0
    """Frames per second that each browser gets, at most."""
    allow_host: tuple[str, ...] = ()
    """More host names under which browsers may reach the page, such as that of a proxy."""
    title: str = ""
    """Heading of the page; empty: the namespace."""
    radius: float = 0.0
    """Robots' radius to draw, m; 0: that of the fleet node."""
    robots_file: Path | None = None
    """Robots file (robots.yaml), for radii and goal topics."""


def ros_arguments(args: Args) -> list[str]:
    """The node's command line.

    Raises:
        ValueError: A number is out of range; says which and what it may be.
    """
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port}: it must be from 0 to 65535")
    if not 1.0 <= args.rate <= 60.0:
        raise ValueError(f"--rate {args.rate}: it must be from 1 to 60 frames per second")
    if not 0.0 <= args.radius <= 10.0:
        raise ValueError(f"--radius {args.radius}: it must be from 0 to 10 m")
    values = {
        "host": args.host, "port": args.port, "rate": float(args.rate), "read_only": args.read_only,
        "allow_hosts": ",".join(args.allow_host), "title": args.title, "radius": float(args.radius),
        "robots_file": str(args.robots_file or ""), "use_sim_time": args.use_sim_time,
    }  # fmt: skip
    namespace = "/" + args.namespace.strip("/")
    command = ["--ros-args", "-r", f"__ns:={namespace}"]
    for name, value in values.items():
        command += ["-p", f"{name}:={_yaml(value)}"]
    return command


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def main(args: Args) -> int:
    """Serve until interrupted."""
    arguments = ros_arguments(args)
    try:
        from marlgpt_sim.nodes import view_node
    except ImportError as error:
        raise ImportError(
            f"the view needs ROS 2 (rclpy) and marlgpt_msgs: {error}; run `make setup`"
        ) from error
    return view_node.main(["marlgpt", *arguments])
