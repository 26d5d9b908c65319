"""Blocks, frame networks and the sequence encoder: what may depend on what, and how a network is kept."""

import inspect
import json
import math
import multiprocessing
import os
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import close
from torch import nn

from diffsda import blocks
from diffsda.blocks import (
    Dropout,
    LayerNorm,
    MadeAgain,
    Rebuildable,
    ResidualBlock,
    ScaleShift,
    SelfAttention,
    SigmaEmbedding,
    activated,
    group_norm,
    load_module,
    modulate,
    read_checkpoint,
    save_module,
    write_checkpoint,
)
from diffsda.data import Sequences
from diffsda.encoder import RECIPES, DynamicChannel, Factors, SequenceEncoder, run_recurrent
from diffsda.frames import (
    Doubling,
    MLPDecoder,
    MLPEncoder,
    UNet,
    UNetDecoder,
    UNetEncoder,
    check_sizes,
)
from diffsda.model import DiffSDA, denoising_loss

quick = settings(deadline=None, max_examples=25)
frames = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
FRAME = (2, 3)


def reader(frame=FRAME, **options):
    return MLPEncoder(frame, 16, **options).eval()


def painter(frame=FRAME, z_dim=5):
    return MLPDecoder(frame, z_dim, 16, embedding=16).eval()


def encoder(**options):
    return SequenceEncoder(MLPEncoder(FRAME, 16), 4, 2, 8, **options).eval()


def everything(x):
    return torch.ones_like(x).bool()


def encode(net, x, lengths=None):
    lengths = torch.full((len(x),), x.shape[1]) if lengths is None else torch.as_tensor(lengths)
    with torch.no_grad():
        return net(x, lengths, everything(x))


# Noise level and modulation


def test_embedding_of_many_levels_is_that_of_each():
    embed, c_noise = SigmaEmbedding(8, 16), torch.randn(3, 4)
    together = embed(c_noise)
    assert together.shape == (3, 4, 16) and embed(c_noise[0, 0]).shape == (16,)
    assert close(together[1, 2], embed(c_noise[1, 2]))
    assert not torch.allclose(together[0, 0], together[0, 1], atol=1e-3)


def test_frequencies_are_kept_with_the_weights_and_never_trained():
    one, two = SigmaEmbedding(8, 16), SigmaEmbedding(8, 16)
    assert "frequencies" in one.state_dict() and "frequencies" not in dict(one.named_parameters())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(torch.tensor(0.3)), two(torch.tensor(0.3)))


def test_modulation():
    h, scale, shift = torch.randn(3, 2, 4, 5), torch.randn(2, 4, 5), torch.randn(5)
    assert close(modulate(h, scale, shift), h * (1 + scale) + shift)
    assert torch.equal(modulate(h, torch.zeros(5), torch.zeros(5)), h)
    a, b = ScaleShift(6, 5)(torch.randn(2, 4, 6))
    assert a.shape == b.shape == (2, 4, 5)


# Frames


@quick
@given(frames, st.integers(1, 3), st.integers(1, 4))
def test_frame_networks_take_any_frame_shape(frame, B, V):
    x = torch.randn(B, V, *frame)
    assert reader(frame)(x, everything(x)).shape == (B, V, 16)
    net = painter(frame)
    condition = net.condition(torch.randn(B, V, 5))
    assert net(x, torch.tensor(0.1), condition).shape == x.shape
    many = x.expand(2, 3, *x.shape)
    assert net(many, torch.zeros(2, 3, B, V), condition).shape == many.shape


def test_each_frame_is_read_alone():
    net, x = reader(), torch.randn(3, 6, *FRAME)
    order = torch.randperm(6)
    assert close(net(x[:, order], everything(x)), net(x, everything(x))[:, order])
    other = x.clone()
    other[:, 4] += 1
    moved = (net(other, everything(x)) - net(x, everything(x))).abs().sum((0, 2))
    assert (moved > 1e-4).nonzero().flatten().tolist() == [4]


def test_mask_channel_tells_a_hole_from_a_measured_zero():
    x = torch.randn(2, 4, *FRAME)
    x[0, 1, 1, 2] = 0
    hole = everything(x)
    hole[0, 1, 1, 2] = False
    torch.manual_seed(1)
    blind, told = reader(), reader(mask_channel=True)
    assert torch.equal(blind(x, hole), blind(x, everything(x)))
    moved = (told(x, hole) - told(x, everything(x))).abs().sum(-1)
    assert moved.nonzero().tolist() == [[0, 1]]
    padding = torch.tensor([[True] * 4, [True] * 3 + [False]])[..., None, None]
    assert close(told(x, padding), told(x, padding.expand_as(x)))


def test_each_frame_is_painted_alone():
    net, x, z = painter(), torch.randn(3, 6, *FRAME), torch.randn(3, 6, 5)
    c_noise = torch.randn(3, 6)
    base = net(x, c_noise, net.condition(z))
    order = torch.randperm(6)
    shuffled = net(x[:, order], c_noise[:, order], net.condition(z[:, order]))
    assert close(shuffled, base[:, order])
    for change in ("x", "c_noise", "z"):
        changed = {"x": x.clone(), "c_noise": c_noise.clone(), "z": z.clone()}
        changed[change][:, 2] += 1
        moved = net(changed["x"], changed["c_noise"], net.condition(changed["z"])) - base
        assert (moved.abs().amax((0, 2, 3)) > 1e-5).nonzero().flatten().tolist() == [2], change


def test_condition_computed_once_serves_every_call():
    net, z = painter(), torch.randn(3, 6, 5)
    condition = net.condition(z)
    kept = [tuple(y.clone() for y in pair) for pair in condition]
    for c_noise in (torch.tensor(0.3), torch.randn(3, 6)):
        x = torch.randn(3, 6, *FRAME)
        assert torch.equal(net(x, c_noise, condition), net(x, c_noise, net.condition(z)))
    for pair, before in zip(condition, kept):
        assert all(torch.equal(a, b) for a, b in zip(pair, before))


def test_axes_in_front_are_calls_of_their_own():
    net, x, c_noise = painter(), torch.randn(4, 3, 6, *FRAME), torch.randn(4, 3, 6)
    condition = net.condition(torch.randn(3, 6, 5))
    together = net(x, c_noise, condition)
    for m in range(4):
        assert close(together[m], net(x[m], c_noise[m], condition))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (3, 1), (1, 3), (3, 3)])
