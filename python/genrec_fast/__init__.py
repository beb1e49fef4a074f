"""Fast generative recommendation: from items to semantic IDs to the k best items, on the machine you have."""

from genrec_fast._version import __version__

__all__ = ["__version__"]
