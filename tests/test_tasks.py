"""Readers on frozen codes: what they find, what they must not see, and that each fault of the published protocol is a switch."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffsda import tasks
from diffsda.data import Scale, Sequences, bump, toy_splits
from diffsda.encoder import Factors
from diffsda.model import DiffSDA
from diffsda.tasks import (
    ClassReader,
    Coded,
    FrameReader,
    OutcomeReader,
    Protocol,
    fit_reader,
    in_blocks,
    pca_codes,
    ranking,
    read_class,
    read_outcome,
    read_quantity,
    shifted,
    train_supervised,
)

ONE = Protocol(runs=1)
CONFORMANCE = Path(__file__).parent / "conformance"


def made_up(n, seed, V=20):
    """Noise with labels: one of three kinds, an outcome, a quantity that moves."""
    g = torch.Generator().manual_seed(seed)
    kind, outcome = torch.randint(3, (n,), generator=g), torch.randint(2, (n,), generator=g)
    place = 10 + torch.randn(n, V, generator=g).cumsum(1)
    return Sequences(
        torch.randn(n, V, 2, generator=g),
        static={"kind": kind, "outcome": outcome},
        dynamic={"place": place},
        classes={"kind": ("a", "b", "c"), "outcome": ("no", "yes")},
    )


def truth(data, frame=-1):
    """Codes that say the labels: the kind in s, the outcome in one frame of d alone, the place in every frame."""
    y = data.static["outcome"].float()
    shows = torch.zeros(len(data), data.x.shape[1])
    shows[:, frame] = 2 * y - 1
    s = nn.functional.one_hot(data.static["kind"].clamp(min=0), 3).float()
    return Coded(Factors(s, torch.stack([shows, data.dynamic["place"]], 2)), data)


def nothing(data):
    """Codes that are the same for all."""
    return Coded(Factors(torch.ones(len(data), 3), torch.ones(*data.x.shape[:2], 2)), data)


def three(codes, sizes=(90, 40, 90)):
    return [codes(made_up(n, seed)) for seed, n in enumerate(sizes)]


READ = {  # name -> (reader, label)
    "class": (read_class, "kind"),
    "outcome": (read_outcome, "outcome"),
    "quantity": (read_quantity, "place"),
}


# ---- codes of PCA


@pytest.mark.parametrize("s_dim, d_dim", [(4, 1), (16, 4), (200, 50)])
def test_pca_codes_have_the_sizes_asked_for(s_dim, d_dim):
    fit, other = bump(40, 0, V=6), bump(9, 1, V=6)  # 40 rows of 6 frames of 32 numbers
    for data, (factors, same) in zip((fit, other), pca_codes(fit, [fit, other], s_dim, d_dim)):
        assert same is data
        assert factors.s.shape == (len(data), s_dim) and factors.d.shape == (len(data), 6, d_dim)
        assert (factors.s[:, 40:] == 0).all() and (factors.d[:, :, 32:] == 0).all(), "do not exist"
    codes = pca_codes(fit, [fit], s_dim, d_dim)[0].factors
    centred = codes.s - codes.s.mean(0)
    assert codes.s.mean(0).abs().max() < 1e-4 and codes.d.mean((0, 1)).abs().max() < 1e-4
    gram = centred.T @ centred
    assert (gram - gram.diag().diag()).abs().max() < 1e-3 * gram.max(), "components are orthogonal"
    assert (gram.diag().diff() < 1e-4 * gram.max()).all(), "the largest first"


def test_pca_codes_of_all_components_lose_nothing():
    """Distances between sequences, and between frames, are those of the codes."""
    data = bump(30, 0, V=5)
    factors = pca_codes(data, [data], 40, 40)[0].factors
    x = data.x.flatten(2)
    assert torch.allclose(
        torch.cdist(factors.s, factors.s), torch.cdist(x.flatten(1), x.flatten(1)), atol=1e-2
    )
    assert torch.allclose(torch.cdist(factors.d, factors.d), torch.cdist(x, x), atol=1e-2)


def test_pca_codes_ignore_padding_and_holes():
    g = torch.Generator().manual_seed(0)
    x, lengths = torch.randn(50, 8, 3, generator=g) + 3, torch.randint(2, 9, (50,), generator=g)
    observed = torch.rand(50, 8, 3, generator=g) < 0.8
    observed[:, 0] = True
    raw = Sequences(x, lengths, observed)
    data = Scale.fit(raw).apply(raw)
    other = torch.where(data.mask, x, 99 * torch.randn(x.shape, generator=g))
    again = Scale.fit(raw).apply(Sequences(other, lengths, observed))
    one, two = (pca_codes(d, [d], 5, 2)[0].factors for d in (data, again))
    assert torch.equal(one.s, two.s) and torch.equal(one.d, two.d)
    assert (one.d[~data.frame_mask] == 0).all() and one.d[data.frame_mask].abs().min() > 0
    # components of frames come from frames that exist: more padding changes no code of a frame
    pad = lambda y: torch.cat([y, torch.zeros_like(y)], 1)
    longer = Sequences(pad(raw.x), lengths, pad(observed))
    d, wide = (pca_codes(data, [data], 5, 2)[0].factors.d for data in (raw, longer))
    assert torch.allclose(wide[:, :8], d, atol=1e-4)


# ---- readers


def codes(n=6, V=24, s_dim=5, d_dim=3):
    return Factors(torch.randn(n, s_dim), torch.randn(n, V, d_dim))


LENGTHS = torch.tensor([24, 20, 12, 8, 4, 1])


@pytest.mark.parametrize(
    "at, read", [(None, LENGTHS - 1), (lambda n: (n // 4 - 1).clamp(min=0), [5, 4, 2, 1, 0, 0])]
)
def test_outcome_reader_sees_up_to_its_frame_and_no_further(at, read):
    reader, factors = OutcomeReader(5, 3, at).eval(), codes()
    answer = reader(factors, LENGTHS)
    for change, same in ((1, True), (0, False)):  # from the frame after, or from this very frame on
        d = factors.d.clone()
        for i, frame in enumerate(read):
            d[i, int(frame) + change :] = torch.randn_like(d[i, int(frame) + change :])
        assert torch.equal(reader(Factors(factors.s, d), LENGTHS), answer) == same
    assert not torch.equal(reader(Factors(torch.randn(6, 5), factors.d), LENGTHS), answer)


def test_class_reader_sees_s_alone():
    reader, factors = ClassReader(5, 4), codes()
    answer = reader(factors, LENGTHS)
    assert answer.shape == (6, 4)
    assert torch.equal(reader(factors._replace(d=torch.randn(6, 24, 3)), LENGTHS), answer)


@pytest.mark.parametrize("V, blocks", [(24, 2), (30, 3), (10, 1)])
def test_frame_reader_answers_for_blocks_of_ten_frames(V, blocks):
    reader, factors = FrameReader(5, 3).eval(), codes(V=V)
    answer = reader(factors, torch.full((6,), V))
    assert answer.shape == (6, blocks)
    d = factors.d.clone()
    d[:, 10 * blocks - 1] += 1
    changed = reader(factors._replace(d=d), LENGTHS) != answer
    assert changed[:, -1].any() and not changed[:, :-1].any(), "blocks know nothing of each other"


@pytest.mark.parametrize("V", [10, 19, 40])
def test_in_blocks(V):
    y = torch.randn(3, V)
    means = in_blocks(y)
    assert means.shape == (3, V // 10)
    for k in range(V // 10):
        assert torch.allclose(means[:, k], y[:, 10 * k : 10 * k + 10].mean(1))


# ---- the fault of a shift


def test_shifted_turns_signals_and_leaves_labels():
    data = made_up(5, 0)
    x = data.x.clone()
    observed = torch.rand(x.shape) < 0.8
    data = Sequences(x, None, observed, data.static, data.dynamic, data.classes)
    turned = shifted(data, 7)
    for v in range(20):
        assert torch.equal(turned.x[:, v], data.x[:, (v + 7) % 20])
        assert torch.equal(turned.mask[:, v], data.mask[:, (v + 7) % 20])
    assert turned.static == data.static and turned.dynamic == data.dynamic
    assert torch.equal(shifted(turned, 13).x, data.x) and shifted(data, 0) is data


def test_shifted_refuses_ragged_sequences():
    ragged = Sequences(torch.randn(2, 9, 3), torch.tensor([9, 8]))
    with pytest.raises(ValueError, match="full length"):
        shifted(ragged, 1)
    assert shifted(ragged, 0) is ragged


# ---- the loop


class Weight(nn.Module):
    """One number, which answers every row."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, factors, lengths):
        return self.w.expand(len(lengths))