def test_axes_of_the_level_are_the_first_axes_of_x(shape):
    """Also where B = V, and a level for each sequence could be taken for one for each frame."""
    net, x = painter(), torch.randn(3, 3, *FRAME)
    condition, c_noise = net.condition(torch.randn(3, 3, 5)), torch.randn(shape)
    spelled_out = c_noise[(...,) + (None,) * (2 - len(shape))].expand(3, 3)
    assert close(net(x, c_noise, condition), net(x, spelled_out, condition))


@pytest.mark.parametrize(
    "shape, rows", [((), 1), ((1, 1), 1), ((3,), 3), ((1, 6), 6), ((3, 6), 18)]
)
def test_a_level_is_embedded_once(shape, rows):
    """One sigma for everything costs one row, one for each frame a row for each frame."""
    net, seen = painter(), []
    net.embed_sigma.layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel() // inputs[0].shape[-1])
    )
    net(torch.randn(3, 6, *FRAME), torch.zeros(shape), net.condition(torch.randn(3, 6, 5)))
    assert seen == [rows]


def test_every_parameter_of_a_painter_is_used():
    net = painter()
    net(
        torch.randn(2, 3, *FRAME), torch.zeros(2, 3), net.condition(torch.randn(2, 3, 5))
    ).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


# Frames that are images

IMAGE = (3, 8, 8)
SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}


def awake(net):
    """A network whose layers that start at zero, or near it, have come to act."""
    for p in net.parameters():
        if p.abs().max() < 1e-4:
            nn.init.normal_(p, std=0.1)
    return net.eval()


def viewer(frame=IMAGE, **options):
    return awake(UNetEncoder(frame, **SMALL | options))


def draughtsman(frame=IMAGE, z_dim=5, **options):
    return awake(UNetDecoder(frame, z_dim, embedding=16, **SMALL | options))


def films(**options):
    sizes = {k: v for k, v in SMALL.items() if k != "channels"}
    return DiffSDA.unet(
        IMAGE, 4, 2, hidden=8, enc_width=8, dec_width=8, embedding=16, **sizes | options
    )


@pytest.mark.parametrize("groups, of_8, of_16, of_24", [(32, 8, 16, 8), (2, 2, 2, 2)])
def test_every_norm_of_a_unet_has_as_many_groups_as_asked(groups, of_8, of_16, of_24):
    sizes = {"multipliers": (1, 2), "blocks": 1, "attention": (1,), "groups": groups}
    model = DiffSDA.unet(IMAGE, 4, 2, 8, 8, 8, **sizes)
    want = {8: of_8, 16: of_16, 24: of_24, 32: groups}
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) > 30 and all(m.num_groups == want[m.num_channels] for m in norms)


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 4),  # C
    st.tuples(st.integers(1, 3), st.integers(1, 3)),  # sides, in multiples of the smallest
    st.integers(1, 3),  # levels
    st.sampled_from([1, 2]),  # patch
    st.sampled_from([4, 6, 8]),  # channels; 32 groups divide none of them
)
def test_images_of_any_size_that_the_levels_divide(C, multiples, levels, patch, channels):
    """24 x 16 as well as 64 x 64: sides need be neither equal nor powers of two."""
    frame = (C, *(n * patch * 2 ** (levels - 1) for n in multiples))
    sizes = {"channels": channels, "multipliers": (1, 2, 2)[:levels], "patch": patch}
    x = torch.randn(2, 3, *frame)
    look, draw = viewer(frame, **sizes), draughtsman(frame, **sizes)
    assert look(x, everything(x)).shape == (2, 3, look.features)
    assert look.features == frame[1] * frame[2]  # one number for each pixel, folded or not
    condition = draw.condition(torch.randn(2, 3, 5))
    assert draw(x, torch.tensor(0.1), condition).shape == x.shape
    assert draw(x.expand(2, *x.shape), torch.zeros(2, 1, 1), condition).shape == (2, *x.shape)


@pytest.mark.parametrize("frame", [(3, 24, 16), (1, 40, 8), (4, 8, 56)])
def test_four_levels_take_odd_multiples_of_eight(frame):
    sizes = {"multipliers": (1, 2, 2, 2), "attention": (2,)}
    x = torch.randn(1, 2, *frame)
    look, draw = viewer(frame, **sizes), draughtsman(frame, **sizes)
    assert look(x, everything(x)).shape == (1, 2, frame[1] * frame[2])
    assert draw(x, torch.zeros(()), draw.condition(torch.randn(1, 2, 5))).shape == x.shape


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("attend", [False, True])
def test_a_fresh_block_adds_nothing(steered, attend):
    steer = (torch.rand(2, 8, 1, 1), torch.randn(2, 8, 1, 1)) if steered else ()
    x = torch.randn(2, 8, 6, 4)
    assert torch.equal(ResidualBlock(8, 8, steered, attend)(x, steer), x)
    wider = ResidualBlock(8, 12, steered, attend)  # the shortcut alone
    x, steer = torch.randn(2, 8, 6, 4), steer and tuple(y.repeat(1, 2, 1, 1)[:, :12] for y in steer)
    assert torch.equal(wider(x, steer), wider.shortcut(x))


def test_a_fresh_network_is_zero_where_it_adds_and_nearly_zero_at_its_end():
    for net in (UNetEncoder(IMAGE, **SMALL).net, UNetDecoder(IMAGE, 5, **SMALL).net):
        blocks = [m for m in net.modules() if isinstance(m, ResidualBlock)]
        attentions = [m for m in net.modules() if isinstance(m, SelfAttention)]
        assert len(blocks) == len(net.widths) == 8 and len(attentions) == 1 + 2 + 1
        for layer in [b.convs[-1] for b in blocks] + [a.answer for a in attentions]:
            assert (layer.weight == 0).all() and (layer.bias == 0).all()
        assert net.tail.weight.abs().max() < 1e-4 and (net.tail.bias == 0).all()
        assert net(torch.randn(2, net.head.in_channels, 8, 8)).abs().max() < 1e-3


@pytest.mark.parametrize(
    "attention, held",
    [((), [8]), ((0,), [4, 4, 4, 8]), ((1,), [8] * 4), ((0, 1), [4] * 3 + [8] * 4)],
)
def test_attention_sits_where_it_was_asked_for_and_in_the_middle(attention, held):
    net = UNet(3, 3, 4, (1, 2), 1, attention, steered=False, dropout=0)
    found = [m.ask.in_channels for m in net.modules() if isinstance(m, SelfAttention)]
    assert sorted(found) == held


