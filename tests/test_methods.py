"""The methods of the field: their losses by hand, what each code may know, and doors that are the same for all."""

import math
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from makers import Lazy, close
from torch.utils._python_dispatch import TorchDispatchMode

from diffsda.cases import HEARD, known_set
from diffsda.cli import parameters_of
from diffsda.data import Sequences
from diffsda.dsvae import DSVAE, Gaussian, evidence_bound
from diffsda.encoder import Factors
from diffsda.methods import (
    DBSE,
    METHODS,
    SKD,
    SPYL,
    MeanFrame,
    OneReader,
    PrincipalCodes,
    as_large,
    cdsvae_loss,
    contrast_of_pairs,
    contrast_with,
    dbse_loss,
    fit_method,
    law_basis,
    linear_law,
    make_method,
    mutual_information,
    pick_negatives,
    recoloured,
    reordered,
    sampling_of,
    skd_loss,
    spectrum_penalty,
    spyl_loss,
    stays,
    weights,
)
from diffsda.model import DiffSDA
from diffsda.sets import Preset, build
from diffsda.training import TrainConfig

FRAME = (2, 3)
TINY = Preset(4, 2, 16, 24, 24, TrainConfig(3, 8, warmup=1), embedding=16, draws=1, levels=3)


class Rows(Lazy):
    "A set that is read from arrays on disk, as windows of clips are."

    def __getitem__(self, rows):
        return self.data[torch.from_numpy(torch.arange(len(self))[rows].numpy())]


LEARNERS = [name for name, method in METHODS.items() if method.loss is not None]
DRAWN_AT_ONCE = [name for name in LEARNERS if "ours" not in name and name != "frame-wise"]


def sequences(B=6, V=5, frame=FRAME, **options):
    labels = {
        "static": {"who": torch.arange(B) % 3},
        "dynamic": {"what": (torch.arange(V) % 2).repeat(B, 1)},
    }
    return Sequences(0.5 * torch.randn(B, V, *frame), **labels | options)


def ragged(B=6, V=5):
    observed = torch.rand(B, V, *FRAME) < 0.7
    observed[:, 0] = True
    lengths = torch.cat([torch.tensor([V, 1]), torch.randint(1, V + 1, (B - 2,))])
    return sequences(B, V, lengths=lengths, observed=observed)


def untrained(name, data):
    torch.manual_seed(0)
    model = make_method(name, TINY, data)
    return (model.fit(data) if METHODS[name].loss is None else model).eval()


def silent(model, *layers):
    "The model with layers that give zeros, and frames drawn as 0."
    with torch.no_grad():
        for layer in (*layers, model.decoder.network.last):
            layer.weight.zero_(), layer.bias.zero_()
    return model


def zero_heads(name, batch):
    "A variational rival whose posterior and prior are standard normal."
    model = untrained(name, batch)
    heads = (model.to_s, model.to_d) if name == "DBSE" else (model.reader.to_s, model.reader.to_d)
    return silent(model, model.to_next, *heads)


def nats(x):
    "-log p(x) of a normal distribution around 0 with the variance that fits best."
    return -torch.distributions.Normal(0.0, x.square().mean().sqrt()).log_prob(x).sum().item()


# All as large as ours


@pytest.mark.parametrize("name", LEARNERS)
def test_methods_are_as_large_as_ours(name):
    data = sequences()
    model, ours = make_method(name, TINY, data), build(TINY, FRAME)
    assert abs(weights(model) / weights(ours) - 1) < 0.1
    count = lambda module: sum(p.numel() for p in module.parameters())
    frames = [m for m in model.modules() if type(m) is type(ours.encoder.frames)]
    assert {count(m) for m in frames} == {count(ours.encoder.frames)}  # the same frame encoder


@pytest.mark.parametrize("name", LEARNERS)
def test_methods_are_as_large_as_ours_on_images(name):
    shape = {"multipliers": (1, 2), "blocks": 1, "attention": (1,), "groups": 2, "patch": 2}
    preset, data = replace(TINY, enc_width=8, dec_width=8, unet=shape), sequences(2, 3, (3, 16, 16))
    model = make_method(name, preset, data).eval()
    assert abs(weights(model) / weights(build(preset, data.frame)) - 1) < 0.1
    assert model.reconstruct(data, **sampling_of(model, preset)).x.shape == data.x.shape