def run(scores, epochs=12, **options):
    """Fits one weight that climbs; returns it, its value after each epoch, and the rows met by codes and loss."""
    data, reader, seen, met = made_up(10, 0), Weight(), [], []

    def score():
        seen.append(reader.w.item())
        return scores[len(seen) - 1]

    def codes(rows):
        met.append([rows.tolist()])
        return rows

    def loss(answer, rows):
        met[-1].append(rows.tolist())
        return -answer.mean()

    fit_reader(
        reader, codes, loss, data, score if scores else None, epochs=epochs, batch=4, **options
    )
    return reader.w.item(), seen, met


def test_the_best_epoch_is_kept():
    weight, seen, _ = run([0, 1, 5, 2, 5, 3], epochs=6)
    assert len(set(seen)) == 6 and weight == seen[2], "of equally good ones the first"


def test_fitting_stops_when_patience_is_over():
    _, seen, _ = run([0, 1, 5] + 20 * [2], epochs=23, patience=4)
    assert len(seen) == 2 + 1 + 4
    assert len(run(list(range(12)), patience=1)[1]) == 12, "never while it gets better"


def test_without_a_score_the_last_epoch_counts():
    weight, seen, met = run(None, epochs=5)
    assert weight > run(None, epochs=4)[0] > 0 and seen == [] and len(met) == 5 * 3