@pytest.mark.parametrize("shape", [(1, 8, 1, 2), (2, 8, 4, 6), (3, 16, 3, 5)])
def test_attention_is_its_formula(shape):
    """Softmax of scaled products of all places with all, by explicit matrices."""
    layer, h = awake(SelfAttention(shape[1])), torch.randn(shape)
    nn.init.normal_(layer.ask.weight)  # places that do not all attend alike
    q, k, v = layer.ask(layer.norm(h)).flatten(2).chunk(3, dim=1)  # (N, C, places)
    scores = torch.einsum("nci,ncj->nij", q, k) / shape[1] ** 0.5
    seen = torch.einsum("nij,ncj->nci", scores.softmax(-1), v).view(shape)
    assert close(layer(h), h + layer.answer(seen))


def test_a_steered_block_is_its_formula():
    """Three rounds; gain and shift come between norm and SiLU of the second."""
    block, x = awake(ResidualBlock(4, 8, steered=True, attend=True)), torch.randn(2, 4, 6, 4)
    gain, shift = torch.randn(2, 2, 8, 1, 1)
    silu, (a, b, c), (one, two, three) = nn.functional.silu, block.norms, block.convs
    h = one(silu(a(x)))
    h = two(silu(b(h) * gain + shift))
    h = three(silu(c(h)))
    assert close(block(x, (gain, shift)), block.attention(block.shortcut(x) + h))


def test_two_steerings_in_one_are_the_two_after_one_another():
    """What reaches the image is (h (1 + a_t) + b_t) (1 + a_z) + b_z of each channel, frame by frame."""
    net, seen = draughtsman(), []
    z, c_noise = torch.randn(2, 3, 5), torch.randn(2, 3)
    for block in [*net.net.down, *net.net.middle, *net.net.up]:
        if isinstance(block, ResidualBlock):
            block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    net(torch.randn(2, 3, *IMAGE), c_noise, net.condition(z))
    silu = nn.functional.silu
    sigma, factors = silu(net.embed_sigma(c_noise)), silu(net.embed_z(z))
    assert len(seen) == len(net.net.widths)
    for (gain, shift), by_sigma, by_z in zip(seen, net.by_sigma, net.by_z):
        (a_t, b_t), (a_z, b_z) = by_sigma(sigma), by_z(factors)
        h = torch.randn(2, 3, a_t.shape[-1], 1, 1)
        frames = lambda y: y[..., None, None]
        wanted = (h * (1 + frames(a_t)) + frames(b_t)) * (1 + frames(a_z)) + frames(b_z)
        assert close(h.flatten(0, 1) * gain + shift, wanted.flatten(0, 1))


@pytest.mark.parametrize("patch", [1, 2])
def test_each_image_is_read_and_drawn_alone(patch):
    look, draw = viewer(patch=patch), draughtsman(patch=patch)
    x, z, c_noise = torch.randn(2, 4, *IMAGE), torch.randn(2, 4, 5), torch.randn(2, 4)
    read, drawn = look(x, everything(x)), draw(x, c_noise, draw.condition(z))
    order = torch.randperm(4)
    assert close(look(x[:, order], everything(x)), read[:, order])
    shuffled = draw(x[:, order], c_noise[:, order], draw.condition(z[:, order]))
    assert close(shuffled, drawn[:, order])
    for change in ("x", "c_noise", "z"):
        changed = {"x": x.clone(), "c_noise": c_noise.clone(), "z": z.clone()}
        changed[change][1, 2] += 1
        moved = draw(changed["x"], changed["c_noise"], draw.condition(changed["z"])) - drawn
        assert (moved.abs().amax((2, 3, 4)) > 1e-4).nonzero().tolist() == [[1, 2]], change
        moved = look(changed["x"], everything(x)) - read
        expected = [[1, 2]] if change == "x" else []
        assert (moved.abs().amax(2) > 1e-4).nonzero().tolist() == expected


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (3, 1), (1, 3), (3, 3)])
def test_axes_of_an_images_level_are_the_first_axes_of_x(shape):
    net, x = draughtsman(), torch.randn(3, 3, *IMAGE)
    condition, c_noise = net.condition(torch.randn(3, 3, 5)), torch.randn(shape)
    spelled_out = c_noise[(...,) + (None,) * (2 - len(shape))].expand(3, 3)
    assert close(net(x, c_noise, condition), net(x, spelled_out, condition))


def test_draws_of_an_image_are_calls_of_their_own():
    net, x, c_noise = draughtsman(), torch.randn(4, 3, 2, *IMAGE), torch.randn(4, 3, 2)
    condition = net.condition(torch.randn(3, 2, 5))
    together = net(x, c_noise, condition)
    for m in range(4):
        assert close(together[m], net(x[m], c_noise[m], condition))
    level = net(x, torch.tensor(0.2), condition)
    assert close(level, net(x, torch.full((4, 3, 2), 0.2), condition))


@pytest.mark.parametrize("shape, rows", [((), 1), ((1, 1), 1), ((3,), 3), ((3, 2), 6)])
def test_a_level_of_images_is_embedded_once(shape, rows):
    net, seen = draughtsman(), []
    net.embed_sigma.layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel() // inputs[0].shape[-1])
    )
    net(torch.randn(3, 2, *IMAGE), torch.zeros(shape), net.condition(torch.randn(3, 2, 5)))
    assert seen == [rows]


def test_patches_are_squares_of_neighbours_folded_into_channels():
    whole, folded = draughtsman((1, 16, 8), patch=2), draughtsman((4, 8, 4))
    folded.load_state_dict(whole.state_dict())
    x, condition = torch.randn(2, 3, 1, 16, 8), whole.condition(torch.randn(2, 3, 5))
    squares = x.view(2, 3, 8, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).flatten(2, 3)  # (2, 3, 4, 8, 4)
    drawn = folded(squares, torch.zeros(()), condition).unflatten(2, (2, 2))
    expected = drawn.permute(0, 1, 4, 2, 5, 3).reshape(x.shape)
    assert close(whole(x, torch.zeros(()), condition), expected)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_doubling_is_nearest_values_and_a_convolution(channels, H, W):
    """In its gradients too: of the image, of the nine weights, of the bias."""
    double, x = Doubling(channels), torch.randn(2, channels, H, W, requires_grad=True)
    nearest = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    sides = double(x), nn.functional.conv2d(nearest, double.weight, double.bias, padding=1)
    assert close(*sides)
    pull, wanted = torch.randn_like(sides[0]), (x, *double.parameters())
    for ours, plain in zip(*(torch.autograd.grad(y, wanted, pull) for y in sides)):
        assert close(ours, plain, atol=1e-4)


