"""Layouts: from item ids to what a backbone reads. A layout holds the catalog's tables, a backbone never does."""

from genrec_fast.base.config import register_configs
from genrec_fast.layouts.interleave import Interleave, InterleaveConfig
from genrec_fast.layouts.plain import Plain, PlainConfig

__all__ = ["Interleave", "InterleaveConfig", "Plain", "PlainConfig"]

register_configs(globals())