class Unseen(TorchDispatchMode):
    "Refuses every look at a number, for which a GPU would have to finish all that was asked before."

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["DSVAE", "C-DSVAE", "SPYL", "DBSE", "supervised"])
def test_complete_sequences_are_read_without_a_look_at_a_number(name):
    whole = sequences()
    model = make_method(name, TINY, whole)
    with Unseen():
        model.read(whole)
    with pytest.raises(AssertionError), Unseen():
        whole.lengths.max().item()  # a look is seen


@pytest.mark.parametrize("kind", [DSVAE, OneReader, DBSE])
def test_a_rival_of_vectors_is_of_its_own_kind(kind):
    assert type(kind.mlp(FRAME, 4, 2, 8, 16, 16)) is kind


@pytest.mark.parametrize("name", ["SKD", "supervised"])
def test_a_set_that_is_read_by_rows_will_do(name):
    data = sequences()
    model, _ = fit_method(name, Rows(data), TINY, progress=False)
    assert model.encode(data).s.shape[0] == len(data)


def test_a_size_out_of_reach_is_refused():
    with pytest.raises(ValueError, match="too large"):
        as_large(lambda hidden: torch.nn.Linear(10, 1000 + hidden), 50)


# Contrasts and mutual information


def test_contrast_of_pairs_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    same = contrast_of_pairs(
        a, 5 * a
    )  # length does not matter: the copy is at cosine 1, others at 0
    assert same.item() == pytest.approx(-2 + math.log(math.exp(2) + 2))
    crossed = contrast_of_pairs(a, a.flip(0))  # the copy is orthogonal, another is the same
    assert crossed.item() == pytest.approx(math.log(math.exp(2) + 2))


def test_contrast_with_by_hand():
    z, negatives = torch.tensor([[0.0, 2.0]]), torch.tensor([[[1.0, 0.0], [0.0, -3.0]]])
    found = contrast_with(z, torch.tensor([[0.0, 1.0]]), negatives).item()
    assert found == pytest.approx(-2 + math.log(math.exp(2) + 1 + math.exp(-2)))


def test_mutual_information_is_the_sum_written_out():
    B, V, count = 3, 2, 50
    q_s = Gaussian(torch.randn(B, 4), 0.3 * torch.randn(B, 4))
    q_d = Gaussian(torch.randn(B, V, 2), 0.3 * torch.randn(B, V, 2))
    codes = Factors(q_s.sample(), q_d.sample())
    normal = lambda q, i: torch.distributions.Normal(q.mean[i], (0.5 * q.log_var[i]).exp())
    gains = []
    for i in range(B):
        for v in range(V):
            s = torch.stack([normal(q_s, j).log_prob(codes.s[i]).sum() for j in range(B)])
            d = torch.stack([normal(q_d, j).log_prob(codes.d[i])[v].sum() for j in range(B)])
            estimate = lambda density: density.exp().sum().log() - math.log(B * count)
            gains.append(max(0.0, (estimate(s + d) - estimate(s) - estimate(d)).item()))
    found = mutual_information(q_s, q_d, codes, torch.ones(B, V, dtype=torch.bool), count)
    assert found.item() == pytest.approx(np.mean(gains), rel=1e-4)
    assert found > 0


def test_a_bank_is_sorted_by_distance():
    far = torch.tensor([[0.0, 5, 3, 1, 4, 2]])
    assert pick_negatives(far, "soft").tolist() == [[1, 4, 2]]
    assert pick_negatives(far, "semi").tolist() == [[2, 5, 3]]
    drawn = {tuple(sorted(pick_negatives(far, "hard")[0].tolist())) for _ in range(60)}
    assert len(drawn) > 1 and all(set(one) <= {1, 2, 4, 5} for one in drawn)
    with pytest.raises(ValueError, match="'soft', 'semi' or 'hard'"):
        pick_negatives(far, "tough")


# Copies


def test_a_reordered_copy_has_the_same_frames():
    batch = ragged(20)
    copy = reordered(batch)
    assert torch.equal(copy.lengths, batch.lengths) and not torch.equal(copy.x, batch.x)
    for one, other, n in zip(batch.x, copy.x, batch.lengths):
        assert close(one[:n].sum(0), other[:n].sum(0)) and (other[n:] == 0).all()
    held = lambda data: (data.x * data.observed).sum()
    assert close(held(copy), held(batch))


