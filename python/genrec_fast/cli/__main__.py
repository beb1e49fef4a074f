"""``python -m genrec_fast.cli``."""

import sys

from genrec_fast.cli.main import main

sys.exit(main())
