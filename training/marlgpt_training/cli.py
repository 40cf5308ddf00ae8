"""The ``marlgpt`` command: one entry, each subcommand imported only when it is called."""

from __future__ import annotations

import importlib
import sys

# name -> (module with Args and main, one sentence)
COMMANDS = {
    "demo": (
        "marlgpt_sim.commands.demo",
        "drive a simulated fleet over ROS 2 and write summary, report and bag",
    ),
    "collect": (
        "marlgpt_training.collection.collect",
        "collect labelled expert episodes into a trajectory store",
    ),
    "train": ("marlgpt_training.train.train", "train a policy on a store, with data aggregation beside it"),
    "curve": ("marlgpt_training.train.learning_curve", "draw the learning curve of training runs"),
    "critic": ("marlgpt_training.train.critic", "train the critic of a finished policy on returns"),
    "evaluate": ("marlgpt_training.evaluation.evaluate", "evaluate policies in the real pogema package"),
    "finetune": (
        "marlgpt_training.finetune.finetune",
        "fine-tune a policy on imported recordings, and measure gain and forgetting",
    ),
    "record-expert": (
        "marlgpt_training.finetune.record_expert",
        "record a bag of a simulated fleet that an expert drives",
    ),
    "retrain-demo": (
        "marlgpt_training.finetune.retrain_demo",
        "record an expert, import, fine-tune, and swap the policy of a driving fleet",
    ),
    "export": ("marlgpt_training.export.export", "export a checkpoint to ONNX and check parity with PyTorch"),
    "import-dataset": (
        "marlgpt_training.published.datasets",
        "import published MAPF-GPT and MARL-GPT data files",
    ),
    "import-bag": (
        "marlgpt_training.bags.import_bag",
        "import recordings of driving fleets (MCAP, SQLite) into a trajectory store",
    ),
    "import-checkpoint": (
        "marlgpt_training.published.checkpoint",
        "convert the published MARL-GPT checkpoint",
    ),
    "model-card": (
        "marlgpt_training.export.model_card",
        "write the model card of a policy from its evaluations",
    ),
    "view": ("marlgpt_sim.commands.view", "show the fleet live in a web browser, set goals, stop and resume"),
    "soak": (
        "marlgpt_sim.commands.soak",
        "drive simulated fleets for many robot-hours with all faults mixed",
    ),
    "gazebo": (
        "marlgpt_sim.commands.gazebo",
        "write a Gazebo world and the bridge's configuration for a map and robots",
    ),
    "robots": ("marlgpt_sim.commands.robots", "check a robots file, alone or on a map, with a picture"),
    "map": (
        "marlgpt_sim.commands.map",
        "convert a map_server map into the grid a robot can drive, with a picture",
    ),
}


def usage() -> str:
    """Help text of the bare command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return (
        "usage: marlgpt COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nmarlgpt COMMAND --help lists its options."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns its exit code (2 for a wrong command line, 1 for bad input)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"marlgpt: unknown command '{argv[0]}'\n\n{usage()}", file=sys.stderr)
        return 2
    import tyro

    module = importlib.import_module(COMMANDS[argv[0]][0])
    args = tyro.cli(module.Args, prog=f"marlgpt {argv[0]}", args=argv[1:])
    try:
        return module.main(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"marlgpt {argv[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
