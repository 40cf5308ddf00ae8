"""The live view: the fleet in a web browser. Nothing here imports ROS; `nodes/view_node.py` connects it."""
