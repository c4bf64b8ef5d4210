"""The two ways in which a command of ours ends without having done what was asked."""


class UsageError(Exception):
    """The request cannot be met as it stands. One line that says what to do; exit status 2."""


class NotHeld(Exception):
    """What was asked was checked and does not hold (a drift, a failed lab, a broken claim). Exit status 1."""
