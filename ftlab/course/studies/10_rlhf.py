"""Claims of lab 10_rlhf and how a study measures them, one seed at a time.

Annotators compare answers of the shipped assistant, a reward model learns from them, PPO learns from the reward model. All
three by the recipes below, which were fixed on seeds from 100 on before any seed of a study ran. A run of PPO serves
several claims (and Lab 11): it is made once a seed.
"""

import functools
import random
import statistics
import time

from ftlab.course.studies import Once, rounded
from ftlab.measure.claims import Claim

LAB = "10_rlhf"
PAIRS, NOISE = 2000, 1.0  # comparisons that the annotators rank; temperature of their choices, in units of the utility
FEW_PAIRS, NOISY = 200, 8.0  # C50
PROMPTS, JUDGED = 1500, 150  # instructions that PPO answers; held-out ones that the result is judged on
ITERATIONS, LONGER = 30, 60  # LONGER: of the runs that are to go wrong
KL_COEF = 0.05
LENGTH_BIAS = 3.0  # what ten more words are worth to the biased annotators
PPO = {"iterations": ITERATIONS, "answers": 32, "minibatch": 32, "epochs": 2, "lr": 5e-4, "kl_coef": KL_COEF}


# -- the parts

@functools.cache
def start():
    """(model, tokenizer): the assistant at the temperature at which its answers were compared, which is the policy's start
    and reference."""
    from ftlab.align import annotators, ppo
    from ftlab.model import load

    model, tokenizer = load(annotators.MODEL)
    return ppo.sharpened(model, annotators.TEMPERATURE), tokenizer


def annotated(seed, count=PAIRS, noise=NOISE, length_bias=0.0):
    """Pairs as simulated annotators rank `count` comparisons, which hang on the seed."""
    from ftlab.align import annotators

    some = list(annotators.comparisons("train"))
    random.Random(f"{LAB}/{seed}").shuffle(some)
    return annotators.ranked(some[:count], noise, length_bias, seed)


@functools.cache
def test_pairs():
    """Held-out pairs, ranked without noise, ties left out."""
    from ftlab.align import annotators

    return annotators.ranked(annotators.comparisons("test"))


def told(report, what):
    """A callback that says where a run is, now and then."""
    def callback(event):
        if event["kind"] == "step" and event["step"] % 10 == 0:
            report(f"{what}: {event['step']} of {event['steps']}")

    return callback


def reward_model(seed, report, count=PAIRS, noise=NOISE, length_bias=0.0, callbacks=()):
    """A RewardModel from annotators, its mean over the assistant's own answers moved to 0."""
    from ftlab.align import annotators, pairs, reward

    model, tokenizer = start()
    made, _ = reward.train_reward_model(model, tokenizer, annotated(seed, count, noise, length_bias), seed=seed,
                                        callbacks=[told(report, "reward model"), *callbacks])
    own = annotators.comparisons("train")[-200:]
    rows = pairs.response_rows([one.prompt for one in own], [one.a for one in own], tokenizer)
    return reward.centred(made, reward.rewards_of(made, rows, tokenizer))


def write_tasks(seed, count, split="train"):
    """Instructions to write a story, of the training combinations or of held-out ones."""
    from ftlab.world import World, tasks

    return tasks.make(World("rich"), "write", count, f"{LAB}/{seed}", split)


def run_ppo(seed, made, report, callbacks=(), **changes):
    """(policy, history) of PPO against a RewardModel."""
    from ftlab.align import judge, ppo

    model, tokenizer = start()
    asked = write_tasks(seed, PROMPTS)
    return ppo.ppo(model, tokenizer, asked, judge.asked(asked, tokenizer), judge.by_model(made),
                   ppo.PPOConfig(**PPO | {"seed": seed} | changes), judge.truth, [told(report, "PPO"), *callbacks])


