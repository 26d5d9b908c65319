"""Training: the same weights however the work is cut, killed or spread out, and nothing lost when something goes wrong."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import diffsda
from diffsda import blocks, training
from diffsda.blocks import read_checkpoint
from diffsda.data import Sequences
from diffsda.encoder import SequenceEncoder
from diffsda.loss import LossSum
from diffsda.model import DiffSDA, denoising_loss
from diffsda.training import (
    SCHEDULES,
    TrainConfig,
    batch_rows,
    learning_rate,
    read_log,
    tensorboard,
    train,
)

quick = settings(deadline=None, max_examples=40)
quiet = partial(train, progress=False)


class Slope(nn.Module):
    """One weight: the second entry of a frame is predicted as w times the first."""

    def __init__(self, w=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))


def slope_loss(model, batch):
    error = (model.w * batch.x[..., 0] - batch.x[..., 1]) ** 2
    seen = batch.mask.expand_as(batch.x)[..., 1]
    return LossSum(error[seen].sum(), seen.sum())


def ragged(n=20, V=5, seed=0):
    """Sequences whose parts hold different numbers of observed values."""
    g = torch.Generator().manual_seed(seed)
    observed = torch.rand(n, V, 3, generator=g) < 0.7
    observed[:, 0] = True
    lengths = torch.randint(1, V + 1, (n,), generator=g)
    return Sequences(0.5 * torch.randn(n, V, 3, generator=g), lengths=lengths, observed=observed)


def small(seed=1, **options):
    torch.manual_seed(seed)
    return DiffSDA.mlp((3,), 4, 2, hidden=8, enc_width=16, dec_width=16, embedding=16, **options)


def tensors(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


BRIEF = TrainConfig(steps=6, batch=7, lr=1e-2, warmup=2, log_every=1, save_every=2)


# Numbers that cannot work


@pytest.mark.parametrize(
    "name, value",
    [
        (name, 0)
        for name in ("steps", "batch", "accumulate", "save_every", "log_every", "lr", "clip")
    ]
    + [(name, 1.5) for name in ("steps", "batch", "accumulate", "save_every", "log_every")]
    + [("batch", "8"), ("lr", -1e-4), ("lr", math.nan), ("lr", math.inf), ("clip", math.inf)]
    + [("ema", 1.0), ("ema", -0.1), ("ema", math.nan), ("warmup", -1), ("weight_decay", -1e-5)]
    + [("weight_decay", math.nan), ("schedule", "linear"), ("precision", "fp16")],
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(ValueError) as error:
        TrainConfig(**({"steps": 10} | {name: value}))
    assert name in str(error.value) and str(value) in str(error.value)


def test_numbers_of_numpy_and_torch_are_those_numbers():
    numpy = TrainConfig(np.int64(6), np.int32(7), np.float64(1e-2), seed=torch.tensor(3))
    plain = TrainConfig(6, 7, 1e-2, seed=3)
    assert json.dumps(asdict(numpy)) == json.dumps(asdict(plain))


def test_messages_name_what_there_is():
    with pytest.raises(ValueError, match="cosine, constant, published"):
        TrainConfig(steps=1, schedule="none")
    with pytest.raises(ValueError, match="auto, fp32 or bf16"):
        TrainConfig(steps=1, precision="half")


def test_a_batch_smaller_than_its_parts_is_refused():
    model = Slope()
    with pytest.raises(ValueError, match="batch of 3 .* 4 parts"):
        quiet(model, slope_loss, ragged(), TrainConfig(steps=1, batch=3, accumulate=4))
    assert model.w == 0


# Learning rate


def test_cosine_rises_in_a_line_to_its_peak_and_ends_near_0():
    config = TrainConfig(steps=1000, lr=3e-3, warmup=100)
    rates = torch.tensor([learning_rate(i, config, 50) for i in range(1000)], dtype=torch.float64)
    assert rates[100] == 3e-3 and rates.argmax() == 100 and (rates > 0).all()
    rise = rates[:101].diff()
    assert torch.allclose(rise, rise[0].expand(100)) and math.isclose(rates[0], rise[0])
    assert (rates[100:].diff() < 0).all() and rates[-1] < 1e-5 * 3e-3
    assert math.isclose(rates[550], 3e-3 / 2, rel_tol=1e-9)  # half way down
    assert learning_rate(0, replace(config, warmup=0), 50) == 3e-3


def test_published_schedule_is_a_staircase_of_epochs():
    """One epoch at lr, one at twice that, then back to lr and along a cosine, whole epochs at a time."""
    config = TrainConfig(steps=100, batch=10, lr=1e-3, schedule="published")
    rates = [learning_rate(i, config, 100) for i in range(100)]  # 10 steps an epoch
    by_epoch = [set(rates[e : e + 10]) for e in range(0, 100, 10)]
    assert all(len(values) == 1 for values in by_epoch)
    rate = [values.pop() for values in by_epoch]
    assert rate[:3] == [1e-3, 2e-3, 1e-3]
    assert all(a > b for a, b in zip(rate[2:], rate[3:])) and 0 < rate[-1] < 1e-4
    assert math.isclose(rate[6], 5e-4)


def test_constant_is_constant_and_records_tell_the_rate():
    config = replace(BRIEF, schedule="constant")
    assert {r["lr"] for r in quiet(Slope(), slope_loss, ragged(), config)} == {1e-2}
    for schedule in SCHEDULES:
        config = replace(BRIEF, schedule=schedule)
        rates = [r["lr"] for r in quiet(Slope(), slope_loss, ragged(), config)]
        assert rates == [learning_rate(i, config, 20) for i in range(6)]


# Which rows


@quick
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
def test_every_row_is_used_equally_often(count, batch, seed):
    """Batches of any size read an endless stream of whole shuffled epochs: no row is dropped or read ahead of turn."""
    stream = torch.cat([batch_rows(i, count, batch, seed) for i in range(count)])
    assert len(stream) == count * batch
    for epoch in stream.split(count):
        assert sorted(epoch.tolist()) == list(range(count))


@quick
@given(st.integers(0, 50), st.integers(1, 12), st.integers(1, 12))
def test_rows_are_a_function_of_the_step(step, count, batch):
    rows = batch_rows(step, count, batch, seed=3)
    torch.manual_seed(step)
    batch_rows(step + 7, count, batch, seed=4)
    assert torch.equal(batch_rows(step, count, batch, seed=3), rows)
    two = torch.cat([rows, batch_rows(step + 1, count, batch, seed=3)])  # however it is cut
    stream = torch.cat([batch_rows(i, count, 1, seed=3) for i in range((step + 2) * batch)])
    assert torch.equal(stream[step * batch :], two)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(batch_rows(i, 50, 50, s).tolist()) for i in range(3) for s in range(3)]
    assert len(set(orders)) == 9


def test_training_reads_those_rows():
    data, seen = ragged(), []

    def watch(model, batch):
        seen.append(batch.x.clone())
        return slope_loss(model, batch)

    quiet(Slope(), watch, data, replace(BRIEF, steps=4))
    assert torch.equal(
        torch.cat(seen), torch.cat([data.x[batch_rows(i, 20, 7, 0)] for i in range(4)])
    )


# One step after the other, by hand


@pytest.mark.parametrize("clip, weight_decay", [(1e9, 0.0), (0.05, 0.1)])
def test_steps_are_those_of_adamw_on_the_mean_over_observed_values(clip, weight_decay):
    data, config = ragged(), replace(BRIEF, clip=clip, weight_decay=weight_decay)
    model, hand = Slope(), Slope()
    history = quiet(model, slope_loss, data, config)
    optimiser = torch.optim.AdamW(hand.parameters(), config.lr, weight_decay=weight_decay)
    for i, record in enumerate(history):
        optimiser.param_groups[0]["lr"] = learning_rate(i, config, len(data))
        loss = slope_loss(hand, data[batch_rows(i, len(data), 7, 0)]).mean
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(hand.parameters(), clip)
        optimiser.step()
        assert math.isclose(record["loss"], loss.item(), rel_tol=1e-5)
        assert math.isclose(record["grad_norm"], norm.item(), rel_tol=1e-5)
    assert math.isclose(model.w.item(), hand.w.item(), rel_tol=1e-5) and model.w != 0


def test_running_mean_of_the_weights_is_the_one_computed_by_hand():
    """Its memory grows from short to `ema`: after n updates the decay is min(ema, (1 + n) / (10 + n))."""
    data, mean, n = ragged(), None, 16
    weights = []
    raw = replace(BRIEF, steps=n)
    for steps in range(1, n + 1):  # a run of fewer steps at the same rates has the earlier weights
        model = Slope()
        quiet(model, slope_loss, data, replace(raw, steps=steps, schedule="constant"))
        weights.append(model.w.item())
    for i, w in enumerate(weights):
        decay = min(0.6, (1 + i) / (10 + i))  # 0.6 from the 14th on
        mean = w if mean is None else decay * mean + (1 - decay) * w
    model = Slope()
    quiet(model, slope_loss, data, replace(raw, schedule="constant", ema=0.6))
    assert math.isclose(model.w.item(), mean, rel_tol=1e-5)
    assert abs(model.w.item() - weights[-1]) > 1e-3


def test_records_hold_the_mean_over_their_window():
    every = quiet(small(), denoising_loss, ragged(), replace(BRIEF, steps=7))
    counts = []

    def counting(model, batch):
        counts.append(batch.mask.sum().item())
        return denoising_loss(model, batch)

    rare = quiet(small(), counting, ragged(), replace(BRIEF, steps=7, log_every=3))
    assert [r["step"] for r in every] == [1, 2, 3, 4, 5, 6, 7]
    assert [r["step"] for r in rare] == [3, 6, 7]  # the last step is always told
    totals = [r["loss"] * c for r, c in zip(every, counts)]
    for record, window in zip(rare, (slice(0, 3), slice(3, 6), slice(6, 7))):
        expected = sum(totals[window]) / sum(counts[window])
        assert math.isclose(record["loss"], expected, rel_tol=1e-5)
        assert record.keys() == {"step", "loss", "lr", "grad_norm", "seconds"}


# Parts make no difference


@pytest.mark.parametrize("accumulate", [2, 3, 7])
def test_accumulation_is_the_whole_batch(accumulate):
    """7 rows leave an odd tail, and no two parts hold the same number of observed values."""
    whole, parts = Slope(), Slope()
    one = quiet(whole, slope_loss, ragged(), BRIEF)
    many = quiet(parts, slope_loss, ragged(), replace(BRIEF, accumulate=accumulate))
    assert math.isclose(whole.w.item(), parts.w.item(), rel_tol=1e-5)
    for a, b in zip(one, many):
        assert math.isclose(a["loss"], b["loss"], rel_tol=1e-5)


def test_batches_larger_than_the_set():
    model, data = Slope(), ragged(n=3)
    quiet(model, slope_loss, data, replace(BRIEF, batch=7, accumulate=2))
    assert math.isfinite(model.w.item()) and model.w != 0


def test_a_batch_without_anything_observed_is_a_step_of_nothing():
    def nothing(model, batch):
        return LossSum((model.w * batch.x * 0).sum(), torch.tensor(0))

    model = Slope(2.0)
    history = quiet(model, nothing, ragged(), replace(BRIEF, weight_decay=0.0))
    assert model.w == 2 and {r["loss"] for r in history} == {0.0}


# Random numbers


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    runs = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        model = small()
        torch.manual_seed(before)
        quiet(model, denoising_loss, ragged(), replace(BRIEF, seed=seed))
        runs.append(tensors(model))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_the_callers_random_numbers_are_left_alone():
    model = small()
    torch.manual_seed(9)
    expected = torch.rand(5)
    torch.manual_seed(9)
    quiet(model, denoising_loss, ragged(), BRIEF)
    assert torch.equal(torch.rand(5), expected)


def test_noise_differs_from_step_to_step_and_from_part_to_part():
    drawn = []

    def watch(model, batch):
        drawn.append(torch.rand(1).item())
        return slope_loss(model, batch)

    quiet(Slope(), watch, ragged(), replace(BRIEF, accumulate=3))
    assert len(set(drawn)) == len(drawn) == 18


# What goes with it


def test_callbacks_get_every_record_and_cannot_disturb_the_run():
    seen, plain, watched = [], small(), small()

    def curious(record):
        torch.rand(3)
        watched.encode(ragged(3))  # changes the mode, and changes it back
        seen.append(dict(record))

    quiet(plain, denoising_loss, ragged(), BRIEF)
    history = quiet(watched, denoising_loss, ragged(), BRIEF, callbacks=(curious, seen.append))
    assert seen[::2] == seen[1::2] == history
    assert same(tensors(plain), tensors(watched)) and not watched.training


def test_frozen_parameters_stay():
    model = small()
    model.encoder.requires_grad_(False)
    before = tensors(model)
    quiet(model, denoising_loss, ragged(), BRIEF)
    after = tensors(model)
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"decoder"}


@pytest.mark.parametrize("units", [True, False])
def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(units, monkeypatch):
    "And `auto` computes in bf16 where the processor has units for it."
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units})
    models = {precision: small() for precision in ("auto", "fp32", "bf16")}
    seen = {}
    for precision, model in models.items():
        model.decoder.last.register_forward_hook(
            lambda m, i, out, p=precision: seen.update({p: out.dtype})
        )
        quiet(model, denoising_loss, ragged(), replace(BRIEF, precision=precision))
    computed = torch.bfloat16 if units else torch.float32
    assert seen == {"auto": computed, "fp32": torch.float32, "bf16": torch.bfloat16}
    auto, exact, rough = map(tensors, models.values())
    assert same(auto, rough if units else exact) and not same(exact, rough)
    assert {v.dtype for v in rough.values()} == {torch.float32}
    assert all(torch.allclose(exact[k], rough[k], atol=0.1) for k in exact)


def test_tensorboard_writes_a_file(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = quiet(Slope(), slope_loss, ragged(), BRIEF, callbacks=(tensorboard(tmp_path),))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name in ("loss", "lr", "grad_norm"):
        written = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in written] == [r["step"] for r in history]
        assert all(math.isclose(v, r[name], rel_tol=1e-5) for (_, v), r in zip(written, history))


# Nothing is lost when something goes wrong


@pytest.fixture(params=[False, True], ids=["looks", "runs ahead"])
def ahead(request, monkeypatch):
    """With True, a CPU is taken for a device that nobody waits for: batches made in a thread, few looks."""
    monkeypatch.setattr(training, "_runs_ahead", lambda device: request.param)
    return request.param


def spoiled(kind, step, calls):
    """The loss, going wrong at one step: its value is not finite, or only its gradient."""

    def loss(model, batch):
        calls.append(1)
        total, count = slope_loss(model, batch)
        if len(calls) == step:
            if kind == "gradient":
                total = total + (model.w - model.w.detach()).sqrt()  # 0, with an infinite slope
            else:
                total = total * float(kind)
        return LossSum(total, count)

    return loss


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_what_is_not_finite_stops_before_it_can_touch_anything(tmp_path, kind, ahead):
    good, bad = Slope(), Slope()
    config = replace(BRIEF, schedule="constant", log_every=3)
    quiet(good, slope_loss, ragged(), replace(config, steps=4))
    with pytest.raises(FloatingPointError, match="at step 4.*lower lr"):
        quiet(bad, spoiled(kind, 5, []), ragged(), config, folder=tmp_path)
    assert torch.equal(bad.w, good.w)
    facts, kept = read_checkpoint(tmp_path, "training")
    assert facts["step"] == 4 and torch.equal(kept["model.w"], good.w)
    assert [r["step"] for r in read_log(tmp_path)] == [3]
    whole, resumed = Slope(), Slope()  # and with the fault mended it goes on
    expected = quiet(whole, slope_loss, ragged(), config)
    history = quiet(resumed, slope_loss, ragged(), config, folder=tmp_path)
    assert torch.equal(whole.w, resumed.w)
    assert without_seconds(history) == without_seconds(expected)  # also a window cut in two


def everything(state):
    kept = {f"model.{k}": v.clone() for k, v in tensors(state.model).items()}
    kept |= {f"mean.{k}": v.clone() for k, v in tensors(state.ema).items()}
    for i, moments in state.optimiser.state_dict()["state"].items():
        kept |= {f"{i}.{k}": v.clone() for k, v in moments.items()}
    return kept | {"window": state.window.clone()}


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_after_a_fault_no_step_changes_anything(ahead, spoil):
    """Weights, buffers, running mean, moments, counters and window stay bit for bit until somebody looks."""
    model = small(**RECIPE).train()
    config = replace(BRIEF, steps=20, ema=0.5, log_every=20)
    state = training._State(model, config, 1, 20)
    updates = training._updates(state, denoising_loss, ragged(), 0, 1, [])
    for _ in range(3):
        next(updates)
    before, honest = everything(state), state.update

    def spoiled_update(i, sums, norm, buffers):
        if i == 3 and spoil == "loss":
            sums = sums * float("nan")
        if i == 3 and spoil == "gradient":
            norm = norm * float("inf")
            for p in model.parameters():
                p.grad = p.grad * float("inf")
        honest(i, sums, norm, buffers)

    state.update = spoiled_update
    for _ in range(3):
        _, _, norm, wishes = next(updates)
    assert same(before, everything(state))
    with pytest.raises(FloatingPointError, match="at step 3: nothing was updated"):
        state.look(norm, wishes)


def test_who_runs_ahead_is_looked_at_for_records_and_checkpoints_only(ahead, tmp_path, monkeypatch):
    looks, look = [], training._State.look

    def noted(state, *numbers):
        looks.append(state.step)
        return look(state, *numbers)

    monkeypatch.setattr(training._State, "look", noted)
    config = replace(BRIEF, steps=11, log_every=4, save_every=5)
    history = quiet(small(), denoising_loss, ragged(), config, folder=tmp_path)
    assert [r["step"] for r in history] == [4, 8, 11]
    assert looks == ([4, 5, 8, 10, 11] if ahead else list(range(1, 12)))


def test_records_are_the_same_however_rarely_is_looked(monkeypatch):
    runs = []
    for ahead in (False, True):
        monkeypatch.setattr(training, "_runs_ahead", lambda device, ahead=ahead: ahead)
        config = replace(BRIEF, steps=9, log_every=4, ema=0.5, accumulate=2)
        runs.append(quiet(small(**RECIPE), denoising_loss, ragged(), config))
    for one, other in zip(*runs):
        for name in ("step", "loss", "lr", "grad_norm"):
            assert math.isclose(one[name], other[name], rel_tol=1e-4)


def test_a_batch_made_ahead_is_the_batch(ahead):
    """A thread of its own makes it; what draws random numbers while it is read is read in its turn."""

    class Noisy:
        def __init__(self, data, **more):
            self.data = data
            self.__dict__ |= more

        def __len__(self):
            return len(self.data)

        def __getitem__(self, rows):
            threads.add(threading.current_thread() is threading.main_thread())
            noisy = self.data[rows]
            return replace(noisy, x=noisy.x + torch.randn(noisy.x.shape))

    threads, runs = set(), []
    plain = lambda rows: threads.add(threading.current_thread() is threading.main_thread())
    for before in (1, 2):
        model = small()
        torch.manual_seed(before)
        quiet(model, denoising_loss, Noisy(ragged()), BRIEF)
        runs.append(tensors(model))
    assert same(*runs) and threads == {True}
    threads.clear()
    packed = lambda rows: plain(rows) or ragged()[rows]
    quiet(small(), denoising_loss, Noisy(ragged(), packed=packed), BRIEF)
    assert threads == {not ahead}


def test_stopped_between_two_looks_it_goes_on_bit_for_bit(ahead, tmp_path):
    config = replace(BRIEF, steps=9, log_every=5, save_every=4, ema=0.5)
    kill = lambda *_: signal.raise_signal(signal.SIGTERM)
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == 3:
            kill()
        return denoising_loss(model, batch)

    whole, resumed = small(**RECIPE), small(**RECIPE)
    expected = quiet(whole, denoising_loss, ragged(), config)
    with pytest.raises(SystemExit):
        quiet(resumed, loss, ragged(), config, folder=tmp_path)
    assert read_checkpoint(tmp_path, "training")[0]["step"] == 3
    history = quiet(small(seed=7, **RECIPE), denoising_loss, ragged(), config, folder=tmp_path)
    assert without_seconds(history) == without_seconds(expected)
    again = small(seed=8, **RECIPE)
    quiet(again, denoising_loss, ragged(), config, folder=tmp_path)
    assert same(tensors(whole), tensors(again))


def without_seconds(records):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def test_a_finished_training_is_not_run_again(tmp_path):
    config = replace(BRIEF, ema=0.5)
    model, again = small(), small(seed=2)
    history = quiet(model, denoising_loss, ragged(), config, folder=tmp_path)
    never = lambda model, batch: pytest.fail("nothing is left to do")
    assert quiet(again, never, ragged(), config, folder=tmp_path) == history == read_log(tmp_path)
    assert same(tensors(model), tensors(again))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 5},
        {"lr": 1e-3},
        {"ema": 0.9},
        {"seed": 1},
        {"steps": 5},
        {"accumulate": 2},
        {"schedule": "constant"},
    ],
)
def test_going_on_with_other_settings_is_refused(tmp_path, changes):
    quiet(Slope(), slope_loss, ragged(), BRIEF, folder=tmp_path)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (name, value), model = changes.popitem(), Slope()
    with pytest.raises(ValueError) as error:
        quiet(model, slope_loss, ragged(), replace(BRIEF, **{name: value}), folder=tmp_path)
    told = "parts of a batch" if name == "accumulate" else name
    assert f"{told} {getattr(BRIEF, name)} (now {value})" in str(error.value)
    assert model.w == 0 and files == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_how_often_is_logged_and_saved_may_change(tmp_path):
    stop = lambda record: record["step"] == 3 and signal.raise_signal(signal.SIGTERM)
    whole, stopped, resumed = small(**RECIPE), small(**RECIPE), small(seed=7, **RECIPE)
    quiet(whole, denoising_loss, ragged(), BRIEF)
    with pytest.raises(SystemExit):
        quiet(stopped, denoising_loss, ragged(), BRIEF, folder=tmp_path, callbacks=(stop,))
    assert not same(tensors(stopped), tensors(whole))
    seldom = replace(BRIEF, log_every=4, save_every=5)
    history = quiet(resumed, denoising_loss, ragged(), seldom, folder=tmp_path)
    assert same(tensors(resumed), tensors(whole))
    assert [record["step"] for record in history] == [1, 2, 3, 4, 6]


def test_going_on_with_another_model_is_refused(tmp_path):
    quiet(small(), denoising_loss, ragged(), BRIEF, folder=tmp_path)
    for other in (Slope(), small(d_noise=0.5)):
        with pytest.raises(ValueError, match="another model"):
            quiet(other, denoising_loss, ragged(), BRIEF, folder=tmp_path)


class Told(Slope):
    "A model that keeps what the loop says about its progress."

    def __init__(self):
        super().__init__()
        self.heard = []

    def at(self, progress):
        self.heard.append(progress)


def test_a_model_is_told_how_far_the_training_is(tmp_path):
    one, other = Told(), Told()
    quiet(one, slope_loss, ragged(), BRIEF)
    assert one.heard == [i / BRIEF.steps for i in range(BRIEF.steps)]
    with pytest.raises(FloatingPointError):
        quiet(other, spoiled("nan", 5, []), ragged(), replace(BRIEF, save_every=2), folder=tmp_path)
    resumed = Told()
    quiet(resumed, slope_loss, ragged(), replace(BRIEF, save_every=2), folder=tmp_path)
    assert resumed.heard == one.heard[4:]


def test_a_finished_training_can_be_extended(tmp_path):
    short, long = replace(BRIEF, warmup=1), replace(BRIEF, steps=3 * BRIEF.steps, warmup=1)
    quiet(Slope(), slope_loss, ragged(), short, folder=tmp_path)
    model = Told()
    history = quiet(model, slope_loss, ragged(), long, folder=tmp_path)
    assert [r["step"] for r in history] == list(range(1, long.steps + 1))
    assert model.heard == [1.0] * (long.steps - short.steps)  # no phase of the start comes again
    rates = [r["lr"] for r in history]
    assert rates[0] == rates[short.steps] == short.lr / 2  # warmed up once more
    assert rates[-1] < 0.1 * max(rates[short.steps :]) and max(rates[short.steps :]) == short.lr


def test_a_killed_extension_goes_on_like_an_undisturbed_one(tmp_path):
    long = replace(BRIEF, steps=3 * BRIEF.steps, save_every=2)
    weights = []
    for name, killed in (("a", False), ("b", True)):
        quiet(Slope(), slope_loss, ragged(), replace(BRIEF, save_every=2), folder=tmp_path / name)
        if killed:
            with pytest.raises(FloatingPointError):
                quiet(Slope(), spoiled("nan", 5, []), ragged(), long, folder=tmp_path / name)
        model = Slope()
        quiet(model, slope_loss, ragged(), long, folder=tmp_path / name)
        weights.append(model.w.item())
    assert weights[0] == weights[1]


def test_an_unfinished_training_is_not_extended(tmp_path):
    with pytest.raises(FloatingPointError):
        quiet(
            Slope(), spoiled("nan", 5, []), ragged(), replace(BRIEF, save_every=2), folder=tmp_path
        )
    with pytest.raises(ValueError, match="steps"):
        quiet(
            Slope(), slope_loss, ragged(), replace(BRIEF, steps=50, save_every=2), folder=tmp_path
        )


def test_a_damaged_checkpoint_is_refused(tmp_path):
    quiet(Slope(), slope_loss, ragged(), BRIEF, folder=tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        quiet(Slope(), slope_loss, ragged(), BRIEF, folder=tmp_path)


def test_a_log_cut_in_the_middle_of_a_line_is_mended(tmp_path):
    with pytest.raises(FloatingPointError):
        quiet(Slope(), spoiled("nan", 5, []), ragged(), BRIEF, folder=tmp_path)
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 5, "lo')
    assert [r["step"] for r in read_log(tmp_path)] == [1, 2, 3, 4]
    history = quiet(Slope(), slope_loss, ragged(), BRIEF, folder=tmp_path)
    assert [r["step"] for r in history] == [1, 2, 3, 4, 5, 6]
    assert read_log(tmp_path) == history and read_log(tmp_path / "nowhere") == []


# Compiled


@pytest.fixture
def traced(monkeypatch):
    """Compiled for tests: traced and taken apart, but not translated to C++, which takes half a minute."""
    import torch._dynamo
    import torch._inductor.config

    whole, calls = nn.Module.compile, []

    def compile_without_translation(module, **options):
        calls.append(type(module).__name__)
        whole(module, backend="aot_eager")

    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", compile_without_translation)
    monkeypatch.setattr(blocks, "compiler_works", lambda device: True)
    yield calls
    torch._dynamo.reset()


def test_a_compiled_training_is_the_same_training(traced):
    """In bfloat16, with d withheld at first, noise in the dynamic channel, and recurrent layers that nobody compiles."""
    data = Sequences(torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0)))
    config = replace(BRIEF, batch=4, lr=1e-3, precision="bf16")
    results = []
    for compile in (False, True):
        model = small(**RECIPE)
        history = quiet(model, denoising_loss, data, replace(config, compile=compile))
        results.append((history, tensors(model)))
    assert traced == ["_Objective"]
    (one, exact), (other, made) = results
    assert all(math.isclose(a["loss"], b["loss"], rel_tol=1e-2) for a, b in zip(one, other))
    assert all(torch.allclose(exact[k], made[k], atol=4e-3) for k in exact)


def test_what_a_backward_pass_makes_again_is_left_to_a_compiler(traced):
    """A compiled block keeps and makes again what it likes; its gradients are the same, and it stays one graph."""
    torch.manual_seed(0)
    block = blocks.ResidualBlock(4, 4, steered=True, groups=2).eval()
    nn.init.normal_(block.convs[-1].weight, std=0.1)
    x, gain, shift = torch.randn(2, 4, 4, 4), torch.rand(2, 4, 1, 1), torch.rand(2, 4, 1, 1)
    found = []
    for module in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
        total = module(x, (gain, shift)).square().sum()
        found.append(torch.autograd.grad(total, list(block.parameters())))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found))


def test_compiling_may_change_when_a_training_goes_on(traced, tmp_path):
    config = replace(BRIEF, save_every=3)
    with pytest.raises(FloatingPointError):
        quiet(Slope(), spoiled("nan", 5, []), ragged(), config, folder=tmp_path)
    model, whole = Slope(), Slope()
    quiet(model, slope_loss, ragged(), replace(config, compile=True), folder=tmp_path)
    quiet(whole, slope_loss, ragged(), config)
    assert math.isclose(model.w.item(), whole.w.item(), rel_tol=1e-5) and traced


def test_compiled_sampling_makes_the_same_sequences(traced):
    data, model = ragged(4), small().eval()
    factors, noise = model.encode(data), torch.randn(data.x.shape)
    expected = model.decode(factors, noise, 4)
    assert torch.allclose(model.compiled().decode(factors, noise, 4), expected, atol=1e-5)
    assert traced == ["MLPDecoder"]


def test_without_a_compiler_a_training_says_so_once_and_goes_on(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    blocks.compiler_works.cache_clear()
    models = [Slope(), Slope()]
    with pytest.warns(UserWarning, match="no C.. compiler found.*results are the same") as told:
        for model in models:
            quiet(model, slope_loss, ragged(), replace(BRIEF, compile=True))
    blocks.compiler_works.cache_clear()
    plain = Slope()
    quiet(plain, slope_loss, ragged(), BRIEF)
    assert len(told) == 1 and all(torch.equal(model.w, plain.w) for model in models)


# Killed


@pytest.mark.parametrize(
    "number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
@pytest.mark.parametrize("step", [3, 6])  # 6 is the last one
def test_a_signal_lets_the_step_finish_and_be_kept(tmp_path, number, error, step):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stop = lambda record: record["step"] == step and signal.raise_signal(number)
    with pytest.raises(error) as caught:
        quiet(small(), denoising_loss, ragged(), BRIEF, folder=tmp_path, callbacks=(stop,))
    if error is SystemExit:
        assert caught.value.code == 143
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    kept = read_checkpoint(tmp_path, "training")[0]["step"]
    assert step <= kept <= step + 1
    whole, resumed = small(), small(seed=5)
    quiet(whole, denoising_loss, ragged(), BRIEF)
    history = quiet(resumed, denoising_loss, ragged(), BRIEF, folder=tmp_path)
    assert same(tensors(whole), tensors(resumed))
    assert [r["step"] for r in history] == [1, 2, 3, 4, 5, 6]


def test_without_a_folder_signals_are_not_held_back():
    # a test run in the background may have been started with SIGINT switched off
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(record):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the signal was held back")

    with pytest.raises(KeyboardInterrupt):
        quiet(Slope(), slope_loss, ragged(), BRIEF, callbacks=(stop,))
    signal.signal(signal.SIGINT, former)


LONG = TrainConfig(
    steps=24, batch=6, lr=1e-2, warmup=4, ema=0.9, accumulate=2, log_every=1, save_every=4
)


def run_until(folder, moment, count):
    """A training in a process of its own, killed by its own hand (SIGKILL) at a chosen call of the operating system,
    or waiting for a signal from outside once it has made `count` records."""
    torch.set_num_threads(1)
    calls = []

    def deadly(function):
        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    def wait(record):
        calls.append(1)
        if moment == "record" and len(calls) == count:
            Path(folder, "waiting").touch()
            signal.pause()

    if hasattr(os, moment):
        setattr(os, moment, deadly(getattr(os, moment)))
    model = small(seed=os.getpid(), **RECIPE)  # its first weights must not matter when resuming
    if not Path(folder, "training.json").exists():
        model = small(**RECIPE)
    callbacks = (wait,) if moment == "record" else ()
    quiet(model, denoising_loss, ragged(), LONG, folder=folder, callbacks=callbacks)


# d is withheld up to step 9 of 24, so kills come in the first phase, at the switch and later
RECIPE = {"d_noise": 0.3, "static_first": 0.375, "withhold": 0.2}

MOMENTS = [  # what is about to happen when the signal comes, for the how manieth time; how the process ends
    ("fsync", 1, -signal.SIGKILL),  # the very first weights are half written
    ("replace", 3, -signal.SIGKILL),  # they lie there complete, but nothing names them
    ("fsync", 4, -signal.SIGKILL),  # the second checkpoint's JSON is half written
    ("replace", 1, -signal.SIGKILL),  # the log is being cut back to the checkpoint
    ("record", 3, -signal.SIGKILL),  # between two checkpoints, from outside
    ("replace", 3, -signal.SIGKILL),
    ("record", 2, 143),  # SIGTERM from outside: the step is finished and kept
    ("nothing", 0, 0),
]


def test_killed_again_and_again_the_weights_are_those_of_an_undisturbed_run(tmp_path):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    model = small(**RECIPE)
    quiet(model, denoising_loss, ragged(), LONG, folder=undisturbed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hypothesis", "pytest", "diffsda.training", "diffsda.model"])
    steps = [0]
    for moment, count, ending in MOMENTS:
        process = context.Process(target=run_until, args=(folder, moment, count))
        process.start()
        if moment == "record":
            while process.is_alive() and not (folder / "waiting").exists():
                process.join(0.02)
            (folder / "waiting").unlink()
            os.kill(process.pid, signal.SIGTERM if ending == 143 else signal.SIGKILL)
        process.join()
        assert process.exitcode == ending, (moment, count)
        if (folder / "training.json").exists():  # whatever happened, the state is whole
            steps.append(read_checkpoint(folder, "training")[0]["step"])
        logged = [r["step"] for r in read_log(folder)]
        assert logged == list(range(1, len(logged) + 1)) and len(logged) >= steps[-1]
    assert steps == sorted(steps) and steps[-1] == 24 and len(set(steps)) > 3
    assert steps[-2] % LONG.save_every != 0  # SIGTERM kept a step that was not due
    ours, theirs = (read_checkpoint(f, "training") for f in (folder, undisturbed))
    assert ours[0] == theirs[0] and same(ours[1], theirs[1])  # also moments, running mean, buffers
    assert without_seconds(read_log(folder)) == without_seconds(read_log(undisturbed))
    # JSON, weights, log, and two files whose locks keep others out: nothing is left lying about
    assert len(list(folder.iterdir())) == 5 and (folder / ".lock").stat().st_size == 0


def occupy(folder):
    "A training in a process of its own that stays at its second step until the file `go` is there."

    def wait(record):
        while record["step"] == 2 and not (folder / "go").exists():
            time.sleep(0.02)

    quiet(small(), denoising_loss, ragged(), BRIEF, folder=folder, callbacks=(wait,))


def test_a_second_training_in_a_folder_is_refused_and_harms_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 0.1)
    first = multiprocessing.get_context("fork").Process(target=occupy, args=(tmp_path,))
    first.start()
    while len(read_log(tmp_path)) < 2:
        time.sleep(0.02)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="another training is at work in .*another folder"):
        quiet(small(), denoising_loss, ragged(), BRIEF, folder=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "go").touch()
    first.join()
    assert first.exitcode == 0 and [r["step"] for r in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_training_waits_a_moment_for_one_that_is_on_its_way_out(tmp_path):
    first = multiprocessing.get_context("fork").Process(target=occupy, args=(tmp_path,))
    first.start()
    while len(read_log(tmp_path)) < 2:
        time.sleep(0.02)
    threading.Timer(0.3, first.kill).start()
    model, undisturbed = small(), small()
    quiet(model, denoising_loss, ragged(), BRIEF, folder=tmp_path)
    quiet(undisturbed, denoising_loss, ragged(), BRIEF)
    assert same(tensors(model), tensors(undisturbed))


# Two processes

SCRIPT = """
import os, signal, sys
import torch, torch.distributed as dist
from safetensors.torch import save_file
from test_training import LossSum, RECIPE, SPREAD, denoising_loss, quiet, ragged, small, tensors

