"""A run is given of any set what it is trained on, what judges learn from and what they are asked about."""

from dataclasses import replace

import pytest
import torch

from diffsda import cases
from diffsda.audio import Recordings
from diffsda.cases import TOY, TOY_SHORT, as_heard, case_of, known_set, with_classes
from diffsda.data import TOYS, Sequences
from diffsda.sets import Splits


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_a_set_as_others_are(name):
    the_set = known_set(name)
    assert (the_set.preset(), the_set.preset("short")) == (TOY, TOY_SHORT)
    assert [len(part) for part in the_set.load("nowhere")] == [4000, 500, 1500]


@pytest.mark.parametrize(
    "name, modality", [("digits", "video"), ("etth1", "time series"), ("vowels", "sound")]
)
def test_a_set_is_found_whatever_it_is_a_set_of(name, modality):
    assert (known_set(name).name, known_set(name).modality) == (name, modality)


def test_other_people_are_asked_about_than_teach_the_model_but_the_judge_knows_them():
    case = case_of("vowels", "fast", "test", rows=(60, 40))
    who = lambda part: set(part.static["speaker"].tolist())
    trained = set(case.train.recordings.labels["speaker"].tolist())
    assert who(case.asked) <= who(case.learnt) and not who(case.asked) & trained
    assert len(case.learnt) <= 60 and len(case.asked) <= 40
    same = (case.asked.x[:, None] == case.learnt.x).flatten(2).all(-1)
    assert not same.any()  # no piece is learnt and asked about
    assert len(case.in_memory()) == len(case.train)
    kinds = lambda part: (set(part.static), set(part.dynamic))
    assert kinds(case.in_memory()) == kinds(case.asked) == ({"speaker"}, {"word"})


def test_what_is_said_moves_even_where_a_recording_says_one_thing():
    who, word = torch.tensor([0, 1]), torch.tensor([3, 4])
    heard = as_heard(
        Sequences(torch.randn(2, 5, 3), static={"who": who, "word": word, "take": who}),
        "who",
        "word",
    )
    assert set(heard.static) == {"who"} and heard.dynamic["word"].tolist() == [[3] * 5, [4] * 5]
    strung = Sequences(
        torch.randn(2, 5, 3), static={"who": who}, dynamic={"word": torch.arange(10).view(2, 5)}
    )
    assert torch.equal(as_heard(strung, "who", "word").dynamic["word"], strung.dynamic["word"])


def test_a_toy_comes_with_its_classes_and_a_set_that_is_none_is_refused():
    toy = case_of("rotor", rows=(50, 20))
    assert len(toy.learnt) == 50 and len(toy.asked) == 20 and len(toy.train) == 4000
    assert not torch.equal(toy.learnt[:20].x, toy.asked.x)
    mixed = replace(toy.asked, static={"age": torch.rand(20), "who": torch.arange(20)})
    assert set(with_classes(mixed, 5).static) == {"who"} and len(with_classes(mixed, 5)) == 5
    with pytest.raises(ValueError, match="unknown set 'rotr'"):
        case_of("rotr")
    with pytest.raises(ValueError, match="part must be 'val' or 'test', got 'validation'"):
        case_of("rotor", part="validation")


def test_each_voice_teaches_the_judge_and_is_asked_about():
    rate, waves = 16_000, [torch.randn(16_000) / 5 for _ in range(11)]
    make = lambda who: Recordings(
        waves[: len(who)],
        rate,
        labels={"speaker": torch.tensor(who)},
        classes={"speaker": tuple("abcdefgh")},
    )
    preset = known_set("librispeech").preset("fast")
    splits = Splits(make([0, 0, 1, 1]), make([2, 3, 3, 2, 4, 3, 2]), make([5]))
    case = cases._voices("librispeech", splits, "val", (100, 100), preset)
    who = lambda part: set(part.static["speaker"].tolist())
    assert who(case.asked) == who(case.learnt) == {2, 3}  # the fifth has one recording
    with pytest.raises(ValueError, match="each of the 2 voices .* has one recording"):
        cases._voices("librispeech", replace(splits, val=make([2, 3])), "val", (9, 9), preset)
    with pytest.raises(ValueError, match="nobody has said what is heard in timit"):
        cases._voices("timit", splits, "val", (9, 9), preset)
