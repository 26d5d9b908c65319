"""LibriSpeech: read English at 16 kHz. Its subsets by name, and a sample of two of them.

A subset is LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac, and SPEAKERS.TXT says who is a woman and who
a man. The sample is <subset>/<speaker>-<chapter>-<utterance>.flac, and labels.csv says it."""

import re
from pathlib import Path

import fetch
import numpy as np
import table
import waves

COLUMNS = "file subset speaker sex chapter utterance seconds".split()  # of labels.csv
SAMPLE = "librispeech_sample"
SUBSETS = {  # recordings, size of the download, its MD5 as published
    "dev-clean": (2703, "337 MB", "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (2864, "314 MB", "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (2620, "346 MB", "32fa31d27d2e1cad72775fff3f4849a9"),
    "test-other": (2939, "328 MB", "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": (28539, "6.3 GB", "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (104014, "23 GB", "c0e676e450a7ff2f54aeade5171606fa"),
}
SET = fetch.PublicSet(
    what="LibriSpeech",
    size="60 MB",
    licence="CC BY 4.0",
    citation="LibriSpeech (c) 2014 by Vassil Panayotov; Panayotov, Chen, Povey, Khudanpur, LibriSpeech: an ASR corpus based on "
    "public domain audio books, ICASSP 2015",
    copy="audio/librispeech_sample.zip",
    url="https://www.openslr.org/resources/12/",
    files={},
)
SETS = {
    SAMPLE: SET._replace(
        what="LibriSpeech, 306 utterances of test-other and train-clean-100, 16 kHz",
        marker="test-other/*.flac",
        by_hand="this selection is not published as one file; librispeech_test_other and librispeech_train_clean_100 hold all of it",
    )
} | {
    f"librispeech_{subset.replace('-', '_')}": SET._replace(
        what=f"LibriSpeech {subset}: {count:,} utterances, 16 kHz",
        size=size,
        copy=f"audio/{subset}.tar.gz",
        files={f"{subset}.tar.gz": f"md5:{md5}"},
        marker=f"**/{subset}/*/*/*.flac",
    )
    for subset, (count, size, md5) in SUBSETS.items()
}


def sexes_listed(path: Path) -> dict[str, str]:
    "Speaker -> F or M, by SPEAKERS.TXT. Raises ValueError if there is none, or for the first line that is none of it."
    files = [*fetch.contents(path, "SPEAKERS.TXT")]
    if not files:
        raise ValueError(
            f"{path.name} holds no SPEAKERS.TXT, which says the speakers' sex; name the folder LibriSpeech, with that file in it"
        )
    sexes = {}
    for i, line in enumerate(files[0][1].decode("utf-8", errors="replace").splitlines(), 1):
        if line.strip() and not line.startswith(";"):
            fields = re.match(r"(\d+)\s*\|\s*([FM])\s*\|", line)
            if not fields:
                raise ValueError(
                    f"SPEAKERS.TXT, line {i}: {line[:60]!r}, expected speaker | F or M | subset ...; get the file again"
                )
            sexes[fields[1]] = fields[2]
    return sexes


def sexes_of_sample(path: Path, names: set[str]) -> dict[str, str]:
    "Speaker -> F or M, by labels.csv. Raises ValueError unless it lists the recordings that are there, and no other."
    files = [*fetch.contents(path, "labels.csv")]
    if len(files) != 1:
        raise ValueError(
            f"{path.name} holds {len(files)} files labels.csv, which says the speakers' sex, expected one; get the copy again"
        )
    rows = table.read_table(*files[0], COLUMNS, "the sample of LibriSpeech")
    row = table.first(~rows["sex"].isin(["F", "M"]))
    if row is not None:
        raise ValueError(
            f"labels.csv, line {row + 2}, column sex: {rows['sex'][row]!r}, expected F or M; mend the line"
        )
    listed = {file.removesuffix(".flac") for file in rows["file"]}
    for some, others, what in (
        (names, listed, "has no line in labels.csv; add it, or drop the file"),
        (listed, names, "is listed in labels.csv, but there is no such file; get the copy again"),
    ):
        if some - others:
            raise ValueError(f"{min(some - others)}.flac {what}")
    return dict(zip(rows["speaker"], rows["sex"]))


def parse(file: str) -> tuple[str, dict[str, str]]:
    "Name and speaker of a recording. Raises ValueError if the file's name does not say who speaks."
    name = Path(file).stem
    who = re.fullmatch(r"(\d+)-\d+-\d+", name)
    if not who:
        raise ValueError(
            f"{file} has no label, expected a name like 84-121123-0000.flac (speaker, chapter, utterance); rename it, or drop it"
        )
    return name, {"speaker": who[1]}


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `waves.join`: speaker, sex, in the sample subset. Raises ValueError for the first thing wrong."
    if name == SAMPLE:

        def parsed(file):
            short, labels = parse(file)
            subset = Path(file).parent.name
            return f"{subset}/{short}", labels | {"subset": subset}

        recordings = waves.find(path, parsed)
        sexes, published = sexes_of_sample(path, {r.name for r in recordings}), 306
    else:
        subset = name.removeprefix("librispeech_").replace("_", "-")
        recordings = waves.find(
            path, lambda file: parse(file) if Path(file).parts[-4:-3] == (subset,) else None
        )
        sexes, published = sexes_listed(path), SUBSETS[subset][0]
    for recording in recordings:
        speaker = recording.labels["speaker"]
        if speaker not in sexes:
            raise ValueError(
                f"{recording.file}: SPEAKERS.TXT does not list the speaker {speaker}; get both again"
            )
        recording.labels["sex"] = sexes[speaker]
    return waves.join(name, recordings, rate=16000, published=published)
