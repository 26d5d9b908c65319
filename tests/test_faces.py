"""Adapters of detectors and embedders, with small stand-ins for their libraries and weights; nothing is downloaded."""

import importlib
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffsda.data import Sequences
from diffsda.faces import (
    FACE_ALIGNMENT_FILES,
    VGG_LAYERS,
    bright_points,
    face_landmarks,
    haar_corners,
    vgg_face,
)
from diffsda.metrics import embedding_distance, keypoint_distance


def test_bright_points_by_hand():
    frames = torch.zeros(3, 3, 8, 10)
    frames[0, :, 2, 3] = frames[0, :, 2, 7] = 1  # two pixels in row 2: mean 5, deviation 2
    frames[1, :, 1:6, 4] = torch.tensor([1.0, 0, 0, 0, 1])  # two in column 4, rows 1 and 5
    points = bright_points(frames)
    assert points.shape == (3, 5, 2)
    assert points[0].tolist() == [[5, 2], [3, 2], [7, 2], [5, 2], [5, 2]]
    assert points[1].tolist() == [[4, 3], [4, 3], [4, 3], [4, 1], [4, 5]]
    assert points[2].isnan().all()


def test_bright_points_move_with_what_they_see():
    frames = torch.rand(2, 1, 12, 12)
    wide = torch.zeros(2, 1, 20, 20)
    wide[:, :, 5:17, 3:15] = frames
    moved = bright_points(wide) - bright_points(frames)
    assert torch.allclose(moved, torch.tensor([3.0, 5.0]).expand(2, 5, 2), atol=1e-4)
    assert torch.allclose(
        bright_points(wide.mT), bright_points(wide)[:, [0, 3, 4, 1, 2]].flip(-1), atol=1e-4
    )


class FakeAlignment:
    "Finds two faces where a picture is red, none elsewhere, and remembers how it was built."

    built: dict = {}

    def __init__(self, landmarks_type, **options):
        FakeAlignment.built = {"kind": landmarks_type, "home": torch.hub.get_dir(), **options}

    def get_landmarks_from_image(self, picture):
        assert picture.dtype == np.uint8 and picture.shape[-1] == 3
        if picture[0, 0].tolist() != [255, 0, 0]:
            warnings.warn("No faces were detected.", stacklevel=2)
            return None
        first = np.arange(136.0).reshape(68, 2)
        return [first, first + 500]


@pytest.fixture
def alignment(monkeypatch, tmp_path):
    "A stand-in for the package, and a folder that holds its files."
    fake = ModuleType("face_alignment")
    fake.FaceAlignment, fake.LandmarksType = FakeAlignment, SimpleNamespace(TWO_D="2d")
    monkeypatch.setitem(sys.modules, "face_alignment", fake)
    (tmp_path / "checkpoints").mkdir()
    for name in FACE_ALIGNMENT_FILES:
        (tmp_path / "checkpoints" / name).touch()
    return tmp_path


def red(n, share=1.0):
    "Frames of which the first are red, the others black."
    x = torch.zeros(n, 3, 16, 16)
    x[: round(share * n), 0] = 1
    return x


def test_landmarks_are_those_of_the_first_face(alignment):
    before = torch.hub.get_dir()
    detect = face_landmarks(alignment)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = detect(red(4, share=0.5))
    assert points.shape == (4, 68, 2) and points[2:].isnan().all()
    assert torch.equal(points[0], torch.arange(136.0).view(68, 2))
    built = FakeAlignment.built
    assert built["kind"] == "2d" and built["flip_input"] is False and built["device"] == "cpu"
    assert built["home"] == str(alignment) and torch.hub.get_dir() == before
    real, made = Sequences(red(4)[None]), Sequences(red(4, share=0.5)[None])
    assert keypoint_distance(detect, real, made) == (0.0, 0.5)


def test_the_hub_is_left_as_it_was_when_building_fails(alignment, monkeypatch):
    def fail(*args, **options):
        raise OSError("damaged")

    monkeypatch.setattr(sys.modules["face_alignment"], "FaceAlignment", fail)
    before = torch.hub.get_dir()
    with pytest.raises(OSError, match="damaged"):
        face_landmarks(alignment)
    assert torch.hub.get_dir() == before


def test_landmarks_without_files_are_refused(alignment):
    (alignment / "checkpoints" / FACE_ALIGNMENT_FILES[1]).unlink()
    with pytest.raises(ValueError, match=f"checkpoints lacks {FACE_ALIGNMENT_FILES[1]}; get them"):
        face_landmarks(alignment)


@pytest.mark.parametrize(
    "module, build",
    [
        ("face_alignment", lambda: face_landmarks("weights")),
        ("cv2", haar_corners),
        ("torchvision.models", lambda: vgg_face("weights.pt")),
    ],
)
def test_missing_libraries_are_named(monkeypatch, module, build):
    imported = importlib.import_module

    def without(name):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ValueError, match=rf"{module} is missing: pip install 'diffsda\[faces\]'"):
        build()


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8), (1, 2, 3, 8, 8)])
def test_what_is_no_image_is_refused(alignment, shape):
    with pytest.raises(ValueError, match="latents are decoded first"):
        face_landmarks(alignment)(torch.zeros(shape))


