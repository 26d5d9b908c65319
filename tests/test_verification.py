"""Equal error rates against brute force, cases by hand and numbers of a separate program; intervals that cover."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda import verification as module
from diffsda.verification import _Pairs, equal_error_rate, verification, verification_eer

CONFORMANCE = Path(__file__).parent / "conformance"


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


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_eer_of_whole_numbers(dtype):
    scores = np.array([1, 1, 0, 0], dtype=dtype)
    assert equal_error_rate(scores, [True, True, False, False]) == 0
    assert equal_error_rate(scores, [False, False, True, True]) == 1


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
    ],
)
def test_undefined_rates_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("spread", [0.3, 1.5, 0.0])
def test_in_blocks_the_error_rate_is_the_same(monkeypatch, spread):
    """Counted in bins and sorted in one of them; blocks do not divide the recordings, and all ties (spread 0) are passed together."""
    g = torch.Generator().manual_seed(0)
    who = torch.randint(40, (310,), generator=g)
    codes = torch.randn(40, 8, generator=g)[who] + spread * torch.randn(310, 8, generator=g)
    whole = verification_eer(codes, who)
    monkeypatch.setattr(module, "MANY", 100)
    monkeypatch.setattr(module, "ROWS", 64)
    assert abs(verification_eer(codes, who) - whole) < 1e-5
    monkeypatch.setattr(module, "BINS", 1)  # all pairs in one bin: nothing but the sorting is left
    assert abs(verification_eer(codes, who) - whole) < 1e-5
    with pytest.raises(ValueError, match="row 7 is zero"):
        verification_eer(codes.index_fill(0, torch.tensor([7]), 0.0), who)


def test_in_blocks_no_block_holds_more_than_its_rows(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 16)
    unit, owner = torch.eye(50), torch.arange(50) // 5
    parts = [len(distance) for distance, _ in module._blocks(unit, owner)]
    assert sum(parts) == 50 * 49 // 2 and max(parts) <= 16 * 50


def test_recordings_of_unknown_owners_are_left_out():
    codes, who = owned(4, 3)
    unknown = torch.cat([codes.roll(1, 1), codes]), torch.cat([torch.full((12,), -1), who])
    assert verification_eer(*unknown) == verification_eer(codes, who)
    assert verification(*unknown).pairs == 66
    unknown[0][0] = 0  # a code that nobody owns is not looked at
    assert verification_eer(*unknown) == verification_eer(codes, who)
