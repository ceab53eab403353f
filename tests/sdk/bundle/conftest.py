"""Fixtures of the tests of bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sdk.bundles import Shop, make_shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    """A shop with string ids."""
    return make_shop("string")


@pytest.fixture(scope="session")
def sound(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle, to copy from."""
    return shop.write(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def coded() -> Shop:
    """A shop whose vectors have int8 codes."""
    return make_shop("int64", dimension=20, stages=[8, 16])
