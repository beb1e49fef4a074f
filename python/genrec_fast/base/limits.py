"""What a saved model or tokenizer may take: not more than its files hold, whatever its settings ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_fast.base.errors import CorruptFileError, GenrecError

_ROOM = 256 << 20  # bytes beside the files: tables that are made anew
_TIMES = 4  # what one tensor may be larger than all files: codes are read in 8 bytes and written in 4
_PARAMETERS = 1000  # beside twice the tensors of the file: what a network makes and throws away


@contextlib.contextmanager
def within(tensors: dict[str, Tensor], num_bytes: int, where: str) -> Iterator[None]:
    """Within the block a network is made that ``tensors`` must fill; more than they need is refused before it is taken.

    Every parameter of a network stands in its file of weights. So a card that asks for a billion layers, or for a table
    that no file fills, is found while the first few are made: by the number of parameters registered so far, by their
    elements, and by the size of a tensor about to be allocated.

    Args:
        tensors: of the file of weights.
        num_bytes: of all files of the model.
        where: names the file that asks, in errors.

    Raises:
        CorruptFileError: a network that does not fit the files, or that torch cannot make.
    """
    most_bytes = _ROOM + _TIMES * num_bytes
    most_elements = most_bytes // 4
    most_parameters = _PARAMETERS + 2 * len(tensors)
    seen: set[int] = set()
    kept: list[Tensor] = []  # so that no id is used again
    elements, thread = 0, get_ident()

    def refuse(what: str) -> CorruptFileError:
        return CorruptFileError(
            f"{where} must ask for a network that its weights fill ({len(tensors)} tensors, {num_bytes} bytes in all "
            f"files), got {what}"
        )

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal elements
        if parameter is None or get_ident() != thread or id(parameter) in seen:
            return
        seen.add(id(parameter))
        kept.append(parameter)
        elements += parameter.numel()
        if len(seen) > most_parameters:
            raise refuse(f"more than {most_parameters} parameters")
        if elements > most_elements:
            raise refuse(f"{elements} elements with {type(module).__name__}.{name} {list(parameter.shape)}")

    class Allocations(TorchDispatchMode):
        """Looks at the size of every new tensor first, on the meta device, which has no memory."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            given = kwargs or {}
            if "device" in given and not any(isinstance(value, Tensor) for value in (*args, *given.values())):
                planned = func(*args, **{**given, "device": torch.device("meta")})
                if planned.numel() * planned.element_size() > most_bytes:
                    raise refuse(f"a tensor {list(planned.shape)}")
            return func(*args, **given)

    hook = register_module_parameter_registration_hook(registered)
    try:
        with Allocations():  # type: ignore[no-untyped-call]
            yield
    except GenrecError:
        raise
    except (MemoryError, OverflowError, RecursionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise refuse(f"{reason:.200}") from error
    finally:
        hook.remove()
