"""Finding faces, and squares around them that follow a clip.

A detector is any function frame -> box of its largest face, or None; `haar` is the one that papers of these sets use."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import clips
import numpy as np
from clips import Box, Broken, Clip, Frame

SIDE = 240  # pixels of the shorter side that are searched: faces smaller than a sixth of it do not matter
Detector = Callable[[Frame], Box | None]


@cache
def cascade():
    "OpenCV's trained detector of frontal faces. Raises ValueError if this OpenCV has none."
    cv2 = clips.library("cv2")
    if not hasattr(cv2, "CascadeClassifier"):
        raise ValueError(
            f"OpenCV {cv2.__version__} has no Haar cascades any more; pip install 'opencv-python-headless<5'"
        )
    return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")


def haar(frame: Frame) -> Box | None:
    "The largest face that a Haar cascade finds (Viola, Jones 2001), a square; None if there is none."
    cv2, search = clips.library("cv2"), cascade()
    height, width, _ = frame.shape
    shrink = min(1, SIDE / min(height, width))
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    gray = cv2.resize(gray, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    least = min(gray.shape) // 6
    found = search.detectMultiScale(gray, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
    if not len(found):
        return None
    left, top, across, down = max(found, key=lambda face: face[2] * face[3]) / shrink
    return left, top, left + across, top + down


def square(box: Box, margin: float, height: int, width: int) -> Box:
    "The square around a box and a margin, moved into the frame, and no larger than it."
    left, top, right, bottom = box
    side = min(max(right - left, bottom - top) + 2 * margin, height, width)
    left = np.clip((left + right - side) / 2, 0, width - side)
    top = np.clip((top + bottom - side) / 2, 0, height - side)
    return float(left), float(top), float(left + side), float(top + side)


def boxes_of(clip: Clip, detect: Detector) -> list[Box | None]:
    "The face of each frame. Raises Broken if there is none in all of them."
    boxes = [detect(frame) for frame in clip.frames(Counter())]
    if all(box is None for box in boxes):
        raise Broken(f"{clip.file}: no face is found in any of {len(boxes)} frames")
    return boxes


def held(detect: Detector):
    "A crop that stays where it is throughout a clip: the median of the faces found."

    def crop(clip: Clip, seen: Counter) -> Iterator[tuple[Frame, Box]]:
        found = [box for box in boxes_of(clip, detect) if box is not None]
        middle = np.median(found, axis=0)
        for frame in clip.frames(seen):
            yield frame, square(middle, 0, *frame.shape[:2])

    return crop


def followed(detect: Detector, margin: float):  # pixels on each side
    "A crop that follows the face; where none is found it stays at the last one, before the first one it is there already."

    def crop(clip: Clip, seen: Counter) -> Iterator[tuple[Frame, Box]]:
        boxes = boxes_of(clip, detect)
        last = next(box for box in boxes if box is not None)
        for frame, box in zip(clip.frames(seen), boxes):
            seen["frames without a face, cropped as the one before"] += box is None
            last = last if box is None else box
            yield frame, square(last, margin, *frame.shape[:2])

    return crop
