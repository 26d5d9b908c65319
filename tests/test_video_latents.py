"""First stages of diffusers, latents that are encoded once whatever happens to the run, and the way from clips to swapped pixels."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffsda.data import Scale
from diffsda.disentangler import Disentangler
from diffsda.sets import Preset, build, loss_of
from diffsda.training import TrainConfig, train
from diffsda.video import Clips, Films, Windows, open_clips, read_clips
from diffsda.video_latents import (
    FirstStage,
    encode_clips,
    errors_by_stage,
    first_stage_loss,
    small_stage,
    vq_f8,
)

ROOT = Path(__file__).resolve().parent.parent
TINY = Preset(
    8,
    2,
    16,
    8,
    16,
    TrainConfig(20, 4, lr=4e-3, warmup=2),
    embedding=32,
    draws=1,
    unet={"multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0},
)


class Squares(nn.Module):
    "A stand-in for an autoencoder: each latent is a linear map of the mean colour of a square of 8 x 8 pixels."

    def __init__(self, channels=4):
        super().__init__()
        self.mix = nn.Parameter(torch.linspace(-1, 1, 3 * channels).view(channels, 3) ** 3)

    def encode(self, x):
        return (torch.einsum("cr,nrhw->nchw", self.mix, nn.functional.avg_pool2d(x, 8)),)

    def decode(self, z):
        colours = torch.einsum("rc,nchw->nrhw", torch.linalg.pinv(self.mix.float()).to(z), z)
        return (nn.functional.interpolate(colours, scale_factor=8.0),)


def some_clips(side=32, lengths=(9, 14, 8)):
    frames = np.random.default_rng(0).integers(0, 256, (sum(lengths), 3, side, side), np.uint8)
    labels = {"static": {"who": [0, 1, 0]}, "dynamic": {"word": [2, 0, -1]}}
    return Clips(
        frames,
        np.append(0, np.cumsum(lengths)),
        ("a/1", "b/1", "a/2"),
        12.5,
        **labels,
        classes={"who": ("ann", "bob")},
    )


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".npy"}


@pytest.fixture(scope="module")
def gaussian():
    torch.manual_seed(0)
    return small_stage((8, 8, 8, 8))


@pytest.fixture(scope="module")
def quantised():
    torch.manual_seed(0)
    return vq_f8((8, 8, 8, 8), blocks=1, codes=16)


# the door


@pytest.mark.parametrize("kind", ["gaussian", "quantised"])
def test_shapes_and_ranges(kind, request):
    stage = request.getfixturevalue(kind)
    frames = torch.from_numpy(some_clips().frames[:5])
    z = stage.encode(frames)
    assert (stage.factor, stage.channels) == (8, 4)
    assert z.shape == (5, 4, 4, 4) and z.dtype == torch.float32 and not z.requires_grad
    again = stage.decode(100 * z)
    assert again.shape == frames.shape and again.min() >= 0 and again.max() <= 1


def test_gaussian_latents_are_the_mean(gaussian):
    frames = torch.from_numpy(some_clips().frames[:3])
    with torch.no_grad():
        posterior = gaussian.autoencoder.encode(frames / 127.5 - 1).latent_dist
    assert torch.equal(gaussian.encode(frames), posterior.mean)


def test_codebook_is_used_by_decoding_only(quantised):
    z = quantised.encode(torch.from_numpy(some_clips().frames[:3]))
    codebook = quantised.autoencoder.quantize.embedding.weight.detach()
    distance = torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), codebook)
    assert distance.min() > 0
    nearest = codebook[distance.argmin(1)].view(3, 4, 4, 4).permute(0, 3, 1, 2)
    assert torch.allclose(quantised.decode(z), quantised.decode(nearest), atol=1e-4)


def test_small_batches_change_nothing():
    frames = torch.from_numpy(some_clips().frames)
    whole, parts = FirstStage(Squares(), batch=100), FirstStage(Squares(), batch=3)
    z = whole.encode(frames)
    assert torch.allclose(parts.encode(frames), z) and torch.allclose(
        parts.decode(z), whole.decode(z)
    )


def test_stage_leaves_a_training_autoencoder_in_training_mode():
    autoencoder = Squares().train()
    FirstStage(autoencoder).encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert autoencoder.training


def test_half_precision_autoencoder_takes_and_gives_floats():
    stage = FirstStage(Squares().to(torch.bfloat16))
    z = stage.encode(torch.from_numpy(some_clips().frames[:2]))
    assert z.dtype == stage.decode(z).dtype == torch.float32


@pytest.mark.parametrize(
    "frames, words",
    [
        (torch.zeros(2, 3, 32, 32), "bytes, got torch.float32"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"\(2, 1, 32, 32\)"),
        (torch.zeros(2, 3, 32, 36, dtype=torch.uint8), "32 x 36.*multiples of 8"),
    ],
)
def test_unfit_frames_are_refused(frames, words):
    with pytest.raises(ValueError, match=words):
        FirstStage(Squares()).encode(frames)


def test_latents_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\).*\(n, 4, h, w\)"):
        FirstStage(Squares()).decode(torch.zeros(2, 3, 4, 4))


def test_what_is_no_autoencoder_is_refused():
    with pytest.raises(ValueError, match="Linear does not encode RGB images"):
        FirstStage(nn.Linear(3, 3))


def test_published_layout():
    """Rombach et al.'s vq-f8-n256: widths 128 x (1, 2, 2, 4), attention at the last level, 256 codes of 4 numbers."""
    stage = vq_f8()
    encoder, codebook = stage.autoencoder.encoder, stage.autoencoder.quantize.embedding.weight
    widths = [block.resnets[-1].conv2.out_channels for block in encoder.down_blocks]
    assert widths == [128, 256, 256, 512] and codebook.shape == (256, 4)
    assert [len(block.resnets) for block in encoder.down_blocks] == [2] * 4
    assert [hasattr(block, "attentions") for block in encoder.down_blocks] == [False] * 3 + [True]
    assert (stage.factor, stage.channels) == (8, 4)


