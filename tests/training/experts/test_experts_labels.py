"""What is deterministic about the labels of large-neighbourhood search, as its module says, and what is not."""

import numpy as np
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.experts.lns import LIFELONG, LnsExpert


def expert(env, seed):
    return LnsExpert(env.moves, len(env.cells), LIFELONG, 14, seed=seed)


def label(lns, env):
    return lns.act(env.cells, env.goals, env.fields, env.field_of)


def test_same_seed_and_history_give_the_same_labels_and_a_fresh_expert_mostly():
    env = GridEnv.sample(maps.generate("random", 77), 32, True, 0)
    running, twin = expert(env, 0), expert(env, 0)
    agreement = []
    for step in range(40):
        labels = label(running, env)
        np.testing.assert_array_equal(label(twin, env), labels)
        if step >= 5:
            agreement.append((label(expert(env, 1000 + step), env) == labels).mean())
        env.step(labels)
    assert 0.85 < np.mean(agreement) < 1