@pytest.mark.parametrize("steered", [False, True])
def test_what_is_made_again_has_the_same_gradient(steered):
    x, gain, shift = (torch.randn(2, 4, *s, requires_grad=True) for s in ((3, 5), (1, 1), (1, 1)))
    norm, inputs = group_norm(4), (x, *((gain, shift) if steered else ()))
    how, wanted = partial(activated, norm.num_groups), (*inputs, *norm.parameters())
    h = norm(x) * gain + shift if steered else norm(x)
    sides = (
        MadeAgain.apply(how, x, norm.weight, norm.bias, *inputs[1:]),
        nn.functional.silu(h),
    )
    assert close(*sides)
    pull = torch.randn_like(x)
    for ours, plain in zip(*(torch.autograd.grad(y, wanted, pull) for y in sides)):
        assert close(ours, plain)


def test_what_needs_no_gradient_gets_none():
    x, y = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    MadeAgain.apply(torch.mul, x, y).sum().backward()
    assert x.grad is None and torch.equal(y.grad, x)
    with torch.no_grad():
        assert not MadeAgain.apply(torch.mul, x, y).requires_grad


def test_what_is_made_again_has_the_precision_of_the_first_time():
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    seen = []

    def product(x, y):
        made = x @ y
        seen.append(made.dtype)
        return made

    with torch.autocast("cpu", torch.bfloat16):
        once = MadeAgain.apply(product, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        plain = x @ y
    gradient = torch.ones_like(once)
    found = torch.autograd.grad(once, (x, y), gradient)  # outside of autocast, as training does
    assert seen == [torch.bfloat16] * 2
    for ours, theirs in zip(found, torch.autograd.grad(plain, (x, y), gradient)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_stated_part_and_the_mean(p, dtype):
    layer, h = Dropout(p), torch.ones(200_000, dtype=dtype, requires_grad=True)
    out = layer(h)
    assert out.dtype == dtype and abs((out != 0).float().mean() - (1 - p)) < 0.005
    if p < 1:
        assert abs(out.float().max() * (1 - p) - 1) < 0.005  # what is kept makes up for the rest
    out.sum().backward()
    assert torch.equal(h.grad, out)  # nothing comes back from what was dropped
    assert torch.equal(layer.eval()(h), h)


def test_no_parameter_of_a_model_for_images_is_dead():
    """The step that starts at zero hides what lies before it; after it every weight learns."""
    torch.manual_seed(0)
    model, batch = films(dropout=0.0), Sequences(0.5 * torch.randn(2, 3, *IMAGE))
    denoising_loss(model, batch).mean.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    awake(model).zero_grad()
    denoising_loss(model.train(), batch).mean.backward()
    silent = [name for name, p in model.named_parameters() if (p.grad == 0).all()]
    assert silent == []


def test_an_image_model_learns_from_its_own_start():
    """What starts at zero is not stuck there: a few steps, and the loss has fallen."""
    torch.manual_seed(0)
    model = films(dropout=0.0)
    batch = Sequences(0.5 * torch.ones(4, 2, *IMAGE) * torch.randn(4, 1, 3, 1, 1).sign())
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for _ in range(20):
        torch.manual_seed(1)
        loss = denoising_loss(model, batch).mean
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_dropout_acts_in_training_only():
    x = torch.randn(1, 2, *IMAGE)
    for net, call in (
        (viewer(dropout=0.5), lambda net: net(x, everything(x))),
        (
            draughtsman(dropout=0.5),
            lambda net: net(x, torch.zeros(()), net.condition(x[..., 0, 0, :1].expand(1, 2, 5))),
        ),
    ):
        assert torch.equal(call(net), call(net))
        net.train()
        assert not torch.allclose(call(net), call(net), atol=1e-4)


SETS = {  # frame, s, d, hidden, channels (paper, table of video)
    "mug": ((3, 64, 64), 256, 64, 128, 64),
    "voxceleb": ((4, 32, 32), 512, 12, 1024, 192),
}


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def paper_model(name):
    frame, s, d, hidden, channels = SETS[name]
    return DiffSDA.unet(frame, s, d, hidden, channels, channels, embedding=4 * channels)


def test_the_papers_sizes():
    """27.5 and 228 million, of which the published code never calls 1.2 and 10.8 (a cross-attention in each block)."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        mug, voxceleb = map(paper_model, SETS)
    assert millions(mug) == pytest.approx(27.5 - 1.2, rel=0.01)
    frames = voxceleb.encoder.frames
    assert millions(voxceleb.decoder) == pytest.approx(122, rel=0.01)
    assert millions(frames) == pytest.approx(74, rel=0.01)
    assert millions(voxceleb.encoder) - millions(frames) == pytest.approx(21, rel=0.01)
    assert millions(voxceleb) == pytest.approx(228 - 10.8, rel=0.005)


# Factors


def test_factors_order_map_and_join():
    f = Factors(torch.randn(3, 4), torch.randn(3, 6, 2))
    z = f.per_frame()
    assert z.shape == (3, 6, 6)
    for v in range(6):
        assert torch.equal(z[:, v, :4], f.s) and torch.equal(z[:, v, 4:], f.d[:, v])
    own = Factors(torch.randn(3, 6, 4), f.d)
    assert torch.equal(own.per_frame()[..., :4], own.s)
    joined = Factors.cat([f.map(lambda y: y[:2]), f.map(lambda y: y[2:])])
    assert torch.equal(joined.s, f.s) and torch.equal(joined.d, f.d)


# The encoder


@quick
@given(st.integers(1, 3), st.integers(1, 5), st.booleans(), st.booleans(), st.booleans())
def test_shapes_of_the_codes(B, V, shared, causal, limited):
    net = encoder(shared=shared, causal=causal, d_noise=float(limited))
    s, d = encode(net, torch.randn(B, V, *FRAME))
    assert s.shape == ((B, 4) if shared else (B, V, 4)) and d.shape == (B, V, 2)
    assert s.isfinite().all() and d.isfinite().all()


def test_order_of_frames_matters_to_d():
    net, x = encoder(), torch.randn(3, 6, *FRAME)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    d, shuffled = encode(net, x).d, encode(net, x[:, order]).d
    assert not torch.allclose(shuffled, d[:, order], atol=1e-3)
    assert not torch.allclose(shuffled, d, atol=1e-3)


def reactions(net, x):
    """Which frames' codes (columns) answer when a frame of x (rows) is moved."""
    base, rows = encode(net, x), []
    for v in range(x.shape[1]):
        moved = x.clone()
        moved[:, v] += 1
        new = encode(net, moved)
        rows.append(
            [
                ((a - b).flatten(2).abs().amax((0, 2)) > 1e-7)
                for a, b in zip(new, base)
                if a.ndim == 3
            ]
        )
    return [torch.stack(column) for column in zip(*rows)]


def test_causal_d_looks_back_only_and_the_default_both_ways():
    x = torch.randn(2, 6, *FRAME)
    past = torch.ones(6, 6).triu().bool()
    assert torch.equal(reactions(encoder(causal=True), x)[0], past)
    assert reactions(encoder(), x)[0].all()
    assert torch.equal(reactions(encoder(causal=True, shared=False), x)[0], past)  # its s, too


def test_s_has_seen_every_frame():
    for causal in (False, True):
        net, x = encoder(causal=causal), torch.randn(2, 6, *FRAME)
        base = encode(net, x).s
        for v in range(6):
            moved = x.clone()
            moved[:, v] += 1
            assert ((encode(net, moved).s - base).abs().amax(1) > 1e-6).all()


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"shared": False}, {"d_noise": 0.5}])
def test_padding_is_never_read_and_items_do_not_meet(options):
    net, x, lengths = encoder(**options), torch.randn(4, 6, *FRAME), [6, 2, 4, 1]
    nn.init.normal_(net.to_s.bias), nn.init.normal_(net.to_d.bias)
    together = encode(net, x, lengths)
    junk = x.clone()
    for b, length in enumerate(lengths):
        junk[b, length:] = 1e3
    other = encode(net, junk, lengths)
    assert torch.equal(other.s, together.s) and torch.equal(other.d, together.d)
    for b, length in enumerate(lengths):  # each one alone, without its padding
        alone = encode(net, x[b : b + 1, :length])
        assert close(together.d[b, :length], alone.d[0])
        assert (together.d[b, length:] == 0).all()
        if "shared" in options:
            assert close(together.s[b, :length], alone.s[0])
            assert (together.s[b, length:] == 0).all()
        else:
            assert close(together.s[b], alone.s[0])


