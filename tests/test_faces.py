"""Adapters of detectors and embedders, with small stand-ins for their libraries and weights; nothing is downloaded."""

import math
import sys
import warnings
from types import ModuleType, SimpleNamespace

import makers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Lazy
from safetensors.torch import save_file
from torch import nn

from diffsda.data import Scale, Sequences
from diffsda.faces import (
    FACE_ALIGNMENT_FILES,
    VGG_LAYERS,
    Distance,
    bright_points,
    embedding_distance,
    face_landmarks,
    haar_corners,
    keypoint_distance,
    vgg_face,
)


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
        ("face_alignment", face_landmarks),
        ("cv2", lambda _: haar_corners()),
        ("torchvision.models", lambda _: vgg_face("weights.pt")),
    ],
)
def test_missing_libraries_are_named(alignment, monkeypatch, module, build):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{module}.*pip install 'diffsda\[faces\]'"):
        build(alignment)


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


def frames(*values):
    "One sequence whose frames hold one number each, which detectors below take for a coordinate; below 0 is not found."
    return Sequences(torch.tensor([[[float(v)] for v in values]]))


def point(x):
    "The value as both coordinates of two points."
    return torch.where(x < 0, torch.nan, x)[:, None].expand(-1, 2, 2)


def test_keypoint_distance_by_hand():
    real, made = frames(1, 2, 3, 4), frames(2, -1, 3, 7)
    assert keypoint_distance(point, real, made) == Distance(pytest.approx(4 / 3), 0.25)
    assert keypoint_distance(point, real, made, published=True) == Distance(1.0, 0.25)
    unseen = frames(-1, 2, 3, 4)  # not found in the real frame: no rule counts it
    assert keypoint_distance(point, unseen, frames(9, 3, 3, 3)).distance == pytest.approx(2 / 3)
    published = keypoint_distance(point, unseen, frames(9, 3, 3, 3), published=True)
    assert published.distance == pytest.approx(2 / 3)


def test_embedding_distance_by_hand():
    embed = lambda x: torch.where(x < 0, torch.nan, x * torch.tensor([[3.0, 4.0]]))
    real, made = frames(1, 2, 3, -1), frames(2, -1, 3, 5)
    assert embedding_distance(embed, real, made) == Distance(2.5, 0.5)
    assert embedding_distance(embed, real, made, squared=True) == Distance(12.5, 0.5)
    assert embedding_distance(embed, real, made, published=True) == Distance(1.25, 0.5)


def test_points_of_a_frame_may_be_missing_one_by_one():
    "Bodies: an elbow behind the back is missing, the rest is compared."
    joints = lambda x: torch.stack([x, torch.where(x > 4, torch.nan, x + 10)], 1).expand(-1, 2, 2)
    found = keypoint_distance(joints, frames(1, 2), frames(3, 5))
    assert found == Distance(pytest.approx((2 + 2 + 3) / 3), 0.25)


@pytest.mark.parametrize("distance", [keypoint_distance, embedding_distance])
def test_where_nothing_is_found_there_is_no_distance(distance):
    read = point if distance is keypoint_distance else lambda x: torch.where(x < 0, torch.nan, x)
    lost = distance(read, frames(1, 2), frames(-1, -1))
    assert math.isnan(lost.distance) and lost.missing == 1
    assert distance(read, frames(1, 2), frames(-1, -1), published=True) == Distance(0.0, 1.0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.booleans()), min_size=2))
def test_failing_does_not_help(rows):
    "Losing frames whose points are as far off as the others' leaves the distance, and raises what is missing."
    real, off, lost = zip(*rows)
    shifted = [r + 2 for r in real]
    some = [-1.0 if gone else r for r, gone in zip(shifted, lost)]
    before = keypoint_distance(point, frames(*real), frames(*shifted))
    after = keypoint_distance(point, frames(*real), frames(*some))
    assert after.missing == pytest.approx(sum(lost) / len(lost)) and before.missing == 0
    if not all(lost):
        assert after.distance == pytest.approx(before.distance, rel=1e-4)
    flattered = keypoint_distance(point, frames(*real), frames(*some), published=True)
    assert flattered.distance == pytest.approx(2 * (1 - after.missing), rel=1e-4)


def test_distances_are_of_raw_frames_that_exist():
    raw = Sequences(
        torch.tensor([[[0.0], [10.0], [20.0]], [[10.0], [30.0], [0.0]]]), lengths=[3, 2]
    )
    data = Scale.fit(raw).apply(raw)
    seen = []

    def detect(x):
        seen.append(x.flatten())
        return point(x)

    moved = Sequences(data.x + 0.1, data.lengths, scale=data.scale)
    found = keypoint_distance(detect, Lazy(data), Lazy(moved))
    assert seen[0].tolist() == pytest.approx([0, 10, 20, 10, 30], abs=1e-4)
    assert found.distance == pytest.approx(0.1 / 0.5 * float(data.scale.std), rel=1e-3)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda j, x: keypoint_distance(point, x, x[:3]), "must pair up, got 150 and 3"),
        (lambda j, x: keypoint_distance(lambda f: f, x, x), r"detect must return \(n, K, 2\)"),
        (lambda j, x: embedding_distance(point, x, x), r"embed must return \(n, k\)"),
    ],
)
def test_detectors_that_do_not_fit_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(None, makers.plain()[:150])
