"""The drop-in for ``transformers``."""
