"""A student of the decoder: what one, two and four calls are, that they come to land where the teacher does, and how it is kept."""

import math
from dataclasses import replace

import pytest
import torch

import diffsda
from diffsda.cli import main
from diffsda.data import Sequences, toy_splits
from diffsda.disentangler import Disentangler, Plain
from diffsda.distil import DISTIL, Lessons, between, distil_loss, distilled
from diffsda.encoder import RECIPES, Factors
from diffsda.model import STUDENT, DiffSDA
from diffsda.sets import Preset
from diffsda.training import TrainConfig

CALLS = {"one": 1, "two": 2, "four": 4}
QUICK = {"lessons": 64, "sampling": {"steps": 3}, "progress": False}


def small(**options):
    torch.manual_seed(0)
    options = {"hidden": 8, "enc_width": 16, "dec_width": 16, "embedding": 16} | options
    return DiffSDA.mlp((2, 3), 4, 2, **options, **RECIPES["static first"]).eval()


def with_student(model):
    "The model with an untrained student."
    return DiffSDA(model.encoder, model.decoder, model.sigma_data, small().decoder).eval()


def asked_of(network):
    "A list that gets a noise level, as the network is told it, at each of its calls."
    heard = []
    network.register_forward_pre_hook(lambda _, inputs: heard.append(float(inputs[1].flatten()[0])))
    return heard


@pytest.fixture(scope="module")
def bumps():
    "A shipped model, sequences to learn from, and what it makes of unseen swaps in 15 calls."
    model, (learn, _, test) = diffsda.pretrained("bump"), toy_splits("bump", (200, 2, 40))
    own = model.encode(test)
    swapped = Factors(own.s.roll(1, 0), own.d)
    noise = torch.randn(test.x.shape, generator=torch.Generator().manual_seed(0))
    return model, learn, swapped, noise, model.decode(swapped, noise, steps=8)


@pytest.fixture(scope="module")
def taught(bumps):
    model, learn, *_ = bumps
    before = {k: y.clone() for k, y in model.state_dict().items()}
    options = QUICK | {"lessons": 200, "sampling": {"steps": 8}}
    options |= {"config": replace(DISTIL, batch=16)}
    return model.distil(learn, 40, **options), before


@pytest.mark.parametrize("solver", CALLS)
def test_a_student_is_called_as_often_as_its_solver_says(solver):
    model = with_student(small())
    factors, noise = model.encode(Sequences(torch.randn(2, 5, 2, 3))), torch.randn(2, 5, 2, 3)
    of_student, of_decoder = asked_of(model.student), asked_of(model.decoder)
    made = model.decode(factors, noise, solver=solver)
    levels = STUDENT[solver]
    assert len(levels) == CALLS[solver] and levels == STUDENT["four"][: len(levels)]
    assert of_student == pytest.approx([math.log(sigma) / 4 for sigma in levels], abs=1e-5)
    assert of_decoder == []
    denoise, x = model.denoiser(factors, network=model.student), levels[0] * noise
    with torch.no_grad():
        for sigma, below in zip(levels, (*levels[1:], 0.0)):
            clean = denoise(x, sigma)
            x = clean + below / sigma * (x - clean)  # the same noise, less of it
    assert torch.allclose(made, x, atol=1e-4)


def test_swaps_and_reconstructions_are_made_by_the_student_too():
    model, data = with_student(small()), Sequences(torch.randn(2, 5, 2, 3))
    noise = torch.randn(2, 5, 2, 3)
    made = model.decode(model.encode(data), noise, solver="one")
    assert torch.equal(model.swap(data, data, noise, solver="one").x, made)
    assert torch.equal(model.reconstruct(data, noise, solver="one").x, made)
    assert not torch.equal(model.reconstruct(data, noise, steps=3).x, made)


@pytest.mark.parametrize(
    "model, options, says",
    [
        (small(), {"solver": "one"}, "distil"),
        (with_student(small()), {"solver": "three"}, "one, two, four"),
        (with_student(small()), {"solver": "one", "guidance": 2.0}, "guidance"),
    ],
)
def test_what_a_student_cannot_do_is_refused(model, options, says):
    factors = Factors(torch.zeros(1, 4), torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match=says):
        model.decode(factors, **options)


@pytest.mark.parametrize("solver", CALLS)
def test_same_noise_and_codes_come_nearer_to_where_the_teacher_lands(bumps, taught, solver):
    model, _, swapped, noise, full = bumps
    untaught = DiffSDA(model.encoder, model.decoder, model.sigma_data, model.decoder)
    far = lambda model: (model.decode(swapped, noise, solver=solver) - full).square().mean().sqrt()
    assert far(taught[0]) < {"one": 0.9, "two": 0.95, "four": 1.0}[solver] * far(untaught)


