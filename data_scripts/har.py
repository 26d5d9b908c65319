"""sp-sw-har: people who sit, stand up, walk and turn, with a smartphone and a smartwatch, at 20 Hz.

Samples come at irregular milliseconds, about 103 Hz and in bursts. Bins of 50 ms begin at the first time stamp of a recording:
a bin holds the mean of its samples and their most frequent label (of equally frequent ones, the first of `labels`).
A bin without a sample is NaN, and its label -1.

Two layouts are read: one npz file that holds all samples (`KEYS`), and csv files of one recording each, named like s01_02_sw.csv
(subject 1, execution 2, smartwatch). The second is how we expect the published archive to look; we could not try it on that."""

import re
from pathlib import Path

import fetch
import numpy as np
import pandas as pd
import table
from tqdm import tqdm

COLUMNS = ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]
PEOPLE = ["id", "age", "gender", "height_cm", "weight_kg", "hand"]
RATE = 20  # Hz
HEADER = ["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro", "timestamp", "label"]
DEVICES = {"sp": "smartphone", "sw": "smartwatch"}
COUNTS = (404, 471_713)  # recordings and samples of the copy that we know
KEYS = """signal timestamp_ms label subject execution device label_names device_names channel_names
subj_id subj_age subj_gender subj_height_cm subj_weight_kg subj_hand""".split()
PER_SAMPLE = KEYS[1:6]
LAYOUT = "if the archive looks otherwise, write its samples as the npz file that data_scripts/README.md describes, and pass that with --source"

SETS = {
    "har": fetch.PublicSet(
        what="sp-sw-har: phone and watch on 21 people, 20 Hz, 6 channels",
        size="9 MB as npz",
        licence="CC BY 4.0",
        citation="Matey-Sanz, Casteleyn, Granell, Dataset of inertial measurements of smartphones and smartwatches for human "
        "activity recognition, Data in Brief, 2023, 109809",
        copy="timeseries/sp_sw_har.npz",
        url="doi:10.5281/zenodo.8398688/",
        files={},
        marker="*_s[pw].csv",
    )
}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    "The arrays of the npz file. Raises ValueError if it is none, or if they do not belong together."
    try:
        with np.load(path) as file:
            samples = {key: file[key] for key in file}
    except Exception as error:  # a spoilt file makes its reader stumble in many ways
        raise ValueError(
            f"{path.name} cannot be read as an npz file ({error}); get the file again"
        ) from error
    lacks = [key for key in KEYS if key not in samples]
    if lacks:
        raise ValueError(f"{path.name} lacks the arrays {', '.join(lacks)}; get the file again")
    if samples["channel_names"].tolist() != COLUMNS:
        raise ValueError(
            f"{path.name}, channel_names: {samples['channel_names'].tolist()}, expected {COLUMNS}; is this the right file?"
        )
    n = len(samples["timestamp_ms"])
    for key, shape in {"signal": (n, len(COLUMNS)), **dict.fromkeys(PER_SAMPLE, (n,))}.items():
        if samples[key].shape != shape or not n:
            raise ValueError(
                f"{path.name}, {key}: shape {samples[key].shape}, expected {shape} and at least one sample; get the file again"
            )
    return samples


def read_tables(path: Path) -> dict[str, np.ndarray]:
    "The same arrays from csv files of one recording each; nothing is known of the people. Raises ValueError for the first thing wrong."
    columns = {key: [] for key in ("signal", *PER_SAMPLE)}
    for name, content in tqdm(fetch.contents(path, "*_s[pw].csv"), "recordings", delay=2):
        who = re.fullmatch(r"s?(\d+)_(\d+)_(sp|sw)\.csv", name)
        if not who:
            raise ValueError(f"{name} is not named like s01_02_sw.csv; {LAYOUT}")
        rows = table.read_table(name, content, HEADER, "sp-sw-har")
        time = pd.to_numeric(rows["timestamp"], errors="coerce")
        row = table.first(time.isna() | (time % 1 != 0))
        if row is not None:
            raise ValueError(
                f"{name}, line {row + 2}, column timestamp: {rows['timestamp'][row]!r} is no whole number of milliseconds; "
                "mend or drop the line"
            )
        subject, execution, device = int(who[1]), int(who[2]), [*DEVICES].index(who[3])
        columns["signal"].append(table.read_numbers(name, rows, HEADER[:6]))
        columns["timestamp_ms"].append(time.to_numpy(np.int64))
        columns["label"].append(rows["label"])
        for key, number in (("subject", subject), ("execution", execution), ("device", device)):
            columns[key].append(np.full(len(rows), number))
    if not columns["signal"]:
        raise ValueError(f"{path.name} holds no file like s01_02_sw.csv; {LAYOUT}")
    samples = {key: np.concatenate(parts) for key, parts in columns.items()}
    names, samples["label"] = np.unique(samples["label"].astype(str), return_inverse=True)
    return samples | {
        "label_names": names,
        "device_names": np.array([*DEVICES.values()]),
        "subj_id": np.unique(samples["subject"]),
    }


