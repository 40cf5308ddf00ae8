"""The ``marlgpt`` command: one entry, each subcommand imported only when it is called.

The commands of this package need no PyTorch. Where ``marlgpt_training`` is installed, too, its commands are added.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

COMMANDS = {
    "demo": (
        "marlgpt_sim.commands.demo",
        "drive a simulated fleet over ROS 2 and write summary, report and bag",
    ),
    "view": ("marlgpt_sim.commands.view", "show the fleet live in a web browser, set goals, stop and resume"),
    "map": (
        "marlgpt_sim.commands.map",
        "convert a map_server map into the grid a robot can drive, with a picture",
    ),
    "robots": ("marlgpt_sim.commands.robots", "check a robots file, alone or on a map, with a picture"),
    "gazebo": (
        "marlgpt_sim.commands.gazebo",
        "write a Gazebo world and the bridge's configuration for a map and robots",
    ),
    "soak": (
        "marlgpt_sim.commands.soak",
        "drive simulated fleets for many robot-hours with all faults mixed",
    ),
}
"""Commands of this package: name to module (with ``Args`` and ``main``) and one sentence."""
TRAINING = "marlgpt_training.cli"
"""Module whose ``COMMANDS`` are used instead where it is installed: these and those of training."""


def available_commands() -> dict[str, tuple[str, str]]:
    """All commands that can be called in this installation, as in `COMMANDS`."""
    try:
        found = importlib.util.find_spec(TRAINING) is not None
    except ModuleNotFoundError:  # not even its package is there
        found = False
    return importlib.import_module(TRAINING).COMMANDS if found else COMMANDS


def usage(commands: dict[str, tuple[str, str]]) -> str:
    """Help text of the bare command."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in commands.items()]
    return (
        "usage: marlgpt COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nmarlgpt COMMAND --help lists its options."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns its exit code (2 for a wrong command line, 1 for bad input)."""
    argv = sys.argv[1:] if argv is None else argv
    commands = available_commands()
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(commands))
        return 0 if argv else 2
    name = argv[0]
    if name not in commands:
        print(f"marlgpt: unknown command '{name}'\n\n{usage(commands)}", file=sys.stderr)
        return 2
    try:
        import tyro

        module = importlib.import_module(commands[name][0])
    except ModuleNotFoundError as error:
        print(f"marlgpt {name}: {error}; {_remedy(commands[name][0])}", file=sys.stderr)
        return 1
    args = tyro.cli(module.Args, prog=f"marlgpt {name}", args=argv[1:])
    try:
        return module.main(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"marlgpt {name}: {error}", file=sys.stderr)
        return 1


def _remedy(module: str) -> str:
    """What to install if a package is missing that a command's module imports."""
    if module.startswith("marlgpt_training."):
        return 'training needs more packages: pip install "marlgpt-ros2[training]"'
    return "install it, or all that the command needs with: pip install marlgpt-ros2"


if __name__ == "__main__":
    sys.exit(main())
