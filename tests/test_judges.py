"""Judges at both ends, perfect and chance; entropies and Fréchet distances against formulas and cases by hand."""

import math
from dataclasses import replace

import makers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Lazy, squares

from diffsda import judges
from diffsda.data import Scale, Sequences, bump
from diffsda.judges import (
    Judge,
    balanced_rows,
    discriminative_score,
    entropies,
    frechet_distance,
    judged,
    kept_and_drawn,
    torchscript_features,
    train_judge,
    who_carries,
)
from diffsda.training import TrainConfig

BRIEF = TrainConfig(steps=150, batch=64, lr=5e-3, warmup=10)


@pytest.fixture(scope="module")
def plain():
    return makers.plain()


@pytest.fixture(scope="module")
def judge(plain):
    return train_judge(plain[:400], replace(BRIEF, steps=500), hidden=16)  # sure of itself


def test_entropies_are_bounded_and_tied():
    p = torch.softmax(3 * torch.randn(200, 5), dim=1)
    e = entropies(p)
    assert 0 < e.given_x < e.overall <= math.log(5) + 1e-6
    kl = (p * (p / p.mean(0)).log()).sum(1).mean()  # the other way to write the score
    assert e.inception_score == pytest.approx(math.exp(kl), rel=1e-4)
    assert 1 <= e.inception_score <= 5


def test_a_judge_reads_what_lies_open(plain, judge):
    scores = judged(judge, plain[400:])
    assert scores["level"] > 99 and scores["phase"] > 99
    assert scores["warmth"] < 2  # mean absolute error in the label's own unit, whose spread is 11


def test_a_judge_counts_known_labels_and_real_frames_only(plain, judge):
    part = plain[400:420]
    lengths = torch.full((20,), 5)
    level, phase = part.static["level"].clone(), part.dynamic["phase"].clone()
    level[10:], phase[:, 5:] = (
        -1,
        (phase[:, 5:] + 1) % 4,
    )  # unknown, and wrong where no frame exists
    cut = Sequences(
        part.x, lengths, static={"level": level}, dynamic=part.dynamic | {"phase": phase}
    )
    assert judged(judge, cut)["phase"] > 99 and judged(judge, cut)["level"] > 99
    junk = cut.x.clone()
    junk[:, 5:] = 1e3
    again = Sequences(junk, lengths, static=cut.static, dynamic=cut.dynamic)
    assert torch.equal(judge.verdicts(cut)["level"], judge.verdicts(again)["level"])


def test_who_carries_at_both_ends(plain, judge):
    a, b = plain[400:500], plain[500:600]
    mine, theirs = who_carries(judge, a, a, b), who_carries(judge, b, a, b)
    assert set(mine.index) == {"level", "phase"}  # a quantity has no 'same'
    assert (mine.from_s > 99).all() and (mine.from_d < 1).all()
    assert (theirs.from_d > 99).all() and (theirs.from_s < 1).all()
    assert mine.loc["level", "pairs"] == int((a.static["level"] != b.static["level"]).sum())
    with pytest.raises(ValueError, match="equally long"):
        who_carries(judge, a, a, b[:5])


def test_discriminative_score_at_both_ends():
    walks = bump(120, seed=0)
    near, _ = discriminative_score(walks[:60], walks[60:], runs=2, steps=40, hidden=8)
    far, _ = discriminative_score(
        walks[:60], Sequences(walks.x[60:] + 3), runs=1, steps=150, hidden=8
    )
    assert far > 0.45 and near < 0.3 < far
    with pytest.raises(ValueError, match="at least 10"):
        discriminative_score(walks[:3], walks)
    with pytest.raises(ValueError, match="frames differ"):
        discriminative_score(walks, Sequences(torch.zeros(20, 24, 3)))


@pytest.fixture(scope="module")
def judge_of_images():
    config = TrainConfig(steps=400, batch=32, lr=3e-3, warmup=10)
    return train_judge(Lazy(squares(600, seed=0)), config, hidden=32)


def test_a_judge_reads_images_lazily(judge_of_images):
    test = squares(150, seed=1)
    scores = judged(judge_of_images, Lazy(test))
    assert scores == judged(judge_of_images, test)
    assert scores["colour"] >= 99.5 and scores["way"] > 95
    p = judge_of_images.probabilities(Lazy(test))
    verdicts = judge_of_images.verdicts(test)
    assert p["colour"].shape == (150, 3) and p["way"].shape == (150, 5, 4)
    for name in p:
        assert torch.equal(p[name].argmax(-1), verdicts[name])
        assert torch.allclose(p[name].sum(-1), torch.ones(verdicts[name].shape))


def test_a_judge_of_images_ignores_frames_that_do_not_exist(judge_of_images):
    data = squares(10, seed=3)
    lengths = torch.full((10,), 3)
    junk = data.x.clone()
    junk[:, 3:] = 50.0
    cut, again = (
        Sequences(x, lengths, static=data.static, dynamic=data.dynamic) for x in (data.x, junk)
    )
    ours, theirs = judge_of_images.probabilities(cut), judge_of_images.probabilities(again)
    assert torch.equal(ours["colour"], theirs["colour"])


