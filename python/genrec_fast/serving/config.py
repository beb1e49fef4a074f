"""What a server allows: time, room and width, each described once; the command line makes its flags of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from genrec_fast.base.checks import check_number, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.query import Limits

_COUNTS = ("max_waiting", "max_running", "max_body", "max_users", "max_k", "max_num_beams", "max_connections")
_SECONDS = ("timeout", "drain", "header_timeout", "body_timeout", "idle_timeout", "write_timeout")


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What a server allows, but for its secret.

    Raises:
        InvalidTypeError: a setting of another type.
        InvalidValueError: a count below 1, or seconds that are not above 0 and finite.
    """

    timeout: float = 10.0
    """seconds that a question may take; more get 504. A question may ask for less"""
    max_waiting: int = 1024
    """users that may wait; more get 503 and are told to come back"""
    max_running: int = 256
    """users that are searched at once: a matter of memory"""
    drain: float = 30.0
    """seconds for what was asked before the server was told to end; what is left then gets 503"""
    max_body: int = 1 << 20
    """bytes of a question; more get 413 and are not kept"""
    max_users: int = 256
    """histories in one question"""
    max_k: int = 1000
    """results for one history"""
    max_num_beams: int = 4096
    """width of a search, of one that exact widens, too"""
    max_connections: int = 1024
    """connections at once, fewer where the process may not open as many files; beyond them the one that has waited
    longest for its client is closed for the newcomer"""
    header_timeout: float = 10.0
    """seconds for the head of a request, from its first byte or the connection's begin"""
    body_timeout: float = 20.0
    """seconds for the body of a request; more get 408"""
    idle_timeout: float = 20.0
    """seconds that a connection may be idle between two requests"""
    write_timeout: float = 20.0
    """seconds in which a client must take some of its answer"""
    swap_folder: Path | None = None
    """POST /swap takes models from inside this folder only; without it there is no /swap"""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            whole_number("ServeConfig", name, getattr(self, name))
        for name in _SECONDS:
            check_number("ServeConfig", name, getattr(self, name), above=0)
            if getattr(self, name) >= threading.TIMEOUT_MAX:
                raise InvalidValueError(f"ServeConfig: {name} must be above 0 and finite, got {getattr(self, name)}")

    @property
    def limits(self) -> Limits:
        """What one question may ask for."""
        return Limits(max_k=self.max_k, max_num_beams=self.max_num_beams)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServeLimits):
    """What a server allows.

    Raises:
        InvalidTypeError: a setting of another type.
        InvalidValueError: as ``ServeLimits``; a folder to swap in without a token.
    """

    swap_token: str | None = None
    """who sends it as "Authorization: Bearer ..." may POST /swap; without it there is no /swap"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.swap_token is not None and not isinstance(self.swap_token, str):
            raise InvalidTypeError(f"ServeConfig: swap_token must be a text, got {type(self.swap_token).__name__}")
        if self.swap_token is not None and not self.swap_token:
            raise InvalidValueError("ServeConfig: swap_token must not be empty, got ''")
        if self.swap_folder is not None and self.swap_token is None:
            raise InvalidValueError(
                f"ServeConfig: swap_token must be given with swap_folder (on the command line: set "
                f"GENREC_FAST_SWAP_TOKEN in the environment), got None with {self.swap_folder}"
            )

    @property
    def can_swap(self) -> bool:
        """Whether there is a /swap."""
        return self.swap_token is not None and self.swap_folder is not None