def judged(policy, seed, made=None, count=JUDGED):
    """What a policy's answers to held-out instructions are: see `ftlab.align.judge.measured`."""
    from ftlab.align import judge

    model, tokenizer = start()
    return judge.measured(policy, model, tokenizer, write_tasks(f"held out {seed}", count, "test"), seed=seed,
                          reward=judge.by_model(made) if made is not None else None)


def curve(history):
    """What a picture needs of a history: {name: [value an iteration]}."""
    return {name: [round(one[name], 3) for one in history] for name in ("reward", "utility", "kl", "valid", "length")}


def numbers(found):
    """The numbers of `judged`, without the texts."""
    return rounded({name: value for name, value in found.items() if name != "texts"})


once = Once()


def main(seed, report):
    """The run that most claims (and Lab 11) take: {"reward_model", "policy", "history", "before", "after" (see `judged`),
    "seconds" of the reward model and of PPO, "accuracy" of the reward model}; made once a seed."""
    def make():
        began = time.perf_counter()
        made = reward_model(seed, report)
        taught = time.perf_counter()
        policy, history = run_ppo(seed, made, report)
        done = time.perf_counter()
        return {"reward_model": made, "policy": policy, "history": history, "accuracy": accuracy(made),
                "before": judged(start()[0], seed, made), "after": judged(policy, seed, made),
                "seconds": {"reward model": round(taught - began, 1), "PPO": round(done - taught, 1)}}

    return once("main", seed, make)


# -- C50: the reward model

def accuracy(model):
    """Share of the held-out pairs that a reward model ranks as the true utility does."""
    from ftlab.align import reward

    return reward.accuracy(model, start()[1], test_pairs())


def share_right(chosen, rejected):
    """Share of pairs in which the chosen response has the higher number."""
    return statistics.fmean(a > b for a, b in zip(chosen, rejected, strict=True))


def measure_pairs(seed, report):
    """value: accuracy with all comparisons minus that with few."""
    from ftlab.align import annotators, reward

    full, few = main(seed, report), reward_model(seed, report, count=FEW_PAIRS)
    by = {str(FEW_PAIRS): accuracy(few), str(PAIRS): full["accuracy"]}
    # what the model says of held-out pairs, against annotators who are as noisy as those it learned from
    asked = annotators.ranked(annotators.comparisons("test"), NOISE, seed=seed)
    said = reward.calibration(full["reward_model"], start()[1], asked)
    return {"value": by[str(PAIRS)] - by[str(FEW_PAIRS)], "by_pairs": rounded(by),
            "calibration": rounded([list(row) for row in said]), "seconds": full["seconds"]["reward model"]}


def noisy(seed, report):
    """The RewardModel of noisy annotators; made once a seed."""
    return once("noisy", seed, lambda: reward_model(seed, report, noise=NOISY))


def measure_noise(seed, report):
    """value: accuracy taught by the usual annotators minus that taught by noisy ones."""
    by = {str(NOISE): main(seed, report)["accuracy"], str(NOISY): accuracy(noisy(seed, report))}
    return {"value": by[str(NOISE)] - by[str(NOISY)], "by_noise": rounded(by)}


# -- C51: PPO

def measure_ppo(seed, report):
    """value: true utility of the policy minus that of its start."""
    run = main(seed, report)
    return {"value": run["after"]["utility"] - run["before"]["utility"], "before": numbers(run["before"]),
            "after": numbers(run["after"]), "curve": curve(run["history"]), "seconds": run["seconds"],
            "sample": run["after"]["texts"][0]}


def measure_validity(seed, report):
    run = main(seed, report)
    return {"value": run["after"]["valid"] - run["before"]["valid"]}


def measure_kl(seed, report):
    return {"value": main(seed, report)["after"]["kl"]}


# -- C52, C53: what goes wrong

def smooth(values, width=5):
    """Means of `width` neighbours."""
    return [statistics.fmean(values[i:i + width]) for i in range(len(values) - width + 1)]


