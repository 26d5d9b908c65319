"""DiffSDA as a whole: what swapping, reconstructing and its loss must obey, trained or not, and that it learns."""

import json
import math

import pytest
import torch
from makers import FRAME, close, ragged, sequences
from torch import nn

from diffsda.blocks import save_module
from diffsda.data import Scale, Sequences, rotor, toy_splits
from diffsda.encoder import RECIPES, Factors, SequenceEncoder
from diffsda.frames import MLPDecoder, MLPEncoder
from diffsda.loss import edm_loss, log_normal_sigma
from diffsda.model import DiffSDA, at_once, denoising_loss, evaluating, in_batches
from diffsda.sampling import karras_sigmas, sample_dpmpp_2m, sample_euler

ORDER = RECIPES["static first"]
OPTIONS = [{}, {"causal": True}, {"shared": False}, {"d_noise": 0.5}, {"mask_channel": True}, ORDER]


def small(frame=FRAME, **options):
    return DiffSDA.mlp(
        frame, 4, 2, hidden=8, enc_width=16, dec_width=16, embedding=16, **options
    ).eval()


def loss_with(seed, model, batch, **options):
    torch.manual_seed(seed)
    return denoising_loss(model, batch, **options)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def trained():
    """A model after a few seconds of learning, enough for its swaps to mean something; and its loss before."""
    torch.manual_seed(0)
    train, val, test = toy_splits("bump", (1000, 100, 100))
    model = DiffSDA.mlp(train.frame, 16, 2, hidden=32, enc_width=64, dec_width=64, embedding=32)
    before = mean_loss(model, val)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(150):
        loss = denoising_loss(model, train[torch.randint(len(train), (32,))]).mean
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), val, test, before


def mean_loss(model, data):
    with torch.no_grad():
        return loss_with(0, model.eval(), data, draws=4).mean.item()


# It learns


def test_learning_halves_the_loss(trained):
    model, val, _, before = trained
    assert mean_loss(model, val) < 0.5 * before


def test_a_swap_carries_the_static_label(trained):
    """The echo's sign follows the donor of s, read off the frames by a regression that knows no model."""
    model, _, test, _ = trained
    swapped = model.swap(test, test[torch.randperm(len(test))], "random", steps=12)
    light, echo = (test.scale.undo(swapped.x)).unbind(2)
    sign = (echo * light).sum((1, 2)) / (light**2).sum((1, 2))
    right = sign.round().clamp(-1, 1).long() + 1 == swapped.static["sign"]
    assert right.float().mean() > 0.8  # chance is a third


def test_factors_of_the_sequence_denoise_better_than_those_of_another(trained):
    model, val, _, _ = trained
    own = model.encode(val)
    other = own.map(lambda code: code.roll(1, 0))
    sigma, noise = torch.full(val.x.shape[:2], 1.0), torch.randn_like(val.x)
    with torch.no_grad():
        errors = [
            edm_loss(model.denoiser(f), val.x, sigma, noise).mean.item() for f in (own, other)
        ]
    assert errors[0] < 0.5 * errors[1]


def test_noise_inverted_with_the_own_factors_gives_x_back(trained):
    """Whatever the factors say: mean squared error below a thousandth of the data's variance, and falling with N."""
    model, val, _, _ = trained
    errors = [
        (model.reconstruct(val[:20], "inverted", steps).x - val.x[:20]).square().mean().item()
        for steps in (16, 48)
    ]
    assert errors[1] < 1e-3 * val.x.var() and errors[1] < errors[0]
    random = (model.reconstruct(val[:20], "random").x - val.x[:20]).square().mean().item()
    assert random > 10 * errors[1]


# Swapping