@pytest.mark.parametrize("frame", [(1, 4, 4), (3, 32, 32), (3, 64, 64), (4, 9, 33)])
def test_judges_take_images_of_any_size(frame):
    data = Sequences(torch.randn(2, 3, *frame), static={"a": torch.tensor([0, 1])})
    judge = Judge(data.frame, {"a": 2}, {}, {}, hidden=8)
    assert judge(data)["a"].shape == (2, 2)
    alone = Judge(data.frame, {"a": 2}, {}, {}, hidden=8, recurrent=False)
    turned = Sequences(data.x.flip(1), static=data.static)
    assert torch.allclose(alone(data)["a"], alone(turned)["a"], atol=1e-5)  # frames on their own


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_balanced_rows_hold_equally_many_of_each(classes, seed):
    y = torch.tensor(classes)
    rows = balanced_rows(y, seed)
    counts = y[rows].unique(return_counts=True)[1]
    assert len(set(counts.tolist())) == 1 and len(counts) == len(y.unique())
    assert counts[0] == y.unique(return_counts=True)[1].min()  # and no fewer than possible
    assert len(rows.unique()) == len(rows) and torch.equal(rows, balanced_rows(y, seed))


def test_balanced_rows_are_drawn_by_the_seed():
    y = torch.tensor([0] * 50 + [1] * 5)
    assert not torch.equal(balanced_rows(y, 0), balanced_rows(y, 1))


def test_kept_and_drawn_at_both_ends(plain, judge):
    "A perfect model takes the frozen factor of the source and the other one of somebody else."
    source, other = plain[300:450], plain[450:600]
    mixed = torch.stack([other.x[..., 0], source.x[..., 1]], dim=-1)  # s drawn, d kept
    table = kept_and_drawn(judge, Lazy(Sequences(mixed)), Lazy(source), frozen="d")
    assert set(table.index) == {"level", "phase"}
    assert table["kept"].to_dict() == {"level": False, "phase": True}
    assert table["kind"].to_dict() == {"level": "static", "phase": "dynamic"}
    assert table.loc["phase", "accuracy"] > 99 > table.loc["level", "accuracy"]
    agree = (source.static["level"] == other.static["level"]).double().mean() * 100
    assert table.loc["level", "accuracy"] == pytest.approx(float(agree), abs=1)
    assert abs(table.loc["level", "accuracy"] - table.loc["level", "chance"]) < 10
    assert table.loc["level", "chance"] == pytest.approx(33.3, abs=3)
    assert table.loc["phase", "chance"] == pytest.approx(25, abs=2)
    assert table.loc["phase", "H(y)"] == pytest.approx(math.log(4), abs=0.05)
    assert 3 < table.loc["phase", "IS"] <= 4
    ratio = np.exp(table["H(y)"] - table["H(y|x)"]) / table["IS"]
    assert np.allclose(ratio, 1)
    the_other = kept_and_drawn(judge, Sequences(mixed), other, frozen="s")
    assert the_other["kept"].to_dict() == {"level": True, "phase": False}
    assert the_other.loc["level", "accuracy"] > 99 > the_other.loc["phase", "accuracy"] + 50


def test_a_label_that_is_unknown_everywhere_is_undefined(plain, judge):
    part = plain[:20]
    strange = replace(part, static={"level": torch.full((20,), -1)}, dynamic=part.dynamic)
    table = kept_and_drawn(judge, part, strange, frozen="s")
    assert table.loc["level", "accuracy":].isna().all() and table.loc["phase"].notna().all()


def test_collapsed_outputs_are_at_chance_and_not_varied(plain, judge):
    source = plain[300:450]
    one = Sequences(source.x[:1].expand(150, -1, -1))
    table = kept_and_drawn(judge, one, source, frozen="d")
    assert table.loc["level", "accuracy"] == pytest.approx(table.loc["level", "chance"])
    assert table.loc["level", "IS"] == pytest.approx(1, abs=1e-4)


def test_kept_and_drawn_balances_by_true_class(plain, judge):
    "Nineteen of twenty sequences of one level leave H(y) as high as equally many would."
    level = plain.static["level"]
    pick = torch.cat([(level == k).nonzero()[:n, 0] for k, n in enumerate((76, 2, 2))])
    table = kept_and_drawn(judge, plain[pick], plain[pick], frozen="s")
    assert table.loc["level", "IS"] > 2  # of all of them it would be near 1.2
    assert table.loc["level", "chance"] > 85