# pretrained weights


@pytest.mark.parametrize("room", ["", "vae", "vqvae"])
def test_local_folder(room, quantised, tmp_path):
    quantised.autoencoder.save_pretrained(tmp_path / room)
    loaded = FirstStage.load(tmp_path)
    assert loaded.fingerprint == quantised.fingerprint
    frames = torch.from_numpy(some_clips().frames[:2])
    assert torch.equal(loaded.encode(frames), quantised.encode(frames))


def test_folder_without_autoencoder(tmp_path):
    with pytest.raises(ValueError, match="holds no autoencoder.*config.json"):
        FirstStage.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "NoSuchClass"}))
    with pytest.raises(ValueError, match="holds no autoencoder.*NoSuchClass"):
        FirstStage.load(tmp_path)


def test_name_without_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/no-such-weights is no folder.*needs the network"):
        FirstStage.load("nobody/no-such-weights")


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'diffsda\[video\]'"):
        small_stage()


# training


@pytest.mark.parametrize("kind", ["gaussian", "quantised"])
def test_loss_adds_up_and_reaches_all_weights(kind, request):
    autoencoder = request.getfixturevalue(kind).autoencoder
    batch = Windows(some_clips(), V=1)[:4]
    torch.manual_seed(1)
    loss = first_stage_loss(autoencoder, batch)
    assert loss.count == batch.x.numel() and 0 < loss.mean < 3
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in autoencoder.parameters())
    autoencoder.zero_grad()


def test_price_of_gaussian_latents(gaussian):
    batch = Windows(some_clips(), V=1)[:4]
    totals = []
    for kl in (0.0, 1.0):
        torch.manual_seed(1)
        totals.append(first_stage_loss(gaussian.autoencoder, batch, kl).total.detach())
    with torch.no_grad():
        posterior = gaussian.autoencoder.encode(2 * batch.x[:, 0] - 1).latent_dist
    mean, logvar = posterior.mean, posterior.logvar
    divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
    assert torch.isclose(totals[1] - totals[0], divergence, rtol=1e-3)


