"""Arms times seeds or folds: their trainings and tests, and what these say.

An *arm* is a detector, plain and under each of its treatments (FE, an alternative of FE, phase as a second channel),
with some settings changed: `study.arms` and `study.phase` of params.yaml. A *seed* fixes the training patients, their
augmentation, the initial weights and the order of the images; all arms share these, and all are tested on the same
patients. In `crossvalidation` a fold of the pipeline's patients stands in the place of a seed.

    make_patients(params, root)                     # patients: data/study
    run_arm("ssd300", params, root, jobs=2)         # running: models/study, results/study
    gains_table(read_study(params, root), params)   # reading: one table of gains
"""