@pytest.mark.parametrize("options", OPTIONS)
def test_a_sequence_swapped_with_itself_is_its_reconstruction_bit_for_bit(options):
    model, data = small(**options), ragged()
    x_T = torch.randn_like(data.x)
    for noise in (x_T, "inverted"):
        swap = model.swap(data, data, "dynamic" if isinstance(noise, str) else noise, steps=4)
        assert torch.equal(model.reconstruct(data, noise, steps=4).x, swap.x)
    factors = model.encode(data)
    exists = data.frame_mask[..., None, None]
    by_hand = [model.decode(factors, n, steps=4) for n in (x_T, model.invert(data, steps=4))]
    for x, noise in zip(by_hand, (x_T, "dynamic")):
        assert torch.equal(model.swap(data, data, noise, steps=4).x, torch.where(exists, x, 0.0))


def test_a_swap_takes_s_from_one_and_d_from_the_other():
    model, a, b = small(), sequences(V=4), sequences(V=5)
    x_T = torch.randn_like(b.x)
    expected = model.decode(Factors(model.encode(a).s, model.encode(b).d), x_T, steps=4)
    assert torch.equal(model.swap(a, b, x_T, steps=4).x, expected)


def test_a_swap_carries_the_labels_it_ought_to_have():
    scale = Scale(torch.zeros(4), torch.ones(4))
    a, b = (scale.apply(rotor(6, seed=seed, V=5)) for seed in (0, 1))
    b = Sequences(b.x, [5, 4, 3, 2, 1, 5], None, b.static, b.dynamic, b.classes, b.scale)
    swap = small((4,)).swap(a, b, "random", steps=2)
    assert swap.static.keys() == {"pattern", "offset"}
    assert swap.dynamic.keys() == {"omega", "angle"}
    assert all(torch.equal(swap.static[k], a.static[k]) for k in swap.static)
    assert all(torch.equal(swap.dynamic[k], b.dynamic[k]) for k in swap.dynamic)
    assert torch.equal(swap.lengths, b.lengths) and swap.scale is scale
    assert (swap.x[~swap.frame_mask] == 0).all() and swap.classes == a.classes


def test_whose_noise():
    model, a, b = small(), sequences(), sequences()
    swap = lambda x_T: model.swap(a, b, x_T, steps=4).x
    assert torch.equal(swap("dynamic"), swap(model.invert(b, steps=4)))
    assert torch.equal(swap("static"), swap(model.invert(a, steps=4)))
    assert torch.equal(model.swap(a, b, steps=4).x, swap("dynamic"))  # the default: the paper's
    torch.manual_seed(3)
    drawn = swap("random")
    torch.manual_seed(3)
    assert torch.equal(swap(torch.randn_like(b.x)), drawn)
    assert not torch.allclose(swap("random"), drawn, atol=1e-2)
    assert not torch.allclose(swap("static"), swap("dynamic"), atol=1e-3)


def test_reconstruction_is_inverted_by_default_and_random_on_demand():
    model, a = small(), sequences()
    assert torch.equal(model.reconstruct(a, steps=4).x, model.reconstruct(a, "inverted", 4).x)
    assert torch.equal(
        model.reconstruct(a, steps=4).x, model.decode(model.encode(a), model.invert(a, steps=4), 4)
    )
    torch.manual_seed(1)
    drawn = model.reconstruct(a, "random", 4).x
    torch.manual_seed(1)
    assert torch.equal(drawn, model.decode(model.encode(a), None, 4))
    assert not torch.allclose(model.reconstruct(a, "random", 4).x, drawn, atol=1e-2)


# Frames are independent, given (s, d)


def test_permuting_frames_of_codes_and_noise_permutes_the_output():
    model, order = small(), torch.randperm(6)
    f, x_T = Factors(torch.randn(3, 4), torch.randn(3, 6, 2)), torch.randn(3, 6, *FRAME)
    x = model.decode(f, x_T, steps=6)
    assert close(model.decode(Factors(f.s, f.d[:, order]), x_T[:, order], steps=6), x[:, order])


@pytest.mark.parametrize("change", ["d", "x_T", "s"])
def test_what_answers_when_a_code_is_changed(change):
    model = small()
    parts = {"s": torch.randn(3, 4), "d": torch.randn(3, 6, 2), "x_T": torch.randn(3, 6, *FRAME)}
    decode = lambda s, d, x_T: model.decode(Factors(s, d), x_T, steps=6)
    base, parts[change] = decode(**parts), parts[change].clone()
    if change == "s":
        parts["s"][1] += 1  # of one sequence: all its frames, and no others
        expected = [[1, v] for v in range(6)]
    else:
        parts[change][1, 4] += 1
        expected = [[1, 4]]
    moved = (decode(**parts) - base).flatten(2).abs().amax(-1)
    assert (moved > 1e-4).nonzero().tolist() == expected and moved[0].max() == 0


