"""The command line as `python -m cmbfe`. torchrun needs this form, because it starts modules and not commands."""

from cmbfe.cli import main

main()
