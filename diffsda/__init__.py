__version__ = "0.1.0"

import importlib

from .encoder import Factors
from .model import DiffSDA

__all__ = ["DiffSDA", "Factors", "fit", "load", "pretrained"]

_DOORS = {"fit": "own", "load": "own", "pretrained": "zoo"}  # opened when asked for


def __getattr__(name: str):
    if name in _DOORS:
        return getattr(importlib.import_module(f".{_DOORS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
