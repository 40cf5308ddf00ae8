"""ament_python packaging of the fleet simulator and of the `marlgpt` command."""

from glob import glob

from setuptools import find_packages, setup

NAME = "marlgpt_sim"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={"": ["*.css", "*.html", "*.js", "*.json", "*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/maps", sorted(glob("maps/*.*"))),
        # Console scripts go to lib/, where `ros2 run` looks; this one is on the PATH once the workspace is sourced.
        ("bin", ["bin/marlgpt"]),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="The MARL-GPT ROS 2 maintainers",
    maintainer_email="maintainers@marlgpt.example",
    description="Fleet simulator for MARL-GPT robot fleets",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            f"marlgpt = {NAME}.commands.cli:main",
            f"map_publisher = {NAME}.nodes.map_publisher:main",
            f"recorder = {NAME}.nodes.recorder_node:main",
            f"simulator = {NAME}.nodes.simulator:main",
            f"task_source = {NAME}.nodes.task_source:main",
            f"view_node = {NAME}.nodes.view_node:main",
        ]
    },
)
