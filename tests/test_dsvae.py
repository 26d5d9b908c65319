"""The sequential variational autoencoder: its prices by hand, what must not matter to it, and the doors it shares with DiffSDA."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import FRAME, close, ragged, sequences

from diffsda.blocks import save_module
from diffsda.data import Sequences, toy_splits
from diffsda.dsvae import DSVAE, Gaussian, MLPMean, dsvae_loss, evidence_bound
from diffsda.encoder import Factors
from diffsda.frames import MLPEncoder
from diffsda.model import DiffSDA
from diffsda.training import TrainConfig, train


def small(frame=FRAME, **options):
    return DSVAE.mlp(frame, 4, 2, hidden=8, enc_width=16, dec_width=16, **options).eval()


def bound_with(seed, model, batch):
    torch.manual_seed(seed)
    return evidence_bound(model, batch)


# Prices


def test_kl_by_hand():
    unit = Gaussian(torch.zeros(1), torch.zeros(1))
    assert unit.kl(unit) == 0
    assert Gaussian(torch.ones(1), torch.zeros(1)).kl(unit) == 0.5  # a shift by one deviation
    wide = Gaussian(torch.zeros(1), torch.log(torch.tensor([4.0])))
    assert wide.kl(unit).item() == pytest.approx(1.5 - math.log(2))
    assert unit.kl(wide).item() == pytest.approx(math.log(2) - 0.375)


numbers = st.floats(-3, 3)


@settings(deadline=None, max_examples=50)
@given(numbers, numbers, numbers, numbers)
def test_kl_is_that_of_torch_and_never_negative(m, v, prior_m, prior_v):
    q, p = (
        Gaussian(torch.tensor(a).double(), torch.tensor(b).double())
        for a, b in ((m, v), (prior_m, prior_v))
    )
    normal = lambda g: torch.distributions.Normal(g.mean, (0.5 * g.log_var).exp())
    want = torch.distributions.kl_divergence(normal(q), normal(p))
    assert q.kl(p).item() == pytest.approx(want.item(), abs=1e-9)
    assert q.kl(p) >= -1e-12


def test_draws_have_the_mean_and_variance_they_say():
    draws = Gaussian(torch.full((40000,), 2.0), torch.full((40000,), math.log(9.0))).sample()
    assert draws.mean().item() == pytest.approx(2, abs=0.08)
    assert draws.std().item() == pytest.approx(3, abs=0.06)


def test_parts_of_the_bound_by_hand():
    """A model whose last layers give zeros: posterior and priors are standard normal, frames are drawn as 0."""
    model, batch = small(), ragged()
    with torch.no_grad():
        for layer in (model.to_s, model.to_d, model.to_next, model.decoder.last):
            layer.weight.zero_(), layer.bias.zero_()
    bound = evidence_bound(model, batch)
    values = batch.x[batch.mask.expand_as(batch.x)]
    normal = torch.distributions.Normal(0.0, values.square().mean().sqrt())
    assert bound.count == len(values) and bound.kl_s == 0 and bound.kl_d == 0
    assert bound.nll.item() == pytest.approx(-normal.log_prob(values).sum().item(), rel=1e-5)
    with torch.no_grad():
        model.to_s.bias[:4], model.to_d.bias[:2] = 1.0, 2.0  # means of s and of d
    bound = evidence_bound(model, batch)
    assert bound.kl_s.item() == pytest.approx(4 * 4 * 0.5)  # sequences x numbers in s
    assert bound.kl_d.item() == pytest.approx(int(batch.lengths.sum()) * 2 * 2.0)


def test_loss_adds_up_its_parts_at_their_prices():
    model, batch = small(), ragged()
    bound = bound_with(0, model, batch)
    assert bound.kl_s > 0 and bound.kl_d > 0
    for beta_s, beta_d in ((1.0, 1.0), (0.0, 3.0)):
        torch.manual_seed(0)
        loss = dsvae_loss(model, batch, beta_s, beta_d)
        want = bound.nll + beta_s * bound.kl_s + beta_d * bound.kl_d
        assert torch.equal(loss.total, want) and loss.count == bound.count


# What must not matter


@pytest.mark.parametrize("mask_channel", [False, True])
def test_what_was_not_observed_has_no_effect(mask_channel):
    model, batch = small(mask_channel=mask_channel), ragged()
    junk = torch.where(batch.mask, batch.x, 1e3)
    other = Sequences(junk, batch.lengths, batch.observed)
    assert torch.equal(model.encode(other).d, model.encode(batch).d)
    assert torch.equal(bound_with(1, model, other).nll, bound_with(1, model, batch).nll)


def test_padding_has_no_effect():
    model, batch = small(), ragged(V=5)
    wider = lambda y: torch.cat([y, y.new_zeros(len(y), 3, *FRAME)], dim=1)
    padded = Sequences(wider(batch.x), batch.lengths, wider(batch.observed))
    short, long = model.encode(batch), model.encode(padded)
    assert close(long.s, short.s) and close(long.d[:, :5], short.d)
    assert (long.d[~padded.frame_mask] == 0).all()
    assert close(model.reconstruct(padded).x[:, :5], model.reconstruct(batch).x)


def test_no_gradient_reaches_frames_that_do_not_exist():
    model, batch = small(), ragged()
    x = batch.x.clone().requires_grad_()
    object.__setattr__(batch, "x", x)
    dsvae_loss(model, batch).total.backward()
    outside = ~batch.frame_mask
    assert x.grad[~outside].abs().sum() > 0 and (x.grad[outside] == 0).all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_sequences_do_not_see_each_other():
    model, batch = small(), ragged()
    codes = model.encode(batch)
    for i in range(len(batch)):
        alone = model.encode(batch[i : i + 1])
        assert close(alone.s[0], codes.s[i]) and close(alone.d[0], codes.d[i])


def test_prior_sees_the_past_only():
    model, d = small(), torch.randn(2, 6, 2)
    changed = d.clone()
    changed[:, 3] += 1
    before, after = model.prior(d), model.prior(changed)
    assert torch.equal(before.mean[:, :4], after.mean[:, :4])  # frame 3's own prior included
    assert not torch.allclose(before.mean[:, 4], after.mean[:, 4])
    assert close(before.mean[:, :1], model.prior(torch.randn(2, 1, 2)).mean)


# The doors


def test_shapes():
    model, batch = small(), sequences(B=3, V=7)
    codes = model.encode(batch)
    assert codes.s.shape == (3, 4) and codes.d.shape == (3, 7, 2)
    assert model.decode(codes).shape == (3, 7, *FRAME)
    assert model.sample(5, V=9).x.shape == (5, 9, *FRAME)
    assert small((6,)).encode(sequences(1, 1, (6,))).d.shape == (1, 1, 2)  # the shortest there is


def test_encoding_is_the_same_twice_and_sampling_is_not():
    model, batch = small(dropout=0.5).train(), sequences()
    assert torch.equal(model.encode(batch).d, model.encode(batch).d) and model.training
    assert not torch.equal(model.sample(2, 3).x, model.sample(2, 3).x)


def test_frames_are_drawn_independently():
    model, codes = small(), Factors(torch.randn(2, 4), torch.randn(2, 5, 2))
    order = torch.randperm(5)
    assert close(model.decode(Factors(codes.s, codes.d[:, order])), model.decode(codes)[:, order])


def test_swap_with_itself_is_the_reconstruction_and_labels_follow_their_donors():
    model = small()
    a = sequences(
        static={"who": torch.tensor([0, 1, 2])}, dynamic={"what": torch.ones(3, 5).long()}
    )
    b = sequences(
        static={"who": torch.tensor([2, 2, 2])}, dynamic={"what": torch.zeros(3, 5).long()}
    )
    assert torch.equal(model.swap(a, a).x, model.reconstruct(a).x)
    ab = model.swap(a, b)
    assert torch.equal(ab.static["who"], a.static["who"])
    assert torch.equal(ab.dynamic["what"], b.dynamic["what"])
    assert torch.equal(ab.x, model.decode(Factors(model.encode(a).s, model.encode(b).d)))


def test_save_and_load(tmp_path):
    model, batch = small(mask_channel=True), ragged()
    model.save(tmp_path)
    again = DSVAE.load(tmp_path)
    assert torch.equal(again.encode(batch).d, model.encode(batch).d) and not again.training
    save_module(DiffSDA.mlp(FRAME, 4, 2, 8, 16, 16, embedding=16), tmp_path)
    with pytest.raises(ValueError, match="expected a DSVAE"):
        DSVAE.load(tmp_path)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: DSVAE.mlp(FRAME, 0, 2, 8, 16, 16), "s_dim"),
        (lambda: DSVAE.mlp(FRAME, 4, 0, 8, 16, 16), "d_dim"),
        (lambda: DSVAE.mlp(FRAME, 4, 2, 0, 16, 16), "hidden"),
        (lambda: DSVAE.mlp(FRAME, 4, 2, 8, 16, 0), "features"),
        (lambda: DSVAE.mlp((), 4, 2, 8, 16, 16), "frame"),
        (lambda: DSVAE(MLPEncoder(FRAME, 8), MLPMean(FRAME, 5, 8), 4, 2, 8), "from 5 numbers"),
        (lambda: DSVAE(MLPEncoder(FRAME, 8), MLPMean((6,), 6, 8), 4, 2, 8), r"frames \(6,\)"),
        (lambda: small().sample(0, 5), "n must be"),
        (lambda: small().swap(sequences(2), sequences(3)), "pair up"),
        (lambda: small().decode(Factors(torch.zeros(2, 4), torch.zeros(3, 5, 2))), "pair up"),
        (lambda: small().encode(sequences(frame=(5,))), "built for frames"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# It learns


def test_learning_lowers_the_bound_and_a_swap_carries_the_static_label():
    torch.manual_seed(0)
    train_set, val, test = toy_splits("bump", (600, 100, 120))
    model = DSVAE.mlp(train_set.frame, 8, 2, hidden=24, enc_width=48, dec_width=48)
    before = bound_with(0, model.eval(), val)
    config = TrainConfig(steps=100, batch=48, lr=6e-3, warmup=10)
    history = train(model, dsvae_loss, train_set, config, progress=False)
    after = bound_with(0, model, val)
    loss = lambda bound: (bound.nll + bound.kl_s + bound.kl_d) / bound.count
    assert history[-1]["loss"] < history[0]["loss"] and loss(after) < loss(before) - 0.4
    a, b = test[:60], test[60:]
    echo = lambda data: data.x[:, :, 1].mean((1, 2))  # of the second channel
    sign = lambda data: data.static["sign"] - 1.0
    swapped = torch.stack([echo(model.swap(a, b)), sign(a), sign(b)]).corrcoef()[0]
    assert swapped[1] > 0.7 > 0.4 > swapped[2].abs()
