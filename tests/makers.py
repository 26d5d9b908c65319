"""Made-up things that several tests write and read: bytes, films, images, sounds."""

import math

import numpy as np
import torch
from PIL import Image

RATE = 16_000  # Hz


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
