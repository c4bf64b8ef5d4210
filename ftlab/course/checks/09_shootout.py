"""Exercises of lab 09_shootout: texts, hints, mistakes and what each check knows."""

from ftlab.teach import Exercise, against

# The 0.975 quantile of Student's t by the number of scores.
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}

# -- an interval over seeds


def _interval(scores, spread="sample", root=True, quantile=None):
    n = len(scores)
    mean = sum(scores) / n
    variance = sum((s - mean) ** 2 for s in scores) / (n if spread == "population" else n - 1)
    half = (T[n] if quantile is None else quantile) * variance ** 0.5 / (n ** 0.5 if root else 1)
    return mean, mean - half, mean + half


def interval(scores):
    return _interval(scores)


def _of_population(scores):
    return _interval(scores, spread="population")


def _no_root(scores):
    return _interval(scores, root=False)


def _normal(scores):
    return _interval(scores, quantile=1.96)


def _range(scores):
    return sum(scores) / len(scores), min(scores), max(scores)


def _half_only(scores):
    mean, low, high = _interval(scores)
    return mean, high - mean, high - mean


INTERVAL_CASES = [([0.5, 0.7],), ([0.8, 0.82, 0.78],), ([0.61, 0.66, 0.58, 0.7, 0.64],),
                  ([0.2, 0.25, 0.9, 0.4, 0.35, 0.3, 0.45, 0.5],)]  # fmt: skip

# -- the Pareto front


def _front(points, beaten):
    return sorted(name for name, (cost, score) in points.items()
                  if not any(beaten(cost, score, *other) for rival, other in points.items() if rival != name))


def pareto(points):
    return _front(points, lambda c, s, oc, os: oc <= c and os >= s and (oc < c or os > s))


def _strict(points):
    return _front(points, lambda c, s, oc, os: oc < c and os > s)


def _ties_fall(points):
    return _front(points, lambda c, s, oc, os: oc <= c and os >= s)


def _dear(points):
    return _front(points, lambda c, s, oc, os: oc >= c and os >= s and (oc > c or os > s))


def _either(points):
    return _front(points, lambda c, s, oc, os: oc < c or os > s)


def _best_ratio(points):
    return [max(points, key=lambda name: points[name][1] / points[name][0])]


