"""A page about a user's own data: it needs no network, has every part, and a page that was there stays until a new one is whole."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import soundfile

import diffsda
from diffsda.model import DiffSDA
from diffsda.report import PARTS, Label, Subject, labels_of, report, worth_part
from diffsda.scenes import example_clips
from diffsda.tables import example_table
from diffsda.vowels import vowels

TINY = {
    "steps": 2, "batch": 8, "s_dim": 4, "d_dim": 2, "hidden": 8, "enc_width": 8, "dec_width": 8,
    "embedding": 16, "levels": 2, "held_out": 0.2, "progress": False,
}  # fmt: skip


def table():
    made = example_table(12)
    made["coast"] = made["station"].isin(["harbour", "south"]).map({True: "coast", False: "inland"})
    return made


SOURCES = {
    "table": (table, {"time": "date", "group": "station", "window": 24, "leave_out": ()}, "coast"),
    "clips": (lambda: example_clips(12), {"size": 16}, None),
    "recordings": (lambda: vowels(8), {"seconds": 0.3}, None),
}


@pytest.fixture(scope="module", params=SOURCES)
def case(request, tmp_path_factory):
    make, settings, labels = SOURCES[request.param]
    source = make()
    model = diffsda.fit(source, **TINY | settings)
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(model, source, path, labels, progress=False)
    return request.param, model, source, labels, path


def test_a_page_needs_no_network_and_has_every_part(case):
    name, _, _, labels, path = case
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page) and "<script" not in page
    for heading in PARTS:
        assert (f"<h2>{heading}</h2>" in page) == (heading != "What leaks" or bool(labels))
    pictures = re.findall(r"<img[^>]*>", page)
    assert pictures and all(re.search(r'alt="[^"]+"', picture) for picture in pictures)
    assert ("<audio" in page) == (name == "recordings")
    assert ("image/gif" in page or "image/webp" in page) == (name == "clips")
    assert len(page) < 5e6


def explained(model, source):
    "The last column of a page's table of its source, and the share that the sentence below states, percent."
    page = worth_part(Subject.of(model, model.adapter.excerpts(source, most=6), {}, 0))
    column = re.findall(r"<td>([^<]*)</td>\s*</tr>", page.rpartition("<table")[2])
    return [float(share) for share in column], int(re.search(r"explain (-?\d+) %", page)[1])


def test_the_share_that_is_stated_is_that_of_the_table_above(case):
    name, model, source, _, _ = case
    if name != "table":
        pytest.skip("the same for all")
    model = replace(model, worth=0 * model.worth + 1)  # of what was kept aside in training
    column, share = explained(model, source)
    assert abs(100 * sum(column) / len(column) - share) < 1


def test_errors_are_those_of_what_the_page_shows_which_a_student_makes(case):
    name, model, source, _, _ = case
    if name != "table":
        pytest.skip("the same for all")
    own = model.network
    student = copy.deepcopy(own.decoder)
    quick = replace(
        model, network=DiffSDA(own.encoder, own.decoder, own.sigma_data, student).eval()
    )
    asked = replace(quick, sampling={"solver": "one"})
    assert explained(quick, source) == explained(asked, source) != explained(model, source)


def test_whoever_wants_no_bar_sees_none(case, impatient, tmp_path, capfd):
    _, model, source, labels, _ = case
    report(model, source, tmp_path / "silent.html", labels, progress=False)
    assert capfd.readouterr().err == ""
    report(model, source, tmp_path / "told.html", labels)
    shown = capfd.readouterr().err
    assert "report" in shown and "reading codes" in shown and ("judge" in shown) == bool(labels)


def test_a_page_of_other_data_is_refused_and_the_former_stays(case):
    name, model, source, _, path = case
    before = path.read_text(encoding="utf-8")
    other = vowels(8) if name == "table" else table()
    for wrong, labels, where in (
        (other, None, path),
        (source, None, path.with_suffix(".pdf")),
        (source, "no such label", path),
    ):
        with pytest.raises(ValueError):
            report(model, wrong, where, labels, progress=False)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_windows_of_days_are_told_by_their_day(case):
    name, model, source, _, _ = case
    if name != "table":
        pytest.skip("only tables have dates")
    told = [part.start for part in model.adapter.excerpts(source, most=60)]
    assert told[:3] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    later = source[source["date"].dt.hour + 24 * source["date"].dt.day >= 30]
    told = [part.start for part in model.adapter.excerpts(later, most=60)]
    assert told[0] == "2024-01-01 06:00:00"


def test_a_column_without_any_value_leaves_its_panel_empty(case):
    name, model, source, _, path = case
    if name != "table":
        pytest.skip("only tables have columns")
    page = path.with_name("holes.html")
    report(model, source.assign(flow=float("nan")), page, progress=False)
    assert len(page.read_text(encoding="utf-8")) > 50_000
    page.unlink()


def test_labels_are_read_as_they_were_written(tmp_path):
    (tmp_path / "labels.CSV").write_text("who,cloud\n0012,None\n0013,full\n0014,\n")
    told = labels_of(None, None, tmp_path / "labels.CSV")["cloud"]
    assert list(told) == ["0012", "0013", "0014"]
    assert told["0012"] == "None" and told["0014"] != told["0014"], "an empty cell is unknown"


def test_a_page_of_what_training_left_out(case, tmp_path):
    name, model, source, _, _ = case
    if name != "table":
        pytest.skip("only tables have groups shorter than a window")
    one = source.station == source.station.iloc[0]
    source = pd.concat([source[~one], source[one].head(5)])
    assert report(model, source, tmp_path / "page.html", progress=False).exists()


def test_a_page_of_a_folder_with_labels_beside_its_recordings(case, tmp_path):
    name, model, source, _, _ = case
    if name != "recordings":
        pytest.skip("only recordings lie in a folder here")
    for i in range(len(source.waves)):
        soundfile.write(tmp_path / f"{i}.wav", source.wave(i).numpy(), source.rate)
    rows = "".join(f"{i}.wav,{i % 2}\n" for i in range(len(source.waves)))
    (tmp_path / "labels.csv").write_text("who,odd\n" + rows)
    page = report(model, tmp_path, tmp_path / "page.html", tmp_path / "labels.csv", progress=False)
    assert "What leaks" in page.read_text(encoding="utf-8")


def test_a_label_that_names_every_thing_is_refused_by_name():
    things = [SimpleNamespace(name=f"film {i}") for i in range(4)]
    with pytest.raises(ValueError, match="label 'title' has another value for each .*leave it out"):
        Label.of("title", {f"film {i}": f"t{i}" for i in range(4)}, things)
    told = Label.of("kind", {f"film {i}": "ab"[i % 2] for i in range(4)}, things)
    assert told.y.tolist() == [0, 1, 0, 1]
    ages = Label.of("age", {f"film {i}": 20 + i for i in range(4)}, things)
    assert ages.classes == () and ages.y.tolist() == [20, 21, 22, 23]