@pytest.mark.parametrize(
    "kind",
    (nn.LSTM, nn.GRU, nn.RNN, partial(nn.RNN, nonlinearity="relu"), partial(nn.LSTM, bias=False)),
)
@pytest.mark.parametrize("both_ways", (True, False))
@pytest.mark.parametrize("layers", (1, 2))
def test_recurrent_layers_never_meet_padding(kind, both_ways, layers):
    net = kind(3, 4, layers, batch_first=True, bidirectional=both_ways)
    h, lengths = torch.randn(3, 5, 3, requires_grad=True), torch.tensor([5, 1, 3])
    over = [h, *net.parameters()]
    weight = torch.randn(3, 5, 8 if both_ways else 4)
    out = run_recurrent(net, h, lengths)
    moved = torch.autograd.grad((out * weight).sum(), over)
    alone = 0
    for b, length in enumerate(lengths):
        assert (out[b, length:] == 0).all()
        own = net(h[b : b + 1, :length])[0][0]  # by torch, and without padding
        assert close(out[b, :length], own)
        alone = alone + (own * weight[b, :length]).sum()
    assert all(map(close, moved, torch.autograd.grad(alone, over)))
    state = torch.get_rng_state()
    run_recurrent(net, h, lengths)
    assert torch.equal(torch.get_rng_state(), state)


def test_encoding_in_double_precision():
    net, x = encoder(), torch.randn(2, 6, *FRAME)
    single = encode(net, x)
    double = encode(net.double(), x.double())
    assert double.d.dtype == torch.float64 and close(double.d.float(), single.d)


def test_data_of_another_type_than_the_model_is_refused():
    with pytest.raises(ValueError, match=r"x is torch.float64.*float32"):
        encode(encoder(), torch.randn(2, 6, *FRAME).double())


