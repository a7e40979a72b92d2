"""Properties of tissues at 3 T (proton density, T1, R2*, susceptibility; each value with its source), and settings of
the paper's acquisition.

Susceptibilities are volume susceptibilities (SI) in ppm relative to cerebrospinal fluid, which is close to water
(-9.05 ppm). R2* is the decay of the tissue itself. The simulation adds decay by the fields of larger objects.

References:
    [Peters 2007] A. M. Peters et al., Magn Reson Imaging 25:748: T2* of the brain at 3 T.
    [Stanisz 2005] G. J. Stanisz et al., Magn Reson Med 54:507: T1 at 3 T.
    [Lin 2001] C. Lin et al., J Comput Assist Tomogr 25:519: T1 of cerebrospinal fluid.
    [Gold 2004] G. E. Gold et al., AJR 183:343: T1 of muscle and fat at 3 T.
    [Whittall 1997] K. P. Whittall et al., Magn Reson Med 37:34: water content of white and grey matter.
    [Schenck 1996] J. F. Schenck, Med Phys 23:815: susceptibilities of air, bone, water.
    [He 2009] X. He, D. A. Yablonskiy, PNAS 106:13558; [Duyn 2017] J. H. Duyn, J. Schenck, NMR Biomed 30:e3546:
        white matter is about 0.03 ppm more diamagnetic than grey matter.
    [Zhao 2007] J. M. Zhao et al., Magn Reson Med 58:592: R2* of venous blood at 3 T.
    [Spees 2001] W. M. Spees et al., Magn Reson Med 45:533: 0.27 ppm (cgs) for fully deoxygenated red cells.
    [Hallgren 1958] B. Hallgren, P. Sourander, J Neurochem 3:41: brain iron by age.
    [Langkammer 2012] C. Langkammer et al., NeuroImage 62:1593: susceptibility by iron.
"""

from dataclasses import dataclass

import numpy as np

GYROMAGNETIC_MHZ_PER_T = 42.577
FIELD_STRENGTH_T = 3.0
REPETITION_TIME_MS = 77.3  # paper section 2.1, as are the flip angle and the mean echo time
FLIP_ANGLE_DEGREES = 15
ECHO_TIMES_MS = (25.0, 35.0, 45.0, 55.0, 65.0)
"""SWAN averages a train of echoes. The paper gives a single TE, 45.0 ms, taken here as the mean of the train."""


@dataclass(frozen=True)
class Tissue:
    """Bulk properties of a tissue at 3 T."""

    proton_density: float  # relative to water
    t1_ms: float
    r2star_per_s: float
    chi_ppm: float  # relative to cerebrospinal fluid


WHITE_MATTER = Tissue(0.71, 1084, 1000 / 53.2, -0.030)  # Whittall 1997, Stanisz 2005, Peters 2007, Duyn 2017
GREY_MATTER = Tissue(0.83, 1820, 1000 / 66.0, 0.010)  # same sources
CSF = Tissue(1.00, 4163, 1000 / 500, 0.0)  # Lin 2001; T2* is limited by motion and field, not by T2 = 2 s
VENOUS_BLOOD = Tissue(0.87, 1932, 50.0, 0.45)  # Stanisz 2005 (T1), Zhao 2007 (R2*); chi from `blood_chi`
BONE = Tissue(0.08, 600, 400.0, -2.3)  # cortical bone: almost no signal; Schenck 1996
MARROW = Tissue(0.55, 500, 90.0, -0.5)  # diploe: fat and red marrow, dephased by trabeculae
SCALP = Tissue(0.85, 420, 38.0, 0.1)  # fat and skin; Gold 2004
MUSCLE = Tissue(0.75, 1412, 42.0, 0.0)  # Gold 2004
AIR = Tissue(0.0, 1000, 50.0, 9.4)  # Schenck 1996


def spoiled_amplitude(
    tissue: Tissue, repetition_time_ms: float = REPETITION_TIME_MS, flip_angle_degrees: float = FLIP_ANGLE_DEGREES
) -> float:
    """Transverse magnetisation right after the pulse of a spoiled gradient echo in its steady state.

    Ernst's equation, M0 sin(a) (1 - E1) / (1 - E1 cos(a)) with E1 = exp(-TR / T1); relative to water's M0.
    """
    angle = np.deg2rad(flip_angle_degrees)
    e1 = np.exp(-repetition_time_ms / tissue.t1_ms)
    return float(tissue.proton_density * np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)))


def blood_chi(saturation: float, haematocrit: float) -> float:
    """Susceptibility of blood against tissue in ppm: 4 pi 0.27 Hct (1 - Y), Spees 2001."""
    return 4 * np.pi * 0.27 * haematocrit * (1 - saturation)


IRON_MG_PER_100G = {
    # name: (amplitude, rate per year, offset) of c (1 - exp(-k age)) + o, Hallgren 1958 equations and table
    "pallidum": (21.41, 0.09, 0.37),
    "putamen": (14.62, 0.04, 0.46),
    "caudate": (9.66, 0.05, 0.33),
    # tabulated adult means; the growth rate of the pallidum is assumed
    "red nucleus": (19.1, 0.09, 0.37),
    "substantia nigra": (18.1, 0.09, 0.37),
    "subthalamic": (15.0, 0.09, 0.37),  # not in Hallgren 1958; between putamen and substantia nigra
    "dentate": (10.0, 0.05, 0.35),
    "thalamus": (4.4, 0.09, 0.37),
}
CHI_PPM_PER_IRON = 0.0089  # ppm per mg iron in 100 g of wet tissue (0.89 ppb per mg/kg), Langkammer 2012
R2STAR_PER_IRON = 1.15
"""R2* in 1/s per mg of iron in 100 g, from R2* (Peters 2007) and iron (Hallgren 1958) of putamen and caudate."""


def iron(nucleus: str, age_years: float) -> float:
    """Iron in mg per 100 g of wet tissue at an age, Hallgren 1958."""
    amplitude, rate, offset = IRON_MG_PER_100G[nucleus]
    return amplitude * (1 - np.exp(-rate * age_years)) + offset
