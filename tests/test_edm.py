"""Denoisers, preconditioning, loss and solvers against exact mathematics.

Most tests use data whose ideal denoiser is known in closed form, so that the right answer is a formula and not a stored
number. The arrays in `conformance/` come from a separate program; its README gives the tolerances.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diffsda.denoising import empirical_denoiser, mixture_denoiser
from diffsda.loss import LossSum, edm_loss, edm_weight, log_normal_sigma
from diffsda.precond import Scalings, expand_like, precondition, scalings
from diffsda.sampling import (
    invert_heun,
    karras_sigmas,
    sample_dpmpp_2m,
    sample_euler,
    sample_heun,
)

CONFORMANCE = Path(__file__).parent / "conformance"
SOLVERS = [sample_euler, sample_heun, sample_dpmpp_2m, invert_heun]
SAMPLERS = SOLVERS[:3]
DTYPES = [torch.float64, torch.float32]
SD = 0.5
LEVELS = [0.002, 0.05, 0.5, 3.0, 80.0]

levels = st.floats(1e-3, 1e2)
quick = settings(deadline=None, max_examples=40)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def load(name, dtype=torch.float64):
    with np.load(CONFORMANCE / f"{name}.npz") as arrays:
        return {k: torch.as_tensor(arrays[k]).to(dtype) for k in arrays.files}


def largest(error):
    return error.abs().max().item()


def gaussian(x, sigma):  # the ideal denoiser of N(0, SD^2)
    return x * SD**2 / (SD**2 + sigma**2)


def counted(denoise):
    asked = []

    def ask(x, sigma):
        asked.append(float(sigma))
        return denoise(x, sigma)

    return ask, asked


@pytest.fixture
def three():  # parameters of a mixture in two dimensions
    means = double([[-0.6, -0.3], [0.6, -0.3], [0.1, 0.7]])
    return double([0.5, 0.3, 0.2]), means, double([0.02, 0.04, 0.005])


def draw(parameters, n):
    weights, means, variances = parameters
    k = torch.multinomial(weights, n, replacement=True)
    return means[k] + variances[k, None].sqrt() * torch.randn(n, means.shape[1], dtype=means.dtype)


# ---------------------------------------------------------------------------------------------- denoising


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixture_denoiser_conforms(dtype):
    ref, exact = load("heun_mixture", dtype), load("heun_mixture")
    denoise = mixture_denoiser(exact["weights"], exact["means"], exact["variances"])
    got = denoise(ref["query_x"], ref["query_sigma"])
    assert got.dtype == dtype
    assert largest(got - exact["query_denoised"]) < (1e-9 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_denoiser_gives_the_score(three, sigma):
    weights, means, variances = three
    covariance = (variances + sigma**2)[:, None, None] * torch.eye(2, dtype=torch.float64)
    density = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariance))
    x = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    got = (mixture_denoiser(*three)(x, sigma) - x) / sigma**2
    assert torch.allclose(got, score, rtol=1e-8, atol=1e-8)


def test_mixture_denoiser_limits(three):
    weights, means, _ = three
    x, denoise = torch.randn(20, 2, dtype=torch.float64), mixture_denoiser(*three)
    assert torch.equal(denoise(x, 0), x)
    assert largest(denoise(x, 1e-6) - x) < 1e-9
    assert largest(denoise(x, 1e6) - weights @ means) < 1e-9


def test_posterior_mean_has_the_least_error(three):
    clean = draw(three, 20_000)
    noisy, denoise = clean + 0.3 * torch.randn_like(clean), mixture_denoiser(*three)
    error = (denoise(noisy, 0.3) - clean).square().mean()
    for rival in (denoise(noisy, 0.25), denoise(noisy, 0.36), 0.97 * denoise(noisy, 0.3)):
        assert error < (rival - clean).square().mean()


def test_no_underflow_far_from_the_data(three):
    far = torch.tensor([[50.0, -50.0]])
    for denoise in (mixture_denoiser(*three), empirical_denoiser(three[1])):
        assert denoise(far, 0.01).isfinite().all()


def test_empirical_denoiser_is_a_softmax_over_the_data():
    data, x = torch.randn(7, 3, 2, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    for sigma in (0.3, 1.0, 5.0):
        logits = -(x[:, None] - data).square().sum((-1, -2)) / (2 * sigma**2)
        want = torch.einsum("bn,nij->bij", logits.softmax(-1), data)
        assert torch.allclose(empirical_denoiser(data)(x, sigma), want)


def test_empirical_denoiser_is_the_limit_of_narrow_mixtures():
    data, x = torch.randn(6, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    narrow = mixture_denoiser(torch.full((6,), 1 / 6), data, torch.full((6,), 1e-12))
    assert largest(narrow(x, 0.4) - empirical_denoiser(data)(x, 0.4)) < 1e-9


def test_empirical_denoiser_memorises():
    data = torch.randn(30, 2)
    assert largest(empirical_denoiser(data)(data + 1e-3, 1e-3) - data) < 1e-5


@pytest.mark.parametrize("shape", [(2, 3, 2), (6, 2), (1, 1, 4, 2), (2,)])
def test_denoisers_take_any_batch(three, shape):
    x = torch.randn(*shape, dtype=torch.float64)
    for denoise in (mixture_denoiser(*three), empirical_denoiser(three[1])):
        one_by_one = [denoise(row, 0.4) for row in x.reshape(-1, 2)]
        assert torch.allclose(denoise(x, 0.4), torch.stack(one_by_one).reshape(shape))


@pytest.mark.parametrize("axes", [(), (2,), (2, 3), (1, 3), (2, 1)])
def test_denoisers_take_sigma_on_the_first_axes(three, axes):
    x, sigma = (
        torch.randn(2, 3, 2, dtype=torch.float64),
        torch.rand(axes, dtype=torch.float64) + 0.1,
    )
    every = sigma[(...,) + (None,) * (2 - sigma.ndim)].expand(2, 3)
    for denoise in (mixture_denoiser(*three), empirical_denoiser(three[1])):
        want = [denoise(x[i, j], every[i, j]) for i in range(2) for j in range(3)]
        assert torch.allclose(denoise(x, sigma), torch.stack(want).reshape(2, 3, 2))


# ------------------------------------------------------------------------------------------------- precond


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_and_weight_conform(dtype):
    ref, exact = load("edm", dtype), load("edm")
    got = {**scalings(ref["sigma"])._asdict(), "loss_weight": edm_weight(ref["sigma"])}
    relative = 1e-12 if dtype == torch.float64 else 2e-6
    for name, values in got.items():
        assert values.dtype == dtype
        error = (values.double() - exact[name]).abs()
        if name == "c_noise" and dtype == torch.float32:
            assert error.max() < 1e-6
        else:
            assert (error <= relative * exact[name].abs()).all(), name


@quick
@given(levels, st.floats(0.05, 5))
def test_scalars_give_unit_variances(sigma, sigma_data):
    c = scalings(double(sigma), sigma_data)
    # variances of sums of independent variables, so these are exact
    assert math.isclose(c.c_in**2 * (sigma_data**2 + sigma**2), 1, rel_tol=1e-12)
    left = (1 - c.c_skip) ** 2 * sigma_data**2 + c.c_skip**2 * sigma**2
    assert math.isclose(left / c.c_out**2, 1, rel_tol=1e-9)
    assert math.isclose(edm_weight(double(sigma), sigma_data) * c.c_out**2, 1, rel_tol=1e-12)
    for other in (c.c_skip - 0.01, c.c_skip + 0.01):  # no other skip leaves less to do
        assert (1 - other) ** 2 * sigma_data**2 + other**2 * sigma**2 > left


@pytest.mark.parametrize("sigma", LEVELS)
def test_input_variance_is_one(sigma):
    y = SD * torch.randn(200_000)
    assert abs((scalings(sigma).c_in * (y + sigma * torch.randn_like(y))).var() - 1) < 0.02


def test_scalars_at_special_levels():
    assert scalings(double(SD)).c_skip == 0.5
    assert scalings(double(2.0), sigma_data=2.0).c_skip == 0.5
    assert scalings(1.0).c_noise == 0
    low, high = scalings(double(1e-9)), scalings(double(1e9))
    assert math.isclose(low.c_skip, 1) and math.isclose(low.c_out, 1e-9)
    assert high.c_skip < 1e-15 and math.isclose(high.c_out, SD)


def test_scalings_keep_the_shape_of_sigma():
    sigma = torch.rand(2, 3) + 0.1
    assert isinstance(scalings(sigma), Scalings)
    assert all(c.shape == (2, 3) for c in scalings(sigma))


@quick
@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_expand_like_lines_up_the_first_axes(shape, data):
    axes = shape[: data.draw(st.integers(0, len(shape)))]
    sigma = torch.rand(axes)
    out = expand_like(sigma, torch.zeros(shape))
    assert out.shape == (*axes, *(1,) * (len(shape) - len(axes)))
    assert torch.equal(out.flatten(), sigma.flatten())


def test_expand_like_follows_x():
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert expand_like(2, x).dtype == torch.float64 and expand_like(2, x).shape == (1, 1)
    assert expand_like(torch.ones(2), x).dtype == torch.float64
    assert expand_like(torch.ones(1, 3), x).shape == (1, 3)


@pytest.mark.parametrize("sigma", LEVELS)
def test_silent_network_is_the_ideal_gaussian_denoiser(sigma):
    x = torch.randn(5, 4, dtype=torch.float64)
    got = precondition(lambda x, c_noise: torch.zeros_like(x))(x, sigma)
    assert torch.allclose(got, gaussian(x, sigma), rtol=1e-12)


def test_denoiser_keeps_clean_input_and_forgets_noise():
    denoise = precondition(lambda x, c_noise: torch.sin(3 * x) + 1)
    x = torch.randn(5, 4, dtype=torch.float64)
    assert largest(denoise(x, 1e-7) - x) < 1e-6
    assert largest(denoise(x, 1e8) - denoise(-x, 1e8)) < 1e-6


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_precondition_by_the_formula(axes):
    seen, sigma = {}, torch.rand(axes, dtype=torch.float64) + 0.1
    x = torch.randn(2, 3, 4, dtype=torch.float64)

    def network(x, c_noise):
        seen.update(x=x, c_noise=c_noise)
        return torch.tanh(x)

    out, c = precondition(network, 0.7)(x, sigma), scalings(sigma, 0.7)
    assert seen["c_noise"].shape == axes and torch.allclose(seen["c_noise"], sigma.log() / 4)
    scaled = expand_like(c.c_in, x) * x
    assert torch.allclose(seen["x"], scaled)
    want = expand_like(c.c_skip, x) * x + expand_like(c.c_out, x) * torch.tanh(scaled)
    assert torch.allclose(out, want)


def test_precondition_keeps_float32_around_a_half_precision_network():
    denoise = precondition(lambda x, c_noise: x.to(torch.bfloat16))
    assert denoise(torch.randn(3, 2), 0.5).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- loss

# zero mean, variance SD^2 and 1, uncorrelated: expectations over these four entries are exact
CLEAN = SD * double([1, 1, -1, -1])
NOISE = double([1, -1, 1, -1])


def silent(x, c_noise):
    return torch.zeros_like(x)


@quick
@given(levels)
def test_silent_network_costs_exactly_one(sigma):
    assert math.isclose(edm_loss(precondition(silent), CLEAN, sigma, NOISE).mean, 1, rel_tol=1e-9)


@quick
@given(levels, st.floats(0.05, 5))
def test_silent_network_costs_one_for_any_sigma_data(sigma, sigma_data):
    clean = CLEAN / SD * sigma_data
    loss = edm_loss(precondition(silent, sigma_data), clean, sigma, NOISE, sigma_data=sigma_data)
    assert math.isclose(loss.mean, 1, rel_tol=1e-9)


def test_loss_is_least_squares_of_the_raw_network():
    x, noise = torch.randn(2, 4, 3, 5, dtype=torch.float64).unbind()
    sigma = log_normal_sigma((4, 3)).double()
    c, noisy = scalings(sigma), x + sigma[..., None] * noise
    skip, out, scale = (expand_like(s, x) for s in c[:3])
    want = (torch.tanh(scale * noisy) - (x - skip * noisy) / out).square().sum()
    got = edm_loss(precondition(lambda x, c_noise: torch.tanh(x)), x, sigma, noise)
    assert torch.isclose(got.total, want) and got.count == 60


def test_perfect_denoiser_costs_nothing():
    x = torch.randn(3, 2)
    loss = edm_loss(lambda noisy, sigma: x, x, 0.5, torch.randn(3, 2))
    assert loss.total == 0 and loss.mean == 0 and loss.count == 6


def test_denoiser_is_asked_at_the_noisy_point_and_the_given_level():
    x, noise, sigma = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0.5, 2.0])

    def denoise(noisy, level):
        assert torch.equal(level, sigma) and torch.allclose(noisy, x + sigma[:, None] * noise)
        return noisy

    edm_loss(denoise, x, sigma, noise)


masks = st.lists(st.booleans(), min_size=12, max_size=12)


@quick
@given(masks, st.sampled_from([0.0, -999.0, 1e30, float("nan"), float("inf")]))
def test_values_not_observed_have_no_effect(mask, junk):
    observed = torch.tensor(mask).reshape(4, 3)
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 4, 3, generator=generator).unbind()
    weight = torch.ones((), requires_grad=True)
    results = []
    for filled in (x, torch.where(observed, x, junk)):
        filled = filled.clone().requires_grad_()
        loss = edm_loss(
            precondition(lambda x, c: weight * x.cumsum(-1)), filled, 0.7, noise, observed
        )
        grads = torch.autograd.grad(loss.mean, (filled, weight))
        assert loss.count == sum(mask) and loss.mean.isfinite()
        assert (grads[0][~observed] == 0).all() and all(g.isfinite().all() for g in grads)
        results.append((loss.total, grads[1]))
    assert results[0] == results[1]


def test_infinite_output_where_not_observed_has_no_gradient():
    observed = torch.tensor([[True, False], [False, True]])
    output = torch.tensor([[1.0, float("inf")], [float("nan"), 2.0]], requires_grad=True)
    loss = edm_loss(lambda x, s: output, torch.zeros(2, 2), 0.5, torch.zeros(2, 2), observed)
    loss.total.backward()
    assert loss.total.isfinite() and (output.grad[~observed] == 0).all()
    assert (output.grad[observed] != 0).all()


def test_nothing_observed_is_zero_and_not_nan():
    weight = torch.ones((), requires_grad=True)
    nothing = torch.zeros(4, 3, dtype=torch.bool)
    x = torch.full((4, 3), float("nan"))
    loss = edm_loss(lambda x, s: weight * x, x, 0.5, torch.randn(4, 3), nothing)
    loss.mean.backward()
    assert loss.mean == 0 and loss.count == 0 and weight.grad == 0


@pytest.mark.parametrize("shape", [(4, 3), (3,), (4, 1), (1, 3), (2, 4, 3), (2, 1, 1), ()])
def test_observed_broadcasts(shape):
    x, noise, observed = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.rand(shape) < 0.6
    denoise = precondition(silent)
    got = edm_loss(denoise, x, 0.5, noise, observed)
    want = edm_loss(denoise, x, 0.5, noise, observed.expand(2, 4, 3).contiguous())
    assert got.total == want.total and got.count == want.count == observed.expand(2, 4, 3).sum()


@quick
@given(st.integers(1, 5))
def test_parts_add_up_to_the_whole(cut):
    x, noise = torch.randn(2, 6, 4, dtype=torch.float64).unbind()
    observed, sigma = torch.rand(6, 4) < 0.5, log_normal_sigma(6).double()
    denoise = precondition(lambda x, c: torch.tanh(x))
    parts = [
        edm_loss(denoise, x[p], sigma[p], noise[p], observed[p])
        for p in (slice(cut), slice(cut, None))
    ]
    whole, both = edm_loss(denoise, x, sigma, noise, observed), parts[0] + parts[1]
    assert isinstance(both, LossSum)
    assert torch.isclose(both.total, whole.total) and both.count == whole.count
    assert torch.isclose(both.mean, whole.mean)


def test_count_is_exact_beyond_float32():
    parts = LossSum(torch.tensor(1.0), torch.tensor(2**24)) + LossSum(
        torch.tensor(0.0), torch.tensor(1)
    )
    assert parts.count == 2**24 + 1


def test_log_normal_sigma():
    sigma = log_normal_sigma((400, 50), P_mean=-1.2, P_std=1.2)
    assert sigma.shape == (400, 50) and (sigma > 0).all()
    assert abs(sigma.log().mean() + 1.2) < 0.03 and abs(sigma.log().std() - 1.2) < 0.03
    assert abs(log_normal_sigma(20_000).log().mean() + 0.4) < 0.03
    assert abs(log_normal_sigma(20_000).log().std() - 1.0) < 0.03
    assert log_normal_sigma(3).shape == (3,) and log_normal_sigma(()).shape == ()
    assert log_normal_sigma(3, device="cpu").device.type == "cpu"


def test_training_lowers_the_loss(three):
    data = draw(three, 1_000).float()
    data = SD * (data - data.mean(0)) / data.std()
    model = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))

    def network(x, c_noise):
        return model(torch.cat([x, c_noise[:, None]], -1))

    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for _ in range(200):
        sigma = log_normal_sigma(len(data), -1.5, 0.8)
        loss = edm_loss(precondition(network), data, sigma, torch.randn_like(data)).mean
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert sum(history[-20:]) < 0.85 * sum(history[:3]) / 3 * 20


# ------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("n", [8, 16, 32])
def test_karras_sigmas_conform(n):
    got = karras_sigmas(n)
    assert got.dtype == torch.float64 and got.shape == (n + 1,) and got[-1] == 0
    assert torch.allclose(got[:-1], load("edm")[f"karras_sigmas_N{n}"], rtol=1e-12, atol=0)


@quick
@given(st.integers(2, 200), st.floats(1e-4, 0.1), st.floats(1, 200), st.floats(0.5, 50))
def test_karras_sigmas_reach_from_end_to_end(n, sigma_min, sigma_max, rho):
    got = karras_sigmas(n, sigma_min, sigma_max, rho)
    assert len(got) == n + 1 and (got.diff() < 0).all() and got[-1] == 0
    assert math.isclose(got[0], sigma_max, rel_tol=1e-9)
    assert math.isclose(got[-2], sigma_min, rel_tol=1e-6)
    even = got[:-1] ** (1 / rho)
    assert torch.allclose(even.diff(), even.diff().mean().expand(n - 1), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [8, 16, 32])
def test_heun_and_inversion_conform(n, dtype):
    ref, exact = load("heun_mixture", dtype), load("heun_mixture")
    denoise = mixture_denoiser(exact["weights"], exact["means"], exact["variances"])
    sigmas, states = karras_sigmas(n), {"gen": [], "rev": []}

    def keep(name):
        return lambda i, sigma, x: states[name].append(x.double())

    sample = sample_heun(denoise, 80 * ref["start_noise"], sigmas, callback=keep("gen"))
    x_T = invert_heun(denoise, ref["start_data"], sigmas, callback=keep("rev"))
    assert sample.dtype == x_T.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    assert largest(sample - exact[f"gen_states_N{n}"][-1]) < tolerance
    assert largest(x_T - exact[f"rev_latent_N{n}"]) < tolerance
    for name, got in states.items():
        want = exact[f"{name}_states_N{n}"]
        error = (torch.stack(got) - want) / want.abs().clamp(min=1)
        assert largest(error) < tolerance


def slope(error, counts):  # order of convergence: error ~ counts ** -slope
    x, y = np.log(counts), np.log(error)
    return -np.polyfit(x, y, 1)[0]


def flow(sigma_max=80.0):  # exact solution from a start of 1 for Gaussian data
    return SD / math.sqrt(sigma_max**2 + SD**2)


@pytest.mark.parametrize(
    "sampler, order", [(sample_euler, 1), (sample_heun, 2), (sample_dpmpp_2m, 2)]
)
def test_order_of_convergence_on_a_gaussian(sampler, order):
    counts, start = [36, 72, 144, 288], double([80.0])
    errors = [abs(sampler(gaussian, start, karras_sigmas(n)).item() - 80 * flow()) for n in counts]
    assert errors == sorted(errors, reverse=True)
    assert abs(slope(errors, counts) - order) < 0.15


@pytest.mark.parametrize(
    "sampler, order", [(sample_euler, 1), (sample_heun, 2), (sample_dpmpp_2m, 2)]
)
def test_order_of_convergence_to_the_exact_mixture_solution(sampler, order):
    ref, counts = load("heun_mixture"), [64, 128, 256]
    denoise = mixture_denoiser(ref["weights"], ref["means"], ref["variances"])
    errors = []
    for n in counts:
        sample = sampler(denoise, 80 * ref["start_noise"], karras_sigmas(n))
        errors.append((sample - ref["gen_exact_denoised"]).norm(dim=1).median().item())
    assert abs(slope(errors, counts) - order) < 0.3


def test_inversion_converges_to_the_exact_latent():
    ref, counts = load("heun_mixture"), [64, 128, 256]
    denoise = mixture_denoiser(ref["weights"], ref["means"], ref["variances"])
    want, errors = ref["rev_exact_from_sigma_min_latent"], []
    for n in counts:
        got = invert_heun(denoise, ref["start_data"], karras_sigmas(n), sigma_start=0.002)
        errors.append((got - want).norm(dim=1).median().item())
    assert slope(errors, counts) > 1.7 and errors[-1] < 1e-3


def test_heun_agrees_with_dopri5(three):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    denoise, x = mixture_denoiser(*three), 80 * torch.randn(16, 2, dtype=torch.float64)

    def field(t, x):  # t = ln sigma
        return x - denoise(x, t.exp())

    ends = double([80.0, 0.002]).log()
    want = denoise(torchdiffeq.odeint(field, x, ends, rtol=1e-9, atol=1e-9)[-1], 0.002)
    got = sample_heun(denoise, x, karras_sigmas(1_000))
    assert (got - want).norm(dim=1).median() < 1e-4


GAUSSIAN_ROUND_TRIP = {
    8: 4.4e-3,
    16: 6.8e-5,
    32: 9.5e-7,
    64: 1.3e-8,
    128: 1.1e-10,
}  # N -> squared error


@pytest.mark.parametrize(
    "n, dtype",
    [(n, torch.float64) for n in GAUSSIAN_ROUND_TRIP]
    + [(n, torch.float32) for n in (8, 16, 32)],  # beyond, the rounding of float32 is larger
)
def test_round_trip_on_a_gaussian(n, dtype):
    want = GAUSSIAN_ROUND_TRIP[n]
    sigmas, x = karras_sigmas(n), torch.ones(1, dtype=dtype)
    back = sample_heun(gaussian, 80 * invert_heun(gaussian, x, sigmas), sigmas)
    error = SD**2 * (back - x).double().square().item()  # linear: x scales with its own size
    assert 0.95 * want < error < 1.06 * want


@pytest.mark.parametrize("n, want", [(16, 1.6e-2), (32, 8.3e-6), (64, 8.6e-7), (128, 1.9e-8)])
def test_round_trip_on_two_modes(n, want):
    denoise = mixture_denoiser([0.5, 0.5], double([[-0.5], [0.5]]), double([0.01, 0.01]))
    x = draw((double([0.5, 0.5]), double([[-0.5], [0.5]]), double([0.01, 0.01])), 8_000)
    sigmas = karras_sigmas(n)
    back = sample_heun(denoise, 80 * invert_heun(denoise, x, sigmas), sigmas)
    assert 0.6 < (back - x).square().mean() / want < 1.6


def test_inverted_data_looks_like_unit_noise(three):
    x_T = invert_heun(mixture_denoiser(*three), draw(three, 8_000), karras_sigmas(64))
    assert largest(x_T.mean(0)) < 0.05 and largest(x_T.T.cov() - torch.eye(2)) < 0.06


@pytest.mark.parametrize("n", [2, 3, 18, 32])
def test_calls_of_the_denoiser(n):
    sigmas, x = karras_sigmas(n), torch.randn(3, 2, dtype=torch.float64)
    calls = {}
    for solver in SOLVERS:
        ask, asked = counted(gaussian)
        solver(ask, x, sigmas)
        calls[solver] = len(asked)
        assert min(asked) > 0  # a denoiser is never asked at 0
    assert calls[sample_euler] == calls[sample_dpmpp_2m] == n
    assert calls[sample_heun] == calls[invert_heun] == 2 * n - 1


def test_calls_with_churn_and_from_a_later_start():
    sigmas = karras_sigmas(10)
    ask, asked = counted(gaussian)
    sample_heun(ask, torch.randn(3), sigmas, churn=5.0)
    assert len(asked) == 2 * 10 - 1
    ask, asked = counted(gaussian)
    invert_heun(ask, torch.randn(3), sigmas, sigma_start=sigmas[-2].item())
    assert len(asked) == 2 * 9 - 1


def test_shortest_schedule():  # one step: straight to the denoised point
    x, one = torch.randn(4), torch.tensor([2.0, 0.0])
    for sampler in SAMPLERS:
        assert torch.allclose(sampler(gaussian, x, one), gaussian(x, 2.0))
    want = x + (2 - 1e-5) * (x - gaussian(x, 1e-5)) / 1e-5
    assert torch.allclose(invert_heun(gaussian, x, one), want / 2)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_callback_sees_every_state(solver, dtype):
    seen, sigmas, x = [], karras_sigmas(6), 80 * torch.randn(3, 2, dtype=dtype)
    out = solver(gaussian, x, sigmas, callback=lambda *state: seen.append(state))
    want = sigmas.to(dtype) if solver is not invert_heun else sigmas.to(dtype).flip(0)
    if solver is invert_heun:
        want[0] = 1e-5
    assert [i for i, _, _ in seen] == list(range(7))
    assert torch.equal(torch.stack([s for _, s, _ in seen]), want)
    assert torch.equal(seen[0][2], x) and out.dtype == dtype
    assert torch.equal(seen[-1][2] / (want[-1] if solver is invert_heun else 1), out)
    assert torch.equal(out, solver(gaussian, x, sigmas))  # watching changes nothing


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_leave_their_input_alone_and_rows_apart(solver, three):
    denoise, sigmas = mixture_denoiser(*three), karras_sigmas(12)
    x = torch.randn(5, 2, dtype=torch.float64)
    before, out = x.clone(), solver(denoise, x, sigmas)
    assert torch.equal(x, before)
    alone = torch.cat([solver(denoise, row[None], sigmas) for row in x])
    assert torch.allclose(alone, out, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_work_in_the_dtype_of_x(solver):
    def denoise(x, sigma):
        assert isinstance(sigma, torch.Tensor) and sigma.ndim == 0
        assert sigma.dtype == x.dtype == torch.float32
        return gaussian(x, sigma).to(torch.bfloat16)  # a network may compute in half precision

    assert solver(denoise, torch.randn(3, 2), karras_sigmas(5)).dtype == torch.float32


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_flow_through_solvers(solver):
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    out = solver(gaussian, x, karras_sigmas(8))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(grad * x, out)  # the flow of a Gaussian is linear


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_reach_the_distribution(sampler, three):
    denoise = mixture_denoiser(*three)
    sample = sampler(denoise, 80 * torch.randn(8_000, 2).double(), karras_sigmas(100))
    share = torch.cdist(sample, three[1]).argmin(1).bincount(minlength=3) / 8_000
    assert largest(share - three[0]) < 0.03
    assert largest(sample.mean(0) - three[0] @ three[1]) < 0.03


def churned_variance(n, **churn):
    """Exact variance of churned samples of a Gaussian: all steps are linear, so give every source of noise its own axis."""
    x = torch.zeros(n + 1, dtype=torch.float64)
    x[0], source = 80.0, iter(range(1, n + 1))

    def noise(like):
        axis = torch.zeros_like(like)
        axis[next(source)] = 1
        return axis

    return sample_heun(gaussian, x, karras_sigmas(n), noise=noise, **churn).square().sum().item()


@pytest.mark.parametrize("churn", [0.0, 5.0, 40.0, 1e6])
def test_churn_keeps_the_variance_of_the_data(churn):
    errors = [abs(math.sqrt(churned_variance(n, churn=churn)) / SD - 1) for n in (100, 400)]
    # sampling at the old sigma, the usual slip, leaves 6 % at 100 steps; 1e6 is the cap on gamma
    assert errors[0] < (0.02 if churn < 1e6 else 0.03) and errors[1] < 0.005


def test_churn_adds_exactly_the_missing_variance():
    sigmas, churn = double([3.0, 1.0, 0.0]), 0.5
    sigma_hat, asked = 3.0 * (1 + churn / 2), []

    def denoise(x, sigma):
        asked.append((x.clone(), float(sigma)))
        return torch.zeros_like(x)

    sample_heun(denoise, torch.zeros(1).double(), sigmas, churn=churn, noise=torch.ones_like)
    assert math.isclose(asked[0][1], sigma_hat)
    assert math.isclose(asked[0][0].item(), math.sqrt(sigma_hat**2 - 9))


def test_churn_window_cap_and_size():
    sigmas, x = karras_sigmas(10), torch.randn(4, dtype=torch.float64)

    def run(**kwargs):
        ask, asked = counted(gaussian)
        calls = []
        sample_heun(ask, x, sigmas, noise=lambda x: calls.append(1) or torch.ones_like(x), **kwargs)
        return len(calls), asked

    assert run()[0] == 0 and run(churn=1.0)[0] == 10
    inside = ((sigmas >= 0.1) & (sigmas <= 10)).sum()
    assert run(churn=1.0, churn_min=0.1, churn_max=10.0)[0] == inside
    assert run(churn=1.0, churn_min=100.0)[0] == 0
    assert math.isclose(run(churn=1e9)[1][0], 80 * 2**0.5)
    still = sample_heun(gaussian, x, sigmas, churn=3.0, churn_noise=0.0)
    assert torch.equal(still, sample_heun(gaussian, x, sigmas, churn=3.0, churn_noise=0.0))
    assert churned_variance(50, churn=10.0, churn_noise=1.1) > churned_variance(50, churn=10.0)


def test_churn_window_includes_its_ends():
    sigmas, x, calls = double([4.0, 2.0, 1.0, 0.0]), torch.zeros(1).double(), []
    sample_heun(
        gaussian,
        x,
        sigmas,
        churn=1.0,
        churn_min=2.0,
        churn_max=4.0,
        noise=lambda x: calls.append(1) or x,
    )
    assert len(calls) == 2


def test_constant_denoiser_is_reached_exactly():
    goal = torch.randn(3, dtype=torch.float64)
    for sampler in SAMPLERS:
        out = sampler(lambda x, sigma: goal, 80 * torch.randn(3).double(), karras_sigmas(7))
        assert torch.allclose(out, goal, atol=1e-9)


def test_dpmpp_2m_is_exact_for_a_denoiser_linear_in_log_sigma():
    # the update over one inner step, from its derivation: the estimate in the middle of the step
    sigmas, x = double([4.0, 2.0, 0.5, 0.0]), double([1.0])
    states = []
    sample_dpmpp_2m(
        lambda x, s: s.log().expand(1), x, sigmas, callback=lambda i, s, x: states.append(x)
    )
    first = math.log(4) + 2 / 4 * (1 - math.log(4))
    middle = (math.log(2) + math.log(0.5)) / 2  # linear, so the extrapolation hits it
    assert math.isclose(states[1].item(), first)
    assert math.isclose(states[2].item(), middle + 0.5 / 2 * (first - middle))
    assert math.isclose(states[3].item(), math.log(0.5))


# ---------------------------------------------------------------------------------------------- bad inputs

W, M, VAR = torch.tensor([0.5, 0.5]), torch.zeros(2, 3), torch.ones(2)
X, NET, NAN = torch.zeros(2, 3), precondition(silent), float("nan")
FIRST_AXES = r"sigma's axes must be the first axes of x: got sigma \(3,\)"

BAD_INPUTS = {
    "mixture: shapes": (
        lambda: mixture_denoiser(W, M, torch.ones(3)),
        r"\(K,\), \(K, D\), \(K,\); got",
    ),
    "mixture: flat means": (
        lambda: mixture_denoiser(W, torch.zeros(2), VAR),
        r"must be \(K,\), \(K, D\)",
    ),
    "mixture: sum": (lambda: mixture_denoiser(W + 0.1, M, VAR), "sum to 1, got .* divide them"),
    "mixture: negative": (
        lambda: mixture_denoiser([-0.5, 1.5], M, VAR),
        "weights must be non-negative",
    ),
    "mixture: variances": (
        lambda: mixture_denoiser(W, M, 0 * VAR),
        "variances must be positive, got",
    ),
    "mixture: x": (
        lambda: mixture_denoiser(W, M, VAR)(torch.zeros(2), 1),
        r"x must be \(\*any, 3\)",
    ),
    "mixture: sigma": (
        lambda: mixture_denoiser(W, M, VAR)(X, -1),
        "sigma must not be negative, got -1",
    ),
    "mixture: axes": (lambda: mixture_denoiser(W, M, VAR)(X, torch.ones(3)), FIRST_AXES),
    "mixture: sigma per coordinate": (
        lambda: mixture_denoiser(W, M, VAR)(X, torch.ones(2, 3)),
        r"got sigma \(2, 3\) for points counted by \(2,\)",
    ),
    "empirical: empty": (
        lambda: empirical_denoiser(torch.zeros(0, 2)),
        r"data must be \(N, \*frame\)",
    ),
    "empirical: flat": (
        lambda: empirical_denoiser(torch.zeros(5)),
        r"got \(5,\); .*data\[:, None\]",
    ),
    "empirical: x": (
        lambda: empirical_denoiser(M)(torch.zeros(2, 4), 1),
        r"x must be \(\*any, 3\) like",
    ),
    "empirical: x without frame": (lambda: empirical_denoiser(M)(torch.zeros(()), 1), "x must be"),
    "empirical: sigma": (lambda: empirical_denoiser(M)(X, 0), "sigma must be positive, got 0"),
    "empirical: axes": (lambda: empirical_denoiser(M)(X, torch.ones(3)), FIRST_AXES),
    "expand_like: other size": (lambda: expand_like(torch.ones(3), X), FIRST_AXES),
    "expand_like: too many": (
        lambda: expand_like(torch.ones(2, 3, 1), X),
        r"got sigma \(2, 3, 1\) and x",
    ),
    "scalings: sigma": (lambda: scalings(0.0), "sigma must be positive, got 0"),
    "scalings: one sigma": (
        lambda: scalings(torch.tensor([1.0, -2])),
        "sigma must be positive, got -2",
    ),
    "scalings: nan": (lambda: scalings(NAN), "sigma must be positive, got nan"),
    "scalings: sigma_data": (lambda: scalings(1.0, 0), "sigma_data must be positive, got 0"),
    "precondition: sigma_data": (
        lambda: precondition(silent, -1),
        "sigma_data must be positive, got -1",
    ),
    "precondition: sigma": (lambda: NET(X, 0.0), "sigma must be positive, got 0"),
    "precondition: axes": (lambda: NET(X, torch.ones(3)), FIRST_AXES),
    "log_normal_sigma: P_std": (
        lambda: log_normal_sigma(3, 0.0, -1.0),
        "P_std must not be negative",
    ),
    "edm_weight: sigma": (lambda: edm_weight(-1.0), "sigma must be positive, got -1"),
    "edm_weight: sigma_data": (lambda: edm_weight(1.0, 0), "sigma_data must be positive"),
    "edm_loss: half": (
        lambda: edm_loss(NET, X.half(), 1, X.half()),
        "x must be float32 or float64, got",
    ),
    "edm_loss: integers": (
        lambda: edm_loss(NET, X.int(), 1, X),
        "x must be float32 or float64, got",
    ),
    "edm_loss: noise": (
        lambda: edm_loss(NET, X, 1, X[:1]),
        r"noise must have the shape of x, \(2, 3\)",
    ),
    "edm_loss: mask of numbers": (
        lambda: edm_loss(NET, X, 1, X, X),
        "observed must be bool .* mask == 0",
    ),
    "edm_loss: mask shape": (
        lambda: edm_loss(NET, X, 1, X, torch.ones(2, dtype=torch.bool)),
        r"observed must broadcast to x \(2, 3\), got \(2,\)",
    ),
    "edm_loss: mask too large": (
        lambda: edm_loss(NET, X, 1, X, torch.ones(4, 2, 3, dtype=torch.bool)),
        "observed must broadcast",
    ),
    "edm_loss: axes": (lambda: edm_loss(NET, X, torch.ones(3), X), FIRST_AXES),
    "edm_loss: sigma": (lambda: edm_loss(gaussian, X, 0.0, X), "sigma must be positive, got 0"),
    "edm_loss: sigma_data": (
        lambda: edm_loss(NET, X, 1, X, sigma_data=0),
        "sigma_data must be positive, got 0",
    ),
    "karras: n": (lambda: karras_sigmas(1), "n must be at least 2, got 1"),
    "karras: order": (
        lambda: karras_sigmas(8, 80, 0.002),
        "0 < sigma_min < sigma_max < inf, got 80 and",
    ),
    "karras: equal": (lambda: karras_sigmas(8, 1, 1), "0 < sigma_min < sigma_max"),
    "karras: zero": (lambda: karras_sigmas(8, 0), "0 < sigma_min < sigma_max < inf, got 0 and 80"),
    "karras: infinite": (
        lambda: karras_sigmas(8, sigma_max=math.inf),
        "sigma_max < inf, got 0.002 and inf",
    ),
    "karras: rho": (lambda: karras_sigmas(8, rho=0), "rho must be positive, got 0"),
    "heun: churn": (
        lambda: sample_heun(gaussian, X, karras_sigmas(4), churn=-1),
        "churn .* negative, got -1",
    ),
    "heun: churn_noise": (
        lambda: sample_heun(gaussian, X, karras_sigmas(4), churn_noise=-1),
        "churn_noise must not be negative, got 0 and -1",
    ),
    "invert: start at 0": (
        lambda: invert_heun(gaussian, X, karras_sigmas(4), sigma_start=0.0),
        r"sigma_start must be between 0 and sigmas\[0\] = 80, got 0",
    ),
    "invert: start above": (
        lambda: invert_heun(gaussian, X, karras_sigmas(4), sigma_start=80.0),
        "sigma_start must be between",
    ),
}


@pytest.mark.parametrize("call, message", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


BAD_STATES = {
    "half": (X.half(), karras_sigmas(4), "x must be float32 or float64, got torch.float16"),
    "bfloat16": (
        X.bfloat16(),
        karras_sigmas(4),
        "x must be float32 or float64, got torch.bfloat16",
    ),
    "no zero": (X, karras_sigmas(4)[:-1], "sigmas must end in 0, got 0.002; see karras_sigmas"),
    "upwards": (X, karras_sigmas(4).flip(0), "sigmas must end in 0, got 80"),
    "twice": (X, double([2.0, 2.0, 0.0]), "sigmas must decrease at every step"),
    "not sorted": (X, double([1.0, 2.0, 0.0]), "sigmas must decrease at every step"),
    "negative": (X, double([1.0, -1.0, 0.0]), "sigmas must decrease at every step"),
    "nan": (X, double([NAN, 1.0, 0.0]), "sigmas must decrease at every step"),
    "one level": (X, double([0.0]), r"sigmas must be \(N \+ 1,\) with N >= 1, got shape \(1,\)"),
    "table": (X, karras_sigmas(4)[None], r"sigmas must be \(N \+ 1,\) .* got shape \(1, 5\)"),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("x, sigmas, message", BAD_STATES.values(), ids=BAD_STATES)
def test_bad_state_is_refused_before_any_work(solver, x, sigmas, message):
    ask, asked = counted(gaussian)
    with pytest.raises(ValueError, match=message):
        solver(ask, x, sigmas)
    assert not asked