def test_recurrent_layers_stay_in_full_precision_under_autocast():
    net, seen = encoder(), {}
    for name in ("reader", "dynamics", "to_s", "to_d"):
        getattr(net, name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen.update({name: inputs[0].data.dtype})
        )
    net.frames.linears[1].register_forward_hook(lambda m, i, out: seen.update(frames=out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        factors = encode(net, torch.randn(2, 6, *FRAME))
    assert seen.pop("frames") == torch.bfloat16
    assert set(seen.values()) == {torch.float32} and len(seen) == 4
    assert factors.s.dtype == factors.d.dtype == torch.float32


# The capacity of the dynamic channel


def test_dynamic_channel_has_unit_variance_and_the_stated_noise():
    codes = torch.tensor([5.0, -3.0]) + torch.tensor([0.1, 20.0]) * torch.randn(400, 10, 2)
    channel = DynamicChannel(2, noise=0.5)
    out = channel(codes, None)
    signal = (codes - codes.mean((0, 1))) / codes.std((0, 1))
    assert (signal.var((0, 1)) - 1).abs().max() < 1e-3
    rest = out - signal
    assert (rest.std((0, 1)) - 0.5).abs().max() < 0.03
    assert abs((rest * signal).mean()) < 0.03  # noise knows nothing of the signal
    assert not torch.equal(channel(codes, None), out)


def test_dynamic_channel_at_test_time():
    codes = 7 + 3 * torch.randn(200, 10, 2)
    channel = DynamicChannel(2, noise=1.0)
    for _ in range(100):
        channel(codes, None)
    channel.eval()
    out = channel(codes, None)
    assert torch.equal(out, channel(codes, None))  # no noise
    assert abs(out.mean()) < 0.02 and abs(out.std() - 1) < 0.02
    assert close(channel(codes[:3], None), out[:3])  # and no statistics of the batch
    assert not list(channel.parameters())


def test_dynamic_channel_measures_frames_that_exist_only():
    codes, exists = torch.randn(50, 6, 2), torch.arange(6) < torch.randint(1, 7, (50, 1))
    wild = torch.where(exists[..., None], codes, 1e4)
    outs = []
    for d in (codes, wild):
        torch.manual_seed(0)
        outs.append(DynamicChannel(2, noise=0.3)(d, exists)[exists])
    assert torch.equal(*outs)


def test_no_noise_means_no_normalisation():
    net, x = encoder(), torch.randn(3, 6, *FRAME)
    assert net.channel is None
    nn.init.constant_(net.to_d.bias, 100.0)
    assert (encode(net, x).d > 50).all()
    limited = encoder(d_noise=0.5)
    assert [name for name, _ in limited.named_parameters()] == [
        n for n, _ in net.named_parameters()
    ]


# Static first: when the dynamic channel is silent


def test_d_is_withheld_from_all_then_from_some_and_never_at_test_time():
    torch.manual_seed(0)
    codes, channel = torch.randn(4000, 3, 2), DynamicChannel(2, static_first=0.25, withhold=0.2)
    silent = lambda: (channel(codes, None) == 0).all(-1).all(-1).float().mean().item()
    for progress, share in ((0.0, 1.0), (0.2499, 1.0), (0.25, 0.2), (0.9, 0.2), (1.0, 0.2)):
        channel.at(progress)
        assert abs(silent() - share) < 0.02, progress
    channel.at(0.0)
    assert torch.equal(channel.eval()(codes, None), codes)


def test_whole_sequences_are_withheld_and_the_others_are_untouched():
    torch.manual_seed(0)
    codes, channel = torch.randn(200, 5, 2), DynamicChannel(2, withhold=0.5)
    out = channel(codes, None)
    silent = (out == 0).flatten(1).all(1)
    assert 0 < silent.sum() < 200 and torch.equal(out[~silent], codes[~silent])


def test_nothing_reaches_the_dynamic_layers_while_d_is_withheld():
    net, x = encoder(**RECIPES["static first"]).train(), torch.randn(6, 5, *FRAME)
    net.channel.at(0.0)
    z = net.told(net(x, torch.full((6,), 5), torch.ones(()).bool()))
    z.square().sum().backward()
    assert all((p.grad == 0).all() for p in net.to_d.parameters())
    assert any((p.grad != 0).any() for p in net.to_s.parameters())


def test_the_decoder_is_told_where_d_is_withheld():
    net = encoder(withhold=0.2)
    s, d = torch.randn(2, net.arguments["s_dim"]), torch.randn(2, 4, net.arguments["d_dim"])
    told, alone = net.told(Factors(s, d)), net.told(Factors(s, d).static_only())
    assert told.shape == (2, 4, net.z_dim) and net.z_dim == s.shape[1] + d.shape[2] + 1
    assert (told[..., -1] == 0).all() and (alone[..., -1] == 1).all()
    assert torch.equal(told[..., :-1], Factors(s, d).per_frame())
    paper = encoder()
    assert torch.equal(paper.told(Factors(s, d)), Factors(s, d).per_frame())


def test_the_papers_recipe_is_no_recipe():
    assert encoder(**RECIPES["paper"]).channel is None and not encoder(**RECIPES["paper"]).withholds
    names = lambda net: [name for name, _ in net.named_parameters()]
    assert names(encoder(**RECIPES["static first"])) == names(encoder())  # no weights of its own


def test_a_pooled_map_is_the_mean_over_squares():
    torch.manual_seed(0)
    shape = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "groups": 2}
    whole, pooled = (UNetEncoder((3, 16, 16), patch=2, pool=k, **shape).eval() for k in (1, 2))
    pooled.load_state_dict(whole.state_dict())
    for p in (*whole.parameters(), *pooled.parameters()):
        p.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(p.numel()))
    x, mask = torch.randn(2, 3, 3, 16, 16), torch.ones(()).bool()
    expected = nn.functional.avg_pool2d(whole(x, mask).view(6, 4, 8, 8), 2).reshape(2, 3, -1)
    assert pooled.features == 64 and close(pooled(x, mask), expected)


# Sizes that cannot be


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "8", None])
def test_sizes_are_whole_and_positive(size):
    with pytest.raises(ValueError, match="width.*at least 1"):
        check_sizes(ok=3, width=size)


@pytest.mark.parametrize(
    "attempt, name",
    [
        (lambda: MLPEncoder(FRAME, 0), "features"),
        (lambda: MLPEncoder((), 4), "frame"),
        (lambda: MLPEncoder((3, 0), 4), "frame"),
        (lambda: MLPDecoder((0,), 4, 4), "frame"),
        (lambda: MLPDecoder(FRAME, 0, 4), "z_dim"),
        (lambda: MLPDecoder(FRAME, 4, -1), "width"),
        (lambda: MLPDecoder(FRAME, 4, 4, embedding=0), "embedding"),
        (lambda: MLPEncoder(FRAME, 4, dropout=1.5), "dropout"),
        (lambda: SigmaEmbedding(7), "channels"),
        (lambda: SigmaEmbedding(0), "channels"),
        (lambda: SigmaEmbedding(8, 0), "width"),
        (lambda: SequenceEncoder(MLPEncoder(FRAME, 4), 0, 2, 8), "s_dim"),
        (lambda: SequenceEncoder(MLPEncoder(FRAME, 4), 4, 0, 8), "d_dim"),
        (lambda: SequenceEncoder(MLPEncoder(FRAME, 4), 4, 2, 0), "hidden"),
        (lambda: encoder(d_noise=-0.1), "d_noise"),
        (lambda: encoder(d_noise=math.nan), "d_noise"),
        (lambda: encoder(d_noise=math.inf), "d_noise"),
        (lambda: DynamicChannel(0, 1.0), "d_dim"),
        (lambda: DynamicChannel(2, -1.0), "noise"),
        (lambda: DynamicChannel(2, static_first=-0.1), "static_first"),
        (lambda: encoder(static_first=1.5), "static_first"),
        (lambda: encoder(static_first=math.nan), "static_first"),
        (lambda: encoder(withhold=1.0), "withhold"),
        (lambda: encoder(withhold=-0.2), "withhold"),
        (
            lambda: reader()(torch.zeros(2, 4, 3, 2), torch.ones(1).bool()),
            r"\(2, 3\).*\(2, 4, 3, 2\)",
        ),
        (lambda: reader()(torch.zeros(4, 2, 3), torch.ones(1).bool()), r"\(4, 2, 3\)"),
        (lambda: painter()(torch.zeros(2, 4, 6), torch.zeros(()), []), r"\(2, 4, 6\)"),
        (
            lambda: painter()(
                torch.zeros(2, 4, *FRAME), torch.zeros(4), painter().condition(torch.zeros(2, 4, 5))
            ),
            r"\(4,\)",
        ),
        (lambda: UNetEncoder((3, 12, 8), 8), r"\(3, 12, 8\).*multiples of 8"),
        (lambda: UNetEncoder((3, 8, 20), 8), "multiples of 8"),
        (
            lambda: UNetEncoder((3, 24, 24), 8, patch=2),
            r"multiples of 16 \(patch 2, halved 3 times",
        ),
        (lambda: UNetDecoder((64, 64), 5, 8), r"expected \(C, H, W\)"),
        (lambda: UNetDecoder((3, 10, 16), 5, **SMALL, patch=2), "multiples of 4"),
        (lambda: UNetDecoder((3, 0, 8), 5, 8), "frame"),
        (lambda: UNetEncoder(IMAGE, 0), "channels"),
        (lambda: UNetEncoder(IMAGE, 8, patch=0), "patch"),
        (lambda: UNetDecoder(IMAGE, 5, 8, blocks=0), "blocks"),
        (lambda: UNetDecoder(IMAGE, 0, 8), "z_dim"),
        (lambda: UNetDecoder(IMAGE, 5, 8, embedding=0), "embedding"),
        (lambda: UNetEncoder(IMAGE, 8, dropout=1.5), "dropout"),
        (lambda: viewer()(torch.zeros(2, 4, 3, 8, 16), None), r"\(3, 8, 8\).*\(2, 4, 3, 8, 16\)"),
        (lambda: viewer()(torch.zeros(4, *IMAGE), None), r"\(4, 3, 8, 8\)"),
        (
            lambda: draughtsman()(torch.zeros(2, 4, 8, 8, 3), torch.zeros(()), []),
            r"\(2, 4, 8, 8, 3\)",
        ),
    ],
)
def test_wrong_sizes_are_refused(attempt, name):
    with pytest.raises(ValueError, match=name):
        attempt()


