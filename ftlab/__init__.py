"""ftlab: a Jupyter lab course on fine-tuning language models.

Importing this package loads nothing heavy: torch and the rest come in when the part that needs them is used.
"""

from ftlab import library_messages

__version__ = "0.1.0"
library_messages.hide_known()  # before any library is loaded


def lab(name):
    """Open the machinery of one lab (checks, hints, predictions, claims): `lab = ftlab.lab("01_autoregression")`."""
    from ftlab.course.lab import open_lab

    return open_lab(name)
