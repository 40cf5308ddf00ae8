"""What a training run needs to go on exactly where it stopped: written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from marlgpt_training.model.checkpoint import CheckpointError, trained_layouts
from marlgpt_training.model.model import ModelConfig

RUN = "training run"
"""What the folder of a run is marked as."""


class RunStateError(ValueError):
    """A run's state file is torn, foreign or belongs to another model; the message says what to do."""


def is_run(folder: Path) -> bool:
    """Whether a folder without a marker is a run that a version of this project without markers began.

    From its first step on a run holds a checkpoint of this project, ``student.safetensors``.
    """
    try:
        trained_layouts(folder / "student.safetensors")
    except CheckpointError:
        return False
    return True


def save_state(path: Path, state: dict) -> None:
    """Write ``state`` (tensors and plain values) so that a crash or a full disk leaves the old file.

    Raises:
        OSError: Naming the file; the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise OSError(
            f"{path}: could not be saved ({error}); the previous one is intact. Free some space and run the same "
            "command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, device: str) -> dict:
    """Read a state written by :func:`save_state`.

    Raises:
        RunStateError: Naming the file and the fix.
    """
    try:
        state = torch.load(path, weights_only=True, map_location=device)
        state["step"], state["config"]
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise RunStateError(
            f"{path}: not a readable state of a run ({type(error).__name__}: {error}); delete it and go on from the "
            "newest average with --init student.safetensors"
        ) from error
    return state


def check_config(path: Path, saved: dict, wanted: dict) -> None:
    """``RunStateError`` if the saved model is not the wanted one.

    What an older state does not mention has its default.
    """
    saved = {**ModelConfig().to_dict(), **saved}
    for name, value in wanted.items():
        held = tuple(saved[name]) if name == "value_range" else saved[name]
        if held != value:
            raise RunStateError(
                f"{path}: holds a model with {name} {held}, this command asks for {value}; use the same --store, "
                "--preset, --reading and --highest, or another --out"
            )