def test_decoding_takes_any_solver():
    model, f = small(), Factors(torch.randn(2, 4), torch.randn(2, 5, 2))
    x_T = torch.randn(2, 5, *FRAME)
    for solver in (sample_euler, sample_dpmpp_2m):
        with torch.no_grad():
            sigmas = karras_sigmas(6)
            expected = solver(model.denoiser(f), x_T * sigmas[0].float(), sigmas)
        assert close(model.decode(f, x_T, steps=6, solver=solver), expected)


# The denoiser


def test_sigma_may_be_one_number_or_one_for_each_frame():
    model, x = small(), torch.randn(3, 3, *FRAME)
    denoise = model.denoiser(Factors(torch.randn(3, 4), torch.randn(3, 3, 2)))
    assert close(denoise(x, 0.7), denoise(x, torch.full((3, 3), 0.7)))
    by_sequence = torch.tensor([0.1, 1.0, 10.0])
    assert close(denoise(x, by_sequence), denoise(x, by_sequence[:, None].expand(3, 3)))


def test_a_nearly_clean_frame_is_left_alone_and_noise_is_forgotten():
    model, x = small(), torch.randn(2, 4, *FRAME)
    denoise = model.denoiser(Factors(torch.randn(2, 4), torch.randn(2, 4, 2)))
    assert close(denoise(x, 1e-5), x, atol=1e-3)
    assert denoise(1e4 * x, 1e4).abs().max() < 20


def test_the_condition_is_computed_once_for_a_whole_decoding():
    model, calls = small(), []
    model.decoder.embed_z.register_forward_hook(lambda *_: calls.append(1))
    model.decode(Factors(torch.randn(2, 4), torch.randn(2, 5, 2)), steps=8)
    assert len(calls) == 1


def test_decoding_with_n_levels_costs_2n_minus_1_calls_and_so_does_inverting():
    model, data, calls = small(), sequences(), []
    factors = model.encode(data)
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    model.decode(factors, steps=7)
    assert len(calls) == 13
    model.invert(data, factors, steps=7)
    assert len(calls) == 26


def test_frames_that_the_donor_of_noise_lacks_start_from_fresh_noise(monkeypatch):
    model, seen = small(), []
    brief, whole = sequences(2, 6, lengths=torch.tensor([2, 6])), sequences(2, 6)
    decode = DiffSDA.decode
    monkeypatch.setattr(
        DiffSDA,
        "decode",
        lambda self, f, x_T, *rest: seen.append(x_T) or decode(self, f, x_T, *rest),
    )
    model.swap(brief, whole, x_T="static", steps=2)
    own = model.invert(brief, steps=2)
    assert close(seen[0][0, :2], own[0, :2]) and close(seen[0][1], own[1])
    assert seen[0][0, 2:].abs().min() > 0


@pytest.mark.parametrize("V", [3, 8])
def test_the_donor_of_s_and_of_noise_may_be_shorter_or_longer_than_that_of_d(V):
    model = small()
    made = model.swap(sequences(2, V), sequences(2, 6), x_T="static", steps=2)
    assert made.x.shape == (2, 6, *FRAME) and made.x.isfinite().all()


def test_noise_is_inverted_with_the_factors_of_the_data():
    model, data = small(), sequences(3)
    factors = model.encode(data)
    for wrong in (
        factors.map(lambda y: y[:1]),
        factors.map(lambda y: y.repeat(2, *[1] * (y.ndim - 1))),
    ):
        with pytest.raises(ValueError, match="factors must be those of the data, 3 sequences"):
            model.invert(data, wrong, steps=2)


