"""The command line."""

from cmbfe.cli.commands import main

__all__ = ["main"]
