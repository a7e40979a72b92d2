"""Arms times seeds or folds: trainings, their tests and what they say."""
