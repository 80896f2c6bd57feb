"""One kitchen for all: base models and rows are made once."""

from __future__ import annotations

import pytest

from tests.matrix.recipes import Kitchen


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("matrix"))
