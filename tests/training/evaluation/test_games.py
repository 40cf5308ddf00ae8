"""``marlgpt evaluate --game`` on a toy game: success rates, intervals, resuming, policy files."""

import json

import numpy as np
import pytest
import torch
import toy_test_game
from marlgpt_policy.encoders import registry
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training import cli
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.environments import base
from marlgpt_training.evaluation import evaluate
from marlgpt_training.evaluation import games as evaluation
from marlgpt_training.export import model_card
from marlgpt_training.export.export import to_onnx
from marlgpt_training.model.checkpoint import save_checkpoint
from marlgpt_training.model.model import MarlGpt, ModelConfig
from marlgpt_training.seeds import HELD_OUT
from scipy.stats import binomtest

ENCODER = toy_test_game.ENCODER

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The toy game, known by name."""
    monkeypatch.setitem(base.REGISTRY, "toy", ("toy_test_game", "Toy"))
    monkeypatch.setitem(registry.GAMES, "toy", lambda _: ENCODER)
    yield
    registry.encoders.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random policy of the toy game as ``policy.onnx`` and ``weights.safetensors``, and one of POGEMA."""
    folder = tmp_path_factory.mktemp("policies")
    torch.manual_seed(3)
    model = MarlGpt(ModelConfig(width=16, heads=2, shared=1), ENCODER.layout)
    for parameter in model.parameters():
        parameter.data.mul_(8 if parameter.dim() >= 2 else 1)
    save_checkpoint(folder / "weights.safetensors", model, ENCODER.layout, {"step": 1})
    to_onnx(model, ENCODER.layout, folder / "policy.onnx", {"step": 1, "samples": 2}, "random weights")
    other = MarlGpt(ModelConfig(width=16, heads=2, shared=1), POGEMA_LAYOUT)
    save_checkpoint(folder / "pogema.safetensors", other, POGEMA_LAYOUT, {})
    return folder


def args(**changed):
    return evaluate.Args(**{"policy": ["walker"], "game": "toy/2", "episodes": 40, "workers": 1} | changed)


def test_report_and_table(tmp_path, capsys):
    out = tmp_path / "deep" / "report.json"
    assert evaluate.main(args(policy=["walker", "random", "clueless"], json=out)) == 0
    report = json.loads(out.read_text())
    assert report["policy"] == "walker" and report["protocol"]["layout"] == "toy-1"
    walker, random = report["policies"]["walker"], report["policies"]["random"]
    assert walker["success"] == 0.75 and walker["episodes"] == 40  # seeds that 4 divides cannot be won
    expected = binomtest(30, 40).proportion_ci(0.95, "wilson")
    assert (walker["success_low"], walker["success_high"]) == pytest.approx((expected.low, expected.high))
    assert random["success"] < walker["success"] and 0 < walker["return"] < 0.6
    assert 2 <= walker["steps"] <= 6 and walker["slack"] == pytest.approx(6 - walker["steps"], abs=4)
    clueless = report["policies"]["clueless"]
    assert clueless["success"] == clueless["success_low"] == 0 and 0 < clueless["success_high"] < 0.1
    assert clueless["slack"] is None  # the game gives it no value where all is lost
    printed = capsys.readouterr().out
    assert evaluation.table(report) in printed
    low, high = walker["success_low"], walker["success_high"]
    assert f"| walker | 0.750 | {low:.3f} to {high:.3f} | {walker['return']:.2f} |" in printed
    assert [path.name for path in out.parent.iterdir()] == ["report.json"]


def test_onnx_and_checkpoint_of_one_model_play_alike(files, tmp_path):
    out = tmp_path / "report.json"
    policies = [str(files / "policy.onnx"), str(files / "weights.safetensors")]
    assert evaluate.main(args(game="toy/1", policy=policies, sample="both", temperature=50.0, json=out)) == 0
    found = json.loads(out.read_text())["policies"]
    assert list(found) == ["policy sampled T=50", "policy greedy", "weights sampled T=50", "weights greedy"]
    assert found["policy greedy"] == found["weights greedy"]
    assert found["policy greedy"] != found["policy sampled T=50"]


