"""Learning-rate schedules: the factor on the peak rate at each step."""

import math

from ftlab.numbers import check_known

KNOWN = ("constant", "linear", "cosine", "wsd")


def factor(step, steps, schedule="cosine", warmup=0, final=0.0, decay=0.2):
    """Factor in [0, 1] on the peak learning rate at `step` (0 … steps − 1).

    warmup: steps of linear rise, the first of which already moves. Then "constant"; "linear" or "cosine" (Loshchilov
    and Hutter 2017, eq. 5) down to `final`; "wsd" (warmup, stable, decay; Hu et al. 2024): 1 until the last `decay`
    share of the steps, then linear down to `final`.
    """
    check_known("schedule", schedule, KNOWN)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - (1 - final) * progress
    if schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 if progress < 1 - decay else 1 - (1 - final) * (progress - (1 - decay)) / decay
