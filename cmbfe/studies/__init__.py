"""Training, tests and results of the study (arms over seeds) and of the cross-validation (folds).

An *arm* is a detector without and with each of its treatments (FE, an alternative to FE, phase as a second channel),
possibly under changed settings. A *seed* fixes the training patients, their augmentation, the initial weights and the
order of the images. All arms share the seeds and the test patients. In `crossvalidation`, folds replace seeds.
"""