def starts_of(
    name: str, samples: dict
) -> np.ndarray:  # (R + 1,) the first sample of each recording, and the end
    "Where recordings begin. Raises ValueError if one is in two pieces, or its samples are not in time order."
    who = np.stack([samples[key] for key in ("subject", "execution", "device")], 1).astype(int)
    starts = np.r_[0, np.flatnonzero((np.diff(who, axis=0) != 0).any(1)) + 1, len(who)]
    _, first_of, pieces = np.unique(who[starts[:-1]], axis=0, return_index=True, return_counts=True)
    backwards = np.diff(samples["timestamp_ms"]) < 0
    backwards[starts[1:-1] - 1] = False
    row = table.first(backwards)
    if row is not None:
        raise ValueError(
            f"{name}, timestamp_ms: sample {row + 1} lies {-np.diff(samples['timestamp_ms'])[row]} ms before the sample above; "
            "sort each recording by time"
        )
    if pieces.max() > 1:
        subject, execution, device = who[starts[first_of[pieces.argmax()]]]
        raise ValueError(
            f"{name}: the recording of subject {subject}, execution {execution}, device {device} is in {pieces.max()} pieces; "
            "put its samples together, or drop the copy"
        )
    return starts


def check_samples(name: str, samples: dict):
    "Raises ValueError for a signal, label, device or subject that cannot be."
    for i, column in enumerate(COLUMNS):
        signal = samples["signal"][:, i]
        row = table.first(~np.isfinite(signal))
        if row is not None:
            raise ValueError(
                f"{name}, signal, column {column}: sample {row} is {signal[row]}; drop it"
            )
        if np.ptp(signal) == 0:
            raise ValueError(
                f"{name}, signal, column {column}: all samples are {signal[0]:g}, which says nothing; get the file again"
            )
    for key, known in (
        ("label", np.arange(len(samples["label_names"]))),
        ("device", np.arange(len(samples["device_names"]))),
        ("subject", samples["subj_id"]),
    ):
        row = table.first(~np.isin(samples[key], known))
        if row is not None:
            raise ValueError(
                f"{name}, {key}: sample {row} is {samples[key][row]}, expected one of {known.tolist()}; get the file again"
            )


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The recordings one after the other, and the facts of the index. Raises ValueError for the first thing wrong.

    `values` (N, 6) float32 in m/s^2 and rad/s, `label` (N,), `starts` (R + 1,), and `subject`, `execution`, `device` (R,)."""
    samples = read_npz(path) if path.suffix == ".npz" else read_tables(path)
    check_samples(path.name, samples)
    starts = starts_of(path.name, samples)
    time, heads = samples["timestamp_ms"], starts[:-1]
    bins = (time - np.repeat(time[heads], np.diff(starts))) * RATE // 1000
    lengths = bins[starts[1:] - 1] + 1
    offsets = np.r_[0, np.cumsum(lengths)]
    bins += np.repeat(offsets[:-1], np.diff(starts))
    n, labels = int(offsets[-1]), len(samples["label_names"])

    counts = np.bincount(bins, minlength=n)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        means = [np.bincount(bins, signal, minlength=n) / counts for signal in samples["signal"].T]
    votes = np.bincount(bins * labels + samples["label"], minlength=n * labels).reshape(n, labels)
    arrays = {
        "values": np.stack(means, 1).astype(np.float32),
        "label": np.where(counts > 0, votes.argmax(1), -1).astype(np.int8),
        "starts": offsets.astype(np.int64),
        **{k: samples[k][heads].astype(np.int16) for k in ("subject", "execution", "device")},
    }
    known = (len(heads), len(time)) == COUNTS
    short = "" if known else f" (the copy we know: {COUNTS[0]} of {COUNTS[1]:,})"
    print(
        f"{name}: {len(heads)} recordings of {len(time):,} samples{short}, "
        f"{len(samples['subj_id'])} people; {n:,} bins of {1000 // RATE} ms, {(counts == 0).mean():.1%} of them empty"
    )
    facts = {
        "columns": COLUMNS,
        "labels": samples["label_names"].tolist(),
        "devices": samples["device_names"].tolist(),
        "rate": RATE,
        "people": {
            key: samples[f"subj_{key}"].tolist() for key in PEOPLE if f"subj_{key}" in samples
        },
    }
    return arrays, facts