def test_the_largest_box_is_taken(monkeypatch):
    "The cascade's answers are made up: two boxes where a picture is bright, none where it is dark."
    cv2 = pytest.importorskip("cv2")
    asked = []

    def boxes(self, grey, *rest, minSize):
        asked.append(minSize)
        return [(1, 2, 3, 3), (4, 5, 6, 7)] if grey.mean() > 50 else ()

    made_up = type("Cascade", (), {"__init__": lambda self, path: None, "detectMultiScale": boxes})
    monkeypatch.setattr(cv2, "CascadeClassifier", made_up)
    corners = haar_corners(smallest=0.5)(
        torch.cat([torch.ones(1, 1, 20, 30), torch.zeros(1, 1, 20, 30)])
    )
    assert corners[0].tolist() == [[4, 5], [10, 12]] and corners[1].isnan().all()
    assert asked == [(10, 10)] * 2


def test_no_face_in_noise():
    pytest.importorskip("cv2")
    assert haar_corners()(torch.rand(2, 3, 32, 32)).isnan().all()


def tiny_vgg16(weights=None, num_classes=2622):
    "torchvision's layout, as deep but thin."
    widths = (2, 2, "M", 2, 2, "M", 2, 2, 2, "M", 2, 2, 2, "M", 2, 2, 2, "M")
    layers, channels = [], 3
    for width in widths:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    network = nn.Module()
    network.features, network.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
    sizes = (nn.Linear(2, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6), nn.ReLU(), nn.Dropout())
    network.classifier = nn.Sequential(*sizes, nn.Linear(6, 9))
    through = lambda x: network.classifier(network.avgpool(network.features(x)).flatten(1))
    network.forward = through
    return network


@pytest.fixture
def vgg(monkeypatch, tmp_path):
    "A thin VGG-16 instead of the real one, its weights in a file."
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setattr(models, "vgg16", tiny_vgg16)
    network = tiny_vgg16().eval()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.01, 0.5)
    save_file(network.state_dict(), tmp_path / "vgg.safetensors")
    return SimpleNamespace(network=network, folder=tmp_path, file=tmp_path / "vgg.safetensors")


@pytest.mark.parametrize("layer, size", [("fc7", 6), ("fc8", 9)])
def test_descriptors_are_those_of_the_layer(vgg, layer, size):
    frames = torch.rand(3, 3, 224, 224)
    rows = vgg_face(vgg.file, layer)(frames)
    assert rows.shape == (3, size)
    assert torch.allclose(rows.norm(dim=1), torch.ones(3))
    mean = torch.tensor([129.1863, 104.7624, 93.5940]).view(3, 1, 1)
    features = vgg.network.features((255 * frames).round() - mean)
    upto = vgg.network.classifier[: 5 if layer == "fc7" else None]
    want = upto(vgg.network.avgpool(features).flatten(1))
    assert torch.allclose(rows, nn.functional.normalize(want), atol=1e-4)


def test_weights_under_either_name(vgg):
    tensors = vgg.network.state_dict()
    layers = [name[: -len(".weight")] for name in tensors if name.endswith(".weight")]
    paper = dict(zip(layers, VGG_LAYERS))
    renamed = {
        f"{paper[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in tensors.items()
    }
    assert {"conv1_1.bias", "conv5_3.weight", "fc6.weight", "fc8.bias"} <= set(renamed)
    save_file(renamed, vgg.folder / "paper.safetensors")
    frames = torch.rand(1, 3, 40, 30)
    want = vgg_face(vgg.file)(frames)
    assert torch.equal(vgg_face(vgg.folder / "paper.safetensors")(frames), want)


def test_only_the_face_is_described(vgg):
    def corners(frames):
        places = torch.tensor([[4.0, 8.0], [36.0, 40.0]]).repeat(len(frames), 1, 1)
        places[frames.amax((1, 2, 3)) == 0] = torch.nan
        return places

    frames = torch.rand(3, 3, 48, 40)
    frames[2] = 0
    embed = vgg_face(vgg.file, corners=corners)
    rows = embed(frames)
    assert torch.allclose(rows[:2], vgg_face(vgg.file)(frames[:2, :, 8:40, 4:36]), atol=1e-5)
    assert rows[2].isnan().all() and embed(frames[2:]).shape == (1, 6)
    elsewhere = frames.clone()
    elsewhere[:, :, :8] = 1 - elsewhere[:, :, :8]
    assert torch.equal(embed(elsewhere)[:2], rows[:2])
    found = embedding_distance(embed, Sequences(frames[None]), Sequences(frames[None]))
    assert found == (0.0, pytest.approx(1 / 3))


def test_weights_that_do_not_fit_are_refused(vgg):
    tensors = vgg.network.state_dict()
    tensors.pop("classifier.6.bias")
    short = vgg.folder / "short.safetensors"
    save_file(tensors, short)
    with pytest.raises(ValueError, match="(?s)short.* does not fit VGG-Face.*classifier.6.bias"):
        vgg_face(short)
    (vgg.folder / "text.pt").write_text("no weights")
    (vgg.folder / "text.safetensors").write_text("no weights")
    torch.save(vgg.network.features, vgg.folder / "pickled.pt")  # code, which is never run
    for name in ("text.pt", "text.safetensors", "pickled.pt", "nowhere.pt"):
        with pytest.raises(ValueError, match=f"{name} holds no weights that can be read"):
            vgg_face(vgg.folder / name)
    with pytest.raises(ValueError, match="layer must be 'fc7' or 'fc8', got 'fc6'"):
        vgg_face(vgg.file, layer="fc6")
