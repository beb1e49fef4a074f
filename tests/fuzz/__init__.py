"""Random calls of everything public, valid and hostile, compared with the twins: ``python -m tests.fuzz --help``."""
