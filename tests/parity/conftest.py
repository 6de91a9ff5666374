"""Where the parity tests find the data measured on the public reference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of golden data: $GOLDENS_DIR, or the committed copy; any folder of that format will do."""
    folder = Path(os.environ.get("GOLDENS_DIR", Path(__file__).parent / "goldens"))
    assert (folder / "manifest.json").is_file(), f"{folder} holds no manifest.json: not a goldens folder"
    return folder