def followed(seed, made, report, **changes):
    """(policy, history, samples [[iteration, text], …]) of a run of PPO whose answers are kept now and then."""
    from ftlab.align.judge import answer_of

    samples = []

    def keep(event):
        if event["kind"] == "step" and event["step"] % 10 in (0, 1):
            samples.append([event["step"], answer_of(event["sample"])])

    policy, history = run_ppo(seed, made, report, [keep], **changes)
    return policy, history, samples


def unpriced(seed, report):
    """The run against the same reward model without a penalty; made once a seed."""
    return once("unpriced", seed, lambda: followed(seed, main(seed, report)["reward_model"], report, kl_coef=0.0,
                                                   iterations=LONGER))


def measure_hacking(seed, report):
    """value: the true utility's peak minus its end, means of five iterations."""
    _, history, samples = unpriced(seed, report)
    utility = smooth([one["utility"] for one in history])
    return {"value": max(utility) - utility[-1], "curve": curve(history), "samples": samples}


def measure_proxy(seed, report):
    """value: by how much the reward rose from the true utility's peak to the end."""
    _, history, _ = unpriced(seed, report)
    utility, proxy = (smooth([one[name] for one in history]) for name in ("utility", "reward"))
    return {"value": proxy[-1] - proxy[utility.index(max(utility))]}


def biased(seed, report):
    """The run against a reward model of annotators who like length; made once a seed."""
    def make():
        made = reward_model(seed, report, length_bias=LENGTH_BIAS)
        policy, history, samples = followed(seed, made, report)
        return {"after": judged(policy, seed, made), "history": history, "samples": samples, "accuracy": accuracy(made)}

    return once("biased", seed, make)


def measure_bias(seed, report):
    """value: true utility lost to the bias."""
    run, plain = biased(seed, report), main(seed, report)
    return {"value": plain["after"]["utility"] - run["after"]["utility"], "after": numbers(run["after"]),
            "accuracy": round(run["accuracy"], 4), "curve": curve(run["history"]), "samples": run["samples"]}


def measure_length(seed, report):
    """value: tokens by which the biased run's answers are longer."""
    return {"value": biased(seed, report)["after"]["length"] - main(seed, report)["after"]["length"]}


# -- X10: the library's relative of PPO

def measure_rloo(seed, report):
    """value: true utility after TRL's RLOO less that after PPO, against the same reward model, about as many answers."""
    from ftlab.align import judge, pairs, reward, with_trl

    run, (model, tokenizer) = main(seed, report), start()
    made = run["reward_model"]

    def score(task, text):
        rows = pairs.response_rows([task], [judge.answer_of(text)], tokenizer)
        return reward.rewards_of(made, rows, tokenizer)[0]

    report("RLOO")
    policy, happened = with_trl.rloo_with_trl(model, tokenizer, write_tasks(seed, PROMPTS), score, ITERATIONS,
                                              answers=PPO["answers"], beta=KL_COEF, lr=PPO["lr"], seed=seed)
    found = judged(policy, seed, made)
    return {"value": found["utility"] - run["after"]["utility"], "after": numbers(found),
            "rewards": [round(value, 3) for value in happened["rewards"]], "seconds": round(happened["seconds"], 1)}


# -- X10b: the library's reward model

ADAMW_LRS = (3e-4, 1e-3, 3e-3)


def measure_reward_trainer(seed, report):
    """value: accuracy of TRL's RewardTrainer with our optimizer less ours, after one pass through the same comparisons; by_lr:
    that of RewardTrainer with AdamW, which is its own."""
    from ftlab.align import reward, with_trl

    (model, tokenizer), made = start(), annotated(seed)
    steps = len(made) // reward.PAIRS_PER_BATCH
    ours = accuracy(reward_model(seed, report))

    def theirs(**settings):
        report(f"RewardTrainer, {settings}")
        return accuracy(with_trl.reward_with_trl(model, tokenizer, made, steps, seed=seed, **settings)[0])

    same = theirs(optimizer="muon")
    return {"value": same - ours, "ours": round(ours, 4), "same": round(same, 4),
            "by_lr": rounded({str(lr): theirs(lr=lr) for lr in ADAMW_LRS})}


