"""Both formulations that the benchmark times compute the same thing, and its rows say what was measured."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffsda import bench, bench_gpu, training
from diffsda import model as diffsda_model
from diffsda.blocks import change_file
from diffsda.data import Sequences
from diffsda.model import DiffSDA, denoising_loss
from diffsda.verification import verification_eer
from diffsda.vowels import vowels

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench.json"


def vectors():
    torch.manual_seed(0)
    return DiffSDA.mlp((3,), s_dim=4, d_dim=2, hidden=8, enc_width=16, dec_width=16)


def images(patch=1):
    """A U-Net whose layers that start at zero act: behind them no difference would be seen."""
    torch.manual_seed(0)
    levels = {"multipliers": (1, 2), "blocks": 1, "attention": (1,), "embedding": 16}
    model = DiffSDA.unet((3, 8 * patch, 4 * patch), 4, 2, 8, 16, 16, patch=patch, **levels)
    return bench.awake(model)


@pytest.fixture(params=[vectors, images])
def model(request):
    return request.param()


def sequences(model, lengths, V=9, missing=0.0):
    x = torch.randn(len(lengths), V, *model.decoder.frame)
    observed = torch.rand(x.shape) >= missing
    observed[:, 0] = True
    return Sequences(x, torch.tensor(lengths), observed)


@pytest.fixture
def precise():
    """Double precision: a group norm over a few pixels multiplies what rounding there is."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("lengths", [[9, 9], [9, 4], [3, 1, 7]])
@pytest.mark.parametrize("draws", [1, 3])
def test_training_is_the_same_function(precise, model, lengths, draws):
    batch = sequences(model, lengths, missing=0.4)
    sides = (
        partial(loss, model, batch, draws=draws) for loss in (bench.plain_loss, denoising_loss)
    )
    plain, ours = (bench.gradients(model, side) for side in sides)
    assert bench.difference(plain, ours) < 1e-8
    assert len(plain) == 1 + len(list(model.parameters()))


def test_images_in_patches_too(precise):
    model = images(patch=2)
    batch = sequences(model, [3, 2], V=3)
    sides = (partial(loss, model, batch, draws=2) for loss in (bench.plain_loss, denoising_loss))
    plain, ours = (bench.gradients(model, side) for side in sides)
    assert bench.difference(plain, ours) < 1e-8


def test_a_dead_weight_is_found(model):
    """A step's row is refused for a model with a weight that nothing calls."""
    model.never_called = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="not have been used"):
        bench.training_row("x", model, sequences(model, [2]), 1.0, 1.0, rounds=1)


def test_awake_changes_what_starts_at_zero_only():
    levels = {"multipliers": (1, 2), "blocks": 1, "embedding": 16}
    model = DiffSDA.unet((3, 8, 4), 4, 2, hidden=8, enc_width=16, dec_width=16, **levels)
    before = {k: p.clone() for k, p in model.named_parameters()}
    for name, p in bench.awake(model).named_parameters():
        if not torch.equal(p, before[name]):
            assert before[name].abs().max() < 1e-4 and p.abs().max() > 1e-3
    assert all(p.abs().max() > 1e-3 for p in model.parameters() if p.ndim > 1)


def test_a_network_without_a_plain_formulation_is_refused(model):
    with pytest.raises(TypeError, match="no plain formulation of a Linear"):
        bench.plain_features(nn.Linear(1, 1), torch.zeros(1))
    with pytest.raises(TypeError, match="no plain formulation of a Linear"):
        bench.plain_network(nn.Linear(1, 1), *torch.zeros(3, 1))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_padding_is_never_read(lengths):
    model = vectors().eval()
    batch = sequences(model, lengths)
    torch.manual_seed(1)
    wild = torch.where(batch.frame_mask[..., None], batch.x, torch.randn_like(batch.x))
    packed = lambda layer, h, ragged: (
        layer(h)[0] if ragged is None else bench.packed(layer, h, ragged)
    )
    with patch.object(bench, "run_recurrent", packed):
        plain = bench.plain_encode(model, wild, batch.lengths)
    ours = model.encode(batch)
    assert torch.allclose(ours.s, plain.s, atol=1e-5)
    assert torch.allclose(ours.d, plain.d * batch.frame_mask[..., None], atol=1e-5)