def test_labels_travel_with_their_sequences_unless_mismatched():
    _, _, met = run(None)
    assert all(rows == owners for rows, owners in met)
    _, _, met = run(None, mismatched=True)
    assert sum(rows != owners for rows, owners in met) > 30
    epochs = [sum((owners for _, owners in met[i : i + 3]), []) for i in range(0, 36, 3)]
    assert all(listed == epochs[0] for listed in epochs), "one list"
    for part in (0, 1):
        first = sum((pair[part] for pair in met[:3]), [])
        assert sorted(first) == list(range(10)), "everyone once"


@pytest.mark.parametrize("seed", [0, 3])
def test_same_seed_same_order(seed):
    assert run(None, seed=seed) == run(None, seed=seed)
    assert run(None, seed=seed)[2] != run(None, seed=seed + 1)[2]


@pytest.mark.parametrize("batch, count", [(1, 7), (30, 1)])
def test_a_reader_that_would_never_be_trained_is_refused(batch, count):
    with pytest.raises(ValueError, match=f"batch={batch} of {count} training"):
        fit_reader(Weight(), None, None, made_up(count, 0), None, epochs=1, batch=batch)


def test_a_batch_of_one_is_left_out():
    """Batch norm cannot take one sequence of one frame."""
    data = made_up(7, 0)
    sizes, loss = [], lambda answer, rows: answer.mean()
    codes = lambda rows: sizes.append(len(rows))
    fit_reader(Weight(), codes, loss, data, None, epochs=3, batch=3)
    assert sizes == 3 * [3, 3]


# ---- the three questions


def score(name, parts, protocol=ONE):
    """The first run's: percent right, AUROC, or mean absolute error."""
    read, label = READ[name]
    first = read(parts, label, protocol)[0]
    return first.auroc if name == "outcome" else first


