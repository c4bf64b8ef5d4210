# %% [markdown]
# # 09 · The shoot-out: one base, one task, one budget, one table
#
# **The question.** Papers compare their method with others on their own task, at the others' default rates. Here seven ways to
# fine-tune meet under the same terms: which learns most, forgets least, needs the least memory, keeps the smallest file, and
# does the answer survive another task?
#
# You will write the interval over seeds, the Pareto front, the ranking's test on a second task, and a function that chooses
# a method for a budget; then run any method live beside the committed study.
#
# Rooms: build · the terms · predict and run · what we measured · choose and defend · what people get wrong · go further.

# %% ftlab="setup"
import random
import statistics

import torch
from IPython.display import display

import ftlab
from ftlab import profile
from ftlab.course import checks, studies
from ftlab.show import plots, widgets
from ftlab.tune.bases import lab_base

torch.manual_seed(0)
lab = ftlab.lab("09_shootout")
measured = studies.load("09_shootout")
known = checks.load("09_shootout")
base, tokenizer = lab_base(measured.BASE)
T = known.T  # {number of scores: Student's quantile}
STEPS = profile.steps(measured.STEPS, 4)
JUDGED = profile.steps(measured.JUDGED, 6)
runs = [entry["data"] for entry in lab.study("C43")]  # one dict a seed: "tasks" and "peaks"
TITLES = {"full": "full", "lora": "LoRA", "qlora": "QLoRA", "adapter": "adapters", "prefix": "prefix (MLP)",
          "ptuning": "P-tuning v2", "prompt": "prompt tuning"}


def column(task, method, what):
    """The values of one cell of the table, one a seed."""
    return [run["tasks"][task][method][what] for run in runs]


# %% [markdown]
# ## Build
#
# ### 1. An interval over seeds
#
# A score from one run is a draw. From $n$ seeds with mean $\bar x$ and standard deviation
# $s = \sqrt{\tfrac{1}{n-1} \sum_i (x_i - \bar x)^2}$ the mean is known to within
#
# $$\bar x \pm t_{n} \frac{s}{\sqrt n} ,$$
#
# in 95 of 100 studies, where $t_n$ is Student's quantile at $n - 1$ degrees of freedom. It is larger than 1.96, much larger
# with three seeds, because $s$ is itself a guess (Student 1908).

# %%
print({n: t for n, t in T.items() if n < 7})


# %% ftlab="exercise" id="interval"
def interval(scores):
    """(mean, low, high): the mean of two to ten scores and its 95 % interval, by T."""
    ### BEGIN SOLUTION
    mean = statistics.fmean(scores)
    half = T[len(scores)] * statistics.stdev(scores) / len(scores) ** 0.5
    return mean, mean - half, mean + half
    ### END SOLUTION


# %% ftlab="check" id="interval"
lab.check("interval", interval)

# %% ftlab="probe" id="interval"
random.seed(lab.probe_seed("interval"))
lab.probe("interval", [list(interval([random.random() for _ in range(n)])) for n in (3, 5, 7)])

# %% [markdown]
# ### 2. The Pareto front
#
# Where two things count, here a cost and a score, there is seldom one best method. But some are *dominated*: another costs no
# more, scores no less, and is better in one of the two. Whoever is dominated need not be looked at. The others are the front.


# %% ftlab="exercise" id="pareto"
def pareto(points):
    """The names that nobody dominates, as a sorted list. points: {name: (cost, score)}; low cost, high score are good."""
    ### BEGIN SOLUTION
    front = []
    for name, (cost, score) in points.items():
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points.values())
        if not beaten:
            front.append(name)
    return sorted(front)
    ### END SOLUTION


# %% ftlab="check" id="pareto"
lab.check("pareto", pareto)

# %% ftlab="probe" id="pareto"
random.seed(lab.probe_seed("pareto"))
lab.probe("pareto", [pareto({f"m{i}": (random.randint(1, 4), random.randint(1, 4)) for i in range(size)})
                     for size in (3, 5, 8, 12) for _ in range(6)])