def test_packed_layers_and_those_that_read_padding_last_have_the_same_gradients(monkeypatch):
    row = bench.lengths_row("timit", 3, rounds=1)
    assert row.difference < 1e-5 and row.plain > 0 and "timit" in row.name
    monkeypatch.setattr(bench, "run_recurrent", lambda layer, h, lengths: layer(h)[0])
    with pytest.raises(AssertionError, match="gradients differ"):
        bench.lengths_row("timit", 3, rounds=1)


def test_sampling_is_the_same_function(model):
    batch = sequences(model, [9, 9])
    factors, x_T = model.encode(batch), torch.randn(batch.x.shape)
    plain, ours = bench.plain_decode(model, factors, x_T, 6), model.decode(factors, x_T, 6)
    assert bench.difference([plain], [ours]) < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_error_rate_is_the_same_function(seed):
    codes, who = bench.recordings(20, seed)
    pairs = 20 * 19 / 2 - 2 * 10 * 9 / 2  # of different persons: one of them is the resolution
    assert abs(bench.plain_eer(codes, who) - verification_eer(codes, who)) <= 2 / pairs


def test_batches_are_the_same(tmp_path):
    path = tmp_path / "values.npy"
    np.save(path, np.random.default_rng(0).normal(3, 2, (200, 4)).astype(np.float32))
    plain, ours = (f(path, 20, 5, 4) for f in (bench.plain_batches, bench.our_batches))
    assert len(plain) == len(ours) == 9 and bench.difference(plain, ours) < 1e-5