@pytest.mark.parametrize("k", [1, 3])
def test_frechet_distance_of_known_gaussians(k):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4000, k, generator=g, dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov().reshape(k, k))).T
    mix, shift = torch.randn(k, k, generator=g).double(), torch.arange(1.0, k + 1).double()
    a, b = z @ mix.T, 2 * z @ mix.T + shift  # covariances C and 4 C, exactly
    want = float(shift.square().sum() + (mix @ mix.T).trace())
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(k, k, generator=g).double())[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(want, rel=1e-9)


def test_frechet_distance_equals_the_formula_with_a_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = torch.randn(50, 4) @ torch.randn(4, 4), torch.randn(30, 4) @ torch.randn(4, 4) + 1
    cov_a, cov_b = np.cov(a.double().T), np.cov(b.double().T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    want = float((a.double().mean(0) - b.double().mean(0)).square().sum())
    want += np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)


def test_frechet_distance_of_fewer_rows_than_features():
    few = torch.randn(5, 20)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(few, few + 1) == pytest.approx(20, rel=1e-5)


class Means(torch.nn.Module):
    "Stands for a network that reads (B, C, V, H, W)."

    def forward(self, x, add: float = 0.0):
        return x.mean(dim=(2, 3, 4)) + add


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["type", "Temp.max", "train", "values", "half"])
def test_a_label_may_have_any_name(plain, name, kind):
    y = {"static": plain.static["level"], "dynamic": plain.dynamic["phase"]}[kind]
    data = Sequences(plain.x, **{kind: {name: y}})
    judge = train_judge(data, replace(BRIEF, steps=1), hidden=8)
    assert set(judged(judge, data)) == {name}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_features_of_a_local_file(tmp_path):
    path = tmp_path / "means.pt"
    torch.jit.save(torch.jit.script(Means()), str(path))
    raw = Sequences(torch.rand(11, 3, 2, 4, 4))
    data = Scale.fit(raw).apply(raw)
    features = torchscript_features(path, gain=255, add=1.0)
    assert torch.allclose(features(Lazy(data)), 255 * raw.x.mean((1, 3, 4)) + 1, atol=1e-3)
    assert frechet_distance(features(data), features(raw)) == pytest.approx(0, abs=1e-3)
    (tmp_path / "text.pt").write_text("no network")
    for wrong in ("text.pt", "nowhere.pt"):
        with pytest.raises(ValueError, match=f"{wrong} is no TorchScript file"):
            torchscript_features(tmp_path / wrong)


def test_who_carries_reads_lazily(plain, judge):
    a, b = plain[300:450], plain[450:600]  # more than one batch each
    table = who_carries(judge, Lazy(a), Lazy(a), Lazy(b))
    assert table.equals(who_carries(judge, a, a, b))
    assert table.loc["phase", "pairs"] == int(
        (a.dynamic["phase"] != b.dynamic["phase"]).any(1).sum()
    )


def test_of_quantities_alone_nobody_carries_any(plain):
    warmth = Sequences(plain.x, dynamic={"warmth": plain.dynamic["warmth"]})
    judge = train_judge(warmth, replace(BRIEF, steps=1), hidden=8)
    table = who_carries(judge, warmth, warmth, warmth)
    assert len(table) == 0 and list(table) == ["kind", "from_s", "from_d", "pairs"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: entropies(torch.ones(3, 2)), "sum to 1"),
        (lambda: train_judge(Sequences(torch.zeros(2, 3, 1))), "no label"),
        (
            lambda: train_judge(
                Sequences(torch.zeros(2, 3, 1), static={"a": torch.tensor([-1, -1])})
            ),
            "unknown for every",
        ),
    ],
)
def test_what_is_undefined_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda j, x: kept_and_drawn(j, x, x, "both"), "must be 's' or 'd'"),
        (lambda j, x: kept_and_drawn(j, x, x[:3], "s"), "must pair up, got 150 and 3"),
        (lambda j, x: frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2)), "two rows"),
        (lambda j, x: frechet_distance(torch.zeros(5, 3), torch.zeros(5, 2)), r"\(5, 3\) and"),
        (lambda j, x: frechet_distance(torch.randn(5, 2), torch.full((5, 2), math.nan)), "finite"),
        (lambda j, x: frechet_distance(torch.full((5, 9), math.inf), torch.randn(5, 9)), "finite"),
        (lambda j, x: judged(j, Sequences(x.x)), "no label 'level'; these sequences have none"),
        (lambda j, x: who_carries(j, x, x, Sequences(x.x)), "no label 'level'"),
    ],
)
def test_what_does_not_fit_together_is_refused(plain, judge, call, words):
    with pytest.raises(ValueError, match=words):
        call(judge, plain[:150])


def test_holes_of_real_sequences_do_not_give_generated_ones_away(monkeypatch):
    walks, seen, learn = bump(160, seed=0), [], judges.train_judge
    measured = torch.rand(walks.x[:80].shape, generator=torch.Generator().manual_seed(0)) < 0.6
    measured[:, 0] = True
    monkeypatch.setattr(
        judges,
        "train_judge",
        lambda data, *rest, **told: seen.append(data) or learn(data, *rest, **told),
    )
    holed = Sequences(walks.x[:80], observed=measured)
    discriminative_score(holed, walks[80:], runs=1, steps=1, hidden=2)
    share = lambda real: (seen[0].x[seen[0].static["real"] == real] == 0).float().mean().item()
    assert share(0) == pytest.approx(share(1), abs=0.05) and share(1) > 0.3
