"""Directions, effects and single factors, on made-up codes whose answers are known, and through the one door."""

from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import diffsda
from diffsda.cli import parameters_of
from diffsda.commands import add_commands
from diffsda.data import TOYS, Scale, Sequences, bump
from diffsda.disentangler import Disentangler, Plain
from diffsda.encoder import Factors
from diffsda.explore import LEAST, Directions, NamedFactors
from diffsda.factors import (
    KINDS,
    aligned,
    directions,
    effect_matrix,
    effect_scores,
    exchange_scores,
    exchanges,
    flips,
    importances,
    label_each_frame,
    multi_factor_scores,
    same_noise,
)
from diffsda.methods import PrincipalCodes
from diffsda.training import TrainConfig


class Signs:
    "Reads a label from each number of a frame: its sign, of its mean over frames or of each frame."

    standard = {"size": (0.0, 1.0)}

    def verdicts(self, data):
        whole = {name: (data.x[:, :, i].mean(1) > 0).long() for i, name in enumerate("ab")}
        return whole | {"c": (data.x[:, :, 2] > 0).long(), "size": data.x[:, 0, 0]}


spoken = lambda codes: codes.per_frame()  # a model whose frames are its codes


def grid(n=60, V=4):
    "Codes on an even grid from -2.95 to 2.95, each number in another order; frames hold their own code."
    values = torch.linspace(-2.95, 2.95, n)
    g = torch.Generator().manual_seed(0)
    mixed = lambda: values[torch.randperm(n, generator=g)]
    d = torch.stack([mixed() for _ in range(V)], 1)[..., None]
    return Factors(torch.stack([mixed(), mixed()], 1), d)


def labelled(codes):
    sign = lambda y: (y > 0).long()
    return Sequences(
        codes.per_frame(),
        static={name: sign(codes.s[:, i]) for i, name in enumerate("ab")}
        | {"size": codes.s[:, 0]},  # a quantity, which is left out
        dynamic={"c": sign(codes.d[..., 0])},
    )


def unit(*axes):
    "Directions of unit variance along the given axes."
    axes = torch.tensor(axes)
    h = axes.shape[1]
    return Directions(torch.zeros(h), torch.ones(h), axes, torch.ones(len(axes)) / h)


# ---- effects


def test_effect_matrix_of_a_linear_model_is_known():
    """A sign turns on a walk from -2 to 2 exactly where the code lies within 2 of zero: 40 of 60."""
    codes = grid()
    along = Factors(unit([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]), unit([1.0]))
    matrix = effect_matrix(spoken, codes, labelled(codes), along, Signs())
    assert list(matrix.index) == ["s0", "s1", "s2", "d0"] and list(matrix) == ["a", "b", "c"]
    within = lambda reach: 100 * np.mean(np.abs(np.linspace(-2.95, 2.95, 60)) < reach)
    want = [[within(2), 0, 0], [0, within(2), 0], [within(1.2), within(1.6), 0], [0, 0, within(2)]]
    assert np.allclose(matrix, want, atol=1e-4)


def test_flips_count_frames_that_exist_and_anything_on_the_way():
    x = torch.full((2, 3, 3), -1.0)
    own = Sequences(x, torch.tensor([3, 1]))
    there = x.clone()
    there[:, 1:, 2] = 1.0  # frames 1 and 2, which only the first sequence has
    found = flips(Signs(), own, [replace(own, x=there), own])  # there and back
    assert found == {"a": 0.0, "b": 0.0, "c": 50.0}


