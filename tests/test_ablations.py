"""Ablations change what they say and nothing else; a run that is stored is not made again; the stored rows have one form."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import diffsda.ablations as ablations
from diffsda.ablations import (
    PAPER,
    PRIORS,
    RECIPES_OF,
    Change,
    ablations_of,
    add_run,
    blind_to,
    cut_windows,
    donors,
    fit_changed,
    judged_drawn,
    linear_leaks,
    measured,
    missing_runs,
    once,
    paper_of,
    prior_of,
    readable,
    runs_of,
    steps_shown,
    stored_as,
)
from diffsda.blocks import Rebuildable, read_rows, store_rows
from diffsda.cases import TOY_SHORT, Case
from diffsda.cli import parameters_of
from diffsda.data import Sequences
from diffsda.encoder import RECIPES, Factors
from diffsda.judges import train_judge
from diffsda.loss import log_normal_sigma
from diffsda.methods import weights
from diffsda.model import denoising_loss
from diffsda.sets import build
from diffsda.training import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
FORM = "data metric value seed steps hardware protocol command recipe".split()
TABLE = ablations_of(TOY_SHORT)


@pytest.fixture(scope="module")
def case():
    "A toy with the smallest training there is."
    g = torch.Generator().manual_seed(0)
    who = torch.arange(40) % 2
    x = torch.randn(40, 8, 3, generator=g) + who[:, None, None]
    data = Sequences(x, static={"who": who}, dynamic={"step": torch.arange(8).repeat(40, 1) % 2})
    config = TrainConfig(1, 8, lr=1e-3, warmup=0)
    small = replace(
        TOY_SHORT, s_dim=4, hidden=8, enc_width=8, dec_width=8, embedding=16, config=config
    )
    return Case(data, data[:30], data[30:], small)


def model_with(case, ablation, setting):
    return fit_changed(case, TABLE[ablation][setting], progress=False)[0].eval()


def changed_later(x):
    "The same sequences, but for all frames from the fifth on."
    return torch.cat([x[:, :4], -x[:, 4:]], dim=1)


def test_every_setting_is_another_one_and_the_base_stands_in_each_ablation():
    for name, settings in TABLE.items():
        changes = list(settings.values())
        assert all(changes.count(change) == 1 for change in changes), name
        assert sum(change == Change() for change in changes) == (name != "prior"), name
    assert [k for k in TABLE["size of d"]] == "1 2 4 8 16 32".split()
    assert set(RECIPES_OF) <= set(TABLE) and all(
        set(v) <= set(RECIPES) for v in RECIPES_OF.values()
    )
    larger = ablations_of(
        replace(TOY_SHORT, d_dim=5, draws=3, P_mean=0.0)
    )  # the base of another set
    assert larger["size of d"]["5"] == larger["draws"]["3"] == larger["sigma"]["0 / 1"] == Change()


def test_d_is_as_wide_as_the_setting_says(case):
    for setting in ("1", "8"):
        assert model_with(case, "size of d", setting).encode(case.asked).d.shape[-1] == int(setting)


def test_own_s_differs_between_frames_and_the_shared_one_has_none(case):
    own = model_with(case, "static code", "own s per frame").encode(case.asked).s
    assert own.shape[:2] == case.asked.x.shape[:2]
    assert (own[:, 1:] - own[:, :-1]).abs().amax(-1).min() > 0
    assert model_with(case, "static code", "one s").encode(case.asked).s.ndim == 2


def test_later_frames_do_not_alter_earlier_d_of_the_causal_encoder(case):
    other = Sequences(changed_later(case.asked.x))
    for setting, same in (("causal", True), ("both", False)):
        model = model_with(case, "direction", setting)
        d, after = (model.encode(data).d for data in (case.asked, other))
        assert torch.equal(d[:, :4], after[:, :4]) == same
        assert not torch.allclose(d[:, 4:], after[:, 4:])


def test_the_deeper_reader_has_a_second_layer_that_learns_and_is_kept(case, tmp_path):
    untrained = build(case.preset, (3,), layers=2)
    assert untrained.encoder.reader.num_layers == 2
    batch = case.asked
    untrained.encoder(batch.x, batch.lengths, batch.mask).d.sum().backward()
    assert untrained.encoder.reader.weight_ih_l1.grad.abs().sum() > 0
    model = model_with(case, "depth", "2 layers")
    assert model.encoder.reader.num_layers == 2
    model.save(tmp_path)
    again = type(model).load(tmp_path)
    assert torch.equal(again.encode(batch).d, model.encode(batch).d)
    old = model.recipe()  # of a model that was kept before there were layers
    del old["encoder"]["layers"]
    assert Rebuildable.build(old).encoder.reader.num_layers == 1
    with pytest.raises(ValueError, match="layers"):
        build(case.preset, (3,), layers=0)


def test_a_narrower_encoder_leaves_the_decoder_alone(case):
    sizes = {
        k: [weights(part) for part in (model.encoder, model.decoder)]
        for k in TABLE["encoder"]
        for model in [
            build(replace(case.preset, **ablations_of(case.preset)["encoder"][k].preset), (3,))
        ]
    }
    encoders = [sizes[k][0] for k in ("x 0.25", "x 0.5", "x 1", "x 2")]
    assert encoders == sorted(encoders) and len(set(encoders)) == 4
    assert len({sizes[k][1] for k in sizes}) == 1


def test_noise_is_drawn_as_the_setting_says(case, monkeypatch):
    seen = []
    drawn = torch.Tensor.exp

    def watch(shape, P_mean, P_std, **options):
        seen.append((tuple(shape), P_mean, P_std))
        return drawn(P_mean + P_std * torch.randn(shape))

    monkeypatch.setattr("diffsda.model.log_normal_sigma", watch)
    model_with(case, "draws", "8")
    model_with(case, "sigma", "1.2 / 1.2")
    assert seen[0] == ((8, 8, 8), TOY_SHORT.P_mean, TOY_SHORT.P_std)  # draws, batch, frames
    assert seen[1] == ((TOY_SHORT.draws, 8, 8), 1.2, 1.2)


@pytest.mark.parametrize("P_mean, P_std", [(-0.4, 1.0), (0.5, 1.7), (-1.2, 1.2)])
def test_levels_that_are_cut_off_below_are_the_others_as_they_were(P_mean, P_std):
    torch.manual_seed(0)
    cut = log_normal_sigma((200, 200), P_mean, P_std, lowest=2.0)
    whole = log_normal_sigma(2_000_000, P_mean, P_std)
    assert cut.shape == (200, 200) and cut.min() >= 2 and cut.isfinite().all()
    shares = torch.tensor([0.02, 0.25, 0.5, 0.75, 0.98])
    ours, theirs = (x.flatten().log().quantile(shares) for x in (cut, whole[whole >= 2][:40_000]))
    assert (ours - theirs).abs().max() < 0.06 * P_std
    torch.manual_seed(1)
    asked = log_normal_sigma(9, P_mean, P_std, lowest=0.0)  # what nobody cut is drawn as ever
    torch.manual_seed(1)
    assert torch.equal(asked, log_normal_sigma(9, P_mean, P_std))
    with pytest.raises(ValueError, match="lowest 1e\\+06"):
        log_normal_sigma(9, P_mean, P_std, lowest=1e6)
    assert (log_normal_sigma(9, 1.0, 0.0, lowest=2.0).log() - 1).abs().max() < 1e-6


def test_no_level_below_the_last_of_sampling_is_trained(case, monkeypatch):
    seen = []

    def watch(*args, **options):
        seen.append(log_normal_sigma(*args, **options))
        return seen[-1]

    monkeypatch.setattr("diffsda.model.log_normal_sigma", watch)
    for setting in ("all", "none below sampling"):
        model = model_with(case, "levels trained", setting)
    below = [(sigma < TOY_SHORT.lowest).float().mean() for sigma in seen]
    assert below[0] > 0.7 and below[1] == 0
    denoising_loss(model, case.asked, draws=3, lowest=5.0)
    assert seen[-1].shape == (3, 10, 8) and seen[-1].min() >= 5


def test_donors_are_two_halves_that_differ_in_their_labels():
    x, four = torch.arange(24.0).reshape(24, 1, 1), torch.arange(4)
    mixed = Sequences(x, static={"who": torch.arange(24) % 5, "all": torch.zeros(24, dtype=int)})
    a, b = donors(mixed)  # as they lie
    assert torch.equal(a.x, x[:12]) and torch.equal(b.x, x[12:])
    by_voice = {"static": {"who": four.repeat_interleave(3).repeat(2)}}
    by_voice |= {"dynamic": {"word": (torch.arange(24) % 2)[:, None]}}
    a, b = donors(Sequences(x, **by_voice))  # in its order every pair would be of one voice
    assert (a.static["who"] != b.static["who"]).all()
    assert (a.dynamic["word"] != b.dynamic["word"]).all()
    assert sorted(b.x.flatten().tolist()) == list(range(12, 24))
    odd = donors(Sequences(x[:7]))  # without labels; the last is left out
    assert torch.equal(odd[1].x, x[3:6])


def test_donors_of_unknown_labels_do_not_differ():
    who = torch.arange(4).repeat_interleave(3).repeat(2)
    who[12:20] = -1  # as they lie no pair is known to differ
    a, b = donors(Sequences(torch.zeros(24, 1, 1), static={"who": who}))
    known = b.static["who"] >= 0
    assert known.sum() == 4 and (a.static["who"] != b.static["who"])[known].all()


def test_levels_trained_are_compared_at_one_sampling():
    deep = replace(TOY_SHORT, levels=32, lowest=0.002)  # as sensors and patients are sampled
    for preset in (TOY_SHORT, deep):
        both = ablations_of(preset)["levels trained"].values()
        assert {tuple(replace(preset, **c.preset).sampling.items()) for c in both} == {
            (("steps", 4), ("lowest", 2.0))
        }
        assert [change.trains() for change in both] == [False, True]
    of_deep = ablations_of(deep)["levels trained"]["all"]
    assert stored_as("levels trained", "all", of_deep) == ("levels trained", "all")


def test_a_run_with_fewer_levels_has_the_numbers_of_any_other(case):
    judge = train_judge(case.learnt, TrainConfig(3, 8, warmup=1))
    few = []
    for setting in ("all", "none below sampling"):
        model, preset = fit_changed(case, TABLE["levels trained"][setting], progress=False)
        few.append(measured(model, judge, case, preset.sampling))
    assert few[0].keys() == few[1].keys() and few[0] != few[1]


def test_the_papers_rows_stand_beside_ours_also_where_ours_is_the_base():
    stored = [run for _, run, _ in runs_of(TOY_SHORT)]
    assert {paper_of(TOY_SHORT, run) for run in stored} == {None, *PAPER.values()}
    base = {"ablation": "base", "setting": "base"}
    assert paper_of(TOY_SHORT, base) == PAPER["static code", "one s"]


def told(metric="lost", value=1.0, steps=400, data="digits", **run):
    return {"data": data, "steps": steps, "metric": metric, "value": value} | run


def test_one_longer_run_does_not_empty_a_set():
    many = [told(steps=1000)] * 5
    assert steps_shown([*many, told(steps=2000)]) == {"digits": 1000}
    assert steps_shown([told(steps=2000), *many]) == {"digits": 1000}
    assert steps_shown([*many, *[told(steps=2000)] * 5]) == {"digits": 2000}
    assert steps_shown([*[told(steps=2000)] * 5, *many]) == {"digits": 2000}
    assert steps_shown([*many, told(data="bump")]) == {"digits": 1000, "bump": 400}


def test_a_label_that_the_judge_cannot_read_judges_nothing():
    judge = [told(f"judge: {k}", v) for k, v in (("hand", 51.0), ("hand", 30.0), ("digit", 51.0))]
    asked = "swap: static hand from s", "swap: static hand from d", "drawn: H(y|x) of hand"
    kept = [told("swap: static digit from s"), told("read: hand, d"), told("lost of the variance")]
    kept += [told(asked[0], data="other"), told("swap: level_distance, from_s")]
    kept += [told("drawn: H(y) of digit"), told("drawn: Frechet distance")]
    assert blind_to(judge) == {("digits", "hand")}
    assert readable([*judge, *map(told, asked), *kept]) == [*judge, *kept]


def test_what_is_missing_is_counted_for_each_seed():
    runs = [run for _, run, _ in runs_of(TOY_SHORT)]
    rows = [told(seed=0, **run) for run in runs]
    assert missing_runs(rows, TOY_SHORT, 0) == {}
    lacks = missing_runs(rows, TOY_SHORT, 1)
    assert sum(lacks.values()) == len({tuple(run.values()) for run in runs})
    assert lacks["window"] == 2 and lacks["prior"] == len(PRIORS)  # the base came before
    depth = {"recipe": "static first", "ablation": "depth", "setting": "2 layers"}
    rows = [row for row in rows if row["ablation"] != "depth"]
    assert missing_runs(rows, TOY_SHORT, 0) == {"depth": 1}
    assert missing_runs([*rows, told(seed=0, **depth)], TOY_SHORT, 0) == {}
    paper = [run["recipe"] for _, run, _ in runs_of(TOY_SHORT, ("window",), ("paper",))]
    assert paper == ["paper"] * 3


def test_shorter_windows_read_as_many_frames_a_step(case, monkeypatch):
    seen = {}

    def watch(data, preset, **options):
        seen["data"], seen["preset"] = data, preset
        return None, []

    monkeypatch.setattr(ablations, "fit_network", watch)
    for setting, length in (("1/4", 2), ("1/2", 4), ("whole", 8)):
        fit_changed(case, TABLE["window"][setting])
        assert seen["data"].x.shape[1] == length
        assert seen["preset"].config.batch * length == 8 * 8


def test_windows_keep_each_frame_with_its_labels_and_holes():
    x = torch.arange(3 * 7.0).view(3, 7, 1)
    lengths = torch.tensor([7, 4, 1])
    observed = torch.ones(3, 7, 1, dtype=torch.bool)
    observed[0, 2:4] = False  # a window of which nothing was seen
    place = torch.arange(21).view(3, 7)
    data = Sequences(x, lengths, observed, {"who": torch.arange(3)}, {"place": place})
    cut = cut_windows(data, 2)
    assert cut.static["who"].tolist() == [0, 0, 1, 1, 2] and cut.lengths.tolist() == [2, 2, 2, 2, 1]
    exists = cut.frame_mask
    assert torch.equal(cut.dynamic["place"][exists].float(), cut.x[..., 0][exists])
    for length in (0, 8):
        with pytest.raises(ValueError, match="1 to 7 frames"):
            cut_windows(data, length)


def test_a_field_that_no_preset_has_is_refused_with_the_nearest(case):
    with pytest.raises(ValueError, match="did you mean 'd_dim'"):
        fit_changed(case, Change({"d_dims": 3}))
    with pytest.raises(ValueError, match="independent"):
        prior_of("independant", 4, 2)


def test_independent_priors_do_not_see_the_other_code_and_the_dependent_one_does():
    exists, k = torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    s, d, other = torch.randn(2, 4), torch.randn(2, 5, 3), torch.randn(2, 4)
    for kind in PRIORS:
        torch.manual_seed(0)
        network = prior_of(kind, 4, 3, width=16)[0].network.eval()
        one, two = (network(Factors(code, d), k, exists) for code in (s, other))
        three = network(Factors(s, d + 1), k, exists)
        assert torch.equal(one.d, two.d) == (kind != "dependent")
        assert torch.equal(one.s, three.s) == (kind != "dependent")
        assert not torch.equal(one.s, two.s)


def test_constant_noise_is_constant_and_its_errors_absolute():
    prior, loss = prior_of(PRIORS[2], 4, 3, width=16)
    ratio = prior.alpha_bar[1:] / prior.alpha_bar[:-1]
    assert torch.allclose(ratio, torch.full_like(ratio, 0.992))
    assert loss.keywords["penalty"](torch.tensor(-3.0)) == 3


def test_leaks_are_found_where_they_are_and_nowhere_else():
    g = torch.Generator().manual_seed(0)
    who, step = (torch.randint(2, (200,), generator=g) for _ in range(2))
    data = Sequences(
        torch.randn(200, 6, 3, generator=g),
        static={"who": who},
        dynamic={"step": step[:, None].repeat(1, 6)},
    )
    data.x[:, 0, 0], data.x[:, 0, 1] = who.float(), step.float()
    noise = lambda *shape: 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    leaky = lambda part: Factors(
        part.x[:, 0, 1:2] + noise(len(part), 1), part.x[:, :1, :1] + noise(len(part), 6, 1)
    )
    tight = lambda part: Factors(noise(len(part), 1), noise(len(part), 6, 1))
    case = Case(None, data[:120], data[120:], TOY_SHORT)
    found = {
        k: linear_leaks(SimpleNamespace(encode=f), case)
        for k, f in (("leaky", leaky), ("tight", tight))
    }
    assert found["leaky"] == {"read: who, d": 100, "read: step, s": 100}
    assert max(found["tight"].values()) < 70


def test_numbers_of_swaps_and_of_what_is_drawn(case):
    judge = train_judge(case.learnt, TrainConfig(60, 30, lr=1e-2, warmup=2))
    perfect = SimpleNamespace(
        swap=lambda a, b, x_T, **how: Sequences(a.x),
        reconstruct=lambda data, x_T, **how: data,
        encode=lambda data: Factors(data.x.mean((1, 2))[:, None], data.x[..., :1]),
    )
    numbers = measured(perfect, judge, case, {})
    assert numbers["lost of the variance"] == 0
    assert numbers["swap: static who from s"] > numbers["swap: static who from d"]
    same = judged_drawn(case.asked, judge, case)
    far = judged_drawn(Sequences(case.asked.x + 1), judge, case)
    assert same["drawn: Frechet distance"] < 1e-3 < far["drawn: Frechet distance"]
    assert set(same) == {"drawn: Frechet distance", "drawn: H(y|x) of who", "drawn: H(y) of who"}


def test_what_is_drawn_is_judged_with_the_holes_of_real_sequences(case):
    seen = torch.rand(case.asked.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    seen[:, 0] = True
    holed = case._replace(asked=replace(case.asked, observed=seen))
    judge = train_judge(case.learnt, TrainConfig(3, 8, warmup=1))
    assert judged_drawn(case.asked, judge, holed)["drawn: Frechet distance"] < 1e-4


def test_a_run_that_is_stored_is_not_made_again(tmp_path):
    file, run, made = tmp_path / "rows.json", {"data": "bump", "seed": 0}, []

    def make():
        made.append(1)
        return {"lost": float(len(made)), "leak": 0.5}

    assert once(file, run, make, command="c") and not once(file, run, make, command="c")
    assert once(file, run | {"seed": 1}, make, command="c") and len(made) == 2
    assert once(file, run, make, again=True, command="c") and len(made) == 3
    rows = read_rows(file)
    assert sorted(r["value"] for r in rows if r["metric"] == "lost") == [2, 3] and len(rows) == 4
    with pytest.raises(KeyboardInterrupt):  # stopped in the middle: nothing of it is stored
        once(file, run | {"seed": 2}, lambda: (_ for _ in ()).throw(KeyboardInterrupt), command="c")
    assert read_rows(file) == rows
    add_run(
        file, run | {"seed": 3}, {"lost": 1 / 3}, command="c", protocol="p", steps=1, recipe="paper"
    )
    last = read_rows(file)[-1]
    assert set(FORM) <= set(last) and last["value"] == 0.3333
    assert {path.name for path in tmp_path.iterdir()} == {"rows.json", ".rows.json.lock"}


@pytest.mark.parametrize(
    "name, notebook", [("ablations", "48_ablations"), ("zero_shot", "49_zero_shot")]
)
def test_stored_rows_have_one_form_and_commands_that_can_be_run(name, notebook):
    known = parameters_of(ROOT / "nbs" / f"{notebook}.ipynb")
    rows = read_rows(ROOT / "results" / f"{name}.json")
    if not rows:
        pytest.skip("nothing is stored yet")
    also = (
        ["ablation", "setting", "paper"]
        if name == "ablations"
        else ["trained_on", "model", "paper"]
    )
    for row in rows:
        assert set(FORM + also) <= set(row), row
        words = row["command"].split(" -p ")
        assert words[0] == f"diffsda run {name}"
        assert {word.split(" ")[0] for word in words[1:]} <= set(known)
        if (
            name == "ablations"
            and row["data"] in ("bump", "rotor")
            and row["ablation"] not in ("base", "judge")
        ):
            assert row["setting"] in TABLE[row["ablation"]]


def cell_of(notebook, name):
    "The code of a cell."
    held = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    return next("".join(cell["source"]) for cell in held["cells"] if cell["id"] == name)


def test_a_pair_of_series_has_its_numbers_recipe_and_steps_in_the_table(tmp_path, capsys):
    pair = {"trained_on": "etth1", "data": "etth2", "seed": 0}
    numbers = {"swap: level_distance, from_s": 0.3, "swap: level_distance, from_d": 0.5}
    numbers |= {f"swap: movement_correlation, from_{k}": r for k, r in (("s", 0.1), ("d", 0.8))}
    numbers |= {"swap: static month from s": 3.0, "swap: dynamic hour from d": 70.0}
    rows = [
        pair | dict(model=model, recipe=recipe, steps=steps, metric=metric, value=value)
        for model, recipe, steps in (
            ("zero-shot", "paper", 2000),
            ("trained on it", "static first", 400),
            ("random encoder", "paper", 0),
        )
        for metric, value in numbers.items()
    ]
    judge = pair | dict(model="the judge", recipe="none", steps=0)
    rows += [judge | {"metric": f"judge: {k}", "value": v} for k, v in (("month", 9), ("hour", 90))]
    store_rows(tmp_path / "rows.json", rows, lambda row: False)
    shown = []
    names = {"pd": pd, "read_rows": read_rows, "readable": readable, "display": shown.append}
    names["results"] = tmp_path / "rows.json"
    exec(cell_of("49_zero_shot", "zero-table"), names)
    first = shown[0].loc["etth1", "etth2", "zero-shot"].to_dict()
    assert first == {
        **{"recipe": "paper", "steps": 2000, "moves": 70.0},
        **{"level s": 30.0, "level d": 50.0, "follows s": 10.0, "follows d": 80.0},
    }  # nothing stays: the judge cannot read the month
    assert shown[0].loc["etth1", "etth2", "random encoder"].recipe == "none"
    assert "etth2 hour 90.0" in capsys.readouterr().out
    for pairs in ([], [("etth1", "etth2"), ("airquality without Dongsi", "airquality")]):
        exec(cell_of("49_zero_shot", "zero-missing"), {"pairs": pairs})
        told = capsys.readouterr().out
        assert ("etth2" in told, "airquality" in told) == (not pairs, not pairs)