def test_training_goes_on_where_it_stopped(tmp_path):
    data, config = Windows(some_clips(16), V=1), TrainConfig(4, 4, save_every=2)

    def trained(folder, steps):
        torch.manual_seed(0)
        stage = small_stage((8, 8))
        stop = lambda record: record["step"] == steps and signal.raise_signal(signal.SIGTERM)
        try:
            options = {"folder": folder, "callbacks": (stop,), "progress": False}
            train(
                stage.autoencoder,
                first_stage_loss,
                data,
                replace(config, log_every=1),
                **options,
            )
        except SystemExit:
            pass
        return stage.fingerprint

    whole = trained(tmp_path / "whole", 99)
    assert trained(tmp_path / "parts", 2) != whole
    assert trained(tmp_path / "parts", 99) == whole


# all frames, once


def test_latents_are_those_of_the_stage(tmp_path):
    clips, stage = some_clips(), FirstStage(Squares())
    latents = encode_clips(
        clips, stage, tmp_path / "set", dtype="float32", block=10, progress=False
    )
    assert isinstance(latents.frames, np.memmap) and latents.frames.dtype == np.float32
    whole = stage.encode(torch.from_numpy(clips.frames)).numpy()
    assert np.allclose(latents.frames, whole, atol=1e-6)
    half = encode_clips(clips, stage, tmp_path / "half", progress=False)
    assert half.frames.dtype == np.float16 and np.allclose(half.frames, whole, atol=2e-3)


def test_labels_come_along_and_the_folder_is_a_prepared_set(tmp_path):
    clips = some_clips()
    made = encode_clips(clips, FirstStage(Squares()), tmp_path / "set", progress=False)
    for latents in (made, open_clips("set", tmp_path)):
        assert latents.names == clips.names and latents.rate == clips.rate
        assert np.array_equal(latents.starts, clips.starts)
        assert list(latents.static) == ["who"] and list(latents.dynamic) == ["word"]
        assert torch.equal(latents.static["who"], clips.static["who"])
        assert torch.equal(latents.dynamic["word"], clips.dynamic["word"])
        assert latents.classes == {"who": ("ann", "bob"), "word": ("0", "1", "2")}


def test_finished_folder_opens_without_encoding(tmp_path):
    clips, stage = some_clips(), FirstStage(Squares())
    first = encode_clips(clips, stage, tmp_path / "set", progress=False)
    seen, encode = [], stage.encode
    stage.encode = lambda frames: (seen.append(len(frames)), encode(frames))[1]
    again = encode_clips(clips, stage, tmp_path / "set", progress=False)
    assert np.array_equal(first.frames, again.frames)
    assert sum(seen) <= 1  # the one that tells the size of latents


KILLED = """
import os, signal, sys
import numpy as np
sys.path[:0] = [{tests!r}]
from test_video_latents import Squares, some_clips
import diffsda.video_latents as module

def last_gasp(original, call):
    calls = []
    def wrapped(*args):
        calls.append(0)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)
    return wrapped

stage = module.FirstStage(Squares())
if {where!r} == "encoding":
    stage.encode = last_gasp(stage.encode, {call})
elif {where!r} == "recording":
    module.write_checkpoint = last_gasp(module.write_checkpoint, {call})
else:
    module.os.replace = last_gasp(module.os.replace, {call})
module.encode_clips(some_clips(), stage, {folder!r}, block=5, progress=False)
"""


