"""Pages of the documentation that are written from the code, in ``docs/reference``.

``python -m fl2ora.commands.reference`` writes them: one for each kind of plug-in, and the command
line.
"""
