"""Probes at both ends, perfect and chance: they find their own label, and nothing where there is nothing."""

import makers
import pytest
import torch
from makers import Lazy, squares

from diffsda.data import Sequences
from diffsda.encoder import Factors
from diffsda.probes import codes_as_sequences, leakage
from diffsda.training import TrainConfig

BRIEF = TrainConfig(steps=150, batch=64, lr=5e-3, warmup=10)


@pytest.fixture(scope="module")
def plain():
    return makers.plain()


def test_leakage_at_both_ends(plain):
    "s holds the level, d the phase: each probe must find its own label and only chance of the other."
    codes = Factors(plain.x[:, 0, :1], plain.x[:, :, 1:])
    part = lambda rows: (codes.map(lambda c: c[rows]), plain[rows])
    table = leakage(*part(slice(0, 400)), *part(slice(400, 600)), config=BRIEF)
    for probe in ("linear", "strong"):
        assert table.loc["level", f"s_{probe}"] > 95 and table.loc["phase", f"d_{probe}"] > 95
        assert table.loc["level", f"d_{probe}"] < table.loc["level", "chance"] + 15
        assert table.loc["phase", f"s_{probe}"] < table.loc["phase", "chance"] + 10
        assert (
            table.loc["warmth", f"d_{probe}"] > 95 and table.loc["warmth", f"s_{probe}"] < 10
        )  # 100 R^2


def test_a_strong_probe_finds_what_a_linear_one_cannot():
    "The level is hidden as the product of two frames' signs."
    g = torch.Generator().manual_seed(1)
    d = torch.randint(2, (1200, 2, 1), generator=g) * 2.0 - 1
    data = Sequences(torch.zeros(1200, 2, 1), static={"level": (d.prod(1)[:, 0] > 0).long()})
    codes = Factors(torch.randn(1200, 2, generator=g), d)
    part = lambda rows: (codes.map(lambda c: c[rows]), data[rows])
    table = leakage(*part(slice(0, 900)), *part(slice(900, 1200)), config=BRIEF)
    assert table.loc["level", "d_strong"] > 95 and table.loc["level", "d_linear"] < 65
    assert table.loc["level", "s_strong"] < 65


def test_codes_become_sequences_in_both_forms(plain):
    shared = codes_as_sequences(Factors(torch.randn(600, 3), plain.x), plain)
    own = codes_as_sequences(Factors(torch.randn(600, 8, 3), plain.x), plain)
    assert shared["s"].x.shape == own["s"].x.shape == (600, 8, 3)


def test_probes_read_the_factors_of_images():
    "The frames are images, their codes are rows: s is the colour, d the way, and each probe finds its own."
    data = squares(500, seed=2)
    s = torch.eye(3)[data.static["colour"]]
    codes = Factors(s, torch.eye(4)[data.dynamic["way"]])
    part = lambda rows: (codes.map(lambda c: c[rows]), Lazy(data[rows]))
    table = leakage(*part(slice(0, 350)), *part(slice(350, 500)), config=BRIEF)
    for probe in ("linear", "strong"):
        assert table.loc["colour", f"s_{probe}"] > 99 and table.loc["way", f"d_{probe}"] > 99
        assert table.loc["colour", f"d_{probe}"] < table.loc["colour", "chance"] + 15
        assert table.loc["way", f"s_{probe}"] < table.loc["way", "chance"] + 15


def test_leakage_reads_lazily(plain):
    codes = Factors(plain.x[:, 0, :1], plain.x[:, :, 1:])
    part = lambda rows, wrap: (codes.map(lambda c: c[rows]), wrap(plain[rows]))
    first, second = slice(0, 400), slice(400, 600)
    brief = TrainConfig(steps=10, batch=32)
    tables = [
        leakage(*part(first, wrap), *part(second, wrap), config=brief)
        for wrap in (Lazy, lambda data: data)
    ]
    assert tables[0].equals(tables[1])
