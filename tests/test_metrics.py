"""Metrics against brute force, hand-computed cases and numbers of a separate program; probes at both ends, perfect and chance."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda.data import Sequences, bump
from diffsda.encoder import Factors
from diffsda.metrics import (
    _Pairs,
    codes_as_sequences,
    discriminative_score,
    entropies,
    equal_error_rate,
    judged,
    leakage,
    ranking,
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
    return train_judge(plain[:400], BRIEF, hidden=16)


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