def test_a_double_model_draws_double_noise():
    model = small().double()
    assert (
        model.decode(model.encode(Sequences(sequences().x.double())), steps=2).dtype
        == torch.float64
    )


def test_a_decoder_of_other_factors_is_refused():
    encoder = SequenceEncoder(MLPEncoder(FRAME, 8), 4, 2, 8, **RECIPES["static first"])
    with pytest.raises(ValueError, match="from 6 numbers, .* tells 7; give the decoder z_dim"):
        DiffSDA(encoder, MLPDecoder(FRAME, 6, 8))
    DiffSDA(encoder, MLPDecoder(FRAME, encoder.z_dim, 8))


def test_a_network_reads_as_many_sequences_at_once_as_memory_bears():
    assert at_once(24, (16,)) == at_once(2, (3, 8, 8)) == 256  # vectors, and small images
    assert at_once(15, (3, 64, 64)) == 8 and at_once(10**6, (3, 64, 64)) == 1
    options = {"multipliers": (1,), "blocks": 1, "attention": (), "groups": 2, "embedding": 16}
    model, calls = DiffSDA.unet((3, 8, 8), 4, 2, 8, 8, 8, **options), []
    model.encoder.register_forward_hook(lambda *told: calls.append(len(told[1][0])))
    clips = sequences(5, 2, (3, 8, 8))
    whole = model.encode(clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffsda.model.at_once", lambda V, frame: 2)
        assert close(model.encode(clips).d, whole.d)
    assert calls == [5, 2, 2, 1]


# Batches


def test_in_batches_is_at_once():
    model, data = small(), ragged(B=7)
    operation = lambda batch: model.encoder(batch.x, batch.lengths, batch.mask)
    with evaluating(model):
        whole, cut = (in_batches(operation, data, size=n) for n in (9, 3))
        assert close(whole.s, cut.s) and close(whole.d, cut.d)
        whole = in_batches(lambda f, x: Sequences(f.d + x), whole, torch.ones(7, 5, 2), size=9)
        assert close(whole.x, cut.d + 1)


def test_more_sequences_than_fit_a_batch():
    model = small((1,))
    data = sequences(300, 2, (1,))
    f, x_T = model.encode(data), torch.randn_like(data.x)
    assert len(f.s) == len(f.d) == 300
    last = data[290:]
    assert close(model.encode(last).s, f.s[290:])
    decoded = model.decode(f, x_T, steps=3)
    tail = Factors(f.s[290:], f.d[290:])
    assert close(model.decode(tail, x_T[290:], steps=3), decoded[290:])
    inverted = model.invert(data, steps=3)
    assert close(model.invert(last, steps=3), inverted[290:], atol=1e-4)


def test_sequences_that_are_made_when_asked_for_have_the_same_codes(monkeypatch):
    model, data, asked = small(), ragged(B=5), []

    class Lazy:
        def __len__(self):
            return len(data)

        def __getitem__(self, rows):
            asked.append(len(data[rows]))
            return data[rows]

    monkeypatch.setattr("diffsda.model.at_once", lambda V, frame: 2)
    for lazy, whole in zip(model.encode(Lazy()), model.encode(data)):
        assert torch.equal(lazy, whole)
    assert asked == [1, 2, 2, 1]  # one to see what a frame is; never all at once


def test_a_sequence_does_not_depend_on_its_neighbours():
    model, data = small(), ragged(B=4)
    x_T = torch.randn_like(data.x)
    together = model.reconstruct(data, x_T, steps=4)
    for i in range(4):
        alone = model.reconstruct(data[[i]], x_T[[i]], steps=4)
        assert close(alone.x[0], together.x[i])


@pytest.mark.parametrize("training", [True, False])
def test_use_leaves_the_mode_and_the_gradients_alone(training):
    model, data = small().train(training), sequences()
    f = model.encode(data)
    x = model.swap(data, data, "dynamic", steps=2).x
    assert not (f.s.requires_grad or f.d.requires_grad or x.requires_grad)
    assert torch.equal(f.s, model.encode(data).s)  # no dropout, in either mode
    assert model.training is training and model.encoder.frames.training is training
    with pytest.raises(ValueError):
        model.swap(data, data, "nobody")
    assert model.training is training
    model.decoder.train(not training)  # as who trains the rest alone would have it
    model.encode(data)
    assert model.encoder.training is training and model.decoder.training is not training


# What nobody observed


@pytest.mark.parametrize("options", OPTIONS)
def test_values_nobody_observed_change_neither_loss_nor_gradient(options):
    model, data, results = small(**options).train(), ragged(), []
    hidden = ~data.mask
    for junk in (0.0, 1e3, math.nan):
        x = torch.where(hidden, junk, data.x)
        batch = Sequences(x, lengths=data.lengths, observed=data.observed)
        total, count = loss_with(1, model.zero_grad() or model, batch)
        total.backward()
        results.append((total.item(), count.item(), gradient(model)))
    assert results[0][1] == data.mask.sum()
    for total, count, grad in results[1:]:
        assert (total, count) == results[0][:2] and torch.equal(grad, results[0][2])
    assert results[0][2].isfinite().all()


def test_gradient_with_respect_to_values_nobody_observed_is_zero():
    data = ragged()
    x = data.x.clone().requires_grad_()
    batch = Sequences(x, lengths=data.lengths, observed=data.observed)
    denoising_loss(small(), batch).total.backward()
    assert (x.grad[~data.mask] == 0).all() and (x.grad[data.mask] != 0).any()


def test_loss_of_parts_adds_up_to_that_of_the_whole():
    """Sums and counts do, means would not: parts hold different numbers of observed values."""
    model, data = small(), ragged(B=6)
    sigma, noise = log_normal_sigma((6, 5)), torch.randn_like(data.x)

    def loss(rows):
        batch = data[rows]
        f = model.encoder(batch.x, batch.lengths, batch.mask)
        return edm_loss(model.denoiser(f), batch.x, sigma[rows], noise[rows], batch.mask)

    with torch.no_grad():
        whole, parts = loss(slice(0, 6)), [loss(slice(0, 1)), loss(slice(1, 3)), loss(slice(3, 6))]
    assert len({p.count.item() for p in parts}) > 1
    assert sum(p.count for p in parts) == whole.count
    assert math.isclose(sum(p.total for p in parts), whole.total, rel_tol=1e-5)


def test_holes_are_inverted_as_what_the_factors_say_of_them(trained):
    """Zeros, the columns' mean, would come back as if they had been measured; what was observed does come back."""
    model, val, _, _ = trained
    factors, observed = model.encode(val), torch.rand(val.x.shape) < 0.7
    holey = Sequences(val.x, observed=observed)
    again = model.decode(factors, model.invert(holey, factors))
    error = (again - val.x).square()
    assert error[observed].mean() < 1e-3 * val.x.var()
    assert error[~observed].mean() < 0.5 * val.x[~observed].square().mean()
    assert torch.equal(
        model.invert(holey, factors), model.invert(holey, factors)
    )  # no chance in it


# The loss


def test_loss_of_a_network_that_says_nothing_is_1():
    """Ties preconditioning, weight and the scale of the data together, whatever the noise levels."""
    train, _, _ = toy_splits("rotor", (400, 10, 10))
    model = small(train.frame)
    nn.init.zeros_(model.decoder.last.weight), nn.init.zeros_(model.decoder.last.bias)
    for P_mean in (-2.0, 0.0, 2.0):
        assert abs(loss_with(0, model, train, P_mean=P_mean, draws=2).mean - 1) < 0.05


def test_many_draws_from_one_encoding_are_a_repeated_batch_in_expectation():
    """The mean over many draws agrees within a few standard errors, for the loss and for a direction of its gradient."""
    model, data = small(), sequences(8)
    again = data[[i % 8 for i in range(32)]]
    direction = torch.randn(sum(p.numel() for p in model.parameters()))

    def sample(batch, draws, n=40):
        values = []
        for _ in range(n):
            model.zero_grad()
            loss = denoising_loss(model, batch, draws=draws).mean
            loss.backward()
            values.append([loss.item(), (gradient(model) @ direction).item()])
        values = torch.tensor(values)
        return values.mean(0), values.std(0) / n**0.5

    (one, error), (other, other_error) = sample(data, 4), sample(again, 1)
    assert ((one - other).abs() < 4 * (error**2 + other_error**2).sqrt()).all()
    assert (error / other_error - 1).abs().max() < 0.6  # and the same spread: draws are independent


def test_draws_are_encoded_once_and_counted_each():
    model, data, rows = small(), ragged(), []
    model.encoder.register_forward_hook(lambda m, inputs, out: rows.append(len(inputs[0])))
    assert denoising_loss(model, data, draws=3).count == 3 * data.mask.sum()
    assert rows == [len(data)]


def test_every_draw_and_frame_has_a_level_and_noise_of_its_own():
    model, data, seen = small(), sequences(), []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[:2]))
    denoising_loss(model, data, draws=4)
    noisy, c_noise = seen
    assert c_noise.shape == (4, 3, 5) and len(c_noise.unique()) == 60
    assert noisy.shape == (4, *data.x.shape) and len(noisy.unique()) == noisy.numel()