def guessing(name, parts):
    """What one answer for all is worth."""
    y = [in_blocks(part.data.dynamic["place"]) for part in parts]
    error = (y[2] - y[0].median()).abs().mean().item()
    return {"class": 100 / 3, "outcome": 0.5, "quantity": error}[name]


@pytest.mark.parametrize("name", READ)
def test_codes_that_know_and_codes_that_do_not(name):
    know, blind = three(truth), three(nothing)
    assert score(name, blind) == pytest.approx(guessing(name, blind), rel=0.25)
    if name == "quantity":
        assert score(name, know) < 0.2 * guessing(name, know)
    else:
        assert score(name, know) > (99 if name == "class" else 0.99)


@pytest.mark.parametrize("name", READ)
def test_mismatched_labels_teach_nothing(name):
    parts = three(truth)
    wrong, guess = score(name, parts, replace(ONE, mismatched=True)), guessing(name, parts)
    if name == "quantity":
        assert wrong > 0.7 * guess
    else:
        assert wrong < 2 * guess


@pytest.mark.parametrize("frame, found", [(4, True), (5, False)])
def test_an_early_reader_stops_at_a_quarter(frame, found):
    """The outcome shows in one frame: the last of the first quarter of twenty, or the next."""
    early = score("outcome", three(lambda data: truth(data, frame)), replace(ONE, early=True))
    assert early > 0.99 if found else early < 0.65


@pytest.mark.parametrize("name", ["class", "outcome"])
def test_unknown_labels_are_ignored(name):
    """Sequences without the label change nothing, not even the scale of the codes."""
    parts, mixed = three(truth, sizes=(45, 20, 20)), []
    for factors, data in parts:
        unknown = {k: torch.full_like(y, -1) for k, y in data.static.items()}
        strange = Sequences(data.x, None, None, unknown, data.dynamic, data.classes)
        both = Factors.cat([factors.map(lambda code: 1e6 + 0 * code), factors])
        mixed.append(Coded(both, Sequences.cat([strange, data])))
    read, label = READ[name]
    assert read(mixed, label, ONE) == read(parts, label, ONE)


LOST = [(name, part) for name in READ for part in range(3) if (name, part) != ("quantity", 1)]


@pytest.mark.parametrize("name, part", LOST)
def test_a_part_without_the_label_is_refused(name, part):
    parts = three(truth)
    factors, data = parts[part]
    static = {k: torch.full_like(y, -1) for k, y in data.static.items()}
    place = torch.full_like(data.dynamic["place"], math.nan)
    parts[part] = Coded(factors, replace(data, static=static, dynamic={"place": place}))
    with pytest.raises(ValueError, match="unknown for all|no block of ten frames"):
        score(name, parts)


def test_a_class_that_only_validation_and_test_know_is_never_right():
    parts = three(truth)
    factors, data = parts[0]
    rows = (data.static["kind"] < 2).nonzero()[:, 0]
    parts[0] = Coded(factors.map(lambda code: code[rows]), data[rows])
    parts = [Coded(codes, replace(data, classes={})) for codes, data in parts]
    known = 100 * (parts[2].data.static["kind"] < 2).float().mean().item()
    assert 50 < read_class(parts, "kind", ONE)[0] <= known


@pytest.mark.parametrize("padding", [0.0, 1000.0])
def test_frames_that_do_not_exist_have_no_quantity(padding):
    def read(padding):
        parts = []
        for factors, data in three(truth, sizes=(30, 5, 30)):
            lengths = torch.arange(len(data)) % 11 + 10
            exists = torch.arange(20) < lengths[:, None]
            place = torch.where(exists, data.dynamic["place"], padding)
            parts.append(Coded(factors, Sequences(data.x, lengths, dynamic={"place": place})))
        return read_quantity(parts, "place", ONE)

    assert read(padding) == read(math.nan)


