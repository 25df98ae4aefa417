"""Write the pages of ``docs/reference``."""

from fl2ora.commands.reference.pages import write_all
from fl2ora.experiment.fingerprint import code_root

if __name__ == "__main__":
    write_all(code_root() / "docs" / "reference")
