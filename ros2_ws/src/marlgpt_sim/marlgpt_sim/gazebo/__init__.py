"""The fleet in Gazebo: world (SDF), bridge (YAML) and their checks, written from a map and a list of robots."""
