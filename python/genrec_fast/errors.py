"""What stands in ``base.errors`` now; for programs of before 0.2.0."""

from genrec_fast.base.errors import *  # noqa: F403
from genrec_fast.base.errors import __all__  # noqa: F401