# Keeping a network


class Tower(Rebuildable):
    def __init__(self, width: int, depth: int = 2, top: nn.Module | None = None):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.top = top


class Spire(Tower):
    def __init__(self, height: int):
        super().__init__(2, depth=height)


class Mast(Tower):
    def __init__(self, width: int, **options):
        super().__init__(width, **options)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tower(2, top=Tower(3, depth=1)),
        lambda: Spire(3),
        lambda: Mast(3, depth=1, top=Tower(2)),
        lambda: reader(mask_channel=True, dropout=0.25),
        painter,
        lambda: encoder(d_noise=0.5, causal=True),
        lambda: encoder(shared=False),
        lambda: viewer(patch=2, dropout=0.25),
        lambda: draughtsman(attention=()),
        lambda: films(d_noise=0.5, patch=2),
    ],
)
def test_a_module_comes_back_as_it_was(make, tmp_path):
    module = make()
    save_module(module, tmp_path)
    again = load_module(tmp_path)
    assert type(again) is type(module) and same_weights(again, module)
    assert again.recipe() == module.recipe() and not again.training
    assert json.loads((tmp_path / "model.json").read_text())["model"] == module.recipe()


def test_an_argument_that_could_not_be_built_again_is_refused(tmp_path):
    module = Tower(2)
    module.arguments |= {"top": {"colour": 1}}
    with pytest.raises(ValueError, match="Tower cannot be saved: .* dict {'colour': 1}; give its"):
        save_module(module, tmp_path)


def test_saving_keeps_the_callers_module_and_several_names_live_together(tmp_path):
    one, two = Tower(2).train(), Tower(2)
    before = [p.clone() for p in one.parameters()]
    for _ in range(2):  # the second round removes what the first left, of its own name only
        save_module(one, tmp_path, "model")
        save_module(two, tmp_path, "model-of-two")
    assert same_weights(load_module(tmp_path, "model"), one)
    assert same_weights(load_module(tmp_path, "model-of-two"), two)
    assert one.training and all(torch.equal(a, b) for a, b in zip(before, one.parameters()))
    assert len(list(tmp_path.iterdir())) == 5  # JSON and weights of each, and a lock


def test_a_new_state_replaces_the_old_one(tmp_path):
    write_checkpoint(tmp_path / "new" / "folder", "state", {"step": 1}, {"w": torch.zeros(3)})
    write_checkpoint(tmp_path / "new" / "folder", "state", {"step": 2}, {"w": torch.ones(3)})
    facts, tensors = read_checkpoint(tmp_path / "new" / "folder", "state")
    assert facts["step"] == 2 and torch.equal(tensors["w"], torch.ones(3))
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert len(names) == 3 and names[0] == ".writing.lock"


@quick
@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 3), max_size=3)))
def test_tensors_of_any_shape_and_type_come_back(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("any")
    types = [torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16]
    tensors = {
        name: (10 * torch.randn(shape)).to(types[i % 5])
        for i, (name, shape) in enumerate(shapes.items())
    }
    if "a" in tensors and tensors["a"].ndim > 1:
        tensors["a"] = tensors["a"].transpose(0, 1)  # a view that is not contiguous
    tensors["shared"] = tensors.get("b", torch.zeros(1))  # memory in common
    write_checkpoint(folder, "state", {"note": "ä", "numbers": [1, 0.1]}, tensors)
    facts, again = read_checkpoint(folder, "state")
    assert facts["note"] == "ä" and facts["numbers"] == [1, 0.1]
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[k], y) and again[k].dtype == y.dtype for k, y in tensors.items())


