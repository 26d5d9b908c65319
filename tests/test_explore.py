"""Exploring: the identities that hold for any model, trained or not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diffsda.data import Sequences, toy_splits
from diffsda.encoder import RECIPES
from diffsda.explore import (
    Directions,
    reconstruction_errors,
    sampling_sweep,
    swap_all,
    traverse,
)
from diffsda.judges import train_judge, who_carries
from diffsda.model import DiffSDA
from diffsda.training import TrainConfig


@pytest.fixture(scope="module")
def data():
    return toy_splits("rotor", sizes=(40, 4, 4))[0]


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    return DiffSDA.mlp(data.frame, 4, 2, hidden=8, enc_width=16, dec_width=16, embedding=16)


def test_directions_are_those_of_the_correlation():
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(5000, 1, generator=g) * torch.tensor([3.0, -3.0, 0.0]) + torch.randn(
        5000, 3, generator=g
    )
    found = Directions.of(codes)
    first = found.axes[0] * found.axes[0, 0].sign()
    assert torch.allclose(first, torch.tensor([0.5**0.5, -(0.5**0.5), 0.0]), atol=0.05)
    assert found.share[0] > 0.6 and found.share.sum() == pytest.approx(1)


def test_alpha_zero_is_the_identity(model, data):
    own = model.encode(data)
    found = Directions.of(own.s)
    assert torch.equal(found.move(own.s, 1, 0.0), own.s)
    walk = traverse(model, data[:3], found, 1, [0.0], steps=6)
    assert torch.equal(walk[0], model.reconstruct(data[:3], steps=6).x)


def test_a_step_is_as_long_as_the_paper_says():
    "((s - mean) / std + alpha v sqrt(h)) std + mean, written out."
    codes = torch.randn(100, 4) * torch.tensor([1.0, 2.0, 0.5, 3.0]) + 7
    found, s = Directions.of(codes), codes[:5]
    want = ((s - found.mean) / found.std + 0.3 * found.axes[2] * 4**0.5) * found.std + found.mean
    assert torch.allclose(found.move(s, 2, 0.3), want, atol=1e-5)


def test_walks_change_one_code_only(model, data):
    own = model.encode(data)
    along_d = Directions.of(own.d.flatten(0, 1))
    walk = traverse(model, data[:2], along_d, 0, [-1.0, 0.0, 1.0], code="d", steps=4)
    assert walk.shape == (3, 2, 24, 4) and not torch.allclose(walk[0], walk[2])


def test_everyone_with_everyone(model, data):
    grid = swap_all(model, data[:2], data[2:5], steps=4)
    assert grid.shape == (2, 3, 24, 4)
    one = model.swap(data[[1]], data[[4]], steps=4).x[0]
    assert torch.allclose(grid[1, 2], one, atol=1e-4)


def test_noise_is_inverted_once_for_everyone(model, data, monkeypatch):
    asked, invert = [], model.invert
    count = lambda data, *rest, **how: asked.append(len(data)) or invert(data, *rest, **how)
    monkeypatch.setattr(model, "invert", count)
    grid = swap_all(model, data[:2], data[2:5], steps=4, lowest=0.1)
    assert asked == [3]
    pairs = [(i, j) for i in range(2) for j in range(2, 5)]
    a, b = (data[list(rows)] for rows in zip(*pairs))
    same = model.swap(a, b, steps=4, lowest=0.1).x
    assert torch.allclose(grid.flatten(0, 1), same, atol=1e-5)


def test_errors_look_at_observed_values_only(model, data):
    seen = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    holes = Sequences(data.x, observed=seen)
    want = (model.reconstruct(holes, steps=6).x - holes.x)[seen].square().mean().item()
    assert reconstruction_errors(model, holes, steps=6)["inverted"] == pytest.approx(want)


def test_wrong_questions_are_refused(model, data):
    found = Directions.of(model.encode(data).s)
    with pytest.raises(ValueError, match="direction 4"):
        found.move(torch.zeros(4), 4, 1.0)
    with pytest.raises(ValueError, match="code must be"):
        traverse(model, data[:1], found, 0, [1.0], code="x")
    with pytest.raises(ValueError, match="finite"):
        Directions.of(torch.zeros(1, 4))


def test_a_sweep_of_the_sampler_measures_each_pair_on_the_same_noise():
    train_set, data, _ = toy_splits("bump", (300, 20, 1))
    judge = train_judge(train_set, TrainConfig(steps=5, batch=32))
    model = DiffSDA.mlp(train_set.frame, 4, 2, 8, 16, 16, embedding=16).eval()
    pairs = ((4, 2.0), (3, 0.5))
    table = sampling_sweep(model, data, judge, pairs)
    assert table.calls.tolist() == [7, 5]
    assert table.equals(sampling_sweep(model, data, judge, pairs))
    noise = torch.randn(data.x.shape, generator=torch.Generator().manual_seed(0))
    again = model.reconstruct(data, noise, steps=4, lowest=2.0).x
    assert abs(table.error.iloc[0] - (again - data.x).square().mean().item()) < 1e-6
    with pytest.raises(ValueError, match="even number"):
        sampling_sweep(model, data[:5], judge)


def test_a_sweep_compares_what_was_observed(data):
    "A model that makes the truth is at no distance from it, though the truth was seen with holes."
    seen = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    seen[:, 0] = True
    holed, half = replace(data, observed=seen), len(data) // 2
    judge = train_judge(holed, TrainConfig(3, 8, warmup=1))
    perfect = SimpleNamespace(
        reconstruct=lambda holed, *_, **how: data, swap=lambda a, b, *_, **how: data[half:]
    )
    sweep = sampling_sweep(perfect, holed, judge, ((2, 2.0),))
    assert sweep.frechet.item() < 1e-4
    carried = who_carries(judge, holed[half:], holed[:half], holed[half:])
    assert sweep.dynamic.item() == carried[carried.kind == "dynamic"].from_d.min()


def test_a_sweep_of_quantities_has_no_label_to_carry(data, model):
    level = Sequences(data.x, static={"level": data.x.mean((1, 2))})
    judge = train_judge(level, TrainConfig(3, 8, warmup=1))
    sweep = sampling_sweep(model, level, judge, ((2, 2.0),))
    assert sweep.static.isna().all() and sweep.dynamic.isna().all() and sweep.error.item() > 0


def test_a_sweep_follows_d_as_much_as_it_is_asked_to(data):
    torch.manual_seed(0)
    sizes = {"hidden": 8, "enc_width": 16, "dec_width": 16, "embedding": 16}
    model = DiffSDA.mlp(data.frame, 4, 2, **sizes, **RECIPES["static first"])
    for p in model.decoder.parameters():
        torch.nn.init.normal_(p, std=0.1)  # an untrained decoder does not listen to its factors
    judge = train_judge(data, TrainConfig(3, 8, warmup=1))
    once, twice = (sampling_sweep(model, data, judge, ((3, 2.0),), 0, w) for w in (1.0, 2.0))
    assert (once.calls.item(), twice.calls.item()) == (5, 10)  # d or not is asked at each level
    noise = torch.randn(data.x.shape, generator=torch.Generator().manual_seed(0))
    again = model.reconstruct(data, noise, steps=3, lowest=2.0, guidance=2.0).x
    error = (again - data.x).square().mean().item()
    assert abs(twice.error.item() - error) < 1e-6 and abs(once.error.item() - error) > 1e-6
