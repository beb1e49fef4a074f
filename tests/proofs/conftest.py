"""Every proof is trained once."""

from __future__ import annotations

import pytest

import genrec_fast as gf
from proofs import shop
from proofs.suite import run


@pytest.fixture(scope="class")
def start(request, tmp_path_factory):
    """The folder of the model that the training starts from; ``None``: from nothing."""
    if not request.cls.starts:
        return None
    folder = tmp_path_factory.mktemp("start")
    gf.train(shop.recipe(), shop.data(), device="cpu", show_progress=False).save(folder)
    return folder


@pytest.fixture(scope="class")
def folder(request, tmp_path_factory):
    return tmp_path_factory.mktemp(request.cls.name)


@pytest.fixture(scope="class")
def model(request, folder, start):
    return run(request.cls.name, folder, start)