def test_a_recoloured_copy_keeps_the_motion():
    batch = sequences(8)
    copy = recoloured(batch)
    gain = copy.x.diff(dim=1) / batch.x.diff(
        dim=1
    )  # offsets are gone: one gain per channel is left
    assert close(gain, gain[:, :1, :, :1].expand_as(gain), 1e-2)
    assert gain[:, 0, :, 0].std() > 0.1
    holes = ragged()
    assert (recoloured(holes).x[~holes.mask] == 0).all()
    flat = Sequences(torch.ones(4, 3, 2, 8, 8))
    spread = recoloured(flat).x.flatten(3)
    assert (spread.amax(-1) - spread.amin(-1)).max() < 1e-5  # a blur leaves what is flat flat


# Losses by hand


def test_cdsvae_by_hand():
    """Posterior and prior are standard normal: no KL, cosines of 0, and densities that tell log N of each other."""
    batch = sequences()
    model, N, B = zero_heads("C-DSVAE", batch), 40, len(batch)
    loss = cdsvae_loss(model, batch, count=N)
    extra = math.log(N) + 2 * math.log(2 * B - 1)
    assert loss.total.item() == pytest.approx(nats(batch.x) + B * extra, rel=1e-4)
    assert loss.count == batch.x.numel()
    light = cdsvae_loss(model, batch, N, w_s=0.0, w_d=3.0).total.item()
    want = nats(batch.x) + B * (math.log(N) + 3 * math.log(2 * B - 1))
    assert light == pytest.approx(want, rel=1e-4)


def test_spyl_by_hand():
    batch = sequences()
    model, N, B = zero_heads("SPYL", batch), 40, len(batch)
    for progress, contrast in ((0.0, 0.0), (0.05, 2 * math.log(1 + 2 * B))):
        model.at(progress)
        want = 10 * nats(batch.x) + B * (math.log(N) + contrast)
        assert spyl_loss(model, batch, count=N).total.item() == pytest.approx(want, rel=1e-4)


def test_spyl_weighs_its_terms():
    batch = sequences()
    model = untrained("SPYL", batch)
    model.at(0.0)
    bound = lambda: (torch.manual_seed(1), evidence_bound(model, batch))[1]
    total = lambda **w: (torch.manual_seed(1), spyl_loss(model, batch, 40, **w).total)[1]
    assert close(total() - total(w_kl_s=4.0), bound().kl_s, 1e-2)
    assert close(total() - total(w_kl_d=0.0), bound().kl_d, 1e-2)
    assert close(total() - total(w_rec=9.0), bound().nll, 1e-2)


def test_dbse_by_hand():
    batch = sequences()
    model = zero_heads("DBSE", batch)
    want = 5 * nats(batch.x) + nats(batch.x[:, :1])
    assert dbse_loss(model, batch).total.item() == pytest.approx(want, rel=1e-4)
    with torch.no_grad():
        model.to_d.bias[:2] = 1.0  # means of d, in all frames but the first
    later = len(batch) * 4 * 2 * 0.5  # sequences, frames after the first, numbers, (1 - 0)^2 / 2
    assert dbse_loss(model, batch).total.item() == pytest.approx(want + later, rel=1e-4)


def test_dbse_reads_s_from_the_first_frame_and_d_from_what_differs():
    batch = sequences()
    model = untrained("DBSE", batch)
    own = model.encode(batch)
    x = batch.x.clone()
    x[:, 1:] += 1
    changed = model.encode(Sequences(x))
    assert torch.equal(changed.s, own.s) and not close(changed.d[:, 1:], own.d[:, 1:])
    assert (own.d[:, 0] == 0).all()
    still = model.encode(Sequences(batch.x[:, :1].expand(-1, 5, -1, -1).contiguous()))
    assert close(still.d, still.d[:1].expand_as(still.d))  # nothing differs: the same d for all


def test_skd_by_hand():
    """All latent numbers are 0: no law, eigenvalues of 0, which all count as static and are 1 away."""
    batch = sequences()
    model = untrained("SKD", batch)
    model = silent(model, model.to_z).train()
    loss = skd_loss(model, batch)
    assert loss.mean.item() == pytest.approx(15 * batch.x.square().mean().item() + 1, rel=1e-4)
    assert (model.gram == 0).all()
    light = skd_loss(model, batch, w_rec=2.0, w_spectrum=3.0).mean.item()
    assert light == pytest.approx(2 * batch.x.square().mean().item() + 3, rel=1e-4)


