"""Probes at both ends, perfect and chance: they find their own label, and nothing where there is nothing."""

import makers
import numpy as np
import pytest
import torch
from makers import Lazy, squares

from diffsda import probes
from diffsda.data import Sequences
from diffsda.encoder import Factors
from diffsda.probes import (
    CodeTable,
    clearness,
    code_scores,
    codes_as_sequences,
    dci,
    leakage,
    mig,
    sap,
    spread,
)
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


def test_the_linear_probe_of_s_does_not_see_how_long_a_sequence_is():
    "Labels are lengths: nothing of them is in s, and whole sequences may be read beside shorter ones."
    lengths = 2 + torch.arange(600) % 4
    data = Sequences(torch.ones(600, 6, 1), lengths, static={"level": lengths - 2})
    codes = Factors(torch.randn(600, 3), torch.randn(600, 6, 1))
    full = Sequences(torch.ones(300, 6, 1), static={"level": data.static["level"][:300]})
    brief = TrainConfig(steps=5, batch=32)
    for first in (data[:300], full):
        table = leakage(
            codes.map(lambda c: c[:300]),
            first,
            codes.map(lambda c: c[300:]),
            data[300:],
            config=brief,
        )
        assert table.loc["level", "s_linear"] < 40  # chance is 25


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


# What single numbers are for


def grid(n=2000, classes=4, factors=2, seed=0):
    return torch.randint(classes, (n, factors), generator=torch.Generator().manual_seed(seed))


def table(codes, labels):
    names = [f"f{i}" for i in range(labels.shape[1])]
    known = {name: y.numpy() for name, y in zip(names, labels.T)}
    return CodeTable(codes.float().numpy(), known, [f"c{i}" for i in range(codes.shape[1])])


