"""Whether semantic IDs are any good."""

from genrec_fast.tokenizers.report.measure import report
from genrec_fast.tokenizers.report.page import LevelReport, Report

__all__ = ["LevelReport", "Report", "report"]
