"""``python -m fl2ora``: the command line."""

from fl2ora.commands.app import main

main()