# Linear laws


def turning(*angles, radius=1.0):
    blocks = [
        radius * torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        for a in angles
    ]
    return torch.block_diag(*blocks).double()


def follow(C, z0, V):
    z = [z0]
    for _ in range(V - 1):
        z.append(z[-1] @ C)
    return torch.stack(z, 1)


def test_the_law_of_codes_is_found():
    C = torch.block_diag(torch.eye(1).double(), turning(0.7))
    z = follow(C, torch.randn(20, 3).double(), 6)
    before, after = z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1)
    assert close(linear_law(before.T @ before, before.T @ after), C, 1e-4)


def test_what_stays_is_near_one_and_pairs_count_once():
    values = torch.tensor([0.2, 1.01, 0.9 + 0.1j, 0.9 - 0.1j, 0.5 + 0.5j, 0.5 - 0.5j])
    assert stays(values, 1).tolist() == [False, True] + 4 * [False]
    assert stays(values, 2).tolist() == [False, True, True, True, False, False]
    moving = (0 + 0.6) / 2  # real parts above 0.5 of the others
    pair = torch.tensor([1.2 + 0j, 0.5, 0.6])
    assert spectrum_penalty(pair, 1).item() == pytest.approx(0.04 + moving)


@pytest.mark.parametrize("worst", [1e6, 1.0])  # eigenvectors, and the Schur form
def test_static_coordinates_do_not_move(worst):
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 5, generator=g).double()
    inside = torch.block_diag(torch.eye(1).double(), turning(0.9, 2.0, radius=0.9))
    C = mix @ inside @ torch.linalg.inv(mix)
    basis, size = law_basis(C, 1, worst)
    z = follow(C, torch.randn(4, 5, generator=g).double(), 6) @ basis
    assert size == 1 and z[..., 0].std(1).max() < 1e-8 < z[..., 1:].std(1).min()


def test_a_law_without_enough_eigenvectors_takes_the_schur_form():
    jordan = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0.1]]).double()
    basis, size = law_basis(jordan, 1)
    assert torch.linalg.cond(basis) < 1.001 and 1 <= size <= 2


def test_skd_refuses_what_has_no_next_frame_and_keeps_numbers_for_motion():
    batch = sequences(3, 1)
    with pytest.raises(ValueError, match="two frames"):
        skd_loss(untrained("SKD", batch), batch)
    model = untrained("SKD", batch)
    with pytest.raises(ValueError, match="statics"):
        SKD(model.frames, model.decoder, 8, statics=40)


def test_skd_goes_to_coordinates_and_back():
    batch = sequences(30)
    model = untrained("SKD", batch).train()
    for _ in range(3):
        skd_loss(model, batch)
    model.eval()
    own = model.encode(batch)
    assert own.s.shape[1] + own.d.shape[2] == 40
    basis, size = model.basis()
    with torch.no_grad():
        z = (own.per_frame().double() @ torch.linalg.inv(basis)).float()
        assert own.s.shape[1] == size and close(model.decoder(z), model.decode(own), 1e-3)


# Doors


@pytest.mark.parametrize("name", list(METHODS))
def test_shapes_and_labels(name):
    a, b = sequences(), sequences()
    model = untrained(name, a)
    codes = model.encode(a)
    assert codes.s.ndim == 2 and len(codes.s) == 6 and codes.d.shape[:2] == (6, 5)
    how = sampling_of(model, TINY)
    made = model.swap(a, b, **how)
    assert made.x.shape == a.x.shape and torch.equal(made.static["who"], a.static["who"])
    assert torch.equal(made.dynamic["what"], b.dynamic["what"])
    assert model.reconstruct(a, **how).x.shape == a.x.shape


@pytest.mark.parametrize("name", DRAWN_AT_ONCE + ["PCA"])
def test_a_swap_is_the_codes_decoded(name):
    a, b = sequences(), sequences()
    model = untrained(name, a)
    assert torch.equal(model.swap(a, a).x, model.reconstruct(a).x)
    mixed = Factors(model.encode(a).s, model.encode(b).d)
    assert torch.equal(model.swap(a, b).x, model.decode(mixed))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "random codes"])