# %% [markdown]
# ### 3. Does the ranking survive?
#
# Kendall's $\tau$ (1938) compares two rankings of the same things: over all pairs, those that both rankings put in the same
# order, minus those that they put in opposite orders, divided by the number of pairs. 1 is the same ranking, −1 the reverse,
# about 0 no relation. A tie in either counts 0.


# %% ftlab="exercise" id="kendall"
def kendall(first, second):
    """τ of two dicts {name: score} with the same names, a number from −1 to 1."""
    ### BEGIN SOLUTION
    names, total, pairs = sorted(first), 0, 0
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            product = (first[a] - first[b]) * (second[a] - second[b])
            total += (product > 0) - (product < 0)
            pairs += 1
    return total / pairs
    ### END SOLUTION


# %% ftlab="check" id="kendall"
lab.check("kendall", kendall)

# %% ftlab="probe" id="kendall"
random.seed(lab.probe_seed("kendall"))
probe_scores = [{name: random.randint(0, 5) for name in "abcdef"} for _ in range(4)]
lab.probe("kendall", [kendall(probe_scores[0], other) for other in probe_scores[1:]])

# %% [markdown]
# ### 4. A method for a budget
#
# A budget is a limit on some columns of the table: `{"peak": 60, "bytes": 100}`. Among the methods that keep **every** limit
# (at most: what costs just the limit fits) take the one whose interval has the highest **lower end**: that is what you can
# promise. If nobody fits, say so: `None`.


# %% ftlab="exercise" id="choose"
def choose(rows, limits):
    """The name of the best method within the limits, or None. rows: {name: {"score", "low", "peak", "bytes", ...}}."""
    ### BEGIN SOLUTION
    fit = [name for name, row in rows.items() if all(row[what] <= most for what, most in limits.items())]
    return max(fit, key=lambda name: rows[name]["low"]) if fit else None
    ### END SOLUTION


# %% ftlab="check" id="choose"
lab.check("choose", choose)

# %% ftlab="probe" id="choose"
random.seed(lab.probe_seed("choose"))
probe_tables = [{f"m{i}": {"score": random.random(), "low": random.random() / 2, "peak": random.randint(1, 4),
                          "bytes": random.randint(1, 4)} for i in range(8)} for _ in range(20)]
lab.probe("choose", [choose(rows, limits) for rows in probe_tables
                     for limits in ({"peak": 2}, {"peak": 3, "bytes": 3}, {"bytes": 0}, {})])

# %% [markdown]
# ## The terms
#
# - **One base**, `base-small`; two tasks: *questions* (answer, extract, classify: one word about a story) and the *house
#   style* of Lab 08 (stories with a brave fox, the mill and Otto, which no prompt asks for).
# - **Equal effort**: AdamW, the same examples, batches and number of steps for all; for each method and task the best of
#   **five** rates by the loss on validation examples, on a seed that no run of the table uses.
# - **Judged** on held-out tasks that neither training nor the choice of the rate has seen, over five seeds.
#
# First the sweep, which is committed as it was run. **What to look at:** how far apart the valleys are. What would the table
# say if all methods had been given the rate of full fine-tuning?

# %% ftlab="result" claim="C43b"
[sweep] = [entry["data"] for entry in lab.study("C43b")]
plots.lines({TITLES[method]: ([float(rate) for rate, loss in by.items() if loss < 20],
                              [loss for loss in by.values() if loss < 20])
             for method, by in sweep["losses"]["questions"].items()},
            "peak learning rate (AdamW)", "validation loss (nats per labelled token)", logx=True, logy=True,
            title="questions: each method at five rates").show()
print("best rates:", {TITLES[method]: rate for method, rate in sweep["best"]["questions"].items()})
lab.claim("C43b", lab.study("C43b")[0]["value"])