@pytest.mark.parametrize("seconds", [(0.8, 0.9), (0.8, 1.7)])
def test_frames_are_the_same(seconds):
    recordings = vowels(3, seconds=seconds)
    plain, ours = bench.plain_frames(recordings), bench.our_frames(recordings)
    assert plain.shape == ours.shape and ours.shape[1:] == (68, 80)
    held = (ours != 0).any(-1, keepdim=True)
    assert held.float().mean() > 0.5
    assert bench.difference([plain * held], [ours]) < 1e-4
    assert "real-time" in bench.front_end_row(recordings, rounds=1).note


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("draws", [1, 4])
def test_a_training_row_compares_what_it_times(model, bf16, draws):
    batch = sequences(model, [9, 5])
    row = bench.training_row("tiny", model, batch, 1.0, 1.0, draws=draws, bf16=bf16, rounds=1)
    assert ("bf16" in row.name) == bf16 and row.plain > 0 < row.ours
    assert row.difference < (0.1 if bf16 else 1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_an_encoding_row_compares_what_it_times(model, bf16):
    row = bench.encode_row("tiny", model, sequences(model, [4, 4], V=4), 1.0, 1.0, bf16=bf16)
    assert ("bf16" in row.name) == bf16 == (row.dtype == "bfloat16")
    assert row.difference < (0.1 if bf16 else 1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_multistep_row_takes_the_fewest_calls_that_come_as_near(model, monkeypatch, bf16):
    told = {8: 0.3, 12: 0.1, 16: 0.05}
    monkeypatch.setattr(bench, "distances", lambda *args, **options: (0.1, told))
    monkeypatch.setattr(bench, "plain_decode", lambda *args, **options: None)
    seen, sample = [], bench.multistep
    note = lambda *args: seen.append(args[3:]) or sample(*args)
    monkeypatch.setattr(bench, "multistep", note)
    row = bench.multistep_row("tiny", model, sequences(model, [2], V=2), bf16=bf16, rounds=2)
    assert seen == [(12, bf16)] * 2 and "12 calls at distance 0.1000" in row.note
    told.update({8: 0.3, 12: 0.11, 16: 0.2})  # none comes as near: the nearest
    row = bench.multistep_row("tiny", model, sequences(model, [2], V=2), bf16=bf16, rounds=1)
    assert "12 calls at distance 0.1100" in row.note


@pytest.mark.parametrize("kind", ["frames", "latents"])
@pytest.mark.parametrize("scaled", [False, True])
def test_batches_of_clips_are_the_same(kind, scaled):
    row = bench.clips_row(kind, count=9, length=30, scaled=scaled, rounds=1)
    assert row.difference < (1e-5 if scaled else 1e-12)
    assert kind in row.name and ("normalised" in row.name) == scaled


@pytest.mark.parametrize("name", bench.IMAGES)
def test_image_presets_have_the_papers_shapes(name):
    V, *frame = bench.SHAPES[name]
    assert V == bench.PRESETS[name].windows[0] and len(frame) == 3
    blobs = bench.blobs(2, V, tuple(frame))
    assert blobs.x.shape == (2, V, *frame) and abs(blobs.x.std() - 0.5) < 0.02
    neighbours = (blobs.x[..., 1:] - blobs.x[..., :-1]).std()
    assert neighbours < 0.15  # smooth


@pytest.mark.parametrize("name", bench.MUSTS)
def test_made_up_batches_have_the_sets_shape(name):
    batch = bench.made_up(name)
    assert batch.x.shape[1:] == bench.SHAPES[name]
    assert bench.PRESETS[name].draws == (10 if name in bench.SERIES else 1)
    assert torch.equal(batch.x, bench.made_up(name).x)


def busy(seconds):
    def wait():
        start = process_time()
        while process_time() - start < seconds:
            pass

    return wait


def test_ratio_is_plain_over_ours_and_scales_a_share():
    row = bench.measure("x", busy(0.04), busy(0.01), rounds=3)
    assert 2 < row.ratio < 8 and row.lower_quartile <= row.ratio
    part = bench.measure("x", busy(0.04), busy(0.01), rounds=3, share=0.1)
    assert 20 < part.ratio < 80


def test_difference_is_relative_and_finds_the_worst():
    a = [torch.tensor([100.0, 1.0]), torch.tensor([2.0])]
    assert bench.difference(a, a) == 0
    assert bench.difference(a, [a[0], torch.tensor([1.0])]) == pytest.approx(0.5)
    assert bench.difference(a, [a[0] + 1, a[1]]) == pytest.approx(0.01)


def test_a_faster_side_that_computes_something_else_is_refused(model, monkeypatch):
    other = lambda model, batch, draws: denoising_loss(model, batch, draws=draws, P_mean=-0.5)
    monkeypatch.setattr(bench, "plain_loss", other)
    with pytest.raises(AssertionError, match="differ"):
        bench.training_row("x", model, sequences(model, [9, 5]), 1.0, 1.0, rounds=1)


def test_the_kept_table_has_a_line_for_every_must():
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert {"name", "ratio", "lower_quartile", "must", "threads", "dtype"} <= set.intersection(
        *(set(row) for row in rows)
    )
    names = " ".join(row["name"] for row in rows)
    for part in (
        *bench.MUSTS,
        "sampling",
        "converged",
        "error rate",
        "loading",
        "memory",
        "front end",
    ):
        assert part in names
    assert all(row["threads"] == 1 for row in rows)


def row_of(name="x", ratio=1.0, quartile=1.0, must=1.0):
    return bench.Row(name, ratio, quartile, must, None, 1, "float32", 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "row, missed",
    [
        (row_of(ratio=0.9, quartile=0.8), False),  # within its noise
        (row_of(ratio=0.9, quartile=0.85), True),
        (row_of(ratio=0.9, quartile=0.85, must=None), False),
        (row_of("memory, at most", 1.1, 1.3), False),
        (row_of("memory, at most", 1.1, 1.15), True),
        (row_of("memory, at most", 0.9, 0.95), False),
    ],
)
def test_a_must_is_missed_by_more_than_noise_only(row, missed):
    assert bench.missed(row) == missed


@pytest.mark.parametrize("quartile, status", [(0.3, None), (0.45, "peak mug: 0.50, must 0.6")])
def test_a_missed_must_ends_the_run_with_an_error(tmp_path, monkeypatch, quartile, status):
    one = lambda name, must, aim: row_of(f"peak {name}", 0.5, quartile, 0.6)
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *a: None)
    monkeypatch.setattr(bench, "memory_row", one)
    for name in ("rows_of_training", "rows_of_sampling"):
        monkeypatch.setattr(bench, name, lambda *a: None)
    path = tmp_path / "bench.json"
    if status is None:
        bench.main(path, only="mug")
    else:
        with pytest.raises(SystemExit, match=status):
            bench.main(path, only="mug")
    assert json.loads(path.read_text())[0]["name"] == "peak mug"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_tells_its_time_only_if_it_is_the_first(rank, monkeypatch, capsys):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(bench, "build", lambda *_: vectors())
    monkeypatch.setattr(bench, "made_up", lambda name: Sequences(torch.randn(4, 5, 3)))
    bench.a_share("etth1", steps=3)
    said = capsys.readouterr().out
    if rank:
        assert said == ""
    else:
        took, loss = json.loads(said)
        assert took > 0 and loss > 0


def test_processes_are_compared_by_the_clock_and_by_where_they_end(monkeypatch):
    told = iter([[1.0, 0.5], [0.6, 0.5], [1.2, 0.5], [0.6, 0.5], [1.0, 0.5], [0.5, 0.5]])
    done = lambda *_, **__: SimpleNamespace(returncode=0, stdout=f"noise\n{next(told)}\n")
    monkeypatch.setattr(bench.subprocess, "run", done)
    row = bench.processes_row()
    assert row.ratio == pytest.approx(2.0) and row.difference == 0  # of 5/3, 2 and 2
    failed = SimpleNamespace(returncode=3, stdout="", stderr="no port")
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="ended with 3: no port"):
        bench.processes_row()