def test_neither_padding_nor_holes_matter(name):
    batch = ragged()
    model = untrained(name, batch)
    wider = lambda y: torch.cat([y, y.new_zeros(len(y), 3, *FRAME)], dim=1)
    junk = torch.where(batch.mask, batch.x, 1e3)
    padded = Sequences(wider(junk), batch.lengths, wider(batch.observed))
    short, long = model.encode(batch), model.encode(padded)
    assert close(long.s, short.s, 1e-4) and close(long.d[:, :5], short.d, 1e-4)
    assert (long.d[~padded.frame_mask] == 0).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_losses_of_ragged_sequences_with_holes_are_finite(name):
    batch = ragged(8)
    model = untrained(name, batch).train()
    total, count = METHODS[name].loss(TINY, batch)(model, batch)
    total.backward()
    assert total.isfinite() and count == batch.mask.expand_as(batch.x).sum()
    learnt = [p.grad for p in model.parameters() if p.grad is not None]
    assert learnt and all(grad.isfinite().all() for grad in learnt)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "random codes"])
def test_save_and_load(name, tmp_path):
    batch = sequences()
    model = untrained(name, batch)
    model.save(tmp_path)
    again = type(model).load(tmp_path)
    assert torch.equal(again.encode(batch).d, model.encode(batch).d) and not again.training
    assert torch.equal(again.encode(batch).s, model.encode(batch).s)
    if not isinstance(model, DiffSDA):
        with pytest.raises(ValueError, match="expected a DiffSDA"):
            DiffSDA.load(tmp_path)


@pytest.mark.parametrize("kind", ["DSVAE", "C-DSVAE", "SPYL", "DBSE"])
def test_new_motions_are_drawn_from_the_prior(kind):
    model = untrained(kind, sequences())
    assert isinstance(model, DSVAE) and model.sample(3, V=4).x.shape == (3, 4, *FRAME)
    with torch.no_grad():
        model.to_next.weight.zero_()
        model.to_next.bias.copy_(torch.tensor([3.0, -3.0, -20.0, -20.0]))
        assert close(model.draw_d(2, 4), torch.tensor([3.0, -3.0]).expand(2, 4, 2), 1e-3)


def test_only_spyl_is_told_how_far_the_training_is():
    model = untrained("SPYL", sequences())
    model.at(0.049)
    assert isinstance(model, SPYL) and not model.contrasts
    model.at(0.05)
    assert model.contrasts and not hasattr(untrained("C-DSVAE", sequences()), "at")
    assert isinstance(untrained("DBSE", sequences()), DBSE)


def test_an_unknown_method_is_refused():
    for call in (
        lambda: make_method("MGP-VAE", TINY, sequences()),
        lambda: fit_method("x", sequences(), TINY),
    ):
        with pytest.raises(ValueError, match="unknown method.*C-DSVAE"):
            call()


def test_frame_by_frame_a_code_is_its_mean_and_the_rest():
    batch = ragged()
    model = untrained("frame-wise", batch)
    with torch.no_grad():
        z = model.encoder.to_z(model.encoder.frames(batch.x, batch.mask))
        own = model.encode(batch)
        exists = batch.frame_mask
        assert close(model.encoder.told(own)[exists], z[exists])
    for code, s, n in zip(z, own.s, batch.lengths):
        assert close(code[:n].mean(0), s)
    assert own.s.shape[1] == own.d.shape[2] == TINY.s_dim + TINY.d_dim


# Baselines


def test_principal_codes_keep_all_there_is_if_they_may():
    data = sequences(40)
    model = PrincipalCodes(FRAME, 6, 6).fit(data)
    assert close(model.reconstruct(data).x, data.x, 1e-4)
    swapped = model.swap(data[:20], data[20:])
    assert close(swapped.x.mean(1), data.x[:20].mean(1), 1e-4)  # what stays, of the first
    few = PrincipalCodes(FRAME, 1, 1).fit(data).reconstruct(data)
    nothing = MeanFrame(FRAME).fit(data).reconstruct(data)
    error = lambda made: (made.x - data.x).square().mean()
    assert 0.01 < error(few) < error(nothing)


def test_the_mean_frame_is_of_observed_values():
    data = ragged(50)
    mask = data.mask.expand_as(data.x)
    want = (data.x * mask).sum((0, 1)) / mask.sum((0, 1))
    assert close(MeanFrame(FRAME).fit(data).mean.data, want)


# They learn


