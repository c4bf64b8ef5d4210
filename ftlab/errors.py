"""The two ways in which a command of ours ends without having done what was asked; and what grading withholds."""


class UsageError(Exception):
    """The request cannot be met as it stands. One line that says what to do; exit status 2."""


class NotHeld(Exception):
    """What was asked was checked and does not hold (a drift, a failed lab, a broken claim). Exit status 1."""


class Withheld(Exception):
    """A part of the course that is not there while a submission is graded on hidden inputs was used."""


class Absent:
    """Stands for a value that is withheld in grading: whatever is done with it raises Withheld."""

    def __init__(self, name):
        object.__setattr__(self, "_name", name)

    def _refuse(self, *args, **kwargs):
        raise Withheld(f"{object.__getattribute__(self, '_name')} is not there while your work is graded: write it yourself")

    __getattr__ = __setattr__ = __call__ = __iter__ = __len__ = __getitem__ = __contains__ = __eq__ = __ne__ = _refuse
    __bool__ = __int__ = __float__ = __add__ = __radd__ = __mul__ = __rmul__ = __array__ = __str__ = __format__ = _refuse
    __hash__ = None


def withheld(name):
    """Raise Withheld for the house function `name`, whose body is not there in grading."""
    Absent(name)._refuse()
