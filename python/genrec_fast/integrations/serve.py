"""What stands in ``serving.http`` now."""

from genrec_fast.serving.http import *  # noqa: F403
from genrec_fast.serving.http import __all__  # noqa: F401
