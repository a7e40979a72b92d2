"""Feature enhancement as in the paper: see `cmbfe.detector.fe`."""

from cmbfe.detector.fe import FeatureEnhancement
from cmbfe.detector.relatives.registry import Channels, register


@register("fe", "Li et al. 2021, section 2.3")
def fe(channels: Channels) -> FeatureEnhancement:
    """The paper's layer."""
    return FeatureEnhancement()