def test_the_teacher_is_left_as_it_was(bumps, taught):
    model, before = bumps[0], taught[1]
    assert all(torch.equal(y, before[k]) for k, y in model.state_dict().items())
    assert model.student is None and not taught[0].training
    assert taught[0].decoder is model.decoder and taught[0].encoder is model.encoder


def test_a_student_guesses_nothing():
    model = small(dropout=0.5)
    taught = model.distil(Sequences(torch.randn(8, 5, 2, 3)), 1, **QUICK)
    assert taught.student.dropout.p == 0 and taught.decoder.dropout.p == 0.5


def test_it_is_kept_beside_its_teacher(bumps, taught, tmp_path):
    model, _, swapped, noise, full = bumps
    taught[0].save(tmp_path)
    again = DiffSDA.load(tmp_path)
    assert torch.equal(again.decode(swapped, noise, steps=8), full)
    one = lambda model: model.decode(swapped, noise, solver="one")
    assert torch.equal(one(again), one(taught[0])) and not torch.equal(one(again), full)


def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path):
    model, data = small(), Sequences(torch.randn(20, 5, 2, 3))
    config = replace(DISTIL, batch=8, save_every=2, log_every=1)
    whole = distilled(model, data, 6, config=config, **QUICK)

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 5:
            raise Stop

    options = QUICK | {"config": config, "folder": tmp_path}
    with pytest.raises(Stop):
        distilled(model, data, 6, callbacks=(stop,), **options)
    seen = []
    resumed = distilled(model, data, 6, callbacks=(lambda r: seen.append(r["step"]),), **options)
    assert seen == [5, 6]  # it went on from the checkpoint of step 4
    for a, b in zip(whole.student.parameters(), resumed.student.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("steps, made", [(None, 3), (2, 2)])
def test_steps_are_those_of_the_configuration_unless_given(steps, made):
    seen, options = [], QUICK | {"lessons": 8}
    config = TrainConfig(3, 8, warmup=0, log_every=1)
    callbacks = (lambda record: seen.append(record["step"]),)
    data = Sequences(torch.randn(8, 5, 2, 3))
    small().distil(data, steps, config=config, callbacks=callbacks, **options)
    assert len(seen) == made


@pytest.mark.parametrize("steps, lessons, says", [(0, 4, "steps"), (2, 0, "lessons")])
def test_a_student_that_cannot_learn_is_refused_before_work(steps, lessons, says, monkeypatch):
    monkeypatch.setattr(Lessons, "of", lambda *args, **options: pytest.fail("work began"))
    with pytest.raises(ValueError, match=says):
        small().distil(Sequences(torch.randn(4, 5, 2, 3)), steps, lessons=lessons, progress=False)


@pytest.mark.parametrize("count", [10**14, 10**20])
def test_more_lessons_than_memory_holds_are_refused_at_once(count):
    with pytest.raises(ValueError, match=f"{count} lessons .* do not fit into memory"):
        Lessons.of(small(), Sequences(torch.randn(4, 5, 2, 3)), count)


def test_lessons_are_decided_by_their_seed_and_are_what_the_teacher_makes():
    model, data = small(), Sequences(torch.randn(20, 5, 2, 3))
    book, again, other = (Lessons.of(model, data, 30, seed, steps=3) for seed in (1, 1, 2))
    assert len(book) == 30 and torch.equal(book.made, again.made)
    assert torch.equal(book.factors.s, again.factors.s)
    own = model.encode(data).s
    known = (book.factors.s[:, None] - own).abs().amax(-1).min(1).values < 1e-6
    assert 10 < known.sum() < 28  # others lie between two sequences
    assert not torch.equal(book.noise, other.noise)
    assert torch.allclose(model.decode(book.factors, book.noise, 3), book.made, atol=1e-5)


def test_codes_between_lie_on_lines_through_two_sequences():
    codes = Factors(torch.randn(300, 4), torch.randn(300, 5, 2))
    exists = torch.ones(300, 5, dtype=torch.bool)
    mixed = between(codes, exists, torch.Generator().manual_seed(0))
    others = codes.s[None] - codes.s[:, None]  # (300, 300, 4) from each to every other
    moved = (mixed.s - codes.s)[:, None]
    amount = (moved * others).sum(-1) / others.square().sum(-1)
    off = (moved - amount[..., None] * others).norm(dim=-1).nan_to_num(math.inf)
    way = amount.gather(1, off.argmin(1, keepdim=True))[:, 0]
    own = moved[:, 0].norm(dim=-1) == 0
    lent = (off.min(1).values < 1e-5) & ((way - 1).abs() < 1e-5) & ~own
    line = (off.min(1).values < 1e-4) & ~own & ~lent
    assert (own | lent | line).all() and min(own.sum(), lent.sum(), line.sum()) > 60
    assert -0.51 < way[line].min() < -0.3 and 1.3 < way[line].max() < 1.51
    still = (mixed.d == codes.d).flatten(1).all(1)
    assert 100 < still.sum() < 200
    assert (mixed.d - codes.d).abs().max() < 0.26 * (codes.d.max() - codes.d.min())


def test_codes_between_move_an_own_s_of_all_frames_alike():
    exists, d = torch.ones(5, 5, dtype=torch.bool), torch.zeros(5, 5, 2)
    s = torch.randn(5, 1, 4)
    g = lambda: torch.Generator().manual_seed(0)
    own = between(Factors(s.expand(-1, 5, -1), d), exists, g()).s
    assert torch.equal(own, between(Factors(s[:, 0], d), exists, g()).s[:, None].expand(-1, 5, -1))


def test_codes_between_know_nothing_of_frames_that_do_not_exist():
    exists = torch.arange(5) < torch.tensor([5, 2] * 100)[:, None]
    d = torch.where(exists[..., None], 1.0, 0.0).expand(-1, -1, 2)  # all codes there are, are 1
    mixed = between(Factors(torch.randn(200, 4), d), exists, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.d[exists], torch.ones_like(mixed.d[exists]))


def test_frames_that_do_not_exist_teach_nothing():
    model = small()
    data = Sequences(torch.randn(6, 5, 2, 3), lengths=torch.tensor([5, 4, 3, 5, 2, 1]))
    book = Lessons.of(model, data, 6, steps=3)
    assert torch.equal(book.exists.sum(1).sort().values, data.lengths.sort().values)
    student = small().decoder
    loss = distil_loss(student, book, teacher=model)
    assert loss.count == 4 * 20 * 6  # calls, frames, numbers of a frame
    wild = replace(book, made=torch.where(book.exists[..., None, None], book.made, 99.0))
    assert torch.equal(distil_loss(student, wild, teacher=model).total, loss.total)


def test_the_loss_is_the_mean_error_of_walks_of_one_to_four_calls():
    model = with_student(small())
    book = Lessons.of(model, Sequences(torch.randn(6, 5, 2, 3)), 6, steps=3)
    walks = []
    denoise, x = model.denoiser(book.factors, network=model.student), 80 * book.noise
    with torch.no_grad():
        for sigma, below in zip(STUDENT["four"], (*STUDENT["four"][1:], 0.0)):
            clean = denoise(x, sigma)
            walks.append((clean - book.made).square().mean())
            x = clean + below / sigma * (x - clean)
        found = distil_loss(model.student, book, teacher=model).mean
    assert torch.allclose(found, sum(walks) / 4 / model.sigma_data**2, rtol=1e-4)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    "A user's model, in a folder, with a student that one command has made; and its data."
    home = tmp_path_factory.mktemp("own")
    data = Sequences(torch.randn(12, 6, 3).cumsum(1))
    config = TrainConfig(4, 4, lr=1e-3)
    preset = Preset(4, 2, 8, 16, 16, config, embedding=16, draws=1, levels=3, lowest=2.0)
    model = Disentangler.fit(data, Plain(), preset, folder=home / "m", held_out=0, progress=False)
    model.adapter.write(data, home / "data.npz")
    model.adapter.write(Sequences(-data.x), home / "other.npz")
    for source, steps, lessons in (("data", 4, 8), ("other", 3, 12), ("data", 3, 12)):
        words = f"distil {home / 'm'} {home / source}.npz --quiet --steps {steps}"
        assert main(f"{words} --lessons {lessons}".split()) == 0  # each time it is taught anew
    assert not list((home / "m").glob("training_student*"))
    return model, diffsda.load(home / "m"), data


def test_a_users_model_decodes_by_its_student_unless_told_otherwise(own):
    plain, quick, data = own
    assert plain.network.student is None and quick.network.student is not None
    heard, slow = asked_of(quick.network.student), asked_of(quick.network.decoder)
    one, two = data[:1], data[1:2]
    quick.swap(one, two)
    quick.walk(one, 0, [0.0, 1.0])
    quick.morph(one, two, [0.0, 1.0])
    assert len(heard) == 5 and slow == []  # one call for each thing that is made
    assert torch.equal(quick.swap(one, two, steps=3).x, plain.swap(one, two, steps=3).x)
    assert len(heard) == 5 and len(slow) == 5
    assert torch.equal(quick.swap(one, two, solver="one").x, quick.swap(one, two).x)


def test_a_users_student_learns_what_the_model_itself_makes(own, monkeypatch):
    plain, _, data = own
    asked = {}
    monkeypatch.setattr(diffsda.distil, "train", lambda *args, **options: None)
    of = Lessons.of
    watched = lambda *args, **sampling: asked.update(sampling) or of(*args, **sampling)
    monkeypatch.setattr(diffsda.distil.Lessons, "of", staticmethod(watched))
    plain.distil(data, 1, lessons=4, progress=False)
    assert asked == plain.sampling == {"steps": 3, "lowest": 2.0}