folder, rank = sys.argv[1], int(os.environ["RANK"])
torch.set_num_threads(1)
one = small(seed=rank + 1, **RECIPE)  # processes start from the first one's weights
quiet(one, denoising_loss, ragged(), SPREAD)
assert dist.get_world_size() == 2 and dist.get_rank() == rank

def spoiled(model, batch):
    total, count = denoising_loss(model, batch)
    return LossSum(total * (float("nan") if rank == 1 else 1.0), count)

try:
    quiet(small(**RECIPE), spoiled, ragged(), SPREAD)
    raise AssertionError("one process saw a NaN: both must stop")
except FloatingPointError:
    pass

stop = lambda record: record["step"] == 3 and signal.raise_signal(signal.SIGTERM)
two = small(**RECIPE)
try:
    quiet(two, denoising_loss, ragged(), SPREAD, folder=folder, callbacks=(stop,))
    raise AssertionError("one process got a signal: both must stop")
except SystemExit as stopped:
    assert stopped.code == 143
two = small(seed=9, **RECIPE)
history = quiet(two, denoising_loss, ragged(), SPREAD, folder=folder)
assert [r["step"] for r in history] == [1, 2, 3, 4, 5, 6]
results = {f"{n}.{k}": v for n, m in (("one", one), ("two", two)) for k, v in tensors(m).items()}
save_file(results | {"loss": torch.tensor([r["loss"] for r in history])}, f"{folder}/{rank}.out")
"""
SPREAD = TrainConfig(steps=6, batch=7, lr=1e-2, warmup=2, ema=0.5, accumulate=2, log_every=1)


def test_two_processes_are_one_with_twice_the_parts(tmp_path):
    """Several trainings in one script, static first; 7 rows in 4 parts, each with its own count.

    One is stopped and resumed where the first phase ends: d is withheld in three of six steps."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    paths = [str(Path(__file__).parent), str(Path(diffsda.__file__).parent.parent)]
    paths += [p for p in [os.environ.get("PYTHONPATH")] if p]
    done = subprocess.run(
        [sys.executable, *command, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (load_file(tmp_path / f"{rank}.out") for rank in (0, 1))
    # running statistics of d are each process's own; those of the first one are saved (08_encoder)
    own = [k for k in first if ".normalise." in k]
    shared = lambda found: {k: v for k, v in found.items() if k not in own}
    assert len(own) == 6 and same(shared(first), shared(second))
    # a bias that they take away again has a gradient of rounding errors, whose size AdamW does not mind
    own.append("one.encoder.to_d.bias")
    alone = small(**RECIPE)
    history = quiet(alone, denoising_loss, ragged(), replace(SPREAD, accumulate=4))
    for k, v in tensors(alone).items():
        assert torch.equal(first[f"one.{k}"], first[f"two.{k}"])  # stopped and resumed: bit for bit
        assert f"one.{k}" in own or torch.allclose(first[f"one.{k}"], v, rtol=1e-4, atol=1e-5), k
    assert torch.allclose(first["loss"], torch.tensor([r["loss"] for r in history]), rtol=1e-4)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_going_on_with_other_data_is_refused(tmp_path):
    data = ragged()
    quiet(Slope(), slope_loss, data, BRIEF, folder=tmp_path)
    with pytest.raises(ValueError, match=f"training sequences {len(data)} .now {len(data) - 1}"):
        quiet(Slope(), slope_loss, data[: len(data) - 1], BRIEF, folder=tmp_path)


# Recorded passes


class Repeated(training.Recorded):
    """As a GPU does: a replay works on the tensors it was recorded with, and leaves gradients where they were."""

    recordings = 0

    def record(self):
        type(self).recordings += 1
        batch, numbers = self.batch, self.phase()
        sums, gradients = torch.zeros(2).double(), [torch.zeros_like(p) for p in self.parameters]

        def replay():
            assert self.phase() == numbers, "replayed what another phase decided"
            self.forget()
            sums.copy_(self.passes(batch))
            for kept, p in zip(gradients, self.parameters):
                kept.copy_(p.grad)

        return replay, sums, gradients


@pytest.mark.parametrize("ends", ["together", "apart"])
def test_a_recorded_training_is_the_training(monkeypatch, ends):
    """It is recorded once for a phase; sequences that end at different frames are not recorded."""
    monkeypatch.setattr(training, "_runs_ahead", lambda device: True)
    monkeypatch.setattr(training, "Recorded", Repeated)
    monkeypatch.setattr(Repeated, "recordings", 0)
    data = ragged() if ends == "apart" else Sequences(torch.randn(20, 5, 3))
    runs = []
    for graph in (False, True):
        model = small(static_first=0.5, withhold=0.2, d_noise=0.1)
        history = quiet(model, denoising_loss, data, replace(BRIEF, graph=graph))
        runs.append((tensors(model), without_seconds(history)))
    assert same(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert Repeated.recordings == (2 if ends == "together" else 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_what_it_recorded():
    data, runs = Sequences(torch.randn(20, 5, 3)), []
    for graph in (False, True):
        model = small(static_first=0.5, withhold=0.2, d_noise=0.1).cuda()
        config = replace(BRIEF, graph=graph, precision="fp32", ema=0.9)
        quiet(model, denoising_loss, data, config)
        runs.append(tensors(model))
    for name, weight in runs[0].items():
        assert torch.allclose(weight, runs[1][name], atol=1e-4), name


def test_the_running_mean_counts_where_the_weights_are(monkeypatch):
    "On a GPU a count that stays on the CPU stops the first step."
    places = []

    class Spied(AveragedModel):
        def __init__(self, model, device=None):
            places.append(device)
            super().__init__(model, device)

    monkeypatch.setattr(training, "AveragedModel", Spied)
    quiet(small(), denoising_loss, Sequences(torch.randn(8, 4, 3)), replace(BRIEF, ema=0.9))
    assert places == [torch.device("cpu")]


class Foreign(nn.Module):
    "A frame encoder of somebody else, that cannot be made anew from JSON."

    def __init__(self):
        super().__init__()
        self.frame, self.features, self.read = (3,), 4, nn.Linear(3, 4)

    def forward(self, x, mask):
        return self.read(x)


def test_a_network_that_cannot_be_rebuilt_is_refused_before_a_run_that_saves(tmp_path):
    model, walks = small(), Sequences(torch.randn(8, 4, 3))
    own = DiffSDA(SequenceEncoder(Foreign(), 4, 2, 8), model.decoder)
    config = TrainConfig(2, 4, warmup=0)
    train(own, denoising_loss, walks, config, progress=False)
    with pytest.raises(ValueError, match="Foreign cannot be saved: derive it from"):
        train(own, denoising_loss, walks, config, folder=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="Foreign cannot be saved"):
        own.save(tmp_path / "model")


def test_a_run_with_a_folder_leaves_the_random_numbers_of_gpus_alone(tmp_path, monkeypatch):
    seeded, walks = [], Sequences(torch.randn(8, 4, 3))
    model = small()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    train(
        model, denoising_loss, walks, TrainConfig(1, 4, warmup=0), folder=tmp_path, progress=False
    )
    assert not seeded
