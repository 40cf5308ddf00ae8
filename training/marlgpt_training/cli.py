"""The ``marlgpt`` command with the commands of training beside those of the run time."""

from __future__ import annotations

import sys

from marlgpt_sim.commands import cli

COMMANDS = cli.COMMANDS | {
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
}
"""All commands: name to module (with ``Args`` and ``main``) and one sentence."""
main = cli.main


if __name__ == "__main__":
    sys.exit(main())