@pytest.mark.parametrize("zero, unit", [(-20, 1), (5, 1000)])
def test_a_quantity_is_read_whatever_its_zero_and_its_unit(zero, unit):
    """The paper's reader tells less below zero and in a small unit."""
    parts = three(truth)
    move = lambda data: replace(data, dynamic={"place": unit * (data.dynamic["place"] + zero)})
    moved = [Coded(factors, move(data)) for factors, data in parts]
    found = score("quantity", moved)
    assert found == pytest.approx(unit * score("quantity", parts), rel=0.05)
    assert score("quantity", moved, replace(ONE, rectified=True)) > 3 * found


@pytest.mark.parametrize("name", READ)
def test_readers_leave_the_numbers_of_others_alone(name, monkeypatch):
    monkeypatch.setattr(tasks, "fit_reader", lambda *_, **__: None)
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    score(name, three(truth))
    assert torch.equal(torch.rand(2), want)


@pytest.mark.parametrize("name", ["class", "outcome"])
def test_a_wrong_label_names_those_there_are(name):
    with pytest.raises(ValueError, match="no static label 'colour'; there are kind, outcome"):
        READ[name][0](three(truth), "colour", ONE)
    bare = [Coded(c.factors, Sequences(c.data.x)) for c in three(truth)]
    with pytest.raises(ValueError, match="no static label 'kind'; there are none"):
        READ[name][0](bare, "kind", ONE)


def test_padding_has_no_effect_on_an_outcome():
    def ragged(padding):
        parts = []
        for factors, data in three(truth, sizes=(60, 30, 60)):
            lengths = torch.arange(len(data)) % 12 + 9
            d = factors.d.clone()
            d[:, :, 0] = (2 * data.static["outcome"] - 1)[:, None]
            d[torch.arange(20) >= lengths[:, None]] = padding
            parts.append(
                Coded(factors._replace(d=d), Sequences(data.x, lengths, None, data.static))
            )
        return read_outcome(parts, "outcome", ONE)

    assert ragged(0.0) == ragged(77.0) and ragged(0.0)[0].auroc > 0.99


@pytest.mark.parametrize("name", READ)
def test_runs_differ_and_can_be_repeated(name):
    read, label = READ[name]
    noise = lambda data: Coded(Factors(data.x[:, 0], data.x), data)
    parts = three(noise, sizes=(30, 30, 30))
    two = read(parts, label, Protocol(runs=2))
    assert len(two) == 2 and two[0] != two[1]
    torch.randn(7)  # whatever was drawn before
    assert read(parts, label, ONE) == two[:1]


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("name", READ)
def test_continued_goes_on_with_one_reader(monkeypatch, name, continued):
    calls = []
    fit = lambda reader, *rest, **options: calls.append((reader, options))
    monkeypatch.setattr(tasks, "fit_reader", fit)
    read, label = READ[name]
    read(three(truth), label, Protocol(continued=continued, runs=4, batch=7, mismatched=True))
    assert len({id(reader) for reader, _ in calls}) == (1 if continued else 4)
    assert [options["seed"] for _, options in calls] == [0, 1, 2, 3]
    assert all(options["batch"] == 7 and options["mismatched"] for _, options in calls)


@pytest.mark.parametrize("continued", [False, True])
def test_continued_weighs_batches_equally(monkeypatch, continued):
    readers = []  # left as they were made; codes as they are
    monkeypatch.setattr(tasks, "fit_reader", lambda reader, *_, **__: readers.append(reader))
    parts = three(truth, sizes=(60, 60, 61))
    got = read_class(parts, "kind", Protocol(continued=continued, slow=True, runs=5, batch=20))
    factors, data = parts[2]
    right = [
        100.0 * (reader(factors, data.lengths).argmax(-1) == data.static["kind"])
        for reader in readers
    ]
    batches = [[*r.split(20)] if continued else [r] for r in right]
    assert got == pytest.approx([np.mean([b.mean() for b in batch]) for batch in batches])
    assert any(abs(g - r.mean()) > 0.1 for g, r in zip(got, right)) == continued


