"""`python -m cmbfe`: the command line, also for torchrun, which takes a module and no command."""

from cmbfe.cli import main

main()
