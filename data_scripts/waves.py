"""What every set of speech shares: recordings found in any layout, decoded, checked, and put one after the other at one rate.

A recording is refused, by its file's name, where samples are missing or mean nothing: an empty or truncated file, one that cannot be
decoded, a rate of 0, NaN. What can be put right or is no fault of the file is kept and counted: stereo is averaged, silence and samples
at full scale stay as they are."""

import io
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fetch
import numpy as np
import table
from tqdm import tqdm

SUFFIXES = (".wav", ".flac")  # in either letter case
OTHERS = (".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".shn", ".sph")
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
AGAIN = "get the file again, or drop it"


class Recording(NamedTuple):
    name: str  # in the set: the same in every layout, without suffix
    labels: dict[str, str]  # label -> class, as in speaker -> george
    file: str  # as found
    read: Callable[[], bytes]


def find(
    path: Path,
    parse: Callable[[str], tuple[str, dict[str, str]] | None],
    # a file with its folders -> name and labels, None to leave it out; ValueError if it has no label
) -> list[Recording]:
    "All recordings of a file, folder or archive, by name. Raises ValueError for the first one that does not belong."
    found = {}
    for file, read in fetch.members(path):
        suffix = Path(file).suffix.lower()
        if suffix not in SUFFIXES + OTHERS or (parsed := parse(file)) is None:
            continue
        name, labels = parsed
        if suffix in OTHERS:
            raise ValueError(
                f"{file} is a {suffix}, expected {' or '.join(SUFFIXES)}; convert it, or drop it"
            )
        if name in found:
            raise ValueError(
                f"{path.name} holds {name} twice, as {found[name].file} and {file}; keep one of the two copies"
            )
        found[name] = Recording(name, labels, file, read)
    if not found:
        raise ValueError(
            f"{path.name} holds no recording of this set ({' or '.join(SUFFIXES)}); "
            "name the zip, the tar.gz, or the folder it was unpacked into"
        )
    return sorted(found.values(), key=lambda recording: table.natural(recording.name))


def promised(content: bytes) -> int:
    "Where the samples of a RIFF or NIST SPHERE file end by its header; libsndfile reads fewer without a word."
    if content[:4] == b"RIFF":
        chunk, end = b"", 12
        while chunk != b"data" and end < len(content):
            end += end % 2  # chunks begin at even places
            chunk, size = content[end : end + 4], content[end + 4 : end + 8]
            end += 8 + int.from_bytes(size, "little")
        return end
    if content[:7] == b"NIST_1A":
        fields = dict(re.findall(rb"^(\w+) -i (\d+) *$", content[:1024], re.MULTILINE))
        sizes = (b"sample_count", b"sample_n_bytes", b"channel_count")
        return int(content[8:16]) + math.prod(int(fields.get(key, 1)) for key in sizes)
    return 0  # FLAC: its decoder finds out


def decode(file: str, content: bytes) -> tuple[np.ndarray, int]:  # (samples, channels), Hz
    "The samples as float32, 16 bits exactly. Raises ValueError, by name, for a file that is not whole or has no sample, or NaN."
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise ValueError("speech needs soundfile: pip install 'diffsda[audio]'") from error
    if not content:
        raise ValueError(f"{file} is empty (0 bytes), expected a recording; {AGAIN}")
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        expected = promised(content)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        if "SF_INFO" in reason:
            reason = "its header gives a rate or a number of channels of 0"
        raise ValueError(
            f"{file} cannot be decoded ({reason}); expected a whole {' or '.join(SUFFIXES)} file; {AGAIN}"
        ) from error
    if len(content) < expected:
        raise ValueError(
            f"{file} is cut short: {len(content):,} bytes, expected {expected:,} by its header; {AGAIN}"
        )
    if not len(samples):
        raise ValueError(f"{file} has a header and 0 samples, expected a recording; {AGAIN}")
    row = table.first(~np.isfinite(samples).all(1))
    if row is not None:
        raise ValueError(
            f"{file}: sample {row} is {samples[row].mean()}, expected finite numbers; {AGAIN}"
        )
    return samples, rate


def resample(wave: np.ndarray, rate: int, to: int) -> np.ndarray:
    "The wave at another rate, by windowed sinc."
    import torch  # takes seconds, and most sets do without
    import torchaudio.functional

    return torchaudio.functional.resample(torch.from_numpy(wave), rate, to).numpy()


def heard(
    recording: Recording,
    rate: int,
    resampled: bool,  # if it comes at another rate; else that is refused
    seen: Counter,
) -> np.ndarray:  # (samples,) int16
    "One recording at the rate of its set, mono; counts in `seen` what was done to it or is odd about it."
    samples, came = decode(recording.file, recording.read())
    wave = samples.mean(1)
    seen["stereo, averaged"] += samples.shape[1] > 1
    if came != rate:
        if not resampled or came not in RATES:
            wanted = ", ".join(map(str, RATES)) if resampled else rate
            raise ValueError(
                f"{recording.file} has {came} samples a second, expected {wanted}; "
                "is this a file of this set? resample it, or drop it"
            )
        wave = resample(wave, came, rate)
        seen[f"resampled to {rate} Hz"] += 1
    wave = np.rint(wave * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    seen["silent throughout"] += np.ptp(wave) == 0
    seen["at full scale somewhere"] += wave.max() == 2**15 - 1 or wave.min() == -(2**15)
    return wave


def join(
    name: str,  # of the set
    recordings: list[Recording],
    rate: int,  # of the set, Hz
    published: int,  # recordings
    *,
    orders: dict[str, list[str]] | None = None,  # label -> classes in the order of the publisher
    resampled: bool = False,  # other rates are converted; else refused
) -> tuple[dict[str, np.ndarray], dict]:
    """`wave` (N,) int16, `starts` (R + 1,), one int16 array (R,) for each label, and the facts of the index.

    Recordings pass one by one, and `wave` is a memory map of a temporary file: a set may be larger than the memory.
    Raises ValueError for the first recording that cannot be used, OSError if the temporary file finds no room."""
    lengths, seen = [], Counter()

    def decoded():
        for recording in tqdm(recordings, "recordings", delay=2):
            wave = heard(recording, rate, resampled, seen)
            lengths.append(len(wave))
            yield wave

    wave = fetch.spool(name, decoded())
    labels, classes = table.index_labels([recording.labels for recording in recordings], orders)
    arrays = {"wave": wave, "starts": np.cumsum([0, *lengths], dtype=np.int64), **labels}

    some = "" if len(recordings) == published else f" (published: {published:,})"
    print(
        f"{name}: {len(recordings):,} recordings{some}, {len(wave) / rate / 60:.1f} min at {rate} Hz; "
        + ", ".join(f"{label} {len(names)}" for label, names in classes.items())
    )
    for what, count in seen.items():
        print(f"  {count:6,} {what}")
    if len(classes["speaker"]) == 1:
        print(
            f"warning: one speaker only ({classes['speaker'][0]}): verification needs two or more"
        )
    facts = {"rate": rate, "files": [r.name for r in recordings], "labels": classes}
    return arrays, facts