@pytest.mark.parametrize(
    "where, call, done",
    [
        ("encoding", 5, 15),  # in the fourth block: call 1 only asks for the size of latents
        ("recording", 1, None),
        ("recording", 4, 10),  # latents on disk, not yet recorded
        ("replacing", 17, 31),  # all encoded, no index yet
    ],
)
def test_killed_run_goes_on_to_the_same_bits(where, call, done, tmp_path):
    clips, stage = some_clips(), FirstStage(Squares())
    encode_clips(clips, stage, tmp_path / "whole", block=5, progress=False)
    folder = tmp_path / "killed"
    script = KILLED.format(tests=str(ROOT / "tests"), where=where, call=call, folder=str(folder))
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "index.json").exists()
    record = folder / "encoding.json"
    assert (json.loads(record.read_text())["done"] if record.exists() else None) == done
    seen, encode = [], stage.encode
    stage.encode = lambda frames: (seen.append(len(frames)), encode(frames))[1]
    encode_clips(clips, stage, folder, block=5, progress=False)
    assert sum(seen) == 1 + 31 - (done or 0)  # one to know the size, then what was missing
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("change", ["stage", "frame", "names", "labels", "dtype", "block"])
def test_folder_is_not_gone_on_with_anything_else(change, tmp_path):
    clips, stage, options = some_clips(), FirstStage(Squares()), {"progress": False}
    encode_clips(clips, stage, tmp_path / "set", **options)
    if change == "stage":
        stage.autoencoder.mix.data[0, 0] += 1e-6
    if change == "frame":
        clips.frames[17, 0, 0, 0] ^= 1
    if change == "names":
        clips = replace(clips, names=("a/1", "b/1", "a/3"))
    if change == "labels":
        clips = replace(clips, static={"who": [0, 1, 1]})
    options |= {"dtype": {"dtype": "float32"}, "block": {"block": 7}}.get(change, {})
    word = {"stage": "stage", "dtype": "dtype", "block": "block"}.get(change, "set of clips")
    with pytest.raises(ValueError, match=f"another {word};.*new folder"):
        encode_clips(clips, stage, tmp_path / "set", **options)


def test_a_folder_of_pixels_is_not_overwritten(tmp_path):
    clips = some_clips()
    np.save(tmp_path / "frames.npy", clips.frames)
    with pytest.raises(ValueError, match="not encoded here"):
        encode_clips(clips, FirstStage(Squares()), tmp_path, progress=False)
    assert np.array_equal(np.load(tmp_path / "frames.npy"), clips.frames)


def test_latents_are_not_encoded_again(tmp_path):
    clips, stage = some_clips(), FirstStage(Squares())
    latents = encode_clips(clips, stage, tmp_path / "set", progress=False)
    with pytest.raises(ValueError, match="float16; are they latents already"):
        encode_clips(latents, stage, tmp_path / "again", progress=False)


def test_latents_too_large_for_the_disk_format_are_noticed(tmp_path):
    stage = FirstStage(Squares())
    stage.autoencoder.mix.data *= 1e6
    with pytest.raises(ValueError, match="frames 0 to 30 are not finite as float16.*float32"):
        encode_clips(some_clips(), stage, tmp_path / "set", progress=False)
    encode_clips(some_clips(), stage, tmp_path / "more", dtype="float32", progress=False)


# models of latents


def model_of(latents, stage, V=8):
    data = Windows(latents, V=V).fit_scale()
    torch.manual_seed(0)
    network = build(TINY, data[:1].frame)
    train(network, loss_of(TINY), data, TINY.config, progress=False)
    films = Films(V, size=None, rate=latents.rate, frame=data[:1].frame, stage=stage)
    return Disentangler(network, data.scale, films)


def talking(folder):
    "Landscape films of the people of GRID, or of moving bars where it is not prepared, as folders of images."
    try:
        faces = open_clips("grid", ROOT / "data")
    except ValueError:
        bars = np.random.default_rng(0).integers(0, 256, (3, 1, 3, 64, 1)).repeat(64, 4)
        bars = [
            np.stack([np.roll(bar[0], v, 1) for v in range(10)]).astype(np.uint8) for bar in bars
        ]
        faces = Clips(np.concatenate(bars), [0, 10, 20, 30])
    for i in range(3):
        (folder / f"person {i}").mkdir(parents=True)
        for v, frame in enumerate(faces.clip(i)[:10]):
            wide = np.pad(frame, ((0, 0), (0, 0), (9, 9)))
            Image.fromarray(wide.transpose(1, 2, 0)).save(folder / f"person {i}" / f"{v}.png")
    return folder