def test_all_parameters_learn():
    model = small().train()
    denoising_loss(model, sequences()).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_bf16_autocast_keeps_loss_and_gradient_close():
    model, data, results = small(), sequences(8), []
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_with(2, model, data, draws=4)
        assert loss.total.dtype == torch.float32
        loss.mean.backward()
        results.append((loss.mean.item(), gradient(model)))
    (exact, exact_grad), (rough, rough_grad) = results
    assert rough != exact and math.isclose(rough, exact, rel_tol=0.02)
    assert nn.functional.cosine_similarity(rough_grad, exact_grad, dim=0) > 0.98


def test_double_precision_from_end_to_end():
    model, data = small().double(), sequences()
    data = Sequences(data.x.double())
    x = model.reconstruct(data, "inverted", steps=64).x
    assert x.dtype == torch.float64
    assert math.isfinite(denoising_loss(model, data).mean.item())


# Keeping


@pytest.mark.parametrize("options", OPTIONS)
def test_a_saved_model_does_the_same(tmp_path, options):
    model, data = small(**options), ragged()
    model.save(tmp_path)
    again = DiffSDA.load(tmp_path)
    assert again.recipe() == model.recipe() and not again.training
    x_T = torch.randn_like(data.x)
    assert torch.equal(again.swap(data, data, x_T, 3).x, model.swap(data, data, x_T, 3).x)


