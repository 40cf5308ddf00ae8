"""ROS 2 nodes of the run-time policy: they convert messages and own the timers."""
