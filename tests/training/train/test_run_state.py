"""Whether a saved state is that of the model asked for."""

import pytest
from marlgpt_training.model.model import ModelConfig
from marlgpt_training.train.run_state import RunStateError, check_config

WANTED = ModelConfig(width=32, heads=2, shared=1, reading="entity", value_range=(0.0, 2.0)).to_dict()


def test_the_same_model_is_good_whatever_the_sequence_type(tmp_path):
    check_config(tmp_path / "state.pt", dict(WANTED), WANTED)
    check_config(tmp_path / "state.pt", {**WANTED, "value_range": [0.0, 2.0]}, WANTED)


def test_a_state_of_before_a_new_field_has_its_default(tmp_path):
    old = {name: value for name, value in WANTED.items() if name != "tables"}
    check_config(tmp_path / "state.pt", old, WANTED)
    with pytest.raises(
        RunStateError, match="a model with tables 1, this command asks for 4; use the same --store"
    ):
        check_config(tmp_path / "state.pt", old, {**WANTED, "tables": 4})


@pytest.mark.parametrize(
    ("name", "value"), [("width", 64), ("reading", "scalar"), ("value_range", (0.0, 1.0)), ("bins", 21)]
)
def test_every_difference_is_named(tmp_path, name, value):
    with pytest.raises(RunStateError, match=f"state.pt: holds a model with {name} "):
        check_config(tmp_path / "state.pt", {**WANTED, name: value}, WANTED)