def rings(n, seed):
    "Channel 0 stays at -0.5 or 0.5; channels 1 and 2 turn by 0.8 a frame, this way or that."
    g = torch.Generator().manual_seed(seed)
    side, way = (torch.randint(2, (n,), generator=g) for _ in range(2))
    angle = 6.28 * torch.rand(n, 1, generator=g) + 0.8 * (2 * way[:, None] - 1) * torch.arange(8)
    x = torch.stack([(side - 0.5)[:, None].expand(n, 8), 0.6 * angle.cos(), 0.6 * angle.sin()], -1)
    x = x + 0.02 * torch.randn(x.shape, generator=g)
    return Sequences(x, static={"side": side}, dynamic={"way": way[:, None].repeat(1, 8)})


# ours and DSVAE have tests of their own
MOTION = {  # how alike the motion of a swap must be, and how a method is trained that needs it otherwise
    "frame-wise": (0.9, {}),
    "C-DSVAE": (0.3, {}),
    "SPYL": (0.8, {}),
    "DBSE": (0.4, {"seed": 1}),  # its s knows where the motion begins; of some starts d stays empty
    "SKD": (0.4, {"lr": 4e-3}),
    "PCA": (0.9, {}),
}


@pytest.mark.parametrize("name", MOTION)
def test_a_swap_takes_what_stays_from_one_and_motion_from_the_other(name):
    least, own = MOTION[name]
    data, test = rings(400, 0), rings(80, 1)
    config = TrainConfig(**{"steps": 200, "batch": 32, "lr": 8e-3, "warmup": 10} | own)
    preset = Preset(4, 2, 16, 32, 32, config, embedding=16, draws=1, levels=4, lowest=2.0)
    model, _ = fit_method(name, data, preset, progress=False)
    a, b = test[:40], test[40:]
    made = model.swap(a, b, **sampling_of(model, preset)).x
    alike = lambda x, y: torch.stack([x.flatten(), y.flatten()]).corrcoef()[0, 1].item()
    assert alike(made[..., 0].mean(1), a.x[..., 0].mean(1)) > 0.9
    assert alike(made[..., 1:], b.x[..., 1:]) > least


def test_a_supervised_reader_knows_its_labels():
    "Its d is asked which way a point turns, not where it is: its swaps say little, its heads everything."
    data, test = rings(400, 0), rings(80, 1)
    config = TrainConfig(200, 32, lr=8e-3, warmup=10)
    preset = Preset(4, 2, 16, 32, 32, config, embedding=16, draws=1, levels=4, lowest=2.0)
    model, _ = fit_method("supervised", data, preset, progress=False)
    codes = model.encode(test)
    said = {
        "side": model.static.layers[0](codes.s).argmax(-1) == test.static["side"],
        "way": model.dynamic.layers[0](codes.d).argmax(-1) == test.dynamic["way"],
    }
    assert all(right.float().mean() > 0.95 for right in said.values()), said


def test_what_does_not_bear_rounding_trains_in_float32(monkeypatch):
    "SKD's law is lost in bfloat16 and TF32."
    asked = {}
    keep = lambda data, preset, **_: asked.update({name: preset.config.precision}) or (None, [])
    monkeypatch.setattr("diffsda.methods.fit_network", keep)
    for name in ("SKD", "DSVAE"):
        fit_method(name, sequences(), TINY)
    assert asked == {"SKD": "fp32", "DSVAE": "auto"}


@pytest.mark.parametrize("name", DRAWN_AT_ONCE)
def test_steps_are_recorded_unless_their_loss_looks_at_a_number(name, monkeypatch):
    data, looked, asked = sequences(), False, []
    model, loss = make_method(name, TINY, data).train(), METHODS[name].loss(TINY, data)
    try:
        with Unseen():
            loss(model, data)
    except AssertionError:
        looked = True
    keep = lambda data, preset, **_: asked.append(preset.config.graph) or (None, [])
    monkeypatch.setattr("diffsda.methods.fit_network", keep)
    fit_method(name, data, replace(TINY, config=replace(TINY.config, graph=True)))
    assert asked == [not looked]


# ---- the page of tables (47_rivals), on rows that are made up


PAGE = Path(__file__).resolve().parent.parent / "nbs" / "47_rivals.ipynb"
EIGHT = [name for name in LEARNERS if name != "supervised"]


