"""What becomes of a value on its way to another process."""

from multiprocessing.reduction import ForkingPickler


def sent(value):
    """The value as a worker process gets it."""
    return ForkingPickler.loads(ForkingPickler.dumps(value))
