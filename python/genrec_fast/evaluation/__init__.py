"""How good a recommender is: full ranking over the catalog, for every question, beside what needs no training."""

from genrec_fast.evaluation.ask import evaluate, figure_names
from genrec_fast.evaluation.figures import Evaluated, Line

__all__ = ["Evaluated", "Line", "evaluate", "figure_names"]
