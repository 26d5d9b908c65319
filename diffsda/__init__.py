__version__ = "0.1.0"

import importlib

__all__ = ["DiffSDA", "Factors", "distilled", "fit", "load", "pretrained"]

# opened when asked for: what they need takes seconds to load
_DOORS = {
    "DiffSDA": "model",
    "Factors": "encoder",
    "distilled": "distil",
    "fit": "own",
    "load": "own",
    "pretrained": "zoo",
}


def __getattr__(name: str):
    if name in _DOORS:
        return getattr(importlib.import_module(f".{_DOORS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(__all__))
