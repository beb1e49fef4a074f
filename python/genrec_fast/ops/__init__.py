"""One public function per compiled op; each docstring is the op's contract, each op has a twin in ``reference``."""
