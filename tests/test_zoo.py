"""The models that come with the package do what their cards say."""

import json

import pytest
import torch

import diffsda
from diffsda import DiffSDA, pretrained
from diffsda.data import toy_splits
from diffsda.judges import train_judge, who_carries
from diffsda.zoo import CARD, card, ship


@pytest.mark.parametrize("name", pretrained())
def test_a_shipped_model_has_a_score_of_its_card(name):
    told, model = card(name), pretrained(name)
    assert set(CARD) <= set(told) and not model.training
    train, _, test = toy_splits(name, sizes=(4000, 2, 200))
    a, b = test[:100], test[100:]
    found = who_carries(train_judge(train), model.swap(a, b, "random", **told["sampling"]), a, b)
    for row in found[found.kind == "static"].itertuples():
        assert abs(row.from_s - told["scores"][f"swap {row.Index} from s, 7 calls"]) < 8, row


@pytest.mark.parametrize("name", pretrained())
def test_a_shipped_model_is_small_and_single_precision_once_loaded(name):
    folder = diffsda.zoo._SHIPPED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    assert {p.dtype for p in pretrained(name).parameters()} == {torch.float32}


def a_model():
    return DiffSDA.mlp((4,), 4, 2, 8, 8, 8, embedding=16, withhold=0.2)


def a_card():
    return {entry: "made up" for entry in CARD} | {"scores": {}, "sampling": {}}


def test_half_precision_is_for_weights_and_not_for_buffers(tmp_path):
    model = a_model()
    ship(model, tmp_path / "mine", a_card())
    again = pretrained("mine", tmp_path)
    assert torch.equal(model.decoder.embed_sigma.frequencies, again.decoder.embed_sigma.frequencies)
    for ours, theirs in zip(model.parameters(), again.parameters()):
        assert torch.equal(ours.half().float(), theirs)
    assert pretrained(folder=tmp_path) == {"mine": "made up"}


def test_an_altered_weight_is_refused(tmp_path):
    ship(a_model(), tmp_path / "mine", a_card())
    (file,) = (tmp_path / "mine").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        pretrained("mine", tmp_path)


@pytest.mark.parametrize("entry", CARD)
def test_a_card_with_a_gap_is_refused_before_anything_is_written(entry, tmp_path):
    told = a_card()
    del told[entry]
    with pytest.raises(ValueError, match=entry):
        ship(a_model(), tmp_path / "mine", told)
    assert not (tmp_path / "mine").exists()


def test_an_unknown_name_is_answered_with_those_there_are(tmp_path):
    ship(a_model(), tmp_path / "mine", a_card())
    with pytest.raises(ValueError, match="'yours'.*mine"):
        pretrained("yours", tmp_path)
    with pytest.raises(ValueError, match="none"):
        pretrained("mine", tmp_path / "nowhere")
    assert json.loads((tmp_path / "mine" / "card.json").read_text())["licence"] == "made up"