def test_a_perfect_code_a_random_one_and_a_rotated_one():
    first, second = grid(seed=0), grid(seed=1)
    g = torch.Generator().manual_seed(2)
    noise = lambda y: torch.randn(len(y), 2, generator=g)
    turned = lambda y: y.float() @ (0.5**0.5 * torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    measured = {}
    for name, code in {"perfect": lambda y: y, "random": noise, "rotated": turned}.items():
        fit, test = table(code(first), first), table(code(second), second)
        found = dci(fit, test)
        measured[name] = (*found[:3], sap(fit, test), mig(test))
    D, C, I, SAP, MIG = measured["perfect"]
    assert min(D, C, I, MIG) > 0.98 and SAP == pytest.approx(0.75, abs=0.04)
    D, C, I, SAP, MIG = measured["random"]
    assert max(D, C, SAP, MIG) < 0.1 and I == pytest.approx(0.25, abs=0.05)
    D, C, I, SAP, MIG = measured["rotated"]
    assert max(D, C, SAP, MIG) < 0.1 and I > 0.98  # all is known, nothing is aligned


def test_clearness_by_hand():
    assert clearness(np.eye(3)) == (1, 1)
    assert np.allclose(clearness(np.ones((3, 2))), 0)
    # a number for both factors, used twice as much as the one for the second alone
    D, C = clearness(np.array([[1.0, 1.0], [0.0, 1.0]]))
    assert D == pytest.approx(2 / 3 * 0 + 1 / 3 * 1) and C == pytest.approx((1 + 0) / 2)
    unused = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert clearness(unused)[0] == pytest.approx(1)  # what nobody uses does not count
    with pytest.raises(ValueError, match="two codes and two factors"):
        clearness(np.ones((4, 1)))


def test_mig_and_sap_by_hand():
    y = grid()
    half = torch.stack([y[:, 0], y[:, 0] // 2, y[:, 1]], 1)  # c1 tells one of the two bits of f0
    fit = table(half, y)
    assert mig(fit) == pytest.approx((0.5 + 1) / 2, abs=0.01)
    assert sap(fit, fit) == pytest.approx((1 - 0.5 + 1 - 0.25) / 2, abs=0.02)
    doubled = table(torch.cat([y, y], 1), y)  # every factor is told twice
    assert mig(doubled) == 0 and sap(doubled, doubled) == 0


def test_a_class_that_the_reader_meets_nowhere_costs_a_label_its_gap():
    y = grid(5000)
    y[:, 1] = 0
    y[np.setdiff1d(np.arange(5000), spread(5000, 2000))[:3], 1] = 1  # rows that SAP does not read
    assert sap(table(y, y), table(y, y)) == pytest.approx(0.75 / 2, abs=0.03)


def test_quantities_count_as_well():
    g = torch.Generator().manual_seed(0)
    y = torch.rand(1500, 2, generator=g)
    fit = table(y, y)
    found = dci(fit, fit)
    assert min(found[:3]) > 0.97 and mig(fit) > 0.9 and sap(fit, fit) > 0.97
    unknown = y.clone()
    unknown[:300, 0] = torch.nan
    assert len(table(y, unknown).known("f0")[0]) == 1200


def test_codes_become_rows_of_numbers(plain):
    codes = Factors(torch.randn(600, 3), torch.randn(600, plain.x.shape[1], 2))
    whole = CodeTable.per_sequence(codes, plain)
    assert whole.x.shape == (600, 3 + 3 * 2) and len(whole.names) == 9
    assert np.allclose(whole.x[:, 3:5], codes.d.mean(1)) and "level" in whole.labels
    assert "phase" not in whole.labels  # it changes within a sequence
    frames = CodeTable.per_frame(codes, plain)
    assert frames.x.shape == (600 * plain.x.shape[1], 5) and {"level", "phase"} <= set(
        frames.labels
    )
    assert np.allclose(frames.x[:, 3:], codes.d.flatten(0, 1))


def test_rows_end_where_their_sequence_ends():
    data = Sequences(
        torch.ones(2, 3, 1), [3, 1], dynamic={"speed": torch.tensor([[1] * 3, [2, 0, 0]])}
    )
    codes = Factors(torch.zeros(2, 1), torch.tensor([[[1.0], [2.0], [6.0]], [[5.0], [7.0], [9.0]]]))
    whole = CodeTable.per_sequence(codes, data)
    assert np.allclose(whole.x[0, 1:], [3, np.sqrt(14 / 3), 2.5]) and whole.x[1, 1:].tolist() == [
        5,
        0,
        0,
    ]
    assert whole.labels["speed"].tolist() == [1, 2]
    assert len(CodeTable.per_frame(codes, data).x) == 4


def test_scores_of_codes_need_two_labels(plain):
    one = Sequences(plain.x, static={"level": plain.static["level"]})
    codes = Factors(torch.randn(600, 2), plain.x)
    with pytest.raises(ValueError, match="two labels"):
        code_scores(codes, one, codes, one)


@pytest.mark.parametrize("where", ["training", "test"])
def test_scores_of_codes_are_of_labels_that_both_tables_tell(where):
    "A word that never changes counts per sequence, in one part only; a place that is one class tells nothing."
    g = torch.Generator().manual_seed(0)

    def part(still):
        who, sex, word = torch.randint(2, (3, 60), generator=g)
        words = torch.where(torch.arange(4) < (4 if still else 2), word[:, None], 1 - word[:, None])
        static = {"who": who, "sex": sex, "place": torch.zeros(60).long()}
        data = Sequences(torch.zeros(60, 4, 1), static=static, dynamic={"word": words})
        s = torch.stack([who, sex], dim=1) + 0.1 * torch.randn(60, 2, generator=g)
        return Factors(s, words[..., None].float()), data

    codes, data = part(where == "training")
    test_codes, test = part(where == "test")
    bare = lambda data: Sequences(data.x, static={k: data.static[k] for k in ("who", "sex")})
    want = code_scores(codes, bare(data), test_codes, bare(test)).loc["per sequence"]
    scores = code_scores(codes, data, test_codes, test)
    assert scores.loc["per sequence"].equals(want) and "per frame" in scores.index


def test_a_label_that_is_unknown_in_all_the_test_is_named(plain):
    codes = Factors(plain.x[:, 0, :1], plain.x[:, :, 1:])
    strange = Sequences(plain.x, static={"level": torch.full((600,), -1)})
    with pytest.raises(ValueError, match="'level' is unknown for every test"):
        leakage(codes, Sequences(plain.x, static=plain.static), codes, strange, config=BRIEF)


def test_rows_of_a_large_table_are_of_all_frames():
    "A label that is one class in every first frame, as a bounce is, was taken for one that never changes."
    n, V = 1000, 8
    moved = (torch.arange(V) > 0).long().expand(n, V)
    d = moved[..., None] + 0.1 * torch.randn(n, V, 1)
    data = Sequences(
        torch.zeros(n, V, 1), None, None, {"who": torch.arange(n) % 2}, {"moved": moved}
    )
    table = CodeTable.per_frame(Factors(torch.randn(n, 2), d), data)
    _, y = table.known("moved", most=1000)
    assert 0.8 < y.mean() < 0.95 and len(y) == 1000


def test_the_strong_reader_sees_codes_in_units_of_frames_that_exist(monkeypatch):
    seen, lengths = [], torch.tensor([3, 20] * 20)
    codes = Sequences(3 + torch.randn(40, 20, 2), lengths, static={"who": torch.arange(40) % 2})
    learn = probes.train_judge
    monkeypatch.setattr(
        probes, "train_judge", lambda data, *a, **k: seen.append(data) or learn(data, *a, **k)
    )
    probes._strong_probe(codes, codes, TrainConfig(1, 8, warmup=0), 0)
    unit = seen[0].x[codes.frame_mask]
    assert unit.mean(0).abs().max() < 1e-5 and (unit.std(0) - 1).abs().max() < 1e-5
