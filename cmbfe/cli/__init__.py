"""The entry point of the command line, which reports errors. The commands are in `cmbfe.cli.commands`."""

import sys

from cmbfe.errors import InputError

_EXPORT = ("onnx", "onnxruntime", "onnxscript")
"""Modules of the extra `export`; the extra `replicate` has all other optional modules."""


def main() -> None:
    """Run the command line. Bad input and missing extras end with a one-line error and exit status 2."""
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
    # Printed only after the error and its frames are gone, as a progress bar in a frame has then ended its line.
    print(f"cmbfe: error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)
