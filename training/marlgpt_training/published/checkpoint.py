"""Import the checkpoint published with the MARL-GPT paper (Nesterova et al. 2026, arXiv 2604.05943).

``marl-gpt-main.pt`` is a PyTorch file with the state dict under ``model`` (from ``torch.compile``, so every key starts
with ``_orig_mod.``) and the model's arguments under ``model_args``. It could not be downloaded while this was written:
**no name below was checked against the file itself.** What they rest on:

- ``model``, ``model_args``, the names of blocks, final norms and heads, the order query, key, value within
  ``c_attn``, the sizes and the parameter count: code and notes of a group that loaded the file
  (github.com/Xmaster6y/marl-gpt-interp), and the authors' earlier model (github.com/Cognitive-AI-Systems/MAPF-GPT);
- the value projection and the four id tables: only their sizes are known, so :data:`NAMES` lists likely names and any
  other tensor is taken by its shape, which is different for each of the five. What was taken so is reported.

If the file turns out to use another name, add it to :data:`NAMES`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from pathlib import Path

import torch
from marlgpt_policy.encoders.token_layout import AGENTS, ATTRIBUTES, MAX_ACTIONS, POGEMA_LAYOUT, TEAMS, TIMES
from marlgpt_sim.runs.output_folder import check_output_file

from marlgpt_training.model.checkpoint import MARKS, CheckpointError, save_checkpoint
from marlgpt_training.model.model import MarlGpt, ModelConfig, preset

PREFIX = "_orig_mod."
PARAMETERS = 7_232_256
VALUE_RANGE = (-5.0, 5.0)
"""Returns of the lowest and highest value bin, as marl-gpt-interp draws them; not checked. Only q depends on it."""
LAYOUT_NOTE = (
    "The weights load, but the published model was trained on its own observations: it attends to all of its (up to "
    "700) positions without a padding mask, and its environment token holds the plain environment id, where the layout "
    f"{POGEMA_LAYOUT.name} masks padding and divides the id by 4; attribute, team, agent and time ids of POGEMA are "
    "not known to agree. Use it to initialise training, or with an encoder that carries the same ids."
)

_BLOCK = {
    "norm_attention.weight": "ln_1.weight",
    "qkv.weight": "attn.c_attn.weight",
    "out.weight": "attn.c_proj.weight",
    "norm_mlp.weight": "ln_2.weight",
    "up.weight": "mlp.c_fc.weight",
    "down.weight": "mlp.c_proj.weight",
}
"""Inside a block: ours -> published."""


def _names() -> dict[str, tuple[str, ...]]:
    blocks = {f"trunk.{n}": f"transformer.h.{n}" for n in range(preset("paper").shared)}
    blocks |= {"actor_block": "transformer.act_layers", "critic_block": "transformer.critic_layers"}
    names = {
        f"{ours}.{mine}": (f"{theirs}.{its}",)
        for ours, theirs in blocks.items()
        for mine, its in _BLOCK.items()
    }
    return names | {
        "actor_norm.weight": ("transformer.ln_actor_f.weight",),
        "critic_norm.weight": ("transformer.ln_critic_f.weight",),
        "actor_head.weight": ("lm_head_actor.weight",),
        "critic_head.weight": ("lm_head_critic.weight",),
        "embedding.value.weight": ("transformer.wte.weight", "obs_encoder.weight"),
        "embedding.attribute.weight": ("transformer.wpe_attr.weight", "transformer.attr_pos.weight"),
        "embedding.time.weight": ("transformer.wpe_time.weight", "transformer.time_pos.weight"),
        "embedding.team.weight": ("transformer.wpe_team.weight", "transformer.group_pos.weight"),
        "embedding.agent.weight": ("transformer.wpe_agent.weight", "transformer.agent_pos.weight"),
    }


NAMES: dict[str, tuple[str, ...]] = _names()
"""Name in our model -> possible names in the published one, likeliest first."""
BY_SHAPE = tuple(name for name in NAMES if name.startswith("embedding."))
"""Tensors that may be taken by their shape where none of their names is there."""

ARGUMENTS = {
    "n_layer": preset("paper").shared + 1,  # the shared blocks and the one of a branch
    "n_head": preset("paper").heads,
    "n_embd": preset("paper").width,
}
"""Model arguments that must be there, with the value our ``paper`` preset stands for."""
OPTIONAL_ARGUMENTS = {"action_size": MAX_ACTIONS, "n_attr": ATTRIBUTES, "history_len": TIMES, "bias": False}
"""Model arguments that must have this value where they are there; all others are only kept."""


@dataclasses.dataclass
class Args:
    """Convert the published MARL-GPT checkpoint into one of this project's (scalar reading, paper preset)."""

    published: Path = Path("marl-gpt-main.pt")
    """The published PyTorch file."""
    out: Path = Path("out/published.safetensors")
    """Checkpoint to write; nothing is written if anything does not fit."""
    ignore: tuple[str, ...] = ()
    """Tensors of the file to leave out (buffers that this project does not know), by their name without prefix."""


