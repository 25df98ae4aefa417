"""``fl2ora doctor``: placeholder until the next file is written."""
def doctor() -> None:
    """TBD."""