def test_loading_draws_none_of_the_callers_random_numbers(tmp_path):
    small().save(tmp_path)
    before = torch.random.get_rng_state()
    DiffSDA.load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_folder_with_another_module_is_no_model(tmp_path):
    save_module(small().decoder, tmp_path)
    with pytest.raises(ValueError, match="holds a MLPDecoder, expected a DiffSDA"):
        DiffSDA.load(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        DiffSDA.load(tmp_path / "nowhere")


# Wrong calls

MODEL = small()
DATA = sequences(3)
FACTORS = Factors(torch.zeros(3, 4), torch.zeros(3, 5, 2))


@pytest.mark.parametrize(
    "attempt, texts",
    [
        (lambda: MODEL.swap(DATA, DATA[:2]), ["pair up", "3", "2"]),
        (lambda: MODEL.swap(DATA, DATA, "donor"), ["x_T", "'donor'", "'static'"]),
        (lambda: MODEL.swap(DATA, DATA, "inverted"), ["x_T", "'inverted'"]),
        (lambda: MODEL.reconstruct(DATA, "static"), ["x_T", "'static'", "'random'"]),
        (lambda: MODEL.reconstruct(DATA, DATA.x[:2]), ["x_T", "(3, 5, 2, 3)", "(2, 5, 2, 3)"]),
        (lambda: MODEL.swap(DATA, DATA, DATA.x[0]), ["x_T", "(5, 2, 3)"]),
        (lambda: MODEL.decode(FACTORS, 3.0), ["x_T", "3.0"]),
        (lambda: MODEL.decode(FACTORS, DATA.x.double()), ["x_T", "float64"]),
        (lambda: MODEL.decode(FACTORS, DATA.x.half()), ["x_T", "float16"]),
        (lambda: MODEL.decode(Factors(FACTORS.s[:2], FACTORS.d)), ["pair up", "2", "3"]),
        (lambda: MODEL.decode(Factors(DATA.x[:, :4, 0], FACTORS.d)), ["(3, 4, 3)", "(3, 5, 2)"]),
        (
            lambda: MODEL.decode(Factors(torch.zeros(3, 3), DATA.x[:, :, 0])),
            ["4", "2", "got 3 and 3"],
        ),
        (lambda: MODEL.encode(DATA[DATA.lengths == 9]), ["no sequence", "selection"]),
        (lambda: MODEL.decode(FACTORS, steps=1), ["n must be at least 2", "1"]),
        (lambda: MODEL.encode(Sequences(DATA.x.double())), ["float64", "float32"]),
        (lambda: MODEL.encode(sequences(frame=(3, 2))), ["(2, 3)", "(3, 5, 3, 2)"]),
        (lambda: denoising_loss(MODEL, DATA, draws=0), ["draws", "0"]),
        (lambda: denoising_loss(MODEL, DATA, P_std=-1.0), ["P_std", "-1"]),
        (lambda: small(d_noise=-1), ["d_noise", "-1"]),
    ],
)
def test_wrong_calls_are_refused(attempt, texts):
    with pytest.raises(ValueError) as error:
        attempt()
    assert all(text in str(error.value) for text in texts), error.value


# Without d, and with more of it than asked


def test_guidance_mixes_the_estimates_with_and_without_d():
    torch.manual_seed(0)
    model, data = small(**ORDER), sequences()
    nn.init.normal_(model.decoder.last.weight)
    codes, x = model.encode(data), torch.randn_like(data.x)
    with torch.no_grad():
        both, alone = (model.denoiser(f)(x, 3.0) for f in (codes, codes.static_only()))
        assert not close(both, alone)
        for w in (0.0, 0.5, 1.0, 2.0):
            assert close(model.denoiser(codes, w)(x, 3.0), alone + w * (both - alone), atol=1e-4)


def test_guidance_of_one_asks_the_decoder_once():
    model, data, calls = small(**ORDER), sequences(), []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    codes = model.encode(data)
    for w, expected in ((1.0, 7), (2.0, 14)):
        calls.clear()
        model.decode(codes, None, steps=4, lowest=2.0, guidance=w)
        assert len(calls) == expected


@pytest.mark.parametrize("guidance", [-1.0, math.nan, math.inf])
def test_guidance_that_is_no_weight_is_refused(guidance):
    model = small(**ORDER)
    with pytest.raises(ValueError, match="guidance"):
        model.decode(model.encode(sequences()), guidance=guidance)


def test_guidance_needs_a_model_that_went_without_d():
    model = small()
    with pytest.raises(ValueError, match="trained with d withheld"):
        model.decode(model.encode(sequences()), guidance=2.0)
    model.decode(model.encode(sequences()), steps=2, guidance=1.0)


def test_a_schedule_that_ends_early_is_the_solver_on_those_levels():
    model, data = small(), sequences()
    codes, x_T = model.encode(data), torch.randn_like(data.x)
    sigmas = karras_sigmas(4, 2.0).float()
    with torch.no_grad():
        expected = sample_euler(model.denoiser(codes), sigmas[0] * x_T, sigmas)
    assert close(model.decode(codes, x_T, 4, 2.0, solver=sample_euler), expected)
    assert not close(model.decode(codes, x_T, 4, solver=sample_euler), expected)


def test_a_checkpoint_of_before_the_recipes_still_loads(tmp_path):
    model = small(d_noise=0.5)
    model.save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    for name in ("static_first", "withhold"):
        del facts["model"]["encoder"][name]
    del facts["checksum"]  # nor had they one
    (tmp_path / "model.json").write_text(json.dumps(facts))
    again, data = DiffSDA.load(tmp_path), sequences()
    assert close(again.encode(data).d, model.encode(data).d)
