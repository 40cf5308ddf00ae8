"""Everything a robot needs at run time: maps, encoders, policy, shield and motion (no ROS outside `nodes`)."""

from marlgpt_policy.kernels.kernel_cache import provide

provide()
