"""Copy trained detectors in float16 into the package, for use as `cmbfe detect --model ssd512-fe`.

    python -m tools.ship_models models/ssd512 models/ssd512-fe

Each folder is an output of `cmbfe train`, and its name becomes the name of the model.
"""

import argparse
import shutil
import sys
from pathlib import Path

from cmbfe.detector.weights import load_model, save_model
from cmbfe.errors import InputError
from cmbfe.findings.model import SHIPPED
from cmbfe.training.loop import PARAMS_FILE


def main() -> None:
    """Write each model with its settings, and print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        out = SHIPPED / folder.name
        save_model(load_model(folder).half(), out)
        shutil.copyfile(folder / PARAMS_FILE, out / PARAMS_FILE)
        print(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
