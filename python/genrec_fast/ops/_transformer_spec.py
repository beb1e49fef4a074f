"""What stands in ``ops.transformer_spec`` now; for programs of before 0.2.0."""

from genrec_fast.ops.transformer_spec import *  # noqa: F403
from genrec_fast.ops.transformer_spec import __all__  # noqa: F401
