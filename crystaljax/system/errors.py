"""What the package raises for what its user gave."""


class UserError(ValueError):
    """Input, an option or a file that cannot be used; the text says what to do.

    The command line shows the text alone. Any other ValueError is a bug, and keeps its
    traceback.
    """
