"""A network over a catalog that has more items than the one it was built with."""

from __future__ import annotations

from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError


def grown(name: str, old: nn.Module, fresh: nn.Module) -> nn.Module:
    """The network for the larger catalog, with the weights that it has.

    Args:
        name: of the part, for errors.
        old: what answers now; it stays as it is.
        fresh: built from the same config and the larger catalog; its own weights are dropped.

    Returns:
        ``old`` where nothing that it keeps of a catalog has grown. Else ``fresh``, on the device and in the dtypes of
        ``old``: its parameters and saved buffers are those of ``old`` (shared, not copied), and only what is made of
        the catalog and never saved (buffers that are not persistent: the items' features) is its own.

    Raises:
        UnsupportedError: weights, or buffers that are saved, have another shape with more items, but for the parts that
            the network names in ``grows``, without which it reads new items.
    """
    spared = tuple(getattr(old, "grows", ()))
    known, found = _weights(old), _weights(fresh)
    if _shapes(known, spared) != _shapes(found, spared):
        raise UnsupportedError(f"extended: {name} must have no weights for each item, got one that grows with them")
    kept, made = _rest(old, known), _rest(fresh, found)
    if _shapes(kept, spared) == _shapes(made, spared):
        return old
    if spared or kept.keys() != made.keys():
        raise UnsupportedError(f"extended: {name} must be what its config builds, got one with parts of its own")
    for place, tensor in (*known.items(), *((key, part.to(kept[key])) for key, part in made.items())):
        module, _, key = place.rpartition(".")
        setattr(fresh.get_submodule(module), key, tensor)
    return fresh


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those under a second name too."""
    buffers = network.named_buffers(remove_duplicate=False)
    return {**dict(network.named_parameters(remove_duplicate=False)), **dict(buffers)}


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """What is saved."""
    saved = network.state_dict(keep_vars=True).keys()
    return {name: part for name, part in _tensors(network).items() if name in saved}


def _rest(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is not: made of the catalog whenever the network is built."""
    return {name: part for name, part in _tensors(network).items() if name not in weights}


def _shapes(parts: dict[str, Tensor], spared: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(part.shape) for name, part in parts.items() if not name.startswith(spared)}
