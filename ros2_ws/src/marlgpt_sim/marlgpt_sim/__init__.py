"""Fleet simulator, maps, task source, demo and report (no ROS outside `nodes` and the children of the demo)."""