PARETO_CASES = [
    ({"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.6)},),
    ({"full": (100, 0.9), "lora": (4, 0.9), "prompt": (1, 0.3), "prefix": (8, 0.4)},),
    ({"x": (2, 0.4), "y": (2, 0.4), "z": (5, 0.8)},),
    ({"a": (3, 0.2), "b": (3, 0.5), "c": (1, 0.1), "d": (9, 0.5), "e": (10, 0.95)},),
]

# -- the ranking of two tasks


def kendall(first, second):
    names, total, pairs = sorted(first), 0, 0
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            product = (first[a] - first[b]) * (second[a] - second[b])
            total += (product > 0) - (product < 0)
            pairs += 1
    return total / pairs


def _share(first, second):
    names = sorted(first)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    return sum((first[a] - first[b]) * (second[a] - second[b]) > 0 for a, b in pairs) / len(pairs)


def _with_itself(first, second):
    names = sorted(first)
    signs = [((first[a] - first[b]) * (second[a] - second[b]) > 0) - ((first[a] - first[b]) * (second[a] - second[b]) < 0)
             for a in names for b in names]
    return sum(signs) / len(names) ** 2


def _by_size(first, second):
    names = sorted(first)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    return sum((first[a] - first[b]) * (second[a] - second[b]) for a, b in pairs) / len(pairs)


def _ties_discordant(first, second):
    names = sorted(first)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    return sum(1 if (first[a] - first[b]) * (second[a] - second[b]) > 0 else -1 for a, b in pairs) / len(pairs)


KENDALL_CASES = [
    ({"a": 0.9, "b": 0.5, "c": 0.1}, {"a": 0.8, "b": 0.6, "c": 0.2}),
    ({"a": 0.9, "b": 0.5, "c": 0.1}, {"a": 0.1, "b": 0.6, "c": 0.7}),
    ({"full": 0.9, "lora": 0.88, "adapter": 0.8, "prompt": 0.3}, {"full": 0.7, "lora": 0.75, "adapter": 0.4, "prompt": 0.5}),
    ({"a": 0.4, "b": 0.4, "c": 0.1, "d": 0.8}, {"a": 0.3, "b": 0.5, "c": 0.2, "d": 0.5}),
]

# -- a method for a budget


def _fitting(rows, limits):
    return {name: row for name, row in rows.items() if all(row[what] <= most for what, most in limits.items())}


def choose(rows, limits):
    fit = _fitting(rows, limits)
    return max(fit, key=lambda name: fit[name]["low"]) if fit else None


def _by_mean(rows, limits):
    fit = _fitting(rows, limits)
    return max(fit, key=lambda name: fit[name]["score"]) if fit else None


def _no_limits(rows, limits):
    return max(rows, key=lambda name: rows[name]["low"])


def _any_limit(rows, limits):
    fit = {name: row for name, row in rows.items() if not limits or any(row[w] <= most for w, most in limits.items())}
    return max(fit, key=lambda name: fit[name]["low"]) if fit else None


def _below(rows, limits):
    fit = {name: row for name, row in rows.items() if all(row[what] < most for what, most in limits.items())}
    return max(fit, key=lambda name: fit[name]["low"]) if fit else None


def _cheapest(rows, limits):
    fit = _fitting(rows, limits)
    return min(fit, key=lambda name: sum(fit[name][what] for what in limits)) if fit else None


ROWS = {
    "full": {"score": 0.93, "low": 0.90, "peak": 80, "bytes": 2000},
    "lora": {"score": 0.91, "low": 0.89, "peak": 60, "bytes": 80},
    "qlora": {"score": 0.92, "low": 0.80, "peak": 50, "bytes": 80},
    "prompt": {"score": 0.40, "low": 0.35, "peak": 55, "bytes": 8},
}
CHOOSE_CASES = [(ROWS, {}), (ROWS, {"bytes": 100}), (ROWS, {"peak": 60, "bytes": 100}), (ROWS, {"peak": 59, "bytes": 2000}),
                (ROWS, {"peak": 55, "bytes": 10}), (ROWS, {"peak": 10})]  # fmt: skip

EXERCISES = [
    Exercise(
        id="interval", title="An interval over seeds", points=4, minutes=12, difficulty=2,
        hints=(
            "Three numbers: the mean, and the mean less and plus a half width.",
            "The half width is t · s / √n: s is the standard deviation with n − 1 below, and t stands in T under n.",
            "mean = statistics.fmean(scores); half = T[len(scores)] * statistics.stdev(scores) / len(scores) ** 0.5; return "
            "mean, mean - half, mean + half",
        ),
        mistakes={
            "of_population": "You divided the squares by n; their mean was estimated from the same n scores, so n − 1 stands "
                             "below (statistics.stdev, not pstdev).",
            "no_root": "That is the spread of single seeds; the mean of n seeds spreads by s / √n.",
            "normal": "You took 1.96, which needs the true spread; with an s from few seeds it is t: 2.776 for five.",
            "range": "You gave the smallest and the largest score; that says nothing of how sure the mean is.",
            "half_only": "You returned the half width; return the two ends, mean minus half and mean plus half.",
        },
        check=against(interval, INTERVAL_CASES, mistakes={
            "of_population": _of_population, "no_root": _no_root, "normal": _normal, "range": _range,
            "half_only": _half_only}),
        withheld=("ftlab.measure.claims.t_interval",),
    ),
    Exercise(
        id="pareto", title="The Pareto front", points=5, minutes=15, difficulty=3,
        hints=(
            "A method is off the front if some other one is at least as good in both and better in one.",
            "Go through all pairs (one, another). `other_cost <= cost and other_score >= score`, and not both equal: then "
            "the one is dominated.",
            "return sorted(n for n, (c, s) in points.items() if not any(oc <= c and os >= s and (oc, os) != (c, s) for oc, "
            "os in points.values()))",
        ),
        mistakes={
            "strict": "You demand better in both: then a method that costs the same and scores less stays on the front.",
            "ties_fall": "Two methods with the same cost and score dominate each other at yours, and both fall; equal in both "
                         "is no reason to fall.",
            "dear": "You keep the dear ones: of two with the same score the one that costs less is on the front.",
            "either": "At yours a method falls when another is better in one thing; it must be no worse in the other, too.",
            "best_ratio": "You took the best score per cost: one point. The front holds every method that nobody beats.",
        },
        check=against(pareto, PARETO_CASES, mistakes={
            "strict": _strict, "ties_fall": _ties_fall, "dear": _dear, "either": _either, "best_ratio": _best_ratio}),
    ),
    Exercise(
        id="kendall", title="Does the ranking survive?", points=4, minutes=12, difficulty=2,
        hints=(
            "Look at every pair of methods once: do both tasks put the same one ahead?",
            "The product of the two differences is positive where they agree, negative where not, 0 in a tie.",
            "names = sorted(first); add up (product > 0) - (product < 0) over names[i], names[j] with i < j, and divide by "
            "the number of these pairs, n (n - 1) / 2.",
        ),
        mistakes={
            "share": "That is the share of pairs that agree, 0 to 1; τ takes away those that disagree, −1 to 1.",
            "with_itself": "You divide by n²; a method makes no pair with itself: the pairs number n (n − 1) / 2.",
            "by_size": "You averaged the products themselves; only their sign counts.",
            "ties_discordant": "A tie neither agrees nor disagrees: it adds 0, not −1.",
        },
        check=against(kendall, KENDALL_CASES, mistakes={
            "share": _share, "with_itself": _with_itself, "by_size": _by_size, "ties_discordant": _ties_discordant}),
    ),
    Exercise(
        id="choose", title="A method for a budget", points=4, minutes=12, difficulty=2,
        hints=(
            "First who fits: every limit must be kept. Who is best among these? And if nobody?",
            "Defend your choice against bad luck: compare the lower ends of the intervals, not the means.",
            "fit = [n for n, row in rows.items() if all(row[what] <= most for what, most in limits.items())]; return "
            "max(fit, key=lambda n: rows[n]['low']) if fit else None",
        ),
        mistakes={
            "by_mean": "You took the best mean; a mean from seeds that disagree is a weak promise. Compare `low`.",
            "no_limits": "Your choice does not fit into the budget: leave out every row above a limit first.",
            "any_limit": "One limit kept is not enough: all of them must be.",
            "below": "What costs just the limit still fits: at most, not less than.",
            "cheapest": "You took the cheapest that fits; asked is the best that fits.",
        },
        check=against(choose, CHOOSE_CASES, mistakes={
            "by_mean": _by_mean, "no_limits": _no_limits, "any_limit": _any_limit, "below": _below,
            "cheapest": _cheapest}),
    ),
]
