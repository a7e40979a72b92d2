"""Detecting cerebral microbleeds with feature enhancement (FE): a replication of Li et al. 2021.

Public names are imported on first use, so that `import cmbfe` itself loads neither PyTorch nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmbfe.detector.fe import FeatureEnhancement as FeatureEnhancement
    from cmbfe.detector.fe import enhance as enhance
    from cmbfe.detector.fe import enhancement_mask as enhancement_mask
    from cmbfe.detector.hooks import enhance_during_training as enhance_during_training
    from cmbfe.detector.ssd import build as build
    from cmbfe.metrics.curves import evaluate as evaluate
    from cmbfe.metrics.matching import match as match

    __version__: str

_MODULES = {
    "FeatureEnhancement": "cmbfe.detector.fe",
    "build": "cmbfe.detector.ssd",
    "enhance": "cmbfe.detector.fe",
    "enhance_during_training": "cmbfe.detector.hooks",
    "enhancement_mask": "cmbfe.detector.fe",
    "evaluate": "cmbfe.metrics.curves",
    "match": "cmbfe.metrics.matching",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed version; if not installed, the version in pyproject.toml plus "+source", or else "unknown"."""
    from importlib import metadata
    from pathlib import Path

    try:
        return metadata.version("cmbfe")
    except metadata.PackageNotFoundError:
        import tomllib

        pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
        if not pyproject.is_file():
            return "unknown"
        return tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"] + "+source"