def test_the_card_of_a_policy_for_another_game_repeats_the_table(files, tmp_path):
    out, card = tmp_path / "report.json", tmp_path / "card.md"
    assert evaluate.main(args(policy=[str(files / "policy.onnx"), "walker"], json=out)) == 0
    assert model_card.main(model_card.Args(files / "policy.onnx", [out], card, ["make it"])) == 0
    text = card.read_text()
    assert evaluation.table(json.loads(out.read_text())) in text
    assert "toy/2, 40 episodes" in text and "layout `toy-1`" in text and "grid worlds" not in text
    (tmp_path / "torn.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="truncated or not a model"):
        model_card.main(model_card.Args(tmp_path / "torn.onnx", [], card))


def test_an_unseen_layout_only_if_asked_for(files):
    policy = [str(files / "pogema.safetensors")]
    with pytest.raises(ValueError, match=r"trained on layout pogema-1 .* encodes toy-1"):
        evaluate.main(args(policy=policy))
    assert evaluate.main(args(policy=policy, unseen=True, episodes=3)) == 0


def test_a_stopped_evaluation_goes_on_with_equal_results(tmp_path, monkeypatch, capsys):
    policies = ["walker", "random"]
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    assert evaluate.main(args(policy=policies, json=whole)) == 0
    real, played = evaluation.work, []

    def stops(job):
        if len(played) == 4:
            raise KeyboardInterrupt
        played.append(job)
        return real(job)

    monkeypatch.setattr(evaluation, "work", stops)
    assert evaluate.main(args(policy=policies, json=broken)) == 130
    partial = tmp_path / "broken.json.partial.jsonl"
    assert f"stopped; {partial} keeps 56 episodes" in capsys.readouterr().out and not broken.exists()
    lines = partial.read_text().splitlines()
    partial.write_text("\n".join(lines[:-3]) + "\n")  # killed in the middle of a job
    with pytest.raises(ValueError, match=r"other settings.*\(episodes differ\)"):
        evaluate.main(args(policy=policies, json=broken, episodes=41))
    again = []
    monkeypatch.setattr(evaluation, "work", lambda job: again.append(job) or real(job))
    assert evaluate.main(args(policy=policies, json=broken)) == 0
    assert sum(len(job.seeds) for job in again) == 80 - 53 and not partial.exists()
    assert json.loads(broken.read_text()) == json.loads(whole.read_text())
    assert evaluate.main(args(policy=policies)) == 0  # without a file
    monkeypatch.setattr(evaluation, "work", stops)
    assert evaluate.main(args(policy=policies)) == 130


def test_a_failing_episode_names_who_and_where(monkeypatch, tmp_path):
    def breaks(job):
        raise MemoryError("too big")

    monkeypatch.setattr(evaluation, "work", breaks)
    with pytest.raises(ValueError, match="walker in toy/2: too big"):
        evaluate.main(args(json=tmp_path / "a.json"))


def test_evaluation_plays_seeds_that_training_never_draws(monkeypatch):
    seeds, real = [], games.play
    monkeypatch.setattr(games, "play", lambda game, s, *rest: seeds.extend(s) or real(game, s, *rest))
    assert evaluate.main(args()) == 0
    assert len(set(seeds)) == 40 and min(seeds) >= HELD_OUT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "toy"}, "write GAME/SCENARIO"),
        ({"game": "chess/1"}, "unknown game 'chess'"),
        ({"policy": ["nowhere.onnx"]}, "--policy nowhere.onnx: no such file (.onnx or .safetensors)"),
        ({"policy": ["lns"]}, "toy/2, which has walker, clueless, random"),
        ({"policy": ["walker", "walker"]}, "two policies would both be called 'walker'"),
        ({"sample": "maybe"}, "--sample maybe"),
        ({"episodes": 0}, "--episodes 0: at least 1"),
        ({"temperature": 0.0}, "--temperature 0: must be above 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        evaluate.main(args(**options))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_two_files_of_one_name_are_refused(files, tmp_path):
    (tmp_path / "policy.onnx").write_bytes((files / "policy.onnx").read_bytes())
    both = [str(files / "policy.onnx"), str(tmp_path / "policy.onnx")]
    with pytest.raises(ValueError, match="both be called 'policy sampled T=0.2'; rename"):
        evaluate.main(args(policy=both))


def test_a_policy_of_another_game_is_refused_in_one_line(tmp_path, small_model, capsys):
    to_onnx(small_model(), POGEMA_LAYOUT, tmp_path / "a.onnx", {}, "")
    assert cli.main(["evaluate", "--game", "toy/2", "--policy", str(tmp_path / "a.onnx")]) == 1
    said = capsys.readouterr().err
    assert "made for token layout pogema-1" in said and "fills toy-1" in said and said.count("\n") == 1


def test_summarise_counts_wins_and_ignores_missing_values():
    results = [{"success": 1.0, "x": 2.0}, {"success": 0.0, "x": np.nan}, {"success": 1.0}]
    found = evaluation.summarise(results)
    assert found["success"] == pytest.approx(2 / 3) and found["x"] == 2 and found["episodes"] == 3
