"""TIMIT: 630 speakers of eight dialects read ten sentences, 16 kHz. Only from your own, licensed copy: nothing is downloaded.

Its layout is TRAIN|TEST/DR1..DR8/<speaker>/<sentence>.WAV in upper or lower case, as NIST SPHERE or RIFF. The two sentences SA that
everybody reads are dropped. Parts: `train`; of the folder TEST `core` (the core test set), `dev` (the usual 50 speakers) and `test`."""

import re
from collections import Counter
from pathlib import Path

import fetch
import numpy as np
import waves

PARTS = ["train", "dev", "core", "test"]
CORE = """MDAB0 MWBT0 FELC0 MTAS1 MWEW0 FPAS0 MJMP0 MLNT0 FPKT0 MLLL0 MTLS0 FJLM0
MBPM0 MKLT0 FNLP0 MCMJ0 MJDH0 FMGD0 MGRT0 MNJM0 FDHC0 MJLN0 MPAM0 FMLD0""".split()
DEV = """FAKS0 FDAC1 FJEM0 MGWT0 MJAR0 MMDB1 MMDM2 MPDF0 FCMH0 FKMS0 MBDG0 MBWM0 MCSH0 FADG0 FDMS0 FEDW0 MGJF0 MGLB0 MRTK0 MTAA0
MTDT0 MTHC0 MWJG0 FNMR0 FREW0 FSEM0 MBNS0 MMJR0 MDLS0 MDLF0 MDVC0 MERS0 FMAH0 FDRW0 MRCS0 MRJM4 FCAL1 MMWH0 FJSJ0 MAJC0
MJSW0 MREB0 FGJD0 FJMG0 MROA0 MTEB0 MJFC0 MRJR0 FMML0 MRWS1""".split()
SPEAKERS = 630
SENTENCES = {"SX": 5, "SI": 3}  # of each speaker, once SA is dropped

SETS = {
    "timit": fetch.PublicSet(
        what="TIMIT: 630 speakers, 8 dialects, 8 sentences each, 16 kHz",
        size="not downloaded",
        licence="LDC User Agreement (not free)",
        citation="Garofolo, Lamel, Fisher, Fiscus, Pallett, Dahlgren, Zue, TIMIT Acoustic-Phonetic Continuous Speech Corpus, "
        "LDC93S1, Linguistic Data Consortium, 1993",
        copy="audio/timit.zip",
        url="https://catalog.ldc.upenn.edu/LDC93S1",
        files={},
        marker="**/[sS][xX]*.[wW][aA][vV]",
        by_hand="it is licensed by the Linguistic Data Consortium",
    )
}


def parse(file: str) -> tuple[str, dict[str, str]] | None:
    """Name and labels of a recording; None for the sentences SA, and for what lies outside TRAIN and TEST (tools have sounds, too).

    Raises ValueError if its folders and name do not say them."""
    upper = file.upper()
    where = re.search(r"(?:^|/)(TRAIN|TEST)/(DR[1-8])/([FM][A-Z]{3}\d)/(S[AIX]\d+)\.\w+$", upper)
    if not where and not {"TRAIN", "TEST"} & {*upper.split("/")}:
        return None
    if not where:
        raise ValueError(
            f"{file} has no label, expected folders and a name like TRAIN/DR1/FCJF0/SX127.WAV; "
            "name the folder that holds TRAIN and TEST, or drop the file"
        )
    half, dialect, speaker, sentence = where.groups()
    if sentence.startswith("SA"):
        return None
    part = "core" if speaker in CORE else "dev" if speaker in DEV else "test"
    return f"{half}/{dialect}/{speaker}/{sentence}", {
        "speaker": speaker,
        "sex": speaker[0],
        "dialect": dialect,
        "sentence": sentence,
        "part": "train" if half == "TRAIN" else part,
    }


def check_whole(path: Path, recordings: list[waves.Recording]):
    "Raises ValueError if TRAIN or TEST is missing or a speaker is in two places; warns of speakers and sentences that are missing."
    folders = {}
    for recording in recordings:
        half, dialect, speaker, _ = recording.name.split("/")
        other = folders.setdefault(speaker, f"{half}/{dialect}")
        if other != f"{half}/{dialect}":
            raise ValueError(
                f"{recording.file}: the speaker {speaker} is in {other}, too, expected one place; drop one of them"
            )
    for half in ("TRAIN", "TEST"):
        if not any(folder.startswith(half) for folder in folders.values()):
            raise ValueError(
                f"{path.name} holds no recording in {half}, expected TRAIN and TEST; the copy is not whole: "
                "name the folder that holds both, or get it from the Linguistic Data Consortium again"
            )
    read = Counter((r.labels["speaker"], r.labels["sentence"][:2]) for r in recordings)
    short = [who for who in folders if any(read[who, kind] < n for kind, n in SENTENCES.items())]
    absent = [who for who in (*CORE, *DEV) if who not in folders]
    if short or absent or len(folders) < SPEAKERS:
        print(
            f"warning: this copy is not whole: {len(folders)} of {SPEAKERS} speakers; {len(absent)} of the {len(CORE)} core and "
            f"{len(DEV)} development speakers are missing; {len(short)} speakers lack some of their 5 sentences SX and 3 SI"
        )


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `waves.join`: speaker, sex, dialect, sentence, part. Raises ValueError for the first thing wrong."
    recordings = waves.find(path, parse)
    check_whole(path, recordings)
    published = SPEAKERS * sum(SENTENCES.values())
    return waves.join(name, recordings, 16000, published=published, orders={"part": PARTS})