def test_a_swap_row_times_63_calls_beside_one(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "measure", lambda name, *sides, **options: seen.append(sides[:2]))
    model, calls = vectors().eval(), []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    for known in (True, False):
        bench.swap_row(model, sequences(model, [4, 4, 4], V=4), known=known)
        counts = [(calls.clear(), side(), len(calls))[2] for side in seen.pop()]
        assert counts == [63, 1]


def test_words_that_name_no_row_are_refused(tmp_path):
    for only in ("moon", "training", "mug moon"):
        with pytest.raises(
            ValueError, match="no row is named by '(moon|training)'; there are etth1"
        ):
            bench.main(tmp_path / "bench.json", only=only)
    with pytest.raises(ValueError, match="no row is named by '-moon'; there are .*bf16.*training"):
        bench_gpu.main(tmp_path / "gpu.json", only="mug -moon", device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("only", ["", "mug"])
def test_a_stopped_run_keeps_what_it_measured_and_the_rows_of_before(only, tmp_path, monkeypatch):
    table = tmp_path / "bench.json"
    table.write_text('[{"name": "peak mug", "ratio": 1}, {"name": "of before", "ratio": 2}]')

    def peak(name, must, aim):
        if name == "taichi":
            raise KeyboardInterrupt
        change_file(table, lambda text: text.replace("}]", '}, {"name": "of others", "ratio": 3}]'))
        return bench.Row(f"peak {name}", 0.5, 0.5, must, aim, 1, "float32", 1.0, 2.0, 0.0)

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *a: None)
    monkeypatch.setattr(bench, "memory_row", peak)
    monkeypatch.setattr(bench, "rows_of_training", stop)
    with pytest.raises(KeyboardInterrupt):
        bench.main(table, only=only)
    ratios = {row["name"]: row["ratio"] for row in json.loads(table.read_text())}
    assert ratios["peak mug"] == 0.5 and ratios["of before"] == 2
    assert ratios["of others"] == 3, "a row that another run added meanwhile is lost"
    assert ("peak etth1" in ratios) == (not only)


# On a GPU, tried out on a CPU


