"""What a user types."""

from genrec_fast.cli.main import main

__all__ = ["main"]
