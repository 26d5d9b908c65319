"""Made-up things that more than one file of tests uses."""

import math

import numpy as np
import torch
from PIL import Image

from diffsda.data import Scale, Sequences

RATE = 16_000  # Hz
FRAME = (2, 3)


def noise_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_images(folder, frames):  # (V, H, W, 3) or (V, H, W) bytes
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i}.png")


def write_film(path, frames, rate=25):  # (V, H, W, 3) bytes
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def tone(seconds=1.0, frequency=440.0, rate=RATE, gain=0.3):
    t = torch.arange(round(seconds * rate)) / rate
    return gain * torch.sin(2 * math.pi * frequency * t)


def hiss(seconds, seed=0, gain=0.1, rate=RATE):
    return gain * torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(seed))


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


def sequences(B=3, V=5, frame=FRAME, **options):
    return Sequences(0.5 * torch.randn(B, V, *frame), **options)


def ragged(B=4, V=5, frame=FRAME):
    "Sequences with holes, of several lengths: all V frames, one, and what chance gives."
    observed = torch.rand(B, V, *frame) < 0.7
    observed[:, 0] = True
    lengths = torch.cat([torch.tensor([V, 1]), torch.randint(1, V + 1, (B - 2,))])
    return sequences(B, V, frame, lengths=lengths, observed=observed)


def close(a, b, atol=1e-5):
    return a.shape == b.shape and torch.allclose(a, b, atol=atol)