def test_scores_at_both_ends_and_by_hand():
    table = lambda values: pd.DataFrame(values, columns=list("abc"[: len(values[0])]))
    perfect = effect_scores(table([[80.0, 0], [0, 20.0]]))
    assert perfect == pytest.approx({"modularity": 1, "completeness": 1, "reach": 20})
    equal = effect_scores(table([[30.0, 30.0], [30.0, 30.0]]))
    assert equal == pytest.approx({"modularity": 0, "completeness": 0, "reach": 30}, abs=1e-9)
    shared = effect_scores(table([[50.0, 0], [50.0, 0]]))
    assert shared == pytest.approx({"modularity": 1, "completeness": 0, "reach": 0}, abs=1e-9)
    # rows 3:1 and 1:3, of weight one half; 1 - H(1/4) in bits
    sharp = 1 + (0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    mixed = effect_scores(table([[30.0, 10.0], [10.0, 30.0]]))
    assert mixed == pytest.approx({"modularity": sharp, "completeness": sharp, "reach": 30})


# ---- directions


@pytest.fixture(scope="module")
def mixed():
    "Codes that are independent uniform numbers, mixed, in units of their own."
    g = torch.Generator().manual_seed(1)
    mixing = torch.tensor([[1.0, 0.4, 0.1], [0.5, 1.0, 0.3], [0.1, 0.6, 1.0]])
    return (torch.rand(1500, 3, generator=g) - 0.5) @ mixing * torch.tensor(
        [1.0, 5.0, 0.1]
    ) + 3, mixing


@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_unit_axes_of_which_the_widest_comes_first(kind, mixed):
    codes, _ = mixed
    found = directions(codes[:300], kind, 2)
    assert found.axes.shape == (2, 3) and found.share[0] >= found.share[1] > 0
    assert torch.allclose(found.axes.norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("kind", ["PCA", "random"])
def test_a_walk_is_measured_in_standard_deviations(kind, mixed):
    """Along axes at right angles the coordinate is a projection, and one unit is its standard deviation."""
    codes, _ = mixed
    found = directions(codes, kind, 2)
    step = (found.move(codes, 1, found.share[1].sqrt().item()) - codes) / codes.std(0)
    z = (codes - codes.mean(0)) / codes.std(0)
    assert (step @ found.axes[1]).mean().item() == pytest.approx(
        (z @ found.axes[1]).std().item(), rel=0.01
    )


@pytest.mark.parametrize("kind", ["PCA", "ICA"])
def test_sources_of_unit_variance_make_up_all_that_varies(kind, mixed):
    """Codes are steps times sources without correlation, so the steps' outer products add up to the correlations."""
    codes, _ = mixed
    found = directions(codes, kind, 3)
    steps = found.axes * (3 * found.share[:, None]).sqrt()
    assert torch.allclose(steps.T @ steps, torch.corrcoef(codes.T), atol=0.01)


def test_independent_components_find_what_principal_ones_miss(mixed):
    codes, mixing = mixed
    true = torch.nn.functional.normalize(mixing / mixing.T.norm(dim=1), dim=1)
    nearest = lambda kind: (directions(codes, kind, 3).axes @ true.T).abs().max(0).values.min()
    assert nearest("ICA") > 0.99 > 0.97 > nearest("PCA")


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_there_are_no_more_independent_components_than_codes_vary_in(rank):
    g = torch.Generator().manual_seed(3)
    found = directions(
        torch.rand(300, rank, generator=g) @ torch.randn(rank, 6, generator=g), "ICA", 5
    )
    assert len(found.axes) == rank and found.share.sum().item() == pytest.approx(1, rel=0.02)
    still = torch.rand(300, 3, generator=g) * torch.tensor([1.0, 1.0, 0.0])
    assert directions(still, "ICA", 3).share.min() > 0.1


def test_sparse_directions_use_few_numbers():
    g = torch.Generator().manual_seed(2)
    one, two = torch.randn(2, 800, 1, generator=g)
    codes = torch.cat([one, one, two, two], 1) + 0.3 * torch.randn(800, 4, generator=g)
    used = lambda kind: (directions(codes, kind, 2).axes.abs() > 0.1).sum(1).tolist()
    assert used("sparse") == [2, 2] and used("random") != [2, 2]


def test_directions_refuse_what_they_are_not():
    with pytest.raises(ValueError, match="unknown kind of direction 'pca'; there are PCA, ICA"):
        directions(torch.randn(9, 2), "pca")
    with pytest.raises(ValueError, match="n >= 2"):
        directions(torch.randn(1, 2), "ICA")


# ---- named factors

EFFECTS = {"hair": 4, "shirt": 3}


def additive(n, seed, noise=0.2, V=3):
    "Codes that are sums of what two static labels and one dynamic label add, and noise; and what they add."
    g = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    adds = {k: torch.randn(K, 10, generator=fixed) for k, K in EFFECTS.items()}
    adds["pose"] = torch.randn(3, 5, generator=fixed)
    static = {k: torch.randint(K, (n,), generator=g) for k, K in EFFECTS.items()}
    dynamic = {"pose": torch.randint(3, (n, V), generator=g)}
    s = sum(adds[k][y] for k, y in static.items()) + noise * torch.randn(n, 10, generator=g)
    d = adds["pose"][dynamic["pose"]] + noise * torch.randn(n, V, 5, generator=g)
    scale = torch.logspace(-1, 2, 10)  # numbers of very different size
    return Factors(5 + s * scale, d), Sequences(d, static=static, dynamic=dynamic), adds, scale


@pytest.fixture(scope="module")
def named():
    codes, data, _, _ = additive(60, 0)
    return NamedFactors.of(codes, data)


def read(codes, data, adds, scale):
    "The labels whose sum of effects is nearest to each code."
    hair, shirt = (torch.arange(K) for K in EFFECTS.values())
    every = adds["hair"][hair[:, None]] + adds["shirt"][shirt]
    near = torch.cdist((codes.s - 5) / scale, every.flatten(0, 1)).argmin(1)
    return {"hair": near // 3, "shirt": near % 3}, torch.cdist(codes.d, adds["pose"]).argmin(-1)


@pytest.mark.parametrize("factor", ["hair", "shirt", "pose"])
def test_an_exchanged_factor_is_the_only_one_that_changes(factor, named):
    codes, data, *known = additive(400, 1)
    order = torch.arange(400).roll(1)
    a, b = codes, codes.map(lambda code: code[order])
    looks, pose = read(named.only(factor, a, b), data, *known)
    for name in EFFECTS:
        want = data.static[name] if name == factor else data.static[name][order]
        assert (looks[name] == want).float().mean() > 0.97, name
    want = data.dynamic["pose"] if factor == "pose" else data.dynamic["pose"][order]
    assert (pose == want).float().mean() > 0.97


def test_projections_take_their_own_and_leave_the_others(named):
    hair, shirt = (named.parts[name].s.double() for name in EFFECTS)
    for p in (hair, shirt):
        assert torch.allclose(p @ p, p, atol=1e-3 * p.abs().max().item())
    assert (hair @ shirt).norm() < 1e-3 * hair.norm() * shirt.norm()
    assert not named.parts["hair"].d.any() and not named.parts["pose"].s.any()
    assert named.table().to_dict("index") == {
        "hair": {"s": 3, "d": 0}, "shirt": {"s": 2, "d": 0}, "pose": {"s": 0, "d": 2}
    }  # fmt: skip


def test_exchanging_with_oneself_or_twice_changes_nothing(named):
    codes, *_ = additive(20, 2)
    other = codes.map(lambda code: code.flip(0))
    close = lambda a, b: all(torch.allclose(x, y, rtol=1e-3, atol=1e-3) for x, y in zip(a, b))
    assert close(named.only("hair", codes, codes), codes)
    there = named.only("hair", other, codes)
    assert not close(there, codes) and close(named.only("hair", codes, there), codes)
    both = named.only("shirt", other, there)
    assert close(both, named.only("hair", other, named.only("shirt", other, codes)))


def test_labels_that_go_together_are_still_told_apart():
    """Where shirt follows hair in most sequences, a class's mean code holds both effects; the fit of all labels does not."""
    codes, data, adds, scale = additive(1500, 3)
    often = (data.static["shirt"] == data.static["hair"] % 3) | (torch.arange(1500) % 10 == 0)
    some = often.nonzero()[:120, 0]
    named = NamedFactors.of(codes.map(lambda c: c[some]), data[some], ("hair", "shirt"))
    codes, data, *known = additive(300, 4)
    b = codes.map(lambda code: code.roll(1, 0))
    looks, _ = read(named.only("hair", codes, b), data, *known)
    assert (looks["shirt"] == data.static["shirt"].roll(1)).float().mean() > 0.97


def test_unknown_labels_are_no_class_and_quantities_are_one_direction():
    codes, data, adds, scale = additive(80, 5)
    hidden = torch.where(torch.arange(80) % 3 == 0, -1, data.static["hair"])
    told = replace(data, static={**data.static, "hair": hidden})
    assert NamedFactors.of(codes, told, ("hair", "shirt")).table().s.tolist() == [3, 2]
    size = torch.randn(80)
    grown = codes._replace(s=codes.s + size[:, None] * scale)
    told = replace(data, static={**data.static, "size": size})
    assert NamedFactors.of(grown, told, ("size", "hair", "shirt")).table().s["size"] == 1


@pytest.mark.parametrize("letter", "sd")
def test_noise_has_no_parts_however_few_sequences_are_labelled(letter):
    """Four labels of six classes by 79 sequences: the fit explains a quarter of any noise."""
    g = torch.Generator().manual_seed(0)
    for _ in range(6):
        # frames resemble their neighbours
        walk = torch.randn(79, 6, 32, generator=g).cumsum(1)
        codes = Factors(torch.randn(79, 32, generator=g), walk)
        deal = lambda: torch.randperm(79, generator=g) % 6
        labels = {f"label {i}": deal() for i in range(4)}
        still = {k: y[:, None].expand(-1, 6) for k, y in labels.items()}
        told = {"static": labels} if letter == "s" else {"dynamic": still}
        with pytest.raises(ValueError, match=f"no direction of {letter} tells 'label 0'"):
            NamedFactors.of(codes, Sequences(torch.zeros(79, 6, 1), **told))


def test_naming_refuses_what_it_cannot_tell():
    codes, data, *_ = additive(60, 0)
    fail = lambda match: pytest.raises(ValueError, match=match)
    rare = data.static["hair"].clamp(max=2)
    rare[: LEAST - 1] = 3
    few = replace(data, static={"hair": rare}, classes={"hair": ("red", "black", "fair", "grey")})
    with fail(f"class 'grey' of 'hair' occurs in {LEAST - 1} labelled sequence"):
        NamedFactors.of(codes, few)
    NamedFactors.of(codes, data, ("hair",))
    with fail(r"no label 'hat'; these sequences have hair, shirt, pose"):
        NamedFactors.of(codes, data, ("hat",))
    with fail("'hair' has 1 class"):
        NamedFactors.of(codes, replace(data, static={"hair": rare * 0}))
    with fail("no direction of s tells 'luck'"):
        NamedFactors.of(codes, replace(data, static={"luck": torch.arange(60) % 2}))
    twice = replace(data, static={"hair": data.static["hair"], "wig": data.static["hair"]})
    with fail("do not lie side by side"):
        NamedFactors.of(codes, twice)
    with fail("3 frames and the other 2"):
        named = NamedFactors.of(codes, data)
        named.only("pose", codes, codes._replace(d=codes.d[:, :2]))
    with fail("no factor is named 'hat'; there are hair, shirt, pose"):
        named.only("hat", codes, codes)


# ---- exchanges, and the benchmark's score


def number(i, letter="s", sizes=(2, 1)):
    eye = {k: torch.zeros(n, n) for k, n in zip("sd", sizes)}
    eye[letter][i, i] = 1
    return Factors(*eye.values())


ALL = {"a": number(0), "b": number(1), "c": number(0, "d")}


def test_exchanges_and_scores_of_a_linear_model():
    codes = grid(400)
    data = labelled(codes)
    table = exchanges(spoken, NamedFactors(ALL), codes, data, Signs())
    for factor, label in table.index:
        row = table.loc[(factor, label)]
        assert (row.from_a, row.from_b) == ((100, 0) if factor == label else (0, 100))
        assert row.chance == 50 and row.numbers == 1
    found = exchange_scores(table)
    off = table[[f != k for f, k in table.index]].accuracy / 100
    assert found["on"] == 1 and found["off"] == pytest.approx(off.mean())
    assert found["score"] == pytest.approx(1 - (off - 0.5).abs().mean() / 2)
    assert found["score"] > 0.97 and "consistency" not in found


def test_a_factor_without_a_part_takes_the_worst():
    codes = grid(400)
    nothing = Factors(torch.zeros(2, 2), torch.zeros(1, 1))
    named = NamedFactors(ALL | {"b": nothing})
    found = exchange_scores(exchanges(spoken, named, codes, labelled(codes), Signs()))
    assert found["on"] == pytest.approx(2 / 3)  # on 0 for one of three, off 1/2 away from chance
    assert found["score"] == pytest.approx(1 - (1 / 3 + (2 * 0.5) / 6) / 2, abs=0.02)


def test_a_swap_that_brings_everything_scores_low_off():
    codes = grid(400)
    whole = Factors(torch.eye(2), torch.eye(1))
    found = exchange_scores(
        exchanges(
            spoken, NamedFactors(dict.fromkeys("abc", whole)), codes, labelled(codes), Signs()
        )
    )
    assert found == pytest.approx({"on": 1, "off": 1, "score": 0.75})


class FrameSigns:
    "The same signs, asked of each frame."

    standard = {}

    def verdicts(self, data):
        return {name: (data.x[:, :, i] > 0).long() for i, name in enumerate("ab")}


def test_consistency_counts_frames():
    codes = grid(40)
    data = labelled(codes)

    def half(factors):  # every other frame has forgotten a
        x = factors.per_frame().clone()
        x[:, ::2, 0] *= -0.1
        return x

    table = exchanges(half, NamedFactors(ALL), codes, data, Signs(), FrameSigns())
    assert table.consistency.dropna().to_dict() == {("a", "a"): 50, ("b", "b"): 100}
    assert exchange_scores(table)["consistency"] == 0.75
    each = label_each_frame(data)
    assert not each.static and torch.equal(
        each.dynamic["a"], data.static["a"][:, None].expand(40, 4)
    )


class Seen:
    "Says whether anything of a sequence's second half is there."

    standard = {}

    def verdicts(self, data):
        return {"a": data.x[:, 2:].ne(0).any(-1).any(1).long()}


def test_what_is_decoded_has_the_holes_of_the_sequence_it_is_made_of():
    """Every other sequence was not observed in its second half; a value drawn there is none."""
    codes = grid(40)
    whole = labelled(codes)
    there = torch.ones_like(whole.x, dtype=torch.bool)
    there[::2, 2:] = False
    data = Sequences(whole.x, None, there, {"a": torch.arange(40) % 2})
    walked = []

    class Looking(Seen):
        def verdicts(self, data):
            walked.append(super().verdicts(data)["a"])
            return {"a": walked[-1]}

    along = Factors(unit([1.0, 0.0]), unit([1.0]))
    effect_matrix(spoken, codes, data, along, Looking())
    assert all(torch.equal(seen, torch.arange(40) % 2) for seen in walked)
    table = exchanges(spoken, NamedFactors({"a": ALL["a"]}), codes, data, Seen())
    assert tuple(table.loc[("a", "a"), ["from_a", "from_b"]]) == (0, 100)


def test_numbers_go_to_the_labels_they_tell():
    codes = grid(100)
    told = importances(codes, labelled(codes))
    assert list(told.index) == ["s0", "s1", "d0"] and np.allclose(told.sum(), 1)
    assert told.idxmax().to_dict() == {"a": "s0", "b": "s1", "c": "d0"}
    parts = aligned(told).parts
    assert all(torch.equal(x, y) for k in ALL for x, y in zip(parts[k], ALL[k]))
    steady = labelled(
        codes
    )  # a label of d that holds for a whole sequence: its mean is what tells it
    d = codes.d[:, :1].expand(-1, 4, -1) + 0.01 * torch.randn(100, 4, 1)
    steady = replace(steady, dynamic={"c": steady.dynamic["c"][:, :1].expand(-1, 4)})
    assert importances(codes._replace(d=d), steady).idxmax()["c"] == "d0"


def test_pairs_of_which_no_value_is_left_are_left_out():
    """Every other sequence has two frames; of some of the others nothing was seen in these."""
    codes = grid(40)
    whole = labelled(codes)
    there = torch.ones_like(whole.x, dtype=torch.bool)
    there[1::4, :2] = False
    data = replace(whole, lengths=torch.tensor([2, 4] * 20), observed=there)
    table = exchanges(spoken, NamedFactors(ALL), codes, data, Signs())
    assert table.loc[("a", "a"), "from_a"] == 100 and table.loc[("a", "b"), "from_b"] == 100


def test_a_label_that_nobody_knows_has_no_importance():
    codes = grid(60)
    data = labelled(codes)
    unknown = replace(data, static=data.static | {"luck": torch.full((60,), -1)})
    assert importances(codes, unknown).equals(importances(codes, data))


def test_the_benchmark_tells_clear_codes_from_mixed_ones():
    codes, test = grid(100), grid(101)
    ask = lambda speak, turn: multi_factor_scores(
        speak, codes._replace(s=codes.s @ turn), labelled(codes), test._replace(s=test.s @ turn), labelled(test), Signs()
    )  # fmt: skip
    clear = ask(spoken, torch.eye(2))
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    mixed = ask(lambda f: spoken(f._replace(s=f.s @ turn.T)), turn)
    assert clear["score"] > 0.95 and clear["score"] - mixed["score"] > 0.05
    assert clear["modularity"] > mixed["modularity"] + 0.1
    assert clear["compactness"] > mixed["compactness"] + 0.1


def test_any_method_with_encode_and_decode_can_be_asked():
    data = bump(60, V=8)
    data = Scale.fit(data, ()).apply(data)
    model = PrincipalCodes(data.frame, 6, 2).fit(data)
    decode, codes = same_noise(model, data), model.encode(data)
    assert torch.equal(decode(codes), model.reconstruct(data).x)
    network, few = diffsda.pretrained("bump"), data[:3]
    decode = same_noise(network, few, steps=2, lowest=2.0)
    assert torch.equal(decode(network.encode(few)), decode(network.encode(few)))
    other = same_noise(network, few, seed=1, steps=2, lowest=2.0)
    assert not torch.equal(decode(network.encode(few)), other(network.encode(few)))


# ---- through the one door


@pytest.fixture(scope="module")
def door():
    "A disentangler of bumps, its factors named, and labelled bumps."
    walks = bump(120)
    scale = Scale.fit(bump(500), ())
    model = Disentangler(diffsda.pretrained("bump"), scale, Plain(), {"steps": 2, "lowest": 2.0})
    model.name_factors(walks, ["width", "sign", "position"])
    return model, walks


def test_one_factor_is_swapped_and_no_other(door):
    model, walks = door
    assert model.named.table().to_dict("index")["position"] == {"s": 0, "d": 2}
    a, b = walks[:20], walks[20:40]
    factors = lambda x: model.network.encode(model.scale.apply(x))
    want = model.named.only("width", factors(a), factors(b))
    like = model.adapter.pieces(b)
    made = model.decode(Factors(want.s, list(want.d)), like)
    assert torch.allclose(model.swap(a, b, only="width").x, made.x, atol=1e-5)
    assert not torch.allclose(model.swap(a, b, only="width").x, model.swap(a, b).x, atol=0.1)
    assert torch.allclose(model.swap(b, b, only="sign").x, model.reconstruct(b).x, atol=1e-3)
    one = model.swap(a[:1], b, only="width").x  # one for all
    assert torch.allclose(one[3:4], model.swap(a[:1], b, only="width").x[3:4])
    signs = lambda x: x.x[:, :, 1].mean((1, 2)).div(0.1).round().clamp(-1, 1) + 1
    moved = signs(model.swap(a, b, only="sign"))
    assert (moved == a.static["sign"]).float().mean() > 0.8  # by chance 0.3
    kept = signs(model.swap(a, b, only="width"))
    assert (kept == b.static["sign"]).float().mean() > 0.8


def test_names_are_kept_bit_for_bit(door, tmp_path):
    model, walks = door
    model.save(tmp_path)
    again = Disentangler.load(tmp_path, Plain)
    assert list(again.named.parts) == ["width", "sign", "position"]
    for name, part in model.named.parts.items():
        assert all(torch.equal(x, y) for x, y in zip(part, again.named.parts[name]))
    swapped = lambda model: model.swap(walks[:1], walks[1:2], only="width").x
    assert torch.equal(swapped(model), swapped(again))
    replace(model, named=None).save(tmp_path)
    assert Disentangler.load(tmp_path, Plain).named is None


def test_labels_may_be_told_by_name_or_frame_by_frame(door):
    model, walks = door
    names = map(str, range(len(walks)))
    width = {name: f"w{k}" for name, k in zip(names, walks.static["width"].tolist())}
    position = {str(i): row for i, row in enumerate(walks.dynamic["position"].tolist())}
    del width["3"], position["4"]  # of some nothing is known
    told = replace(model, named=None)
    told.name_factors(walks, {"width": width, "position": position})
    hidden = replace(
        walks,
        static={"width": walks.static["width"].clone()},
        dynamic={"position": walks.dynamic["position"].clone()},
    )
    hidden.static["width"][3], hidden.dynamic["position"][4] = -1, -1
    own = replace(model, named=None)
    own.name_factors(hidden)
    for name in ("width", "position"):
        for x, y in zip(told.named.parts[name], own.named.parts[name]):
            assert torch.allclose(x, y, atol=1e-4)


def test_the_door_refuses_names_it_does_not_know(door):
    model, walks = door
    fail = lambda match: pytest.raises(ValueError, match=match)
    with fail("no factor is named yet, so 'width' cannot.*name_factors"):
        replace(model, named=None).swap(walks[:1], walks[1:2], only="width")
    with fail("no factor is named 'hair'; there are width, sign, position"):
        model.swap(walks[:1], walks[1:2], only="hair")
    with fail("class .* of 'width' occurs in . labelled sequence"):
        model.name_factors(walks[:12], ["width"])
    with fail("this source has no label 'hair', it has width, sign"):
        model.name_factors(walks, ["hair"])
    with fail("label 'hair' does not fit '0'.*it tells of somebody"):
        model.name_factors(walks, {"hair": {"somebody": "red"}})
    with fail("label 'pose' does not fit '1', which has 24 frames"):
        model.name_factors(walks, {"pose": {"0": [0] * 24, "1": [0] * 7}})
    luck = {str(i): [i // 2 % 2] * 24 for i in range(len(walks))}
    with fail("no direction of d tells 'luck'"):
        model.name_factors(walks, {"luck": luck})
    assert list(model.named.parts) == ["width", "sign", "position"]  # as before


def test_shell_names_and_swaps(door, tmp_path, capsys):
    import argparse

    model, walks = door
    replace(model, named=None).save(tmp_path / "m")
    model.adapter.write(walks, tmp_path / "walks.npz")
    for i in range(2):
        model.adapter.write(walks[i : i + 1], tmp_path / f"{i}.npz")
    table = pd.DataFrame({"who": range(len(walks)), "width": walks.static["width"].numpy()})
    table.to_csv(tmp_path / "labels.csv", index=False)
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    for words in (
        f"name {tmp_path}/m {tmp_path}/walks.npz --labels {tmp_path}/labels.csv",
        f"swap {tmp_path}/m --static {tmp_path}/0.npz --dynamic {tmp_path}/1.npz --only width -o {tmp_path}/c.npz",
    ):
        args = parser.parse_args(words.split())
        assert args.function(args) == 0
    assert "width" in capsys.readouterr().out
    again = Disentangler.load(tmp_path / "m", Plain)
    want = again.swap(walks[:1], walks[1:2], only="width").x.numpy()
    with np.load(tmp_path / "c.npz") as held:
        assert np.array_equal(held["x"], want)


# ---- what the page does on its own (44_factors)


PAGE = Path(__file__).resolve().parent.parent / "nbs" / "44_factors.ipynb"


def page(of, data="bump"):
    "What the cells that define `of` define, for a set."
    names = {"data": data, "seed": 0, "results": "", "TrainConfig": TrainConfig, "TOYS": TOYS}
    names |= {"torch": torch, "Factors": Factors, "NamedFactors": NamedFactors}
    names |= {"read_rows": lambda path: [], "pretrained": diffsda.pretrained}
    for cell in nbformat.read(PAGE, as_version=4).cells:
        if f"def {of}(" in cell.source:
            exec(cell.source, names)
    return names


def test_each_shipped_model_can_be_asked():
    assert set(diffsda.pretrained()) <= set(parameters_of(PAGE)["data"].choices)


def test_a_label_that_another_one_settles_is_named_alone():
    """The season of a month lies where the month does; shirts are beside both and are named in any case."""
    codes, data, *_ = additive(120, 0)
    data = replace(data, static=data.static | {"kind": data.static["hair"] // 2}, classes={})
    named, reasons = page("named_by")["named_by"](data, codes)
    assert not reasons and named.table().s[["hair", "shirt"]].tolist() == [3, 2]
    assert named.table().s["kind"] >= 1 and list(named.parts)[-2:] == ["kind", "pose"]


@pytest.mark.parametrize("data, steps, batch", [("bump", 300, 32), ("digits", 1000, 64)])
def test_judges_of_real_sets_are_those_of_the_bench(data, steps, batch):
    judging = page("judges_of", data)["JUDGING"]
    assert (judging.steps, judging.batch) == (steps, batch)


def test_rows_by_smaller_judges_and_models_without_rows_are_to_be_run():
    to_run = page("to_run")["to_run"]
    told = lambda data, command, method=None, protocol="4 levels": {
        "data": data, "command": command, "method": method, "protocol": protocol
    }  # fmt: skip
    named = "diffsda run factors -p data {0} -p fast False".format
    rows = [told(name, named(name)) for name in diffsda.pretrained() if name != "airquality"]
    rows = [row | {"protocol": "judges of 9 steps"} for row in rows]
    assert to_run(rows) == [named("airquality")]
    rows += [told("digits", f'{named("digits")} -p methods "{k}"', k) for k in ("SKD", "DBSE")]
    rows += [told("bump", f'{named("bump")} -p methods "SKD"', "SKD")]  # the judges of toys stayed
    again = f'{named("digits")} -p methods "SKD; DBSE" -p again True'
    assert to_run(rows) == [named("airquality"), again]