class Killed(BaseException):
    """As good as a kill: nothing of ours catches it."""


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("moment", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_write_leaves_one_state_whole(tmp_path, monkeypatch, call, moment, after):
    write_checkpoint(tmp_path, "state", {"step": 1}, {"w": torch.zeros(3)})
    plain, calls = getattr(os, call), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == moment and not after:
            raise Killed
        plain(*args)
        if len(calls) == moment:
            raise Killed

    monkeypatch.setattr(blocks.os, call, interrupted)
    with pytest.raises(Killed):
        write_checkpoint(tmp_path, "state", {"step": 2}, {"w": torch.ones(3)})
    monkeypatch.undo()
    facts, tensors = read_checkpoint(tmp_path, "state")
    assert torch.equal(tensors["w"], torch.full((3,), facts["step"] - 1.0))  # facts fit tensors
    assert facts["step"] == (2 if (call, moment, after) == ("replace", 2, True) else 1)
    write_checkpoint(tmp_path, "state", {"step": 3}, {"w": torch.full((3,), 2.0)})
    assert read_checkpoint(tmp_path, "state")[0]["step"] == 3
    assert (
        len(list(tmp_path.iterdir())) == 3
    )  # JSON, weights, and the file whose lock is held meanwhile


def test_leftovers_of_a_killed_writer_are_cleared_and_nothing_else(tmp_path):
    ours = [
        ".state.json.123",
        ".state-0123456789abcdef.safetensors.7",
        "state-0123456789abcdef.safetensors",
    ]
    others = [
        ".state-b-0123456789abcdef.safetensors.7",
        "state-b-0123456789abcdef.safetensors",
        "state-mine.safetensors",
        "stateful.json",
    ]
    for name in ours + others:
        (tmp_path / name).write_text("?")
    write_checkpoint(tmp_path, "state", {}, {"w": torch.ones(3)})
    left = {p.name for p in tmp_path.iterdir()}
    assert not left & set(ours) and left > set(others) and len(left) == len(others) + 3


def keep_writing(folder, value):
    for _ in range(100):
        write_checkpoint(folder, "state", {"value": value}, {"w": torch.full((9,), value)})


def test_two_processes_may_write_to_one_folder(tmp_path, monkeypatch):
    """Neither takes the unfinished files of the other for those of a killed one."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # quicker
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=keep_writing, args=(tmp_path, float(i))) for i in range(2)]
    [process.start() for process in both]
    [process.join() for process in both]
    assert [process.exitcode for process in both] == [0, 0]
    facts, tensors = read_checkpoint(tmp_path, "state")
    assert (tensors["w"] == facts["value"]).all() and len(list(tmp_path.iterdir())) == 3


def test_facts_may_have_numbers_for_keys(tmp_path):
    write_checkpoint(tmp_path, "state", {"classes": {10: "b", 2: "a"}}, {})
    assert read_checkpoint(tmp_path, "state")[0]["classes"] == {"10": "b", "2": "a"}


def test_facts_that_json_cannot_hold_leave_the_folder_as_it_was(tmp_path):
    write_checkpoint(tmp_path, "state", {"step": 1}, {"w": torch.zeros(3)})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path, "state", {"step": torch.ones(1)}, {"w": torch.ones(3)})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def rewrite(folder, change):
    path = folder / "model.json"
    facts = json.loads(path.read_text())
    del facts["checksum"]  # as of before there was one, else every change is told alike
    change(facts)
    path.write_text(json.dumps(facts))


def weights_of(folder):
    return next(folder.glob("*.safetensors"))


def flip_a_bit(folder):
    content = bytearray(weights_of(folder).read_bytes())
    content[-3] ^= 4
    weights_of(folder).write_bytes(content)


def with_tensors(change):
    def damage(folder):
        facts, tensors = read_checkpoint(folder, "model")
        change(tensors)
        write_checkpoint(folder, "model", {"model": facts["model"]}, tensors)

    return damage


@pytest.mark.parametrize(
    "damage, text",
    [
        (lambda f: (f / "model.json").unlink(), "does not exist"),
        (lambda f: weights_of(f).unlink(), "is missing"),
        (flip_a_bit, "damaged"),
        (lambda f: weights_of(f).write_bytes(weights_of(f).read_bytes()[:-5]), "damaged"),
        (lambda f: weights_of(f).write_bytes(b""), "damaged"),
        (lambda f: (f / "model.json").write_text("{"), "not one of our checkpoints"),
        (lambda f: (f / "model.json").write_text("[1]"), "not one of our checkpoints"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), "not one of our checkpoints"),
        (lambda f: rewrite(f, lambda facts: facts.pop("weights")), "not one of our checkpoints"),
        (lambda f: rewrite(f, lambda facts: facts.update(format=2)), "format 2"),
        (lambda f: rewrite(f, lambda facts: facts.pop("model")), "describes no model"),
        (lambda f: rewrite(f, lambda facts: facts["model"].update({"class": "Foe"})), "'Foe'"),
        (lambda f: rewrite(f, lambda facts: facts["model"].update({"class": "eval"})), "'eval'"),
        (lambda f: rewrite(f, lambda facts: facts["model"].update(height=3)), "height"),
        (lambda f: rewrite(f, lambda facts: facts["model"].pop("width")), "width"),
        (lambda f: rewrite(f, lambda facts: facts["model"].update(depth=3)), "do not fit"),
        (lambda f: rewrite(f, lambda facts: facts["model"].update(width=3)), "do not fit"),
        (with_tensors(lambda t: t.pop("layers.0.bias")), "layers.0.bias"),
        (with_tensors(lambda t: t.update(extra=torch.zeros(1))), "extra"),
        (with_tensors(lambda t: t.update({"layers.0.bias": torch.zeros(9)})), "layers.0.bias"),
    ],
)
def test_folders_that_do_not_hold_a_whole_model_are_refused(tmp_path, damage, text):
    save_module(Tower(2), tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=text):
        load_module(tmp_path)


def test_a_module_of_another_kind_is_refused(tmp_path):
    save_module(Tower(2), tmp_path)
    assert isinstance(load_module(tmp_path, kind=Tower), Tower)
    with pytest.raises(ValueError, match="holds a Tower, expected a MLPEncoder"):
        load_module(tmp_path, kind=MLPEncoder)


def test_weights_of_another_folder_are_out_of_reach(tmp_path):
    save_module(Tower(2), tmp_path / "theirs")
    save_module(Tower(2), tmp_path / "ours")
    stolen = f"../theirs/{weights_of(tmp_path / 'theirs').name}"
    rewrite(tmp_path / "ours", lambda facts: facts.update(weights=stolen))
    with pytest.raises(ValueError, match="is missing"):
        load_module(tmp_path / "ours")


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    refuse = lambda *args, **kwargs: pytest.fail("a pickle was used")
    for module, name in [
        (torch, "load"),
        (torch, "save"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "dump"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    save_module(Tower(2), tmp_path)
    load_module(tmp_path)
    for module in Path(inspect.getfile(blocks)).parent.glob("*.py"):
        text = module.read_text(encoding="utf-8")
        banned = ("import pickle", "torch.load(", "torch.save(")
        assert not [word for word in banned if word in text], module.name


def test_gradients_of_a_norm_are_summed_in_full_precision_where_its_input_is_not():
    """Over 8,704 rows, the size of a speech batch; PyTorch's own norm is a tenth off there on a CPU."""
    g = torch.Generator().manual_seed(0)
    h, pull = (torch.randn(8704, 16, generator=g).bfloat16() for _ in range(2))
    exact = torch.nn.LayerNorm(16).double()
    exact(h.double()).backward(pull.double())
    norm = LayerNorm(16)
    made = norm(h)
    made.backward(pull)
    assert made.dtype == torch.bfloat16 and norm.weight.grad.dtype == torch.float32
    for ours, right in zip(norm.parameters(), exact.parameters()):
        assert (ours.grad - right.grad).norm() < 1e-4 * right.grad.norm()
