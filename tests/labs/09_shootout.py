"""Wrong answers to the exercises of lab 09_shootout: each must be named by its check, and fail its probe."""

INTERVAL = '''
def interval(scores):
    mean = statistics.fmean(scores)
    half = {t} * {spread} / {root}
    return {result}
'''
RIGHT_INTERVAL = {"t": "T[len(scores)]", "spread": "statistics.stdev(scores)", "root": "len(scores) ** 0.5",
                  "result": "mean, mean - half, mean + half"}  # fmt: skip

PARETO = '''
def pareto(points):
    return sorted(name for name, (cost, score) in points.items()
                  if not any({beaten} for other, (c, s) in points.items() if other != name))
'''

KENDALL = '''
def kendall(first, second):
    names, total, pairs = sorted(first), 0, 0
    for i, a in enumerate(names):
        for b in names{behind}:
            product = (first[a] - first[b]) * (second[a] - second[b])
            total += {agree}
            pairs += 1
    return total / pairs
'''
RIGHT_KENDALL = {"behind": "[i + 1:]", "agree": "(product > 0) - (product < 0)"}

CHOOSE = '''
def choose(rows, limits):
    fit = [name for name, row in rows.items() if {fits}]
    return {best} if fit else None
'''
RIGHT_CHOOSE = {"fits": "all(row[what] <= most for what, most in limits.items())",
                "best": "max(fit, key=lambda name: rows[name]['low'])"}  # fmt: skip

WRONG = {
    "interval": {
        "of_population": INTERVAL.format(**RIGHT_INTERVAL | {"spread": "statistics.pstdev(scores)"}),
        "no_root": INTERVAL.format(**RIGHT_INTERVAL | {"root": "1"}),
        "normal": INTERVAL.format(**RIGHT_INTERVAL | {"t": "1.96"}),
        "range": INTERVAL.format(**RIGHT_INTERVAL | {"result": "mean, min(scores), max(scores)"}),
        "half_only": INTERVAL.format(**RIGHT_INTERVAL | {"result": "mean, half, half"}),
    },
    "pareto": {
        "strict": PARETO.format(beaten="c < cost and s > score"),
        "ties_fall": PARETO.format(beaten="c <= cost and s >= score"),
        "dear": PARETO.format(beaten="c >= cost and s >= score and (c, s) != (cost, score)"),
        "either": PARETO.format(beaten="c < cost or s > score"),
        "best_ratio": "def pareto(points):\n    return [max(points, key=lambda n: points[n][1] / points[n][0])]\n",
    },
    "kendall": {
        "share": KENDALL.format(**RIGHT_KENDALL | {"agree": "product > 0"}),
        "with_itself": KENDALL.format(**RIGHT_KENDALL | {"behind": ""}),
        "by_size": KENDALL.format(**RIGHT_KENDALL | {"agree": "product"}),
        "ties_discordant": KENDALL.format(**RIGHT_KENDALL | {"agree": "1 if product > 0 else -1"}),
    },
    "choose": {
        "by_mean": CHOOSE.format(**RIGHT_CHOOSE | {"best": "max(fit, key=lambda name: rows[name]['score'])"}),
        "no_limits": CHOOSE.format(**RIGHT_CHOOSE | {"fits": "True"}),
        "any_limit": CHOOSE.format(**RIGHT_CHOOSE | {
            "fits": "not limits or any(row[what] <= most for what, most in limits.items())"}),
        "below": CHOOSE.format(**RIGHT_CHOOSE | {"fits": "all(row[what] < most for what, most in limits.items())"}),
        "cheapest": CHOOSE.format(**RIGHT_CHOOSE | {
            "best": "min(fit, key=lambda name: sum(rows[name][what] for what in limits))"}),
    },
}