def test_slow_is_slow(monkeypatch):
    """The representation's rate, on codes of any scale: small codes are not found in time."""
    small = [Coded(c.factors.map(lambda code: 1e-3 * code), c.data) for c in three(truth)]
    assert score("class", small) == 100 and score("class", small, replace(ONE, slow=True)) < 70


# ---- labels from the start


def test_supervision_learns_a_toy_label_and_keeps_its_best_epoch():
    fit, val, test = toy_splits("bump", sizes=(90, 60, 100), seed=0)
    encoder = DiffSDA.mlp(fit.frame, 8, 2, 16, 32, 32, embedding=16).encoder
    losses = []

    def loss(answer, data):
        mean = nn.functional.cross_entropy(answer, data.static["sign"])
        if not torch.is_grad_enabled() or data.x is val.x:
            losses.append(mean.item())
        return mean

    both = train_supervised(encoder, ClassReader(8, 3), [fit, val], loss, epochs=12, lr=3e-3)
    right = (both.answers(test).argmax(-1) == test.static["sign"]).float().mean()
    assert right > 0.9
    assert len(losses) == 12 and loss(both.answers(val), val).item() == min(losses)
    assert torch.allclose(both.answers(test, size=7), both.answers(test), atol=1e-5)
    assert both.encoder is encoder and not both.training


def test_supervision_is_decided_by_its_seed():
    """Dropout too."""
    data = made_up(20, 0)
    loss = lambda answer, part: nn.functional.cross_entropy(answer, part.static["kind"])

    def answers(drawn_before):
        torch.manual_seed(0)
        encoder = DiffSDA.mlp((2,), 8, 2, 16, 32, 32, embedding=16).encoder
        reader = ClassReader(8, 3)
        torch.randn(drawn_before)
        return train_supervised(encoder, reader, [data, data], loss, epochs=2).answers(data)

    assert torch.equal(answers(0), answers(7))


def test_supervised_answers_do_not_see_padding():
    encoder = DiffSDA.mlp((3,), 8, 2, 16, 32, 32, embedding=16).encoder
    both = tasks.Supervised(encoder, OutcomeReader(8, 2))
    x, lengths = torch.randn(2, 9, 3), torch.tensor([9, 5])
    whole = both.answers(Sequences(x, lengths))
    assert torch.allclose(both.answers(Sequences(x[1:, :5])), whole[1:], atol=1e-6)


def test_unknown_readings_and_wrong_names_are_told():
    x = torch.zeros(6, 20, 1)
    quantity = torch.full((6, 20), 3.0)
    quantity[:, :10] = torch.nan  # the first block of each sequence was not read
    data = Sequences(x, dynamic={"depth": quantity})
    parts = [Coded(Factors(torch.zeros(6, 2), torch.randn(6, 20, 2)), data)] * 3
    assert (
        read_quantity(parts, "depth", Protocol(runs=1))[0] < 1
    )  # 0 in place of NaN would cost more
    with pytest.raises(ValueError, match="no dynamic quantity 'deep'; there are depth"):
        read_quantity(parts, "deep")
    kinds = [Coded(c.factors, Sequences(x, dynamic={"kind": x[..., 0].long()})) for c in parts]
    with pytest.raises(ValueError, match="no dynamic quantity 'kind'; there are none"):
        read_quantity(kinds, "kind")
    brief = Sequences(x[:, :8], dynamic={"depth": quantity[:, 10:18]})
    short = [Coded(Factors(c.factors.s, c.factors.d[:, :8]), brief) for c in parts]
    with pytest.raises(ValueError, match="no block of ten frames"):
        read_quantity(short, "depth")


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


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ranking([0, 0], [1.0, 2.0]), "both 0 and 1"),
        (lambda: ranking([0, 1, 2], [1.0, 2.0, 3.0]), "both 0 and 1"),
        (lambda: ranking([0, 1], [1.0, float("inf")]), "finite"),
    ],
)
def test_undefined_rankings_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
