"""Claims of lab 10_rlhf and how a study measures them, one seed at a time.

Annotators compare answers of the shipped assistant, a reward model learns from them, PPO learns from the reward model. All
three by the recipes below, which were fixed on seeds from 100 on before any seed of a study ran. A run of PPO serves
several claims (and Lab 11): it is made once a seed.
"""

import functools
import random
import statistics

from ftlab.course.studies import Once, rounded
from ftlab.measure.claims import Claim

LAB = "10_rlhf"
PAIRS, NOISE = 1500, 1.0  # comparisons that the annotators rank; temperature of their choices, in units of the utility
FEW_PAIRS, NOISY = 150, 8.0  # C50
REWARD_LR = 1e-3
PROMPTS, JUDGED = 1500, 200  # instructions that PPO answers; held-out ones that the result is judged on
ITERATIONS, LONGER = 40, 60  # LONGER: of the runs that are to go wrong
KL_COEF = 0.1
LENGTH_BIAS = 1.0  # what ten more words are worth to the biased annotators
PPO = {"iterations": ITERATIONS, "answers": 64, "minibatch": 32, "epochs": 2, "lr": 1e-3, "kl_coef": KL_COEF}


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
    made, _ = reward.train_reward_model(model, tokenizer, annotated(seed, count, noise, length_bias), lr=REWARD_LR, seed=seed,
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
