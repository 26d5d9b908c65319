"""The prior: DDIM against exact mathematics and reference arrays; what networks may see; and that it learns what belongs together."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda.encoder import Factors
from diffsda.model import DiffSDA
from diffsda.prior import (
    Codes,
    MLPNetwork,
    Prior,
    SequenceNetwork,
    SplitNetwork,
    cumulate,
    ddim,
    ddim_invert,
    linear_betas,
    pack,
    prior_loss,
    shifted_by_one,
    unpack,
)
from diffsda.training import TrainConfig, train

CONFORMANCE = Path(__file__).parent / "conformance"
USUAL = cumulate(linear_betas())
S, D, V = 3, 2, 5

sequence = partial(SequenceNetwork, S, D, width=8, layers=2, heads=2)
mlp = partial(MLPNetwork, S, D, V)
split = lambda: SplitNetwork(MLPNetwork(S), SequenceNetwork(0, D, width=8, layers=1, heads=2))
split_mlp = lambda: SplitNetwork(MLPNetwork(S), MLPNetwork(0, D, V))
every_network = pytest.mark.parametrize("make", [sequence, mlp, split, split_mlp])
quick = settings(deadline=None, max_examples=40)
generator = lambda seed=0: torch.Generator().manual_seed(seed)


def factors(B=6, frames=V):
    return Factors(torch.randn(B, S), torch.randn(B, frames, D))


def ragged(B=6, spread=1.0):
    z = factors(B).map(lambda code: 4 + spread * code)
    return Codes(z, torch.arange(B) % V + 1)


def fitted(network, codes=None, **options):
    return Prior(network, **options).fit_scale(ragged(60) if codes is None else codes)


# The schedule


@quick
@given(
    st.integers(1, 300),
    st.lists(st.floats(1e-5, 0.5), min_size=2, max_size=2).map(sorted),
)
def test_schedule_falls_from_near_one(levels, ends):
    betas = linear_betas(levels, *ends)
    bar = cumulate(betas)
    assert bar.dtype == torch.float64 and bar.shape == (levels,)
    assert betas[0] == ends[0] and (betas.diff() >= 0).all()
    assert torch.isclose(bar[0], 1 - betas[0]) and (bar.diff() < 0).all() and bar[-1] > 0


def test_default_schedule_ends_in_noise_and_the_papers_does_not():
    assert USUAL[-1].sqrt() < 0.01
    assert 0.08 < cumulate(linear_betas(1000, 1e-5, 1e-2))[-1].sqrt() < 0.082
    assert torch.isclose(
        cumulate(linear_betas(50, 8e-3, 8e-3))[-1], torch.tensor(0.992).double() ** 50
    )


# DDIM


@pytest.fixture(scope="module")
def arrays():
    return {k: torch.from_numpy(v) for k, v in np.load(CONFORMANCE / "ddim.npz").items()}


def exact_noise(bar, mean, variance):
    def predict(z, k):
        a = float(bar[k])
        return math.sqrt(1 - a) * (z - math.sqrt(a) * mean) / (a * variance + 1 - a)

    return predict


def reference_run(arrays, run, start, dtype, **options):
    """Every 50th state of 1000 steps with the exact noise prediction."""
    mean, variance = arrays["data_mean"].to(dtype), arrays["data_variance"].to(dtype)
    states = []
    keep = lambda i, z: states.append(z) if i % 50 == 0 else None
    predict = exact_noise(arrays["alpha_bar"], mean, variance)
    end = run(predict, arrays[start].to(dtype), steps=1000, callback=keep, **options)
    assert end.dtype == dtype and torch.equal(states[-1], end)
    return torch.stack(states).double()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 5e-5)])
@pytest.mark.parametrize("name", ["correct", "published_offbyone"])
@pytest.mark.parametrize("eta", [0.0, 0.01])
def test_ddim_agrees_with_the_reference(arrays, name, eta, dtype, tolerance):
    bar = arrays["alpha_bar"]
    bar = shifted_by_one(bar) if name == "published_offbyone" else bar
    given_noise = iter(arrays["noise"].flip(0).to(dtype))
    options = {"alpha_bar": bar, "eta": eta, "noise": lambda z: next(given_noise)}
    states = reference_run(arrays, ddim, "start_noise", dtype, **options)
    wanted = arrays[f"ddim_{name}_eta{'001' if eta else '0'}_states"]
    assert (states - wanted).abs().max() < tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 5e-5)])
def test_inversion_agrees_with_the_reference(arrays, dtype, tolerance):
    states = reference_run(arrays, ddim_invert, "start_data", dtype, alpha_bar=arrays["alpha_bar"])
    assert (states - arrays["reverse_correct_states"]).abs().max() < tolerance


def test_alpha_bar_agrees_with_the_reference(arrays):
    assert (cumulate(linear_betas(1000, 1e-5, 1e-2)) - arrays["alpha_bar"]).abs().max() < 1e-12


@quick
@given(st.integers(1, 1000), st.integers(0, 5))
def test_exact_noise_gives_the_exact_data_in_any_number_of_steps(steps, seed):
    z_0, noise = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator(seed))
    z_n = USUAL[-1].sqrt() * z_0 + (1 - USUAL[-1]).sqrt() * noise
    calls = []
    predict = lambda z, k: (calls.append(k), noise)[1]
    assert torch.allclose(ddim(predict, z_n, USUAL, steps), z_0, atol=1e-9)
    assert len(calls) == steps and calls == sorted(set(calls), reverse=True) and calls[0] == 999
    up = ddim_invert(lambda z, k: noise, z_0, USUAL, steps)
    assert torch.allclose(up, z_n, atol=1e-9)


@pytest.mark.parametrize("run", ["down", "up"])
def test_error_is_of_first_order(run):
    mean, variance, a = 1.5, 0.3, USUAL[-1]
    predict = exact_noise(USUAL, mean, variance)
    z = torch.randn(100, dtype=torch.float64)
    slope = (variance / (a * variance + 1 - a)).sqrt()
    down = mean + (z - a.sqrt() * mean) * slope
    up = a.sqrt() * mean + (z - mean) / slope
    method, want = (ddim, down) if run == "down" else (ddim_invert, up)
    errors = [(method(predict, z, USUAL, n) - want).square().mean().sqrt() for n in (50, 100, 200)]
    assert errors[1] < 0.15 * want.std()
    for coarse, fine in zip(errors, errors[1:]):
        assert 0.75 < math.log2(coarse / fine) < 1.25


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ancestral_sampling_has_the_right_spread(eta):
    predict = exact_noise(USUAL, 1.5, 0.3)
    z = ddim(predict, torch.randn(20_000, dtype=torch.float64), USUAL, 200, eta=eta)
    assert abs(z.mean() - 1.5) < 0.03 and abs(z.std() / math.sqrt(0.3) - 1) < 0.04


def test_noise_is_drawn_only_if_asked_for():
    draws = []
    noise = lambda z: (draws.append(1), torch.zeros_like(z))[1]
    predict = lambda z, k: 0.1 * z
    ddim(predict, torch.randn(3), USUAL, 10, noise=noise)
    assert not draws
    ddim(predict, torch.randn(3), USUAL, 10, eta=0.3, noise=noise)
    assert len(draws) == 9  # the last step ends in clean data


# Codes


@quick
@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.integers(1, 5))
def test_pack_and_unpack_are_inverse(B, s_dim, d_dim, frames):
    z = Factors(torch.randn(B, s_dim), torch.randn(B, frames, d_dim))
    packed = pack(z)
    assert packed.shape == (B, s_dim + frames * d_dim)
    assert torch.equal(packed[:, :s_dim], z.s)  # static first
    again = unpack(packed, s_dim, frames)
    assert torch.equal(again.s, z.s) and torch.equal(again.d, z.d)


def test_codes_forget_what_stands_beyond_a_length():
    z = factors(3)
    z.d[1, 2:] = math.nan
    codes = Codes(z, torch.tensor([5, 2, 4]))
    assert not codes.factors.d[1, 2:].any() and codes.exists.sum(1).tolist() == [5, 2, 4]
    rows = codes[torch.tensor([2, 1])].to("cpu")
    assert len(rows) == 2 and rows.lengths.tolist() == [4, 2]
    assert torch.equal(rows.factors.s, z.s[[2, 1]])


# Networks


@every_network
def test_shapes(make):
    network = make().eval()
    z, k = factors(), torch.arange(6) * 100
    out = network(z, k, torch.ones(6, V, dtype=torch.bool))
    assert out.s.shape == z.s.shape and out.d.shape == z.d.shape


def noise_gradients(network, output, wrt):
    """Whether one part of the predicted noise listens to a part of the noisy factors."""
    prior = fitted(network).eval()
    z = factors().map(lambda code: code.requires_grad_())
    exists = torch.ones(6, V, dtype=torch.bool)
    predicted = unpack(prior.predict_noise(pack(z), torch.full((6,), 500), exists), S, V)
    (grad,) = torch.autograd.grad(
        getattr(predicted, output).square().sum(), getattr(z, wrt), allow_unused=True
    )
    return grad is not None and bool(grad.any())


@every_network
def test_split_networks_do_not_listen_to_each_other(make):
    joint = make in (sequence, mlp)
    assert noise_gradients(make(), "s", "d") == joint
    assert noise_gradients(make(), "d", "s") == joint
    assert noise_gradients(make(), "s", "s") and noise_gradients(make(), "d", "d")


@every_network
def test_level_is_heard(make):
    network, z = make().eval(), factors(2)
    z = z.map(lambda code: code[:1].expand_as(code))
    out = network(z, torch.tensor([10, 900]), torch.ones(2, V, dtype=torch.bool))
    assert not torch.allclose(out.s[0], out.s[1]) and not torch.allclose(out.d[0], out.d[1])


@every_network
def test_order_of_frames_is_seen(make):
    network, z = make().eval(), factors()
    k, exists, order = torch.full((6,), 300), torch.ones(6, V).bool(), [1, 0, 4, 3, 2]
    there = network(Factors(z.s, z.d[:, order]), k, exists)
    assert not torch.allclose(there.d, network(z, k, exists).d[:, order], atol=1e-4)


@every_network
def test_shorter_sequences_need_no_padding(make):
    """Three frames alone, and the same three with two more that do not exist, get the same prediction."""
    prior = fitted(make()).eval()
    z, k = factors(), torch.arange(6) * 150
    exists = (torch.arange(V) < 3).expand(6, V)
    padded = unpack(prior.predict_noise(pack(z), k, exists), S, V)
    alone = unpack(prior.predict_noise(pack(Factors(z.s, z.d[:, :3])), k, exists[:, :3]), S, 3)
    assert torch.allclose(padded.s, alone.s, atol=1e-5)
    assert torch.allclose(padded.d[:, :3], alone.d, atol=1e-5)


def test_sequences_in_a_batch_do_not_meet():
    prior = fitted(sequence()).eval()
    z, k, exists = pack(factors()), torch.arange(6) * 150, ragged().exists
    together = prior.predict_noise(z, k, exists)
    alone = torch.cat(
        [prior.predict_noise(z[i : i + 1], k[i : i + 1], exists[i : i + 1]) for i in range(6)]
    )
    seen = pack(Factors(torch.ones(6, S), exists[..., None].expand(6, V, D))) > 0
    assert torch.allclose(together[seen], alone[seen], atol=1e-5)


def size(make, *sizes, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in make(*sizes, **options).parameters())


def test_size_of_the_sequence_network_does_not_know_V():
    network = sequence().eval()
    for frames in (1, 5, 40):
        out = network(factors(2, frames), torch.tensor([1, 2]), torch.ones(2, frames).bool())
        assert out.d.shape == (2, frames, D)
    assert size(SequenceNetwork, 256, 64) < 2e6


@pytest.mark.parametrize("s_dim, d_dim, frames", [(256, 64, 15), (16, 4, 672), (16, 2, 24)])
def test_size_of_the_papers_network(s_dim, d_dim, frames):
    n = s_dim + d_dim * frames
    linear = lambda a, b: a * b + b
    hidden = linear(n, 4 * n) + 8 * linear(5 * n, 4 * n) + linear(5 * n, n)
    level = linear(64, n) + linear(n, n) + 9 * linear(n, 4 * n)
    norms = 9 * 2 * 4 * n
    assert size(MLPNetwork, s_dim, d_dim, frames) == hidden + level + norms


# The scale


def test_standardised_codes_have_mean_0_and_std_1_over_frames_that_exist():
    codes = ragged(200, spread=30.0)
    prior = fitted(sequence(), codes)
    z = prior.scale.standardise(codes.factors)
    for code in (z.s, z.d[codes.exists]):
        assert torch.allclose(code.mean(0), torch.zeros(code.shape[1]), atol=1e-5)
        assert torch.allclose(code.std(0, correction=0), torch.ones(code.shape[1]), atol=1e-5)
    again = prior.scale.restore(z)
    assert torch.allclose(again.s, codes.factors.s, atol=1e-4)


def test_a_constant_dimension_is_drawn_as_the_constant():
    codes = ragged(50)
    codes.factors.s[:, 1], codes.factors.d[..., 0] = 7.0, torch.where(codes.exists, 1e-3, 0.0)
    z = fitted(sequence(), codes).sample(4, torch.tensor([1, 2, 3, 5]), steps=3)
    assert (z.s[:, 1] == 7).all() and z.s[:, 0].std() > 0.1
    assert z.d[..., 0].unique().tolist() == pytest.approx([0.0, 1e-3])
    assert prior_loss(fitted(sequence(), codes), codes).mean.isfinite()


def test_rounding_is_no_variation():
    codes = ragged(50)
    codes.factors.s[:, 1] = 7.0
    codes.factors.s[::2, 1] += 5e-7  # the next number in single precision
    prior = fitted(sequence(), codes)
    assert codes.factors.s[:, 1].unique().numel() == 2
    assert not prior.scale.standardise(codes.factors).s[:, 1].any()


def silent(network):
    """The network that always answers 0."""
    for p in network.parameters():
        p.data.zero_()
    return network


def test_a_network_that_knows_nothing_draws_codes_of_the_right_scale():
    """With the skip, answering 0 means: independent, Gaussian, with the mean and spread of the training codes."""
    codes = Codes(Factors(5 + 30 * torch.randn(500, S), torch.randn(500, V, D) - 2))
    prior = fitted(silent(sequence()), codes)
    z = prior.sample(2000, V)
    for made, real in ((z.s, codes.factors.s), (z.d.flatten(0, 1), codes.factors.d.flatten(0, 1))):
        ratio = made.std(0) / real.std(0)
        assert ((0.9 < ratio) & (ratio < 1.1)).all()
        assert ((made.mean(0) - real.mean(0)).abs() < 0.15 * real.std(0)).all()


def test_with_the_skip_no_answer_is_amplified():
    """The clean codes that a wrong answer means are off by at most its size, at every level."""
    prior = fitted(silent(sequence())).eval()
    exists, k = torch.ones(6, V, dtype=torch.bool), torch.tensor([0, 10, 100, 400, 800, 999])
    z = torch.randn(6, S + V * D)
    signal, noise = prior.signal[k, None], prior.noise[k, None]
    before = (z - noise * prior.predict_noise(z, k, exists)) / signal
    prior.network.write_s.bias.data += 1.0
    after = (z - noise * prior.predict_noise(z, k, exists)) / signal
    assert (after - before).abs().max() < 1.01
    plain = fitted(prior.network, skip=False).eval()
    assert (noise / signal * plain.predict_noise(z, k, exists)).abs().max() > 100


def test_without_the_skip_the_answer_is_the_noise():
    network = mlp().eval()
    prior, z, k = fitted(network, skip=False).eval(), factors(), torch.arange(6)
    exists = torch.ones(6, V, dtype=torch.bool)
    assert torch.equal(prior.predict_noise(pack(z), k, exists), pack(network(z, k, exists)))


# The loss


def test_loss_counts_codes_that_exist():
    codes = ragged()
    loss = prior_loss(fitted(sequence()), codes)
    assert loss.count == 6 * S + D * codes.lengths.sum()


def test_a_silent_network_without_skip_has_loss_one():
    """The noise has unit variance, and its absolute value the mean sqrt(2 / pi)."""
    codes = ragged(4000)
    prior = fitted(silent(sequence()), codes, skip=False)
    assert abs(prior_loss(prior, codes).mean - 1) < 0.03
    assert abs(prior_loss(prior, codes, penalty=torch.abs).mean - math.sqrt(2 / math.pi)) < 0.02


@every_network
def test_padding_has_no_influence(make):
    prior = fitted(make())

    def loss_and_gradient(batch):
        torch.manual_seed(1)
        prior.zero_grad()
        loss = prior_loss(prior, batch)
        loss.total.backward()
        return loss.total.item(), torch.cat([p.grad.flatten() for p in prior.parameters()])

    codes = ragged()
    total, gradient = loss_and_gradient(codes)
    codes.factors.d[~codes.exists] = 1e3  # behind the back of the checks
    other, same = loss_and_gradient(codes)
    assert total == other and torch.equal(gradient, same) and gradient.any()


# Learning


def belonging(n=1000):
    """d of all four frames follows s with correlation 0.8, none of it at unit scale."""
    s = torch.randn(n, 1)
    centre = 0.8 * s + 0.6 * torch.randn(n, 1)
    return Codes(
        Factors(5 + 3 * s, 0.1 * centre[:, None].expand(n, 4, 1) + 0.01 * torch.randn(n, 4, 1))
    )


def correlation(z):
    return torch.corrcoef(torch.stack([z.s[:, 0], z.d[..., 0].mean(1)]))[0, 1].item()


small_frames = lambda s_dim: SequenceNetwork(s_dim, 1, width=24, layers=1, heads=2)
LEARNERS = {
    "sequence": (lambda: small_frames(1), 0.8),
    "mlp": (lambda: MLPNetwork(1, 1, 4, width=48), 0.8),
    "split": (lambda: SplitNetwork(MLPNetwork(1, width=24), small_frames(0)), 0.0),
    "split mlp": (
        lambda: SplitNetwork(MLPNetwork(1, width=24), MLPNetwork(0, 1, 4, width=48)),
        0.0,
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_only_joint_priors_learn_what_belongs_together(name):
    make, wanted = LEARNERS[name]
    codes = belonging()
    prior = Prior(make()).fit_scale(codes)
    config = TrainConfig(300, batch=64, lr=1e-2, warmup=10, ema=0.98)
    history = train(prior, prior_loss, codes, config, progress=False)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    z = prior.sample(800, 4, steps=50, generator=generator())
    assert abs(correlation(z) - wanted) < 0.2
    assert 0.75 < z.s.std() / codes.factors.s.std() < 1.25
    assert 0.75 < z.d.std() / codes.factors.d.std() < 1.25
    assert abs(z.s.mean() - 5) < 0.6


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_killed_and_resumed_is_as_if_undisturbed(tmp_path):
    codes = ragged(40)
    config = TrainConfig(9, batch=8, lr=1e-2, warmup=2, ema=0.9, save_every=3, log_every=1)

    def run(folder=None, callbacks=()):
        torch.manual_seed(3)
        prior = Prior(mlp()).fit_scale(codes)
        train(prior, prior_loss, codes, config, folder=folder, callbacks=callbacks, progress=False)
        return state(prior)

    def crash(record):
        if record["step"] == 7:
            raise RuntimeError("power cut")

    whole = run()
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, (crash,))
    resumed = run(tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


# Drawing


@every_network
def test_samples_have_the_lengths_asked_for(make):
    prior = fitted(make()).train()
    z = prior.sample(3, torch.tensor([4, 1, 2]), steps=3)
    assert z.s.shape == (3, S) and z.d.shape == (3, 4, D)
    assert (z.d != 0).all(-1).sum(1).tolist() == [4, 1, 2]
    assert prior.training and not z.s.requires_grad  # it was in training mode, and is again


def test_generator_decides_the_sample():
    prior = fitted(sequence())
    draw = lambda seed, **options: prior.sample(5, V, steps=4, generator=generator(seed), **options)
    assert torch.equal(draw(1).d, draw(1).d) and not torch.equal(draw(1).d, draw(2).d)
    assert torch.equal(draw(1, eta=1.0).d, draw(1, eta=1.0).d)
    assert not torch.equal(draw(1, eta=1.0).d, draw(1).d)


def test_sampling_follows_the_chosen_steps():
    prior, calls = fitted(sequence()), []
    prior.network.register_forward_hook(lambda module, inputs, output: calls.append(inputs[1]))
    prior.sample(2, V, steps=7)
    assert len(calls) == 7 and all((k == k[0]).all() for k in calls)


# Folders


@every_network
def test_comes_back_from_its_folder(make, tmp_path):
    prior = fitted(make(), levels=200, first=1e-3, last=3e-2, skip=False)
    prior.save(tmp_path)
    again = Prior.load(tmp_path)
    assert torch.equal(again.alpha_bar, prior.alpha_bar) and not again.training
    draw = lambda p: p.sample(3, V, steps=5, generator=generator())
    assert torch.equal(draw(again).d, draw(prior).d) and torch.equal(draw(again).s, draw(prior).s)


def test_model_and_prior_share_a_folder(tmp_path):
    model = DiffSDA.mlp((4,), S, D, hidden=4, enc_width=8, dec_width=8, embedding=8)
    with pytest.raises(ValueError, match="prior.json"):
        Prior.load(tmp_path)
    model.save(tmp_path)
    fitted(sequence()).save(tmp_path)
    drawn = Prior.load(tmp_path).sample(2, 6, steps=2)
    assert DiffSDA.load(tmp_path).decode(drawn, steps=2).shape == (2, 6, 4)


# What cannot be


Z = torch.zeros(2, 3)
zero = lambda z, k: torch.zeros_like(z)


REFUSED = {
    "levels": ("levels", lambda: linear_betas(0)),
    "first is 0": ("first and last", lambda: linear_betas(10, 0.0, 0.1)),
    "falling": ("first and last", lambda: linear_betas(10, 0.2, 0.1)),
    "last is 1": ("first and last", lambda: linear_betas(10, 0.2, 1.0)),
    "no step": ("steps", lambda: ddim(zero, Z, USUAL, 0)),
    "too many steps": ("1..1000", lambda: ddim(zero, Z, USUAL, 1001)),
    "too many up": ("steps", lambda: ddim_invert(zero, Z, USUAL, 1001)),
    "eta below": ("eta", lambda: ddim(zero, Z, USUAL, eta=-0.1)),
    "eta above": ("eta", lambda: ddim(zero, Z, USUAL, eta=1.1)),
    "half": ("float32", lambda: ddim(zero, Z.half(), USUAL)),
    "half up": ("float32", lambda: ddim_invert(zero, Z.bfloat16(), USUAL)),
    "s per frame": ("one s per", lambda: Codes(Factors(torch.zeros(2, 5, 3), factors(2).d))),
    "unequal": ("factors must be", lambda: Codes(Factors(factors(2).s, factors(3).d))),
    "empty": ("B >= 1", lambda: Codes(factors(0))),
    "length 0": ("lengths", lambda: Codes(factors(2), torch.tensor([0, 2]))),
    "length above V": ("1..5", lambda: Codes(factors(2), torch.tensor([6, 2]))),
    "float lengths": ("lengths", lambda: Codes(factors(2), torch.tensor([1.0, 2.0]))),
    "nan in s": ("s of sequence 0", lambda: Codes(factors(2).map(lambda y: y * math.nan))),
    "inf in d": (
        "d of sequence 0",
        lambda: Codes(Factors(factors(2).s, factors(2).d + math.inf)),
    ),
    "heads": ("multiple of heads", lambda: SequenceNetwork(2, 2, width=10, heads=4)),
    "no d": ("d_dim", lambda: SequenceNetwork(2, 0)),
    "no codes": ("codes", lambda: MLPNetwork(0)),
    "too long": ("V = 5", lambda: fitted(mlp()).sample(2, V + 1, steps=2)),
    "n": ("n must be", lambda: fitted(sequence()).sample(0, 3)),
    "lengths": ("lengths", lambda: fitted(sequence()).sample(2, torch.tensor([1, 2, 3]))),
    "length": ("lengths", lambda: fitted(sequence()).sample(2, 0)),
    "sample steps": ("steps", lambda: fitted(sequence(), levels=50).sample(2, 3)),
    "not fitted": ("fit_scale", lambda: Prior(sequence()).sample(2, 3)),
    "not fitted, loss": ("fit_scale", lambda: prior_loss(Prior(sequence()), ragged())),
    "one sequence": ("at least 2", lambda: fitted(sequence(), ragged(1))),
    "other widths": ("s_dim, d_dim", lambda: fitted(SequenceNetwork(S, D + 1))),
}


@pytest.mark.parametrize("message, action", REFUSED.values(), ids=REFUSED)
def test_refuses_what_cannot_be(message, action):
    with pytest.raises(ValueError, match=message):
        action()