# %% [markdown]
# ## Predict, then run
#
# One seed of one method runs here; the button below runs any other.

# %% ftlab="play"
lab.predict("small", "Full fine-tuning against the best method that keeps a small file, on questions: how many points of score "
            "(of 100) is it ahead?", low=-20, high=60, unit="points")

# %% ftlab="experiment"
rates = sweep["best"]["questions"]
plot = widgets.LivePlot(title="LoRA on questions")
model, _, history = measured.run("lora", "questions", 0, rates["lora"], lambda text: None, steps=STEPS, callbacks=[plot])
score = measured.judged(model, tokenizer, "questions", 0, JUDGED)
print(f"LoRA, rate {rates['lora']:g}: {history.seconds:.0f} s, score {score:.3f}; in the study, seed 0: "
      f"{runs[0]['tasks']['questions']['lora']['score']:.3f}")

# %% ftlab="play"
def run_method(method):
    """What the button of a method does."""
    def action(report):
        live = widgets.LivePlot(title=f"{TITLES[method]} on questions")
        tuned, _, took = measured.run(method, "questions", 0, rates[method], report, steps=STEPS, callbacks=[live])
        report("answering held-out questions ...")
        found = measured.judged(tuned, tokenizer, "questions", 0, JUDGED)
        return (f"{TITLES[method]}: score {found:.3f} after {took.seconds:.0f} s; in the study, seed 0: "
                f"{runs[0]['tasks']['questions'][method]['score']:.3f}")
    return action


for method in ("full", "adapter", "ptuning"):
    display(widgets.run_live_button(f"Run {TITLES[method]}", run_method(method), note="some fifteen seconds"))

# %% [markdown]
# ## What we measured

# %% ftlab="experiment"
def table_of(task):
    """{method: {"score", "low", "high", "forgotten", "tokens_per_second", "parameters", "bytes", "peak"}}: of the seeds the
    means, and of speed and memory, which a busy machine disturbs, the medians."""
    rows = {}
    for method in measured.METHODS:
        mean, low, high = interval(column(task, method, "score"))
        peak = statistics.median(run["peaks"][method] for run in runs)
        rows[method] = {"score": mean, "low": low, "high": high, "peak": peak,
                        "tokens_per_second": statistics.median(column(task, method, "tokens_per_second")),
                        **{what: statistics.fmean(column(task, method, what)) for what in ("forgotten", "parameters", "bytes")}}
    return rows


rows = table_of("questions")

# %% ftlab="play"
Column = widgets.Column
columns = [
    Column("score", "score [95 %]", lambda r: f"{r['score']:.3f} [{r['low']:.3f}, {r['high']:.3f}]", high_is_good=True),
    Column("parameters", "learn", lambda r: f"{r['parameters']:,.0f}"),
    Column("bytes", "file, KiB", lambda r: f"{r['bytes'] / 1024:,.0f}", filtered=True),
    Column("peak", "peak, MiB", lambda r: f"{r['peak'] / 2**20:.0f}", filtered=True),
    Column("tokens_per_second", "tokens/s", lambda r: f"{r['tokens_per_second']:,.0f}", high_is_good=True),
    Column("forgotten", "forgotten, nats", lambda r: f"{r['forgotten']:+.3f}"),
]
widgets.method_table({TITLES[method]: row for method, row in rows.items()}, columns, pareto)

# %% [markdown]
# *learn*: numbers that learn; *file*: what must be kept for this task, in float32; *peak*: what training adds to a fresh
# process at its highest point, 16 rows of 128 tokens; *forgotten*: rise of the loss on bare stories. **What to look at:** which
# two columns tell the same story, and which one contradicts what you would have thought? Sort by each. On a model of 0.7 million
# parameters most of the peak are activations, which every method needs; Lab 07's calculator says what becomes of this column
# at seven billion.