def tiny(preset):
    """A preset in a size that a processor trains in a moment."""
    levels = {"multipliers": (1, 2), "blocks": 1, "attention": (), "groups": 4}
    config = replace(preset.config, batch=1)
    sizes = {"s_dim": 4, "d_dim": 2, "hidden": 8, "enc_width": 4, "dec_width": 4, "embedding": 8}
    return replace(preset, config=config, unet=preset.unet and levels, **sizes)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Runs the rows of a plan for tiny versions of the presets and returns them; nothing is compiled."""
    monkeypatch.setattr(bench_gpu, "compiler_works", lambda device: True)
    for module in (training, diffsda_model):
        monkeypatch.setattr(module, "compiled", lambda network, **options: network)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setitem(bench.SHAPES, "timit", (6, 8))

    def run(plan, **options):
        monkeypatch.setattr(bench_gpu, "PLAN", plan)
        options = {"device": "cpu", "shrink": tiny, "limit": 0.01, "seconds": 600} | options
        bench_gpu.main(tmp_path / "gpu.json", **options)
        return json.loads((tmp_path / "gpu.json").read_text())

    return run


def test_every_kind_of_row_of_the_gpu_table(table):
    plan = [(name, *row) for name, *row in bench_gpu.PLAN if name == "timit"]
    plan += [("timit", "waits", "ours bf16"), ("timit", "training", "ours bf16, channels last")]
    rows = table(plan)
    assert len(rows) == len(plan) and not [r["note"] for r in rows if "failed" in r["note"]]
    for row in rows:
        if row["what"] == "waits":
            continue
        assert math.isclose(row["frames_per_second"], 6 / row["seconds"], rel_tol=1e-6)
        if row["what"] == "training":
            assert 0 < row["share_of_peak"] < 1 and row["price"] == 3 * row["hours"]
            assert math.isclose(row["hours"], 24_000 * row["seconds"] / 3600, rel_tol=1e-6)


def test_the_plan_has_every_preset_in_every_formulation():
    made = {(name, what, how) for name, what, how in bench_gpu.PLAN}
    for name in ("mug", "taichi", "voxceleb", "timit", "librispeech", "physionet_a"):
        for what in ("training", "sampling"):
            for how in ("ours bf16", "plain fp32", "ours bf16, compiled"):
                assert (name, what, how) in made
    assert len(made) == len(bench_gpu.PLAN)


def test_a_row_that_fails_says_why_and_the_others_come(table, monkeypatch):
    plan = [("timit", "sampling", "ours bf16"), ("physionet_a", "sampling", "ours bf16")]
    work = bench_gpu.Bench.sampling

    def memory(self, how):
        if self.name == "timit":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return work(self, how)

    monkeypatch.setattr(bench_gpu.Bench, "sampling", memory)
    first, second = table(plan)
    assert first["note"] == "failed: OutOfMemoryError: CUDA out of memory"
    assert second["seconds"] > 0


def test_a_row_that_was_measured_is_not_lost_to_a_later_failure(table):
    plan = [("timit", "sampling", "ours bf16")]
    measured = table(plan)
    assert table(plan, seconds=-1) == measured
    late = table([("timit", "sampling", "plain fp32")], seconds=-1)
    assert late[0] == measured[0] and "no time left" in late[1]["note"]


def test_a_row_is_stopped_when_time_is_over(table, monkeypatch):
    def endless(self, how):
        while True:
            pass

    monkeypatch.setattr(bench_gpu.Bench, "training", endless)
    (row,) = table([("timit", "training", "ours bf16")], seconds=0.2)
    assert "failed: TimeoutError" in row["note"]


def test_without_a_gpu_the_table_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU is found"):
            bench_gpu.main("nowhere.json")


def test_operations_are_those_of_the_matrices():
    """Three times two for each weight of a linear layer and row, as many for recurrent ones."""
    model = vectors()
    batch = sequences(model, [9, 9])
    found = bench_gpu.operations(model, lambda m, b: denoising_loss(m, b, draws=1), batch)
    expected = 6 * 18 * sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert 0.7 * expected < found < 1.2 * expected
