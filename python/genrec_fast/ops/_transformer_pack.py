"""What stands in ``ops.transformer_pack`` now; for programs of before 0.2.0."""

from genrec_fast.ops.transformer_pack import *  # noqa: F403
from genrec_fast.ops.transformer_pack import __all__  # noqa: F401