# %% ftlab="result" claim="C43"
gap = 100 * statistics.fmean(entry["value"] for entry in lab.study("C43"))
plots.prediction_vs_result(lab.prediction("small"), gap, label="full minus the best small one", unit="points").show()
lab.claim("C43", lab.study("C43")[0]["value"])

# %% [markdown]
# ### The front
#
# **What to look at:** who is dominated, and by whom? Then look along the other axis: parameters are one cost, memory another.

# %% ftlab="experiment"
for what, label, unit in (("bytes", "file (KiB)", 1024), ("peak", "peak memory (MiB)", 2**20)):
    points = {TITLES[method]: (row[what] / unit, row["score"]) for method, row in rows.items()}
    front = pareto(points)
    plots.scatter({name: ([cost], [score]) for name, (cost, score) in points.items()}, label, "score on questions",
                  title="on the front: " + ", ".join(front), percent_y=True, logx=what == "bytes").show()

# %% [markdown]
# ### The second task

# %% ftlab="play"
lab.predict("tau", "Kendall's τ between the rankings on questions and on the house style?", low=-1, high=1)

# %% ftlab="result" claim="C44"
second = table_of("house style")
plots.bars({f"{TITLES[method]}, {task}": found[method]["score"] for method in measured.METHODS
            for task, found in (("questions", rows), ("house style", second))}, "score", percent=True).show()
taus = [kendall(entry["data"]["first"], entry["data"]["second"]) for entry in lab.study("C44")]
plots.prediction_vs_result(lab.prediction("tau"), statistics.fmean(taus), label="Kendall's τ").show()
lab.claim("C44", taus[0])

# %% [markdown]
# ## Choose and defend
#
# Three customers. Your function chooses; write down, in one sentence each, why, and what would change your mind.

# %% ftlab="experiment"
whole = rows["full"]["bytes"]
customers = {"one task, no limits": {}, "a thousand tasks on one disk": {"bytes": whole / 10},
             "a hundred thousand tasks": {"bytes": whole / 100}}
for name, limits in customers.items():
    found = choose(rows, limits)
    print(f"{name:32} {TITLES.get(found, 'nobody fits')}")

# %% [markdown]
# ## What people get wrong
#
# **"Method A beats method B."** At which rate, on which task, over how many seeds? Take the single runs below: how often would
# a paper with *one* seed have printed another order than the means have?

# %% ftlab="experiment"
order = sorted(rows, key=lambda method: -rows[method]["score"])
swaps = sum(sorted(run["tasks"]["questions"], key=lambda m: -run["tasks"]["questions"][m]["score"]) != order for run in runs)
print(f"{swaps} of {len(runs)} seeds put the seven methods in another order than their means")
worst = {method: max(sweep["losses"]["questions"][method].values()) - min(sweep["losses"]["questions"][method].values())
         for method in rows}
plots.bars({TITLES[method]: min(value, 5.0) for method, value in worst.items()},
           "loss at the worst of five rates above the best (nats)", title="what a bad rate costs").show()

# %% [markdown]
# ## Go further
#
# **A second base.** `ftlab tune METHOD --base FOLDER --data FILE` runs each of the seven on any causal model and on examples of
# your own; `measured.METHODS` holds what each was given here.
#
# **Discuss.**
#
# 1. Equal numbers of steps are one kind of fairness. Equal seconds, or equal parameters, would be others. Which column would
#    change most?
# 2. Prefixes and prompts see the task only through attention. On which of the two tasks should that matter more, and does the
#    table agree?
# 3. Nobody publishes the sweep in which their method lost. What would you have to see to believe a table?
#
# **Read.**
#
# - He et al. (2022), *Towards a Unified View of Parameter-Efficient Transfer Learning*.
# - Lialin, Deshpande, Rumshisky (2023), *Scaling Down to Scale Up: A Guide to Parameter-Efficient Fine-Tuning*.
# - Agarwal et al. (2021), *Deep Reinforcement Learning at the Edge of the Statistical Precipice*: on tables of few seeds.

# %%
lab.progress()
