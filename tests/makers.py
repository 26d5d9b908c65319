"""Made-up data that more than one file of tests uses."""

import torch

from diffsda.data import Scale, Sequences


class Lazy:
    "A set that is read only by rows, as a set on disk is."

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, rows):
        return self.data[rows]


def squares(n, seed, side=16, V=5):
    "A square of one of three colours that moves right, left, up or down around a torus."
    g = torch.Generator().manual_seed(seed)
    colour, way = torch.randint(3, (n,), generator=g), torch.randint(4, (n,), generator=g)
    step = torch.tensor([[0, 2], [0, -2], [2, 0], [-2, 0]])[way]
    at = torch.randint(side, (n, 1, 2), generator=g) + step[:, None] * torch.arange(V)[:, None]
    near = (torch.arange(side) - at[..., None]) % side < 4  # (n, V, 2, side)
    square = near[:, :, 0, :, None] & near[:, :, 1, None]
    x = square[:, :, None] * torch.eye(3)[colour][:, None, :, None, None]
    raw = Sequences(x, static={"colour": colour}, dynamic={"way": way[:, None].repeat(1, V)})
    return Scale.fit(raw).apply(raw)


def plain():
    "Sequences whose labels lie open: x is (level of the sequence, phase of the frame)."
    g = torch.Generator().manual_seed(0)
    level, phase = torch.randint(3, (600,), generator=g), torch.randint(4, (600, 8), generator=g)
    x = torch.stack([level[:, None].expand(-1, 8) - 1.0, phase / 2 - 0.75], dim=-1)
    warmth = phase * 10.0 + 5
    return Sequences(x, static={"level": level}, dynamic={"phase": phase, "warmth": warmth})
