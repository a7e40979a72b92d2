"""What the baselines' papers print of themselves: on patients, scanners and by rules of their own."""

import pandas as pd

from cmbfe.baselines.names import Baseline

PUBLISHED = pd.DataFrame(
    {
        "baseline": [str(name) for name in (Baseline.RADIAL_SYMMETRY, Baseline.THRESHOLDING, Baseline.CASCADE)],
        "after": ["Kuijf et al. 2012", "Barnes et al. 2011", "Dou et al. 2016"],
        "published_sensitivity": [0.712, 0.817, 0.932],
        "published_precision": [float("nan"), float("nan"), 0.443],
        "published_in": [
            "NeuroImage 59:2266; 47 of 66 in Proc SPIE 8673:867313",
            "Magn Reson Imaging 29:844, abstract",
            "Li et al. 2021, introduction",
        ],
    }
).set_index("baseline")
"""Per microbleed in three dimensions, at one operating point each; people removed false positives in the first two."""
