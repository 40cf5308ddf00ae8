"""Robots: their bodies and limits, `robots.yaml`, and the arrays of their states."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Drive": "robot_config",
        "MotionLimits": "robot_config",
        "RobotConfig": "robot_config",
        "Status": "robot_config",
        "RobotEntry": "robot_entry",
        "RobotsFileError": "robot_entry",
        "Robots": "robot_state",
        "FleetFile": "robots_file",
        "load_robots": "robots_file",
    },
)