def read(path: str | Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The model arguments and the state dict of ``path``, keys without :data:`PREFIX`; no code in it is run.

    Raises:
        CheckpointError: Missing or torn file, one that needs pickled code, or one without the two entries.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file raises for names that are too long
        raise CheckpointError(f"{path}: no such file; give the path of the published marl-gpt-main.pt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"{path}: not a PyTorch file, or one that needs pickled code, which is not run ({reason}); if you trust "
            "it, save its 'model' and 'model_args' alone, as tensors and plain values, in a place that may run it"
        ) from error
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise CheckpointError(
            f"{path}: not a readable PyTorch file, torn or of another format ({error})"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: holds a {type(found).__name__}, not a dict with 'model' and 'model_args'"
        )
    for key in ("model", "model_args"):
        if not isinstance(found.get(key), dict):
            there = ", ".join(map(str, found)) or "nothing"
            raise CheckpointError(
                f"{path}: no '{key}' dict in it, only {there}; give the published marl-gpt-main.pt"
            )
    state = {str(name).removeprefix(PREFIX): tensor for name, tensor in found["model"].items()}
    strange = [name for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if strange:
        raise CheckpointError(f"{path}: '{strange[0]}' in its 'model' is not a tensor")
    if len(state) != len(found["model"]):
        raise CheckpointError(f"{path}: some names are there both with and without '{PREFIX}'")
    return dict(found["model_args"]), state


def match(state: dict[str, torch.Tensor], shapes: dict[str, torch.Size]) -> tuple[dict[str, str], list[str]]:
    """Which tensor of ``state`` is which of ours.

    Args:
        state: Published tensors by name without prefix.
        shapes: Shapes of our tensors by our name.

    Returns:
        (our name -> published name, our names among them that were taken by shape).
    """
    found = {ours: next((name for name in NAMES[ours] if name in state), None) for ours in shapes}
    free = state.keys() - set(found.values())
    by_shape = []
    for ours in BY_SHAPE:
        same = [name for name in free if state[name].shape == shapes[ours]]
        if found[ours] is None and len(same) == 1:
            found[ours] = same[0]
            by_shape.append(ours)
    return {ours: name for ours, name in found.items() if name is not None}, by_shape


def misfits(arguments: dict, state: dict[str, torch.Tensor], shapes: dict[str, torch.Size]) -> list[str]:
    """Everything about the file that is not the published model, a line each; empty if it fits."""
    wrong = []
    for name, expected in (ARGUMENTS | OPTIONAL_ARGUMENTS).items():
        if name not in arguments and name in ARGUMENTS:
            wrong.append(f"missing model argument {name}: expected {expected}")
        elif name in arguments and arguments[name] != expected:
            wrong.append(f"wrong model argument {name}: expected {expected}, found {arguments[name]!r}")
    if {"n_team", "n_agents"} <= arguments.keys():
        tables = arguments["n_team"], arguments["n_agents"]
        if tables != (TEAMS, AGENTS):
            wrong.append(
                f"wrong model arguments n_team, n_agents: expected {(TEAMS, AGENTS)}, found {tables}"
            )
    found, _ = match(state, shapes)
    for ours in shapes.keys() - found.keys():
        wrong.append(f"missing {NAMES[ours][0]} {list(shapes[ours])} (our {ours})")
    for name in state.keys() - set(found.values()):
        wrong.append(f"unexpected {name} {list(state[name].shape)}")
    for ours, name in found.items():
        if state[name].shape != shapes[ours]:
            wrong.append(
                f"wrong shape of {name}: expected {list(shapes[ours])}, found {list(state[name].shape)}"
            )
        elif not state[name].is_floating_point() or not torch.isfinite(state[name]).all():
            wrong.append(f"wrong values in {name}: {state[name].dtype}, not all of them finite numbers")
    count = sum(tensor.numel() for tensor in state.values())
    if count != PARAMETERS:
        wrong.append(f"wrong parameter count: expected {PARAMETERS:,}, found {count:,}")
    return sorted(wrong)


def load_published(path: str | Path, ignore: tuple[str, ...] = ()) -> tuple[dict, dict[str, torch.Tensor]]:
    """The published checkpoint's model arguments and its weights, float32, in our names (``paper``, ``scalar``).

    Args:
        path: The published PyTorch file.
        ignore: Tensors of it to leave out.

    Raises:
        CheckpointError: Unreadable, or not the published model; the message lists every misfit.
    """
    arguments, weights, _ = _load(path, ignore)
    return arguments, weights


def _load(path: str | Path, ignore: tuple[str, ...]) -> tuple[dict, dict[str, torch.Tensor], dict[str, str]]:
    """(model arguments, weights in our names, our name -> published name of those taken by shape)."""
    arguments, state = read(path)
    state = {name: tensor for name, tensor in state.items() if name not in ignore}
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in MarlGpt(_config(), POGEMA_LAYOUT).state_dict().items()
        }
    wrong = misfits(arguments, state, shapes)
    if wrong:
        raise CheckpointError(
            f"{path}: not the published model as this version knows it:\n  "
            + "\n  ".join(wrong)
            + "\nWhere only names differ, add them to NAMES in marlgpt_training/published/checkpoint.py; leave "
            "buffers out with "
            "--ignore NAME."
        )
    found, by_shape = match(state, shapes)
    weights = {ours: state[found[ours]].detach().float().contiguous() for ours in shapes}
    return arguments, weights, {ours: found[ours] for ours in by_shape}


def _config() -> ModelConfig:
    return dataclasses.replace(preset("paper", "scalar"), value_range=VALUE_RANGE)


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def main(args: Args) -> int:
    """Convert and say what the result is good for."""
    check_output_file(args.out, *MARKS)
    arguments, weights, by_shape = _load(args.published, args.ignore)
    model = MarlGpt(_config(), POGEMA_LAYOUT)
    model.load_state_dict(weights)
    facts = {
        "source": args.published.name,
        "sha256": hashlib.sha256(args.published.read_bytes()).hexdigest(),
        "model_arguments": {str(name): _plain(value) for name, value in arguments.items()},
        "taken_by_shape": by_shape,
        "layout_note": LAYOUT_NOTE,
    }
    save_checkpoint(args.out, model, POGEMA_LAYOUT, facts)
    print(f"{args.out}: {model.parameters_count():,} parameters from {args.published}")
    for ours, theirs in by_shape.items():
        print(f"  {ours} is {theirs}, by its shape")
    print(f"note: {LAYOUT_NOTE}")
    return 0
