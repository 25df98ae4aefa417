"""Write the pages of ``docs/reference``, in a checkout."""

import sys

from fl2ora.commands.reference.pages import write_all
from fl2ora.experiment.fingerprint import code_root

if __name__ == "__main__":
    folder = code_root() / "docs" / "reference"
    if not folder.is_dir():
        sys.exit(f"expected a checkout with the folder {folder}, found none")
    write_all(folder)