def test_from_clips_over_crops_and_latents_to_swapped_pixels(tmp_path):
    clips = read_clips(talking(tmp_path / "films"), size=64)
    assert clips.frames.shape == (30, 3, 64, 64)
    torch.manual_seed(0)
    stage = small_stage((8, 8, 8, 8))
    config = TrainConfig(20, 4, lr=4e-3, warmup=5, log_every=5)
    history = train(
        stage.autoencoder, first_stage_loss, Windows(clips, V=1), config, progress=False
    )
    assert history[-1]["loss"] < history[0]["loss"]
    latents = encode_clips(clips, stage, tmp_path / "latents" / "faces", progress=False)
    model = model_of(latents, stage)
    assert torch.allclose(
        Windows(latents, V=8).fit_scale()[:].x.std((0, 1, 3, 4)), torch.tensor(0.5), atol=0.01
    )
    swapped = model.swap(clips.clip(0), clips.clip(1), steps=3)
    assert swapped.shape == (10, 3, 64, 64) and swapped.dtype == np.uint8
    model.save(tmp_path / "model")
    stage.autoencoder.save_pretrained(tmp_path / "model" / "vae")
    again = Disentangler.load(tmp_path / "model", Films, stage=FirstStage.load(tmp_path / "model"))
    assert np.array_equal(again.swap(clips.clip(0), clips.clip(1), steps=3), swapped)


def test_errors_in_pixels_and_latents(tmp_path):
    clips, stage = some_clips(), FirstStage(Squares())
    errors = errors_by_stage(
        model_of(encode_clips(clips, stage, tmp_path / "set", progress=False), stage),
        clips,
        steps=4,
    )
    frames = torch.from_numpy(clips.frames)
    alone = ((stage.decode(stage.encode(frames)) - frames / 255) ** 2).mean().item()
    assert errors["latents"]["first stage alone"] == 0
    assert errors["pixels"]["first stage alone"] == pytest.approx(alone, rel=0.02)
    fresh, own = errors.loc["fresh noise"], errors.loc["its own noise"]
    assert own["latents"] < fresh["latents"] and own["pixels"] < fresh["pixels"]


def test_pixels_lose_nothing_by_themselves():
    clips = some_clips(8)
    errors = errors_by_stage(model_of(clips, None), clips, steps=3)
    assert errors["pixels"]["first stage alone"] == pytest.approx(0, abs=1e-12)


def test_a_first_stage_of_another_width_is_refused(tmp_path):
    clips, stage = some_clips(), FirstStage(Squares())
    model = model_of(encode_clips(clips, stage, tmp_path / "set", progress=False), stage)
    others = {
        r"\(3, 4, 4\)": (FirstStage(Squares(3)), clips.clip(0)),  # channels
        r"\(3, 32, 32\)": (None, clips.clip(0)),  # pixels
        r"8, 8\)": (stage, some_clips(64).clip(0)),  # size
    }
    for came, (other, clip) in others.items():
        wrong = replace(model, adapter=replace(model.adapter, stage=other))
        with pytest.raises(ValueError, match=came) as refused:
            wrong.swap(clip, clip, steps=2)
        assert "(4, " in str(refused.value)  # what the model reads


def test_scale_is_per_channel(tmp_path):
    latents = encode_clips(some_clips(), FirstStage(Squares()), tmp_path / "set", progress=False)
    scale = Windows(latents, V=8).fit_scale().scale
    assert scale.std.shape == (4, 1, 1) and len(scale.std.unique()) == 4
    assert isinstance(scale, Scale) and scale.sigma_data == 0.5
