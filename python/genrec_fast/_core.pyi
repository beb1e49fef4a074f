# The compiled module for type checkers: its functions take tensors and numbers by name, and say what does not fit.
from typing import Any

def __getattr__(name: str) -> Any: ...
