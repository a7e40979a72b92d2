"""Assisted Excitation: inside the boxes the mean over the channels is added to every channel, less and less."""

from cmbfe.detector.fe import AssistedExcitation
from cmbfe.detector.relatives.registry import Channels, register


@register("assisted-excitation", "Derakhshani et al. 2019 (the paper's reference 35)", "cosine")
def assisted_excitation(channels: Channels) -> AssistedExcitation:
    """Its authors' layer, which does not look at the image."""
    return AssistedExcitation()
