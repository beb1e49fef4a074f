"""Published systems, one file each: source, settings, deviations; no logic."""

from __future__ import annotations

from collections.abc import Callable

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.apex import apex
from genrec_fast.recipes.atspeed import atspeed
from genrec_fast.recipes.bert4rec import bert4rec
from genrec_fast.recipes.car import car
from genrec_fast.recipes.ccfrec import ccfrec
from genrec_fast.recipes.cobra import cobra
from genrec_fast.recipes.colarec import colarec
from genrec_fast.recipes.cost import cost
from genrec_fast.recipes.dfgr import dfgr
from genrec_fast.recipes.diffgrm import diffgrm
from genrec_fast.recipes.discrec import discrec
from genrec_fast.recipes.dsi import dsi
from genrec_fast.recipes.eager import eager
from genrec_fast.recipes.earn import earn
from genrec_fast.recipes.genrank import genrank
from genrec_fast.recipes.gpsd import gpsd
from genrec_fast.recipes.gpsd_pretraining import gpsd_pretraining
from genrec_fast.recipes.grid import grid
from genrec_fast.recipes.gru4rec import gru4rec
from genrec_fast.recipes.h2rec import h2rec
from genrec_fast.recipes.hid_vae import hid_vae
from genrec_fast.recipes.hstu import hstu
from genrec_fast.recipes.hstu_ranking import hstu_ranking
from genrec_fast.recipes.kuaiformer import kuaiformer
from genrec_fast.recipes.letter import letter
from genrec_fast.recipes.liger import liger
from genrec_fast.recipes.llada_rec import llada_rec
from genrec_fast.recipes.llm2bert4rec import llm2bert4rec
from genrec_fast.recipes.marius import marius
from genrec_fast.recipes.mbgen import mbgen
from genrec_fast.recipes.mmgrec import mmgrec
from genrec_fast.recipes.mtgr import mtgr
from genrec_fast.recipes.nci import nci
from genrec_fast.recipes.nezha import nezha
from genrec_fast.recipes.pinrec import pinrec
from genrec_fast.recipes.recbase import recbase
from genrec_fast.recipes.recgpt_fsq import recgpt_fsq
from genrec_fast.recipes.rpg import rpg
from genrec_fast.recipes.rq_vae import rq_vae
from genrec_fast.recipes.s2gr import s2gr
from genrec_fast.recipes.sasrec import sasrec
from genrec_fast.recipes.sasrec_bce import sasrec_bce
from genrec_fast.recipes.seater import seater
from genrec_fast.recipes.sessionrec import sessionrec
from genrec_fast.recipes.specgr import specgr
from genrec_fast.recipes.tbgrecall import tbgrecall
from genrec_fast.recipes.tiger import tiger
from genrec_fast.recipes.transitions import transitions
from genrec_fast.recipes.unified_sid_id import unified_sid_id
from genrec_fast.recipes.vq_rec import vq_rec
from genrec_fast.recipes.vq_vae import vq_vae

__all__ = [
    "apex",
    "atspeed",
    "bert4rec",
    "car",
    "ccfrec",
    "cobra",
    "colarec",
    "cost",
    "dfgr",
    "diffgrm",
    "discrec",
    "dsi",
    "eager",
    "earn",
    "genrank",
    "get",
    "gpsd",
    "gpsd_pretraining",
    "grid",
    "gru4rec",
    "h2rec",
    "hid_vae",
    "hstu",
    "hstu_ranking",
    "kuaiformer",
    "letter",
    "liger",
    "llada_rec",
    "llm2bert4rec",
    "marius",
    "mbgen",
    "mmgrec",
    "mtgr",
    "names",
    "nci",
    "nezha",
    "pinrec",
    "recbase",
    "recgpt_fsq",
    "rpg",
    "rq_vae",
    "s2gr",
    "sasrec",
    "sasrec_bce",
    "seater",
    "sessionrec",
    "specgr",
    "tbgrecall",
    "tiger",
    "transitions",
    "unified_sid_id",
    "vq_rec",
    "vq_vae",
]

_RECIPES: dict[str, Callable[[], Recipe]] = {name: globals()[name] for name in __all__ if name not in ("get", "names")}


def names() -> list[str]:
    """What ``get`` knows, in alphabetical order."""
    return sorted(_RECIPES)


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InvalidValueError: an unknown name.
    """
    if not isinstance(name, str) or name not in _RECIPES:
        raise InvalidValueError(f"recipes: name must be one of {', '.join(names())}, got {name!r}")
    return _RECIPES[name]()
