"""FE whose strength falls from 1 to 0 over a training, so that the heads end on the features of test time."""

from cmbfe.detector.fe import FeatureEnhancement
from cmbfe.detector.relatives.registry import Channels, register


@register("fading-fe", "FE of Li et al. 2021 with the schedule of Derakhshani et al. 2019, section 3", "cosine")
def fading_fe(channels: Channels) -> FeatureEnhancement:
    """The paper's layer; the schedule is the registry's to keep."""
    return FeatureEnhancement()