def row(method, metric, value, data="dots", steps=9, **more):
    command = f"diffsda run rivals -p data {data} -p fast False -p steps 9 -p seed 0"
    told = {"hardware": "a core", "values": {"0": value}, "seeds": 1, "command": command}
    return dict(data=data, method=method, metric=metric, value=value, steps=steps, **told) | more


@pytest.fixture(scope="module")
def page():
    "What the cells of 47_rivals import and define that needs no training; with no rows at all."
    sources = [cell.source for cell in nbformat.read(PAGE, as_version=4).cells]
    drawn = {}
    exec(next(source for source in sources if source.startswith("import re\n")), drawn)
    drawn |= {"read_rows": lambda path: [], "display": lambda shown: None, "Markdown": str}
    drawn |= {"results": "", "plt": None}
    for source in sources:
        if "read_rows(results)\n" in source or re.search(
            "^COLUMNS|^def (table_of|kept_table|ranked|not_yet_run)", source, re.M
        ):
            exec(source, drawn)
    return drawn


def test_each_set_that_can_be_asked_for_is_waited_for(page):
    sets = parameters_of(PAGE)["data"].choices
    assert page["SETS"] == tuple(sets) and len(page["not_yet_run"]([])) == len(sets)
    assert all(known_set(name).modality != "sound" or name in HEARD for name in sets)
    assert "ravdess" in sets


def test_what_is_not_yet_run_is_asked_for_with_the_steps_of_its_set(page):
    there = [name for name in METHODS if name not in ("SPYL", "SKD")]
    rows = [row(name, "lost of the variance", 1.0, "bump") for name in there]
    rows += [row(name, "lost of the variance", 1.0, "rotor") for name in METHODS]
    commands = page["not_yet_run"](rows)
    told = 'diffsda run rivals -p data bump -p fast False -p steps 9 -p methods "SPYL; SKD"'
    assert commands[0] == told and not any("rotor" in command for command in commands)
    assert "diffsda run rivals -p data ravdess -p fast False" in commands
    rough = row("SKD", "lost", 1.0)["command"].replace(" -p seed", " -p precision bf16 -p seed")
    rows = [row("SKD", "lost of the variance", 1.0, "bump", command=rough)]
    assert " -p steps 9 -p precision bf16 -p methods" in page["not_yet_run"](rows)[0]


def test_a_kept_label_shows_three_numbers_and_sets_without_them_no_table(page):
    numbers = {"IS": 2.414, "H(y|x)": 0.402, "H(y)": 1.283}
    rows = [row("SKD", f"kept: hair, {k}", v) for k, v in numbers.items()]
    table = page["kept_table"](rows)
    assert table.split("\n")[0] == "| method | hair |" and "| SKD | 2.41 / 0.40 / 1.28 |" in table
    assert page["kept_table"]([row("SKD", "swap: static hair from s", 50.0)]) == ""


def test_codes_are_measured_per_frame_only_where_sequences_have_too_few_labels(page):
    frames = [row("SKD", "per frame: D", 0.2)]
    both = [*frames, row("SKD", "per sequence: D", 0.5)]
    assert page["numbers_of"](frames, "SKD")["D"] == [20]
    assert page["numbers_of"](both, "SKD")["D"] == [50]
    told = page["told_of"]
    assert "D to MIG are per frame" in told(frames) and "per frame" not in told(both)


def test_a_set_of_which_no_judge_reads_a_label_has_a_table(page):
    rows = [row("the judge", "judge: hand", 20.0), row("SKD", "lost of the variance", 5.0)]
    assert "in less than half; hand, which" in page["told_of"](rows)
    assert "| SKD | 1 | 5.0 |" in page["table_of"](rows)


def test_nothing_is_ranked_where_all_are_at_chance_in_their_worst_label(page):
    """Of dots nobody carries the size, though all are far above the mean frame's worst label, the hue."""

    def swaps(data, size):
        rows = [row("mean frame", f"swap: static {k} from s", v, data, 0) for k, v in CHANCE]
        for i, name in enumerate(EIGHT):
            rows += [row(name, "swap: static size from s", size + i / 10, data)]
            rows += [row(name, "swap: static hue from s", 90.0, data)]
        return rows

    CHANCE = (("size", 35.0), ("hue", 14.0))
    ranks, empty = page["ranked"](swaps("dots", 36.0) + swaps("lines", 60.0))
    assert empty == [("dots", "stays")] and list(ranks.index) == [("lines", "stays")]
    assert ranks.loc[("lines", "stays"), EIGHT].tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
