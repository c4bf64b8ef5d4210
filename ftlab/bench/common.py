"""What the benches share: rounds in turn, and rows."""

import statistics


def take_turns(runners, rounds, report=None, what="round"):
    """Call each of `runners` ({name: function}) once a round; returns {name: [result of each round]}.

    The order turns by one from round to round, so that nobody always comes first.
    """
    names, results = list(runners), {name: [] for name in runners}
    for index in range(rounds):
        for name in names[index % len(names):] + names[:index % len(names)]:
            results[name].append(runners[name]())
        tell(report, f"{what} {index + 1} of {rounds}: "
                     + ", ".join(f"{name} {results[name][-1]:.4g}" for name in names))
    return results


def tell(report, text):
    """Say how far things are, where somebody listens."""
    if report is not None:
        report(text)


def against(name, ours, peer, unit, higher_is_better=True):
    """A row with a peer. peer None: it did not get there at all, so no ratio can be given."""
    if peer is None:
        return {"name": name, "ours": ours, "peer": None, "ratio": None, "unit": unit}
    return {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer if higher_is_better else peer / ours,
            "unit": unit}


def paired(name, ours, peer, unit):
    """A row from the rounds' results: medians of both, and the median of the ratios within a round."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return {"name": name, "ours": statistics.median(ours), "peer": statistics.median(peer),
            "ratio": statistics.median(ratios), "unit": unit}


def alone(name, ours, unit, limit=None):
    """A row without a peer; with `limit` where one is set for it."""
    return {"name": name, "ours": ours, "unit": unit} | ({} if limit is None else {"limit": limit})
