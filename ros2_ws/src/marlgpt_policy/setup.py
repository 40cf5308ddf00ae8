"""ament_python packaging of the run-time policy."""

from glob import glob

from setuptools import find_packages, setup

NAME = "marlgpt_policy"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.html", "*.json", "*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", sorted(glob("config/*.yaml"))),
        (f"share/{NAME}/foxglove", sorted(glob("foxglove/*.json"))),
        (f"share/{NAME}/rviz", sorted(glob("rviz/*.rviz"))),
        (f"share/{NAME}/security", sorted(glob("security/*.xml"))),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/models", sorted(glob("models/*.*"))),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="The MARL-GPT ROS 2 maintainers",
    maintainer_email="maintainers@marlgpt.example",
    description="Run-time half of MARL-GPT for robot fleets",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            f"{node} = {NAME}.nodes.{node}:main" for node in ("fleet_node", "robot_node", "watchdog_node")
        ]
    },
)
