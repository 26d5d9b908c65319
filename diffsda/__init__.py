__version__ = "0.1.0"

from .encoder import Factors
from .model import DiffSDA
from .zoo import pretrained

__all__ = ["DiffSDA", "Factors", "pretrained"]
