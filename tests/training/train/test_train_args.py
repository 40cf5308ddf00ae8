"""The options of ``marlgpt train``: what cannot be is refused before anything is built, naming the option."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_training.model.losses import LossConfig
from marlgpt_training.train import train
from marlgpt_training.train.train_args import AT_LEAST, Args, check, learning_rate, option, share_out

GOOD = Args(device="cpu")


def test_defaults_are_good():
    check(GOOD)
    assert share_out(GOOD, 4).parts == 4 and share_out(GOOD, 1).parts == 1


NAN = float("nan")
INFINITE = float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: least - 1}, f"{option(name)} {least - 1}: at least {least}") for name, least in AT_LEAST.items()),
        ({"minutes": NAN}, "--minutes nan"),
        ({"weight_decay": INFINITE}, "--weight-decay inf"),
        *(({"learning_rate": x}, f"--learning-rate {x}: choose a number above 0") for x in (0.0, -1.0, NAN, INFINITE)),
        ({"highest": 0.0}, "--highest 0.0"),
        *(({"average": x}, f"--average {x}: choose a decay from 0") for x in (1.0, -0.1, NAN)),
        *(({"dagger_share": x}, "between 0 and 1") for x in (1.5, -0.5, NAN)),
        ({"expert": "me"}, "--expert me: choose lns or pibt"),
        ({"precision": "fp8"}, "--precision fp8: choose fp32 or bf16"),
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"reading": "words"}, "--reading words: choose entity or scalar"),
        ({"device": "gpu"}, "--device gpu: choose cpu or cuda"),
        ({"device": "cuda:x"}, "--device cuda:x: choose cpu or cuda"),
        ({"dagger_device": "tpu"}, "--dagger-device tpu: choose cpu or cuda"),
        ({"dagger_games": ["smax/5v5"]}, "name the expert"),
        ({"dagger_games": ["smax/5v5:me"]}, "has no expert 'me'"),
        ({"dagger_games": ["pogema:me"]}, "pogema has no expert 'me'; choose lns or pibt"),
        ({"loss": LossConfig(advantage=0.5)}, "--loss.advantage weighs moves by the critic, which nothing trains"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, change, message):
    args = dataclasses.replace(GOOD, out=tmp_path / "run", **change)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        train.main(args)
    assert not args.out.exists()


@pytest.mark.parametrize("name", ["device", "dagger_device"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"{option(name)} cuda: PyTorch finds no CUDA GPU"):
        check(dataclasses.replace(GOOD, **{name: "cuda"}))
    check(dataclasses.replace(GOOD, dagger_device="cuda", dagger_workers=0))  # nobody would use it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check(dataclasses.replace(GOOD, **{name: "cuda:1"}))
    with pytest.raises(ValueError, match="this machine has 2 CUDA GPUs"):
        check(dataclasses.replace(GOOD, **{name: "cuda:2"}))


def test_the_advantage_term_takes_a_critic_that_something_trains_or_trained(tmp_path):
    check(dataclasses.replace(GOOD, loss=LossConfig(advantage=0.5, td=0.1)))
    check(dataclasses.replace(GOOD, loss=LossConfig(advantage=0.5, conservative=0.1)))
    check(dataclasses.replace(GOOD, loss=LossConfig(advantage=0.5), init=tmp_path / "trained.safetensors"))


@pytest.mark.parametrize(("batch", "parts", "processes"), [(33, 2, 1), (32, 3, 2), (3, 0, 2)])
def test_batches_that_cannot_be_divided_are_refused(batch, parts, processes):
    with pytest.raises(ValueError, match=f"multiple of the {processes} processes"):
        share_out(dataclasses.replace(GOOD, batch=batch, parts=parts), processes)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (["nowhere"], "^nowhere: no readable shard. Run marlgpt collect first"),
        ([], "the mixture is empty"),
        (["a=0"], "sum to zero"),
    ],
)
def test_stores_that_are_not_there_are_refused(tmp_path, store, message):
    with pytest.raises(ValueError, match=message):
        train.main(dataclasses.replace(GOOD, out=tmp_path, store=store))


def test_learning_rate_schedule():
    args = Args(learning_rate=1.0, warmup=10, steps=110)
    assert learning_rate(args, 0) == pytest.approx(0.1) and learning_rate(args, 9) == pytest.approx(1.0)
    assert learning_rate(args, 10) == pytest.approx(1.0) and learning_rate(args, 60) == pytest.approx(0.55)
    assert learning_rate(args, 110) == learning_rate(args, 500) == pytest.approx(0.1)
    rates = [learning_rate(args, k) for k in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


@given(step=st.integers(0, 300), warmup=st.integers(0, 200), steps=st.integers(0, 200))
def test_learning_rate_is_always_between_zero_and_its_peak(step, warmup, steps):
    assert 0 < learning_rate(Args(learning_rate=0.5, warmup=warmup, steps=steps), step) <= 0.5
