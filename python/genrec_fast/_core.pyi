# The compiled module for type checkers: its functions take addresses and sizes, and ops/ checks what it passes.
from typing import Any

def __getattr__(name: str) -> Any: ...
