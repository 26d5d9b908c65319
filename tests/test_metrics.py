"""Metrics against brute force, hand-computed cases and numbers of a separate program; probes at both ends, perfect and chance."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda.data import Scale, Sequences, bump
from diffsda.encoder import Factors
from diffsda.metrics import (
    Distance,
    Judge,
    _Pairs,
    balanced_rows,
    codes_as_sequences,
    discriminative_score,
    embedding_distance,
    entropies,
    equal_error_rate,
    frechet_distance,
    judged,
    kept_and_drawn,
    keypoint_distance,
    leakage,
    ranking,
    torchscript_features,
    train_judge,
    verification,
    verification_eer,
    who_carries,
)
from diffsda.training import TrainConfig

CONFORMANCE = Path(__file__).parent / "conformance"
BRIEF = TrainConfig(steps=150, batch=64, lr=5e-3, warmup=10)


def brute_force_eer(scores, same):
    "Walks along the ROC, one threshold after the other, and interpolates where the two error rates cross."
    points = [(0.0, 1.0)]
    for threshold in sorted(set(scores), reverse=True):
        accept = scores >= threshold
        points.append((accept[~same].mean(), 1 - accept[same].mean()))
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x1 >= y1:
            t = (y0 - x0) / ((x1 - x0) + (y0 - y1))
            return x0 + t * (x1 - x0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=60))
def test_eer_equals_brute_force(pairs):
    scores, same = np.array([p[0] / 3 for p in pairs]), np.array([p[1] for p in pairs])
    if same.all() or not same.any():
        with pytest.raises(ValueError, match="same class"):
            equal_error_rate(scores, same)
    else:
        assert equal_error_rate(scores, same) == pytest.approx(
            brute_force_eer(scores, same), abs=1e-12
        )


@pytest.mark.parametrize("case", ["main", "weak", "noinfo", "quantised_ties", "perfect"])
def test_eer_of_a_separate_program(case):
    z = np.load(CONFORMANCE / "eer.npz")
    want = float(z[f"{case}_eer_roc_interpolated"])
    got = equal_error_rate(z[f"{case}_pair_scores"], z[f"{case}_pair_same"])
    assert got == pytest.approx(want, abs=1e-9)
    if case != "quantised_ties":  # equal cosines may be split by rounding there
        codes = torch.from_numpy(z[f"{case}_embeddings"]).double()
        assert verification_eer(codes, torch.from_numpy(z[f"{case}_speakers"])) == pytest.approx(
            want, abs=1e-9
        )


def test_eer_at_both_ends():
    same = np.array([True, False] * 50)
    assert equal_error_rate(same * 1.0, same) == 0
    assert equal_error_rate(np.zeros(100), same) == 0.5
    assert equal_error_rate(-(same * 1.0), same) == 1


def owned(owners, each, noise=1.0, seed=0, size=6):
    "Codes of `each` recordings of every owner, scattered around the owner's own."
    g = torch.Generator().manual_seed(seed)
    who = torch.arange(owners).repeat_interleave(each)
    codes = torch.randn(owners, size, generator=g)[who]
    return codes + noise * torch.randn(codes.shape, generator=g), who


def test_eer_of_millions_of_pairs_with_its_interval():
    codes, who = owned(100, 20)
    found = verification(codes, who, resamples=20)
    assert found.pairs == 2000 * 1999 // 2 and found.eer == verification_eer(codes, who)
    assert 0.02 < found.low < found.eer < found.high < 0.3
    assert found.high - found.low > 0.01  # two million pairs, but a hundred owners


def test_verification_by_hand():
    """Directions at 0 and 20 degrees of one owner, 25, 75 and 85 of the other.

    Angles within owners: 20, 50, 60, 10; across: 25, 75, 85, 5, 55, 65. Passing 5, 10, 20 and 25 leaves two
    of six false alarms and two of four misses; the next, 50, lowers the misses to one: they cross at 2/6."""
    angles = torch.tensor([0.0, 20.0, 25.0, 75.0, 85.0]).deg2rad()
    codes, who = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 0, 1, 1, 1])
    assert verification_eer(codes, who) == pytest.approx(1 / 3, abs=1e-12)
    # the second owner drawn twice: alarms weigh 2 each, within 20: 1 and 50, 60, 10: 2 each, of 7
    # 5, 10, 20, 25 leave 2/6 alarms and 4/7 misses, 50 leaves 2/7: at 2/6 again
    assert _Pairs.of(codes, who).eer(np.array([1, 2])) == pytest.approx(1 / 3, abs=1e-12)
    # the first owner five times: 20 weighs 5 of 8, and 5, 10, 20 leave 1/6 alarms and 2/8 misses, 25 then 2/6
    assert _Pairs.of(codes, who).eer(np.array([5, 1])) == pytest.approx(2 / 8, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_is_repeated_data_without_pairs_of_copies(seed):
    codes, who = owned(7, 3, seed=seed)
    drawn = np.bincount(np.random.default_rng(seed).integers(7, size=7), minlength=7)
    cosine = torch.nn.functional.cosine_similarity(codes[:, None], codes, dim=-1).double()
    rows = [(i, copy) for i in range(21) for copy in range(drawn[who[i]])]
    scores, same = [], []
    for n, (i, copy_i) in enumerate(rows):
        for j, copy_j in rows[n + 1 :]:
            if who[i] != who[j] or copy_i == copy_j:
                scores.append(float(cosine[min(i, j), max(i, j)]))
                same.append(bool(who[i] == who[j]))
    got = _Pairs.of(codes.double(), who).eer(drawn)
    assert got == pytest.approx(equal_error_rate(np.round(scores, 6), same), abs=1e-4)


def test_undefined_resamples_are_drawn_again():
    codes, who = owned(2, 3)
    pairs = _Pairs.of(codes, who)
    assert math.isnan(pairs.eer(np.array([2, 0]))) and math.isnan(pairs.eer(np.array([0, 2])))
    only_first = _Pairs.of(codes[[0, 1, 3]], who[[0, 1, 3]])
    assert math.isnan(only_first.eer(np.array([0, 2])))  # one recording of one owner
    found = verification(codes, who)  # half of all draws of two owners are one owner twice
    assert found.low == found.high == pytest.approx(found.eer)


def test_intervals_cover_the_rate_of_all_owners():
    truth = verification_eer(*owned(500, 5, seed=99))
    found = [verification(*owned(30, 5, seed=i), resamples=60) for i in range(40)]
    covered = sum(v.low <= truth <= v.high for v in found)
    assert covered >= 32  # of 40; 95 % of endlessly many owners
    assert sum(v.high < 1.5 * truth for v in found) > 30  # and are of some use


def test_verification_knows_neither_length_nor_order_nor_names():
    codes, who = owned(12, 4)
    found = verification(codes, who, seed=3)
    lengths = 10 ** torch.empty(48, 1).uniform_(-2, 2)
    near = lambda v: pytest.approx((v.eer, *v.resampled), abs=1e-3)
    scaled = verification(codes * lengths, who, seed=3)
    assert (scaled.eer, *scaled.resampled) == near(found)
    order = torch.randperm(48)
    turned = verification(codes[order], who[order], seed=3)
    assert (turned.eer, *turned.resampled) == near(found)
    assert verification(codes, 100 + 7 * who, seed=3) == found
    assert verification(codes, who, seed=4).resampled != found.resampled
    assert verification(codes, who, seed=4).eer == found.eer


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: equal_error_rate([1.0], [True, False]), "equally long"),
        (lambda: equal_error_rate([float("nan"), 1.0], [True, False]), "not finite"),
        (lambda: verification_eer(torch.zeros(3), torch.zeros(3)), r"\(n, k\)"),
        (lambda: verification(torch.eye(3), torch.zeros(2)), r"\(n, k\)"),
        (lambda: verification(torch.eye(3), torch.zeros(3)), "undefined with one owner only"),
        (lambda: verification(torch.eye(3), torch.arange(3)), "each of the 3 owners has one"),
        (lambda: verification(torch.eye(3)[[0, 1, 1]] * 0, torch.arange(3)), "row 0 is zero"),
        (lambda: verification(torch.tensor([[1.0], [math.nan]]), torch.zeros(2)), "in row 1"),
        (lambda: verification_eer(torch.tensor([[math.inf]]), torch.zeros(1)), "in row 0"),
        (
            lambda: verification(torch.eye(3), torch.tensor([0, 0, 1]), resamples=0),
            "resamples must be at least 1",
        ),
        (lambda: ranking([0, 0], [1.0, 2.0]), "both 0 and 1"),
        (lambda: ranking([0, 1, 2], [1.0, 2.0, 3.0]), "both 0 and 1"),
        (lambda: ranking([0, 1], [1.0, float("inf")]), "finite"),
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


@pytest.mark.parametrize("case", ["plain", "rare", "ties", "tiny"])
def test_ranking_of_a_separate_program(case):
    z = np.load(CONFORMANCE / "ranking.npz")
    got = ranking(z[f"{case}_label"], z[f"{case}_score"])
    assert got.auprc == pytest.approx(float(z[f"{case}_average_precision"]), abs=1e-10)
    assert got.auroc == pytest.approx(float(z[f"{case}_auroc"]), abs=1e-10)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_ranking_equals_brute_force(items):
    label, score = np.array([int(a) for a, _ in items]), np.array([float(b) for _, b in items])
    if len(set(label)) < 2:
        return
    positives, negatives = score[label == 1], score[label == 0]
    pairs = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    precision, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        recall = (chosen & (label == 1)).sum() / label.sum()
        precision += (recall - before) * label[chosen].mean()
        before = recall
    got = ranking(label, score)
    assert got.auroc == pytest.approx(pairs.mean(), abs=1e-12)
    assert got.auprc == pytest.approx(precision, abs=1e-12)


def test_entropies_are_bounded_and_tied():
    p = torch.softmax(3 * torch.randn(200, 5), dim=1)
    e = entropies(p)
    assert 0 < e.given_x < e.overall <= math.log(5) + 1e-6
    kl = (p * (p / p.mean(0)).log()).sum(1).mean()  # the other way to write the score
    assert e.inception_score == pytest.approx(math.exp(kl), rel=1e-4)
    assert 1 <= e.inception_score <= 5


@pytest.fixture(scope="module")
def plain():
    "Sequences whose labels lie open: x is (level of the sequence, phase of the frame)."
    g = torch.Generator().manual_seed(0)
    level, phase = torch.randint(3, (600,), generator=g), torch.randint(4, (600, 8), generator=g)
    x = torch.stack([level[:, None].expand(-1, 8) - 1.0, phase / 2 - 0.75], dim=-1)
    warmth = phase * 10.0 + 5
    return Sequences(x, static={"level": level}, dynamic={"phase": phase, "warmth": warmth})


@pytest.fixture(scope="module")
def judge(plain):
    return train_judge(plain[:400], replace(BRIEF, steps=500), hidden=16)  # sure of itself


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


class Lazy:
    "A set that is read only by rows, as a set on disk is."

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, rows):
        return self.data[rows]


def squares(n, seed, side=16, V=5):
    "A square of one of three colours that moves right, left, up or down around a torus."
    g = torch.Generator().manual_seed(seed)
    colour, way = torch.randint(3, (n,), generator=g), torch.randint(4, (n,), generator=g)
    step = torch.tensor([[0, 2], [0, -2], [2, 0], [-2, 0]])[way]
    at = torch.randint(side, (n, 1, 2), generator=g) + step[:, None] * torch.arange(V)[:, None]
    near = (torch.arange(side) - at[..., None]) % side < 4  # (n, V, 2, side)
    square = near[:, :, 0, :, None] & near[:, :, 1, None]
    x = square[:, :, None] * torch.eye(3)[colour][:, None, :, None, None]
    raw = Sequences(x, static={"colour": colour}, dynamic={"way": way[:, None].repeat(1, V)})
    return Scale.fit(raw).apply(raw)


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
    verdicts = judge_of_images.verdicts(test, size=7)
    assert p["colour"].shape == (150, 3) and p["way"].shape == (150, 5, 4)
    for name in p:
        assert torch.equal(p[name].argmax(-1), verdicts[name])
        assert torch.allclose(p[name].sum(-1), torch.ones(verdicts[name].shape))


def test_who_carries_and_leakage_read_lazily(plain, judge):
    a, b = plain[300:450], plain[450:600]  # more than one batch each
    table = who_carries(judge, Lazy(a), Lazy(a), Lazy(b))
    assert table.equals(who_carries(judge, a, a, b))
    assert table.loc["phase", "pairs"] == int(
        (a.dynamic["phase"] != b.dynamic["phase"]).any(1).sum()
    )
    codes = Factors(plain.x[:, 0, :1], plain.x[:, :, 1:])
    part = lambda rows, wrap: (codes.map(lambda c: c[rows]), wrap(plain[rows]))
    first, second = slice(0, 400), slice(400, 600)
    brief = TrainConfig(steps=10, batch=32)
    tables = [
        leakage(*part(first, wrap), *part(second, wrap), config=brief)
        for wrap in (Lazy, lambda data: data)
    ]
    assert tables[0].equals(tables[1])


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


def frames(*values):
    "One sequence whose frames hold one number each, which detectors below take for a coordinate; below 0 is not found."
    return Sequences(torch.tensor([[[float(v)] for v in values]]))


def point(x):
    "The value as both coordinates of two points."
    return torch.where(x < 0, torch.nan, x)[:, None].expand(-1, 2, 2)


def test_keypoint_distance_by_hand():
    real, made = frames(1, 2, 3, 4), frames(2, -1, 3, 7)
    assert keypoint_distance(point, real, made) == Distance(pytest.approx(4 / 3), 0.25)
    assert keypoint_distance(point, real, made, published=True) == Distance(1.0, 0.25)
    unseen = frames(-1, 2, 3, 4)  # not found in the real frame: no rule counts it
    assert keypoint_distance(point, unseen, frames(9, 3, 3, 3)).distance == pytest.approx(2 / 3)
    published = keypoint_distance(point, unseen, frames(9, 3, 3, 3), published=True)
    assert published.distance == pytest.approx(2 / 3)


def test_embedding_distance_by_hand():
    embed = lambda x: torch.where(x < 0, torch.nan, x * torch.tensor([[3.0, 4.0]]))
    real, made = frames(1, 2, 3, -1), frames(2, -1, 3, 5)
    assert embedding_distance(embed, real, made) == Distance(2.5, 0.5)
    assert embedding_distance(embed, real, made, squared=True) == Distance(12.5, 0.5)
    assert embedding_distance(embed, real, made, published=True) == Distance(1.25, 0.5)


def test_points_of_a_frame_may_be_missing_one_by_one():
    "Bodies: an elbow behind the back is missing, the rest is compared."
    joints = lambda x: torch.stack([x, torch.where(x > 4, torch.nan, x + 10)], 1).expand(-1, 2, 2)
    found = keypoint_distance(joints, frames(1, 2), frames(3, 5))
    assert found == Distance(pytest.approx((2 + 2 + 3) / 3), 0.25)


@pytest.mark.parametrize("distance", [keypoint_distance, embedding_distance])
def test_where_nothing_is_found_there_is_no_distance(distance):
    read = point if distance is keypoint_distance else lambda x: torch.where(x < 0, torch.nan, x)
    lost = distance(read, frames(1, 2), frames(-1, -1))
    assert math.isnan(lost.distance) and lost.missing == 1
    assert distance(read, frames(1, 2), frames(-1, -1), published=True) == Distance(0.0, 1.0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.booleans()), min_size=2))
def test_failing_does_not_help(rows):
    "Losing frames whose points are as far off as the others' leaves the distance, and raises what is missing."
    real, off, lost = zip(*rows)
    shifted = [r + 2 for r in real]
    some = [-1.0 if gone else r for r, gone in zip(shifted, lost)]
    before = keypoint_distance(point, frames(*real), frames(*shifted))
    after = keypoint_distance(point, frames(*real), frames(*some))
    assert after.missing == pytest.approx(sum(lost) / len(lost)) and before.missing == 0
    if not all(lost):
        assert after.distance == pytest.approx(before.distance, rel=1e-4)
    flattered = keypoint_distance(point, frames(*real), frames(*some), published=True)
    assert flattered.distance == pytest.approx(2 * (1 - after.missing), rel=1e-4)


def test_distances_are_of_raw_frames_that_exist():
    raw = Sequences(
        torch.tensor([[[0.0], [10.0], [20.0]], [[10.0], [30.0], [0.0]]]), lengths=[3, 2]
    )
    data = Scale.fit(raw).apply(raw)
    seen = []

    def detect(x):
        seen.append(x.flatten())
        return point(x)

    moved = Sequences(data.x + 0.1, data.lengths, scale=data.scale)
    found = keypoint_distance(detect, Lazy(data), Lazy(moved))
    assert seen[0].tolist() == pytest.approx([0, 10, 20, 10, 30], abs=1e-4)
    assert found.distance == pytest.approx(0.1 / 0.5 * float(data.scale.std), rel=1e-3)


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


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda j, x: kept_and_drawn(j, x, x, "both"), "must be 's' or 'd'"),
        (lambda j, x: kept_and_drawn(j, x, x[:3], "s"), "must pair up, got 150 and 3"),
        (lambda j, x: keypoint_distance(point, x, x[:3]), "must pair up, got 150 and 3"),
        (lambda j, x: keypoint_distance(lambda f: f, x, x), r"detect must return \(n, K, 2\)"),
        (lambda j, x: embedding_distance(point, x, x), r"embed must return \(n, k\)"),
        (lambda j, x: frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2)), "two rows"),
        (lambda j, x: frechet_distance(torch.zeros(5, 3), torch.zeros(5, 2)), r"\(5, 3\) and"),
    ],
)
def test_what_does_not_fit_together_is_refused(plain, judge, call, words):
    with pytest.raises(ValueError, match=words):
        call(judge, plain[:150])