CLAIMS = [
    Claim(id="C50", kind="measured", lab=LAB, measure=measure_pairs, at_least=0.05, seeds=5,
          statement="A reward model ranks held-out answers better, the more pairs it has learned from.",
          metric=f"share of held-out pairs ranked as the true utility does: {PAIRS} comparisons less {FEW_PAIRS}"),
    Claim(id="C50b", kind="measured", lab=LAB, measure=measure_noise, at_least=0.05, seeds=5,
          statement="It ranks them worse, the more its annotators err.",
          metric=f"the same share: annotators' noise {NOISE:g} less noise {NOISY:g}"),
    Claim(id="C51", kind="measured", lab=LAB, measure=measure_ppo, at_least=0.3, seeds=5, unit="utility",
          statement="PPO against the reward model raises the true utility over that of its start.",
          metric=f"true utility after {ITERATIONS} iterations less before, {JUDGED} held-out prompts"),
    Claim(id="C51b", kind="measured", lab=LAB, measure=measure_validity, at_least=-0.05, seeds=5,
          statement="With the penalty, stories stay about as valid as they were.",
          metric="share of stories that keep every rule, after less before"),
    Claim(id="C51c", kind="measured", lab=LAB, measure=measure_kl, at_most=10.0, seeds=5, unit="nats",
          statement="The policy stays near its start.", metric="KL an answer"),
    Claim(id="C52", kind="measured", lab=LAB, measure=measure_hacking, at_least=0.5, seeds=5, unit="utility",
          statement="Without the penalty the true utility falls below its own peak.",
          metric=f"peak less end of {LONGER} iterations, means of five",
          note="How deep it falls differs from run to run: 1.1 to 8.5. One went 65 nats away and wrote no stories for a "
               "while."),
    Claim(id="C52b", kind="measured", lab=LAB, measure=measure_proxy, at_least=0.0, seeds=5, unit="nats",
          statement="Meanwhile the reward goes on rising: it is being hacked.",
          metric="reward at the end less that at the true utility's peak, means of five iterations",
          note="It rose in four runs of five, by 0.06 to 0.33, and stood still in the fifth (-0.006), where it had all but "
               "reached what its reward model gives when the truth turned; the interval begins just below 0."),
    Claim(id="C53", kind="measured", lab=LAB, measure=measure_bias, at_least=0.2, seeds=5, unit="utility",
          statement="A reward model of annotators who like length costs true utility.",
          metric="true utility with the usual annotators less that with the biased ones",
          note="Each of five runs lost some, 0.10 to 1.86, which is too unlike for the interval to clear 0.2. That the bias is "
               "what was exploited, C53b shows."),
    Claim(id="C53b", kind="measured", lab=LAB, measure=measure_length, at_least=5.0, seeds=5, unit="tokens",
          statement="It is exploited in just that way: answers grow.", metric="tokens an answer, biased less usual"),
    Claim(id="X10", kind="report", lab=LAB, measure=measure_rloo, seeds=5, unit="utility",
          statement="TRL's RLOO, which has no value model, beside PPO on the same reward.",
          metric="true utility after RLOO less that after PPO, as many answers"),
    Claim(id="X10b", kind="measured", lab=LAB, measure=measure_reward_trainer, at_least=-0.03, at_most=0.03, seeds=5,
          statement="TRL's RewardTrainer, given our optimizer, learns the reward model to the same accuracy.",
          metric="share of held-out pairs ranked as the true utility does: RewardTrainer's less ours",
          note="On the same batches the two go the same way, step for step (a test shows it). Here each draws its own batches: "
               "-0.08 to +0.02 in five runs, 2 points below ours in the mean, an interval too wide for 3. "
               "With AdamW at its best of three rates it ranks 73 % rightly, ours 74 %."),
]
