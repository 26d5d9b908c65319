"""Wrong answers to every task, by what is wrong with them: the slips that students make, and dishonest ones.

A pair is a change of the solution, (what it says, what the student wrote); a single text is another body of the function.
"""

WRONG = {
    "1_denoising": {
        "noisy": {
            "sigma squared": ("level * n", "level**2 * n"),
            "levels along the wrong axis": (
                "sigma.reshape(-1, *[1] * (y.ndim - 1))",
                "sigma.reshape(*[1] * (y.ndim - 1), -1)",
            ),
            "one level for the whole batch": (
                "sigma.reshape(-1, *[1] * (y.ndim - 1))",
                "sigma.mean()",
            ),
            "noise multiplies": ("y + level * n", "y * (1 + level * n)"),
            "the test's example by heart": """
                if len(sigma) != len(y):
                    raise ValueError("one level for each row, please")
                return torch.tensor([[1.0, 1, 1], [2, 2, 2]])""",
        },
        "ideal_denoiser": {
            "sigma for sigma squared": ("(2 * sigma**2)", "(2 * sigma)"),
            "the 2 forgotten": ("(2 * sigma**2)", "sigma**2"),
            "distance not squared": ("-(distance**2)", "-distance"),
            "weights over the wrong axis": ("softmax(dim=1)", "softmax(dim=0)"),
            "only the nearest point": (
                "(-(distance**2) / (2 * sigma**2)).softmax(dim=1)",
                "torch.nn.functional.one_hot(distance.argmin(1), len(data)).to(data)",
            ),
            "nothing over nothing far away": """
                distance = (x[:, None] - data).norm(dim=2)
                weights = (-(distance**2) / (2 * sigma**2)).exp()
                return weights @ data / weights.sum(1, keepdim=True)""",
            "imported": """
                from diffsda.denoising import empirical_denoiser as mine
                return mine(data)(x, sigma)""",
            "the test's examples by heart": "return data.mean(0).expand(len(x), -1)",
        },
        "scalings": {
            "sigma for sigma squared": (
                "total = sigma**2 + sigma_data**2",
                "total = sigma + sigma_data",
            ),
            "skip and noise exchanged": (
                "c_skip = sigma_data**2 / total",
                "c_skip = sigma**2 / total",
            ),
            "0.5 instead of sigma_data": (
                "total = sigma**2 + sigma_data**2",
                "sigma_data = 0.5; total = sigma**2 + sigma_data**2",
            ),
            "root forgotten": ("sigma * sigma_data / total.sqrt()", "sigma * sigma_data / total"),
            "target not made as small as it can be": (
                "c_skip = sigma_data**2 / total\n    c_out = sigma * sigma_data / total.sqrt()",
                "c_skip = sigma_data / total.sqrt()\n    c_out = (((1 - c_skip) * sigma_data) ** 2 + (c_skip * sigma) ** 2).sqrt()",
            ),
            "imported": """
                import importlib
                rooms = importlib.import_module("dif" + "fsda.precond")
                return rooms.scalings(sigma, sigma_data)[:3]""",
            "the test's examples by heart": """
                return torch.tensor([0.5, 1, 0]), sigma, torch.tensor([1.4, 2, 0])""",
        },
        "precondition": {
            "network sees the raw input": ("network(c_in * x,", "network(x,"),
            "told sigma, not its logarithm": ("sigma.log() / 4", "sigma"),
            "logarithm to base 10": ("sigma.log() / 4", "sigma.log10() / 4"),
            "c_skip of the scaled input": ("return c_skip * x +", "return c_skip * c_in * x +"),
            "c_out forgotten": ("c_out * raw", "raw"),
            "scalings along the wrong axis": (
                "c.reshape(-1, *[1] * (x.ndim - 1))",
                "c.reshape(*[1] * (x.ndim - 1), -1)",
            ),
            "the test's examples by heart": """
                c_skip, c_out, c_in = scale(sigma)
                return 0.5 * x + 10 * network(3 * x, sigma)""",
        },
        "weighted_loss": {
            "weight upside down": (
                "(level**2 + sigma_data**2) / (level * sigma_data) ** 2",
                "(level * sigma_data) ** 2 / (level**2 + sigma_data**2)",
            ),
            "weight 1 / sigma^2": (
                "(level**2 + sigma_data**2) / (level * sigma_data) ** 2",
                "1 / level**2",
            ),
            "sum instead of mean": (".mean()", ".sum()"),
            "mean over the wrong axis": (
                "(weight * error**2).mean()",
                "(weight * error**2).sum(0).mean()",
            ),
            "one weight for all rows": (
                "level = sigma[:, None]",
                "level = sigma.mean().expand(len(y), 1)",
            ),
            "error of the noise": (
                "denoise(y + level * n, sigma) - y",
                "denoise(y + level * n, sigma) - n",
            ),
            "error not squared": ("error**2", "error.abs()"),
            "imported": """
                from diffsda.loss import edm_loss
                return edm_loss(denoise, y, sigma, n, sigma_data=sigma_data).mean""",
            "the test's examples by heart": "return 2 * (denoise(y, sigma) - y).mean() ** 2",
        },
    },
    "2_sampling": {
        "noise_levels": {
            "off by one: the low level is missed": ("/ (n - 1)", "/ n"),
            "no 0 at the end": (
                "torch.cat([root**rho, torch.zeros(1, dtype=torch.float64)])",
                "root**rho",
            ),
            "one level too few": (
                "torch.arange(n, dtype=torch.float64)",
                "torch.linspace(0, n - 1, n - 1).double()",
            ),
            "power and root exchanged": (
                "root = high ** (1 / rho) + part * (low ** (1 / rho) - high ** (1 / rho))\n    return torch.cat([root**rho,",
                "root = high**rho + part * (low**rho - high**rho)\n    return torch.cat([root ** (1 / rho),",
            ),
            "from low to high": (
                "return torch.cat([root**rho,",
                "return torch.cat([root.flip(0) ** rho,",
            ),
            "evenly spaced in the logarithm": (
                "root**rho",
                "high * (low / high) ** part",
            ),
            "imported": """
                import diffsda.sampling
                return diffsda.sampling.karras_sigmas(n, low, high, rho)""",
            "the test's example by heart": "return torch.arange(n, -1, -1, dtype=torch.float64)",
        },
        "heun": {
            "Euler's method": ("(slope + end_slope) / 2", "slope"),
            "the average is a sum": ("(slope + end_slope) / 2", "(slope + end_slope)"),
            "second slope at the old level": (
                "(trial - denoise(trial, lower)) / lower",
                "(trial - denoise(trial, sigma)) / sigma",
            ),
            "second slope at the old state": (
                "(trial - denoise(trial, lower)) / lower",
                "(x - denoise(x, lower)) / lower",
            ),
            "step in the wrong direction": (
                "trial = x + (lower - sigma) * slope",
                "trial = x + (sigma - lower) * slope",
            ),
            "the trial is where the second step starts": (
                "trial = x + (lower - sigma) * (slope + end_slope) / 2",
                "trial = trial + (lower - sigma) * (slope + end_slope) / 2",
            ),
            "a slope is asked for at level 0": ("if lower > 0:", "if True:"),
            "Euler with calls for show": ("(slope + end_slope) / 2", "(slope + 0 * end_slope)"),
            "imported": """
                from diffsda.sampling import sample_heun
                return sample_heun(denoise, x, sigmas)""",
            "the test's examples by heart": """
                for sigma in list(sigmas[:-1]) + list(sigmas[1:-1]):
                    found = denoise(x, sigma)
                return torch.where(x == 20, 10.0, found)""",
        },
        "invert": {
            "starts at level 0": ("torch.full_like(sigmas[:1], 1e-5)", "torch.zeros(1).to(sigmas)"),
            "not in unit size": ("return x / sigmas[0]", "return x"),
            "divided by the wrong level": ("return x / sigmas[0]", "return x / sigmas[-2]"),
            "noise is added instead": """
                return (x + sigmas[0] * torch.randn_like(x)) / sigmas[0]""",
            "walks downwards": (
                "upward = torch.cat([torch.full_like(sigmas[:1], 1e-5), sigmas[:-1].flip(0)])",
                "upward = sigmas.clamp(min=1e-5)",
            ),
            "off by one: the top level is missed": ("sigmas[:-1].flip(0)", "sigmas[1:-1].flip(0)"),
            "Euler's method": ("(slope + end_slope) / 2", "slope"),
            "imported": """
                from diffsda.sampling import invert_heun
                return invert_heun(denoise, x, sigmas)""",
            "the test's example by heart": "return x / sigmas[0]",
        },
        "order": {
            "sign of the slope": ("return -float", "return float"),
            "no logarithms": (
                "steps.double().log(), errors.double().log()",
                "steps.double(), errors.double()",
            ),
            "steps against errors": ("(a * a).sum()", "(b * b).sum()"),
            "only the first pair": """
                ratio = (errors[0] / errors[1]).log() / (steps[1] / steps[0]).log()
                return float(ratio)""",
            "as if every pair were a doubling": """
                return float((errors[:-1] / errors[1:]).log2().mean())""",
            "the test's example by heart": "return 1.0",
            "line through the origin": ("a, b = a - a.mean(), b - b.mean()", "a, b = a, b"),
        },
        "churn": {
            "difference of levels, not of variances": (
                "(raised**2 - sigma**2) ** 0.5",
                "raised - sigma",
            ),
            "root forgotten": ("(raised**2 - sigma**2) ** 0.5", "raised**2 - sigma**2"),
            "noise of the whole raised level": (
                "(raised**2 - sigma**2) ** 0.5",
                "raised * (gamma > 0)",
            ),
            "the old level is told": (
                "return x + extra * n, raised",
                "return x + extra * n, sigma",
            ),
            "raised by gamma, not by its share": ("(1 + gamma) * sigma", "gamma + sigma"),
            "noise taken away": ("x + extra * n", "x - extra * n"),
            "the test's examples by heart": "return (x, sigma) if gamma == 0 else (x + 4, 5.0)",
        },
    },
    "3_split": {
        "per_frame": {
            "s and d exchanged": (
                "torch.cat([repeated, d], dim=2)",
                "torch.cat([d, repeated], dim=2)",
            ),
            "sequences mixed by repeating the batch": (
                "s[:, None].expand(-1, frames, -1)",
                "s.repeat(frames, 1).reshape(len(s), frames, -1)",
            ),
            "s of the first sequence for all": (
                "s[:, None].expand(-1, frames, -1)",
                "s[:1, None].expand(len(s), frames, -1)",
            ),
            "s only in the first frame": (
                "s[:, None].expand(-1, frames, -1)",
                "torch.nn.functional.pad(s[:, None], (0, 0, 0, frames - 1))",
            ),
            "imported": """
                from diffsda.encoder import Factors as Ready
                return Ready(s, d).per_frame()""",
            "the test's example by heart": "return torch.tensor([[[7.0, 1], [7, 2], [7, 3]]])",
        },
        "decode_frames": {
            "batch and time exchanged": (
                "z.reshape(B * V, k)",
                "z.transpose(0, 1).reshape(B * V, k)",
            ),
            "exchanged when unfolding": (
                "frames.reshape(B, V, *frames.shape[1:])",
                "frames.reshape(V, B, *frames.shape[1:]).transpose(0, 1)",
            ),
            "off by one frame": (
                "decode(z.reshape(B * V, k))",
                "decode(z.roll(1, dims=1).reshape(B * V, k))",
            ),
            "not folded": "return decode(z)",
            "one call for each frame": "return torch.stack([decode(z[:, v]) for v in range(z.shape[1])], dim=1)",
            "all frames from the mean of d": (
                "decode(z.reshape(B * V, k))",
                "decode(z.mean(1, keepdim=True).expand(-1, V, -1).reshape(B * V, k))",
            ),
            "the test's example by heart": "return 2 * z",
        },
        "swap": {
            "s and d exchanged": (
                "stays = a.s\n    moves, lengths = b.d, b.lengths",
                "stays = b.s\n    moves, lengths = a.d, a.lengths",
            ),
            "lengths of the wrong donor": (
                "moves, lengths = b.d, b.lengths",
                "moves, lengths = b.d, a.lengths",
            ),
            "nothing is swapped": (
                "moves, lengths = b.d, b.lengths",
                "moves, lengths = a.d, a.lengths",
            ),
            "half of each": ("stays = a.s", "stays = (a.s + b.s) / 2"),
            "the test's example by heart": "return a",
        },
        "limited": {
            "no scaling, so that shouting helps": (
                "(d - mean) / std + noise * n",
                "d - mean + noise * n",
            ),
            "each sequence scaled for itself": (
                "mean, std = frames.mean(0), frames.std(0, unbiased=False)",
                "mean, std = d.mean(1, keepdim=True), d.std(1, keepdim=True, unbiased=False)",
            ),
            "mean over the wrong axis": (
                "mean, std = frames.mean(0), frames.std(0, unbiased=False)",
                "mean, std = d.mean(2, keepdim=True), d.std(2, keepdim=True) + 1",
            ),
            "all dimensions scaled alike": (
                "frames.mean(0), frames.std(0, unbiased=False)",
                "frames.mean(), frames.std()",
            ),
            "variance for standard deviation": ("/ std + noise", "/ std**2 + noise"),
            "noise scaled as well": (
                "(d - mean) / std + noise * n",
                "(d - mean + noise * n) / std",
            ),
            "noise squared": ("noise * n", "noise**2 * n"),
            "imported": """
                from diffsda.encoder import DynamicChannel
                return DynamicChannel(d.shape[2], 1e-9)(d.float(), None) + noise * n""",
            "the test's example by heart": "return torch.tensor([[[-1.3], [-0.4]], [[0.4], [1.3]]])",
        },
        "masked_mean": {
            "mask inverted": (
                "torch.where(exists[..., None], h, 0.0)",
                "torch.where(exists[..., None], 0.0, h)",
            ),
            "padding counted in the mean": ("kept.sum(1) / lengths[:, None]", "kept.mean(1)"),
            "off by one: a frame of padding": ("< lengths[:, None]", "<= lengths[:, None]"),
            "off by one: a frame too few": ("< lengths[:, None]", "< lengths[:, None] - 1"),
            "zero times NaN": ("torch.where(exists[..., None], h, 0.0)", "exists[..., None] * h"),
            "lengths ignored": "return h.mean(1)",
            "mean over the wrong axis": ("kept.sum(1)", "kept.sum(2)"),
            "imported": """
                from diffsda.data import Sequences
                exists = Sequences(h.nan_to_num(), lengths).frame_mask
                return torch.where(exists[..., None], h, 0.0).sum(1) / lengths[:, None]""",
            "the test's example by heart": "return torch.tensor([[2.0], [4.0]])",
        },
        "causal_mean": {
            "leak from the future": "return h.mean(1, keepdim=True).expand_as(h)",
            "the present left out": (
                "total = h.cumsum(dim=1)",
                "total = torch.nn.functional.pad(h, (0, 0, 1, 0))[:, :-1].cumsum(dim=1)",
            ),
            "from the end": ("h.cumsum(dim=1)", "h.flip(1).cumsum(dim=1).flip(1)"),
            "both ways": (
                "h.cumsum(dim=1)",
                "(h.cumsum(dim=1) + h.flip(1).cumsum(dim=1).flip(1)) / 2",
            ),
            "divided by all frames": ("total / so_far[:, None]", "total / h.shape[1]"),
            "off by one in the count": (
                "torch.arange(1, h.shape[1] + 1)",
                "torch.arange(2, h.shape[1] + 2)",
            ),
            "along the wrong axis": ("h.cumsum(dim=1)", "h.cumsum(dim=0)"),
            "only the present": "return h",
            "the test's example by heart": "return torch.full_like(h, 2)",
        },
    },
    "4_judging": {
        "pair_scores": {
            "recordings compared with themselves": ("offset=1", "offset=0"),
            "every pair twice": """
                unit = codes / codes.norm(dim=1, keepdim=True)
                apart = ~torch.eye(len(codes), dtype=torch.bool)
                return (unit @ unit.T)[apart], (who[:, None] == who)[apart]""",
            "not divided by the lengths": ("codes / codes.norm(dim=1, keepdim=True)", "codes"),
            "lengths over the wrong axis": (
                "codes.norm(dim=1, keepdim=True)",
                "codes.norm(dim=0, keepdim=True)",
            ),
            "same and different exchanged": (
                "who[first] == who[second]",
                "who[first] != who[second]",
            ),
            "a distance instead of a likeness": (
                "(unit[first] * unit[second]).sum(1)",
                "1 - (unit[first] * unit[second]).sum(1)",
            ),
            "only neighbours": (
                "torch.triu_indices(len(codes), len(codes), offset=1)",
                "torch.arange(len(codes) - 1), torch.arange(1, len(codes))",
            ),
            "imported": """
                from diffsda.verification import _Pairs
                pairs = _Pairs.of(codes, who)
                return -torch.as_tensor(pairs.distance), torch.as_tensor(pairs.same)""",
            "the test's example by heart": "return torch.tensor([1.0, 0, 0]), torch.tensor([True, False, False])",
        },
        "equal_error_rate": {
            "nearest threshold only": (
                "return float(alarms[k - 1] + part * (alarms[k] - alarms[k - 1]))",
                "k = int(gap.abs().argmin())\n    return float((alarms[k] + misses[k]) / 2)",
            ),
            "first threshold past the crossing": (
                "return float(alarms[k - 1] + part * (alarms[k] - alarms[k - 1]))",
                "return float(alarms[k])",
            ),
            "sign of the scores": ("scores.sort(descending=True)", "scores.sort()"),
            "equal scores taken one by one": (
                "torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])",
                "torch.ones(len(scores), dtype=torch.bool)",
            ),
            "counts instead of rates": (
                "(1 - together).cumsum(0) / (1 - together).sum()",
                "(1 - together).cumsum(0) / len(together)",
            ),
            "share of all pairs that are wrong": """
                thresholds = scores.unique()
                wrong = [((scores >= t) != same).double().mean() for t in thresholds]
                return float(min(wrong))""",
            "a fixed threshold of one half": "return float(((scores >= 0.5) != same).double().mean())",
            "imported": """
                from diffsda.verification import equal_error_rate as ready
                return ready(scores.numpy(), same.numpy())""",
            "the test's examples by heart": "return 0.0 if same[0] else 1.0",
        },
        "relative_error": {
            "mask inverted": (
                "error = (observed * (made - x))",
                "error = (~observed * (made - x))",
            ),
            "mask forgotten in the error": (
                "error = (observed * (made - x))",
                "error = (made - x)",
            ),
            "mask forgotten in the mean": (
                "(x * observed).sum((0, 1)) / observed.sum((0, 1))",
                "x.mean((0, 1))",
            ),
            "mask forgotten in the scale": ("(observed * (mean - x))", "(mean - x)"),
            "power instead of variance": ("(observed * (mean - x))", "(observed * x)"),
            "mean over the wrong axis": (
                "(x * observed).sum((0, 1)) / observed.sum((0, 1))",
                "(x * observed).sum(1, keepdim=True) / observed.sum(1, keepdim=True)",
            ),
            "one mean for all features": (
                "(x * observed).sum((0, 1)) / observed.sum((0, 1))",
                "(x * observed).sum() / observed.sum()",
            ),
            "not squared": (
                "return float(error / of_mean)",
                "return float((error / of_mean).sqrt())",
            ),
            "the test's examples by heart": "return 0 if made is x else 1",
        },
        "probe": {
            "trained on the test": (
                "fit(((codes - mean) / std).numpy(), labels.numpy())",
                "fit(((test_codes - mean) / std).numpy(), test_labels.numpy())",
            ),
            "trained on both": (
                "fit(((codes - mean) / std).numpy(), labels.numpy())",
                "fit(((torch.cat([codes, test_codes]) - mean) / std).numpy(), torch.cat([labels, test_labels]).numpy())",
            ),
            "scored on the training sequences": (
                "(test_codes - mean) / std).numpy())\n    return 100 * float((said == test_labels.numpy()).mean())",
                "(codes - mean) / std).numpy())\n    return 100 * float((said == labels.numpy()).mean())",
            ),
            "statistics of the test": (
                "reader.predict(((test_codes - mean) / std).numpy())",
                "reader.predict(((test_codes - test_codes.mean(0)) / test_codes.std(0)).numpy())",
            ),
            "statistics of both together": (
                "mean, std = codes.mean(0), codes.std(0)",
                "mean, std = torch.cat([codes, test_codes]).mean(0), torch.cat([codes, test_codes]).std(0)",
            ),
            "not brought to one scale": (
                "mean, std = codes.mean(0), codes.std(0)",
                "mean, std = 0, 1",
            ),
            "labels torn from their codes": (
                "labels.numpy())\n    said",
                "labels.numpy()[::-1])\n    said",
            ),
            "a share instead of percent": ("return 100 * float", "return float"),
            "the test's example by heart": "return 100",
        },
        "shuffled": {
            "two different orders": (
                "return features[order], labels[order]",
                "other = torch.randperm(len(labels), generator=generator)\n    return features[order], labels[other]",
            ),
            "only the features": ("labels[order]", "labels"),
            "drawn with replacement": (
                "torch.randperm(len(labels), generator=generator)",
                "torch.randint(len(labels), (len(labels),), generator=generator)",
            ),
            "sorted, not shuffled": (
                "torch.randperm(len(labels), generator=generator)",
                "labels.argsort()",
            ),
            "always the same order": ("manual_seed(seed)", "manual_seed(0)"),
            "seed ignored": (", generator=generator)", ")"),
            "global seed set": ("torch.Generator().manual_seed(seed)", "torch.manual_seed(seed)"),
            "the test's example by heart": "return features, labels",
        },
    },
    "5_project": {
        "padded": {
            "padding in front": ("x[row, : len(recording)]", "x[row, -len(recording) :]"),
            "cut to the shortest": (
                "int(lengths.max())",
                "int(lengths.min())); recordings = [r[: int(lengths.min())] for r in recordings]; x = (x",
            ),
            "every length is the longest": (
                "return x, lengths",
                "return x, torch.full_like(lengths, x.shape[1])",
            ),
            "off by one in the lengths": ("return x, lengths", "return x, lengths - 1"),
            "the last frame goes on": (
                "x[row, : len(recording)] = recording",
                "x[row, : len(recording)] = recording; x[row, len(recording) :] = recording[-1]",
            ),
            "the test's example by heart": """
                x = torch.ones(2, 3, 2)
                x[0, 1:] = 0
                return x, torch.tensor([1, 3])""",
        },
        "held_out": {
            "recordings divided, not owners": """
                order = torch.randperm(len(who), generator=torch.Generator().manual_seed(seed))
                return order < share * len(who)""",
            "the share is the training's": ("owners[order[:count]]", "owners[order[count:]]"),
            "always the first owners": ("owners[order[:count]]", "owners[:count]"),
            "seed ignored": (", generator=torch.Generator().manual_seed(seed)", ""),
            "rounded down to nobody": (
                "min(max(1, round(share * len(owners))), len(owners) - 1)",
                "int(share * len(owners))",
            ),
            "nobody is left to train on": (
                "min(max(1, round(share * len(owners))), len(owners) - 1)",
                "max(1, round(share * len(owners)))",
            ),
            "as many owners as recordings would be": (
                "round(share * len(owners))",
                "round(share * len(who))",
            ),
            "the test's example by heart": "return who == who.max()",
        },
        "resampled_means": {
            "recordings drawn, not owners": """
                generator = torch.Generator().manual_seed(seed)
                rows = torch.randint(len(who), (times, len(who)), generator=generator)
                return values.double()[rows].mean(1)""",
            "drawn without replacement": (
                "torch.randint(len(owners), (len(owners),), generator=generator)",
                "torch.randperm(len(owners), generator=generator)",
            ),
            "mean of the owners' means": (
                "weight = drawn.bincount(minlength=len(owners))[owner].double()",
                "weight = drawn.bincount(minlength=len(owners))[owner].double() / owner.bincount()[owner]",
            ),
            "drawn twice counts once": (
                "drawn.bincount(minlength=len(owners))[owner].double()",
                "(drawn.bincount(minlength=len(owners))[owner] > 0).double()",
            ),
            "the same draw every time": (
                "drawn = torch.randint",
                "generator.manual_seed(seed); drawn = torch.randint",
            ),
            "one owner each time": ("(len(owners),), generator", "(1,), generator"),
            "seed ignored": (
                "torch.Generator().manual_seed(seed)",
                "torch.Generator().manual_seed(0)",
            ),
            "the test's example by heart": "return values.mean().expand(times)",
        },
    },
}
