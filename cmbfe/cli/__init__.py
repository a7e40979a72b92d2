"""The command line: how commands end. The commands are in `cmbfe.cli.commands`."""

import sys

from cmbfe.errors import InputError

_EXPORT = ("onnx", "onnxruntime", "onnxscript")
"""Modules of the extra `export`; `replicate` brings all others that the core does not."""


def main() -> None:
    """Run the command line; bad input and a missing extra end with one line and exit status 2."""
    try:
        from cmbfe.cli.commands import app

        app()
        return
    except InputError as error:
        reason = str(error)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "cmbfe"):
            raise
        extra = "export" if module in _EXPORT else "replicate"
        reason = f"this needs {module}, which an extra brings: in a clone: pip install '.[{extra}]'"
    except OSError as error:
        file = error.filename2 or error.filename or "input or output"  # the target of a failed renaming
        reason = f"{file}: {error.strerror or error}"
    # Here, where the error and its frames are gone: a progress bar in one of them has ended its line.
    print(f"cmbfe: error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)
