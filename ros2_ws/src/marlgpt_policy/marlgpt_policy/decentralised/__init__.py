"""One controller on each robot, which agree on cells by messages; no central node."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Peers": "cell_protocol",
        "Rules": "peer_state",
        "State": "peer_state",
        "ControllerConfig": "robot_controller",
        "ControllerTick": "robot_controller",
        "RobotController": "robot_controller",
    },
)
