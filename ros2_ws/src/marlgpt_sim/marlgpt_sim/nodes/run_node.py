"""How the nodes of this package run: one way to start, to be interrupted, and to refuse bad parameters."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidTopicNameException,
)
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


def run(
    name: str, make: Callable[[], Node], args: list[str] | None, spin: Callable[[Node], None] = rclpy.spin
) -> int:
    """Make a node and spin it until it is interrupted.

    Args:
        name: what its errors are printed under.
        make: creates the node; a `ValueError` or a bad parameter or topic name ends it with its message.
        args: command line, as for `rclpy.init`.
        spin: runs the node until the context is shut down.

    Returns:
        The exit status: 0 after an interrupt, 1 after bad input.
    """
    rclpy.init(args=args)
    node = None
    try:
        node = make()
        spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (
        ValueError,
        InvalidParameterTypeException,
        InvalidParameterValueException,
        InvalidTopicNameException,
    ) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except Exception:
        if rclpy.ok():  # otherwise it was interrupted inside compiled code, which wraps the interrupt
            raise
    finally:
        # A terminal and `ros2 launch` both send an interrupt: the second one must not end the clean-up.
        quiet = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if quiet else None
        try:
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
        finally:
            if quiet:
                signal.signal(signal.SIGINT, before)
    return 0
