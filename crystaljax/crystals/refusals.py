"""Why a file's crystal is refused, in words that can be counted."""

from typing import Literal

from crystaljax.system import errors

UNREADABLE = "crystal not readable"
Reason = Literal[
    "crystal not readable",
    "sites contradict the formula of the file",
    "coordinates of the file contradict each other",
    "cell contradicts the volume of the file",
    "operations contradict the space group of the file",
    "symmetry not said or not known",
    "site is no element",
    "site partly occupied",
]


class RefusedError(errors.UserError):
    """A file that is not taken for what it seems to say.

    Attributes:
        reason: a few words without values of the file, so that reasons can be counted.
    """

    def __init__(self, message: str, reason: Reason = UNREADABLE):
        super().__init__(message)
        self.reason = reason
