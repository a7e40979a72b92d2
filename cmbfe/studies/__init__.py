"""Arms times seeds or folds: their trainings and tests, and what these say.

An *arm* is a detector, plain and under each of its treatments (FE, an alternative of FE, phase as a second channel),
with some settings changed. A *seed* fixes the training patients, their augmentation, the initial weights and the order
of the images; all arms share these, and the test patients. In `crossvalidation` a fold stands in the place of a seed.
"""
