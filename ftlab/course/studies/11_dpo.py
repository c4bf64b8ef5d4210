"""Claims of lab 11_dpo and how a study measures them, one seed at a time.

DPO learns from the very pairs that Lab 10's reward model learned from, with the same start and reference; PPO's runs are
those of Lab 10's study. Settings were fixed on seeds from 100 on before any seed of a study ran.
"""

import random
import statistics
import time

from ftlab.course import studies
from ftlab.course.studies import Once, rounded
from ftlab.measure.claims import Claim

LAB = "11_dpo"
BETA, LR = 0.1, 1e-3
BETAS, KL_COEFS = (0.03, 0.1, 0.5), (0.02, 0.05, 0.2)  # C57, C59
RESAMPLES = 2000  # C58
FOUR = 60  # M09: prompts to which the assistant writes four answers

rlhf = studies.load("10_rlhf")
once = Once()


# -- runs

def run_dpo(seed, report, beta=BETA, callbacks=(), noise=None, **changes):
    """(policy, seconds, metrics of each step) of DPO on the annotators' pairs of a seed."""
    from ftlab.align import dpo

    model, tokenizer = rlhf.start()
    some = rlhf.annotated(seed) if noise is None else rlhf.annotated(seed, noise=noise)
    began = time.perf_counter()
    policy, _, metrics = dpo.dpo(model, tokenizer, some, beta=beta, lr=LR, seed=seed,
                                 callbacks=[rlhf.told(report, f"DPO, beta {beta:g}"), *callbacks], **changes)
    return policy, round(time.perf_counter() - began, 1), metrics


def main(seed, report):
    """{"policy", "after" (see `judged` of Lab 10), "seconds"} of DPO at BETA; made once a seed."""
    def make():
        policy, seconds, _ = run_dpo(seed, report)
        return {"policy": policy, "seconds": seconds,
                "after": rlhf.judged(policy, seed, rlhf.main(seed, report)["reward_model"])}

    return once("main", seed, make)


def held_out_rewards(policy, beta=BETA):
    """(of the chosen, of the rejected): implicit rewards of Lab 10's held-out pairs."""
    from ftlab.align import dpo, pairs

    model, tokenizer = rlhf.start()
    return [dpo.implicit_rewards(policy, model, side, tokenizer, beta)
            for side in pairs.pair_rows(rlhf.test_pairs(), tokenizer)]


# -- C55, C56, M09

def measure_same(seed, report):
    """value: the larger of the differences in loss and gradient between ours and TRL's, plain DPO and IPO."""
    from ftlab.align.with_trl import compare_with_trl

    model, tokenizer = rlhf.start()
    found = {kind: compare_with_trl(model, tokenizer, rlhf.annotated(seed, 40)[:8], BETA, kind) for kind in ("sigmoid", "ipo")}
    return {"value": max(value for one in found.values() for value in one.values()), **found}


def measure_agreement(seed, report):
    """value: share of held-out pairs that the implicit reward and the reward model rank alike."""
    from ftlab.align import pairs, reward

    _, tokenizer = rlhf.start()
    chosen, rejected = held_out_rewards(main(seed, report)["policy"])
    judge = rlhf.main(seed, report)["reward_model"]
    good, bad = (reward.rewards_of(judge, side, tokenizer) for side in pairs.pair_rows(rlhf.test_pairs(), tokenizer))
    alike = [(a > b) == (c > d) for a, b, c, d in zip(chosen, rejected, good, bad, strict=True)]
    return {"value": statistics.fmean(alike), "implicit": rlhf.share_right(chosen, rejected),
            "reward model": rlhf.share_right(good, bad)}


def measure_best_of_four(seed, report):
    """value: true utility of the one of four answers of the assistant that the implicit reward likes best, minus their mean."""
    from ftlab.align import annotators, dpo, judge, pairs
    from ftlab.model.ask import ask

    (model, tokenizer), policy = rlhf.start(), main(seed, report)["policy"]
    asked = rlhf.write_tasks(f"four {seed}", FOUR, "test")
    fours = [ask(model, tokenizer, asked, max_new_tokens=annotators.MAX_NEW_TOKENS, temperature=1.0, seed=seed * 10 + i)
             for i in range(4)]
    worth = [[judge.utility(task, text) for task, text in zip(asked, texts, strict=True)] for texts in fours]
    likes = [dpo.implicit_rewards(policy, model, pairs.response_rows(asked, texts, tokenizer), tokenizer) for texts in fours]
    kept = [max(zip(of_prompt, by, strict=True))[1] for of_prompt, by in zip(zip(*likes), zip(*worth), strict=True)]
    return {"value": statistics.fmean(kept) - statistics.fmean(map(statistics.fmean, worth)),
            "best": round(statistics.fmean(max(by) for by in zip(*worth)), 4)}


# -- C57, C59: two frontiers

def point(strength, found, seconds):
    """A point of a frontier, as `frontier_view` takes it."""
    return {"strength": strength, **rlhf.numbers(found), "seconds": seconds, "sample": found["texts"][0]}


def frontiers(seed, report):
    """{"ppo": points by kl_coef, "dpo": points by beta}, from the same pairs; made once a seed."""
    def make():
        plain, ours = rlhf.main(seed, report), main(seed, report)
        made = plain["reward_model"]
        ppo, dpo = [], []
        for kl_coef in KL_COEFS:
            if kl_coef == rlhf.KL_COEF:
                ppo.append(point(kl_coef, plain["after"], plain["seconds"]["PPO"]))
                continue
            began = time.perf_counter()
            policy, _ = rlhf.run_ppo(seed, made, report, kl_coef=kl_coef)
            ppo.append(point(kl_coef, rlhf.judged(policy, seed, made), round(time.perf_counter() - began, 1)))
        for beta in BETAS:
            if beta == BETA:
                dpo.append(point(beta, ours["after"], ours["seconds"]))
                continue
            policy, seconds, _ = run_dpo(seed, report, beta)
            dpo.append(point(beta, rlhf.judged(policy, seed, made), seconds))
        return {"ppo": ppo, "dpo": dpo}

    return once("frontiers", seed, make)


def at_kl(points, kl):
    """Utility at a KL, between two points by a straight line; None outside."""
    spots = sorted((one["kl"], one["utility"]) for one in points)
    for (a, low), (b, high) in zip(spots, spots[1:]):
        if a <= kl <= b:
            return low + (high - low) * (kl - a) / (b - a) if b > a else max(low, high)
    return None


def measure_frontiers(seed, report):
    """value: utility of PPO minus that of DPO, mean over the KLs that both reach."""
    found = frontiers(seed, report)
    reached = sorted(one["kl"] for points in found.values() for one in points)
    both = [(at_kl(found["ppo"], kl), at_kl(found["dpo"], kl)) for kl in reached]
    apart = [a - b for a, b in both if a is not None and b is not None]
    plain = rlhf.main(seed, report)
    if not apart:  # no KL that both reach: the nearest two points
        _, a, b = min((abs(p["kl"] - d["kl"]), p["utility"], d["utility"]) for p in found["ppo"] for d in found["dpo"])
        apart = [a - b]
    return {"value": statistics.fmean(apart), **found, "matched": len(apart), "before": rlhf.numbers(plain["before"]),
            "cost": cost(plain, main(seed, report))}


def cost(plain, ours):
    """{what: {"PPO": …, "DPO": …}}: what each takes on the same pairs."""
    import inspect

    from ftlab.align import dpo, pairs, ppo, reward

    def lines(*modules):
        return sum(bool(line.strip()) for module in modules for line in inspect.getsource(module).splitlines())

    return {"seconds of training": {"PPO": sum(plain["seconds"].values()), "DPO": ours["seconds"]},
            "models held": {"PPO": 3, "DPO": 1},
            "answers written": {"PPO": rlhf.ITERATIONS * rlhf.PPO["answers"], "DPO": 0},
            "lines of code": {"PPO": lines(ppo, reward, pairs), "DPO": lines(dpo, pairs)}}


def measure_beta(seed, report):
    """value: KL at the smallest beta over KL at the largest."""
    points = frontiers(seed, report)["dpo"]
    return {"value": points[0]["kl"] / max(points[-1]["kl"], 1e-3)}


# -- C58: spread over seeds

def measure_spread(seed, report):
    """value: true utility of PPO minus DPO; both are kept for the ratio of their spreads."""
    ppo, dpo = rlhf.main(seed, report)["after"], main(seed, report)["after"]
    return {"value": ppo["utility"] - dpo["utility"], "ppo": round(ppo["utility"], 4), "dpo": round(dpo["utility"], 4),
            "kl": rounded({"ppo": ppo["kl"], "dpo": dpo["kl"]})}


def ratio_of_spreads(runs):
    """(ratio, low, high): standard deviation of PPO's utility over DPO's, and its 95 % interval by the bootstrap over seeds
    (percentiles; Efron 1979)."""
    ppo, dpo = ([run["data"][name] for run in runs] for name in ("ppo", "dpo"))
    rng, ratios = random.Random(0), []
    while len(ratios) < RESAMPLES:
        chosen = rng.choices(range(len(runs)), k=len(runs))
        if len(set(chosen)) > 1:
            ratios.append(statistics.stdev([ppo[i] for i in chosen]) / statistics.stdev([dpo[i] for i in chosen]))
    ratios.sort()
    return statistics.stdev(ppo) / statistics.stdev(dpo), ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES)]


# -- X11: label noise, and the library

def measure_label_noise(seed, report):
    """value: true utility that DPO loses when its pairs come from noisy annotators."""
    plain, ours = rlhf.main(seed, report), main(seed, report)
    noisy_model = rlhf.noisy(seed, report)
    by_ppo = rlhf.judged(rlhf.run_ppo(seed, noisy_model, report)[0], seed, noisy_model)
    policies = {"DPO, noisy": run_dpo(seed, report, noise=rlhf.NOISY)[0],
                "DPO, noisy, smoothed": run_dpo(seed, report, noise=rlhf.NOISY, label_smoothing=0.3)[0]}
    rows = {"PPO": row(plain["after"], plain["accuracy"]), "PPO, noisy": row(by_ppo, rlhf.accuracy(noisy_model)),
            "DPO": row(ours["after"], rlhf.share_right(*held_out_rewards(ours["policy"])))}
    rows |= {name: row(rlhf.judged(policy, seed, plain["reward_model"]), rlhf.share_right(*held_out_rewards(policy)))
             for name, policy in policies.items()}
    return {"value": rows["DPO"]["utility"] - rows["DPO, noisy"]["utility"], "rows": rows,
            "start": row(plain["before"], 0.5), "noise": rlhf.NOISY}


def row(found, accuracy):
    """A row of Lab 11's table of failures."""
    return {**rlhf.numbers(found), "accuracy": round(accuracy, 4)}


def measure_trl(seed, report):
    """value: true utility after TRL's DPOTrainer minus that after ours, same pairs, steps and rates."""
    from ftlab.align import with_trl

    model, tokenizer = rlhf.start()
    some = rlhf.annotated(seed)
    report("DPOTrainer")
    policy, happened = with_trl.dpo_with_trl(model, tokenizer, some, -(-len(some) // 32), beta=BETA, lr=LR, seed=seed)
    theirs, ours = rlhf.judged(policy, seed), main(seed, report)
    return {"value": theirs["utility"] - ours["after"]["utility"], "theirs": rlhf.numbers(theirs),
            "ours": rlhf.numbers(ours["after"]), "seconds": {"ours": ours["seconds"], "TRL": round(happened["seconds"], 1)}}


CLAIMS = [
    Claim(id="C55", kind="exact", lab=LAB, measure=measure_same, at_most=1e-5, seeds=1,
          statement="Our DPO loss is TRL's, and so are the gradients; IPO's as well.",
          metric="largest difference in loss (nats) or gradient (share of the largest), float64, eight pairs"),
    Claim(id="C56", kind="measured", lab=LAB, measure=measure_agreement, at_least=0.70, seeds=5,
          statement="DPO's implicit reward and the reward model, taught by the same pairs, agree on most pairs.",
          metric="share of held-out pairs without ties that both rank alike"),
    Claim(id="M09", kind="measured", lab=LAB, measure=measure_best_of_four, at_least=0.2, seeds=5, unit="utility",
          statement="DPO has a reward model: extracted, it chooses better answers of a model that DPO never touched.",
          metric=f"true utility of the answer that it likes best among four, less that of any of them, {FOUR} prompts"),
    Claim(id="C57", kind="report", lab=LAB, measure=measure_frontiers, seeds=5, unit="utility",
          statement="At equal KL: true utility, and what each costs, of PPO and DPO from the same pairs.",
          metric="true utility of PPO less that of DPO, mean over the KLs that both reach"),
    Claim(id="C59", kind="measured", lab=LAB, measure=measure_beta, at_least=2.0, seeds=5, unit="times",
          statement="Beta moves DPO along the frontier: a smaller one goes farther from the reference.",
          metric=f"KL an answer at beta {BETAS[0]:g} over that at {BETAS[-1]:g}"),
    Claim(id="C58", kind="measured", lab=LAB, measure=measure_spread, interval=ratio_of_spreads, at_least=1.0, seeds=10,
          unit="times", statement="PPO's true utility varies more from seed to seed than DPO's.",
          metric="standard deviation over seeds, PPO over DPO; interval by the bootstrap",
          note="Ten seeds show no such thing: they spread by 0.18 and 0.19 from seed to seed. What they do show: DPO's "
               "utility is the higher one in each of the ten, by 0.23 to 0.83."),
    Claim(id="X11", kind="measured", lab=LAB, measure=measure_label_noise, at_least=0.1, seeds=5, unit="utility",
          statement="Noisy labels cost DPO true utility.",
          metric=f"true utility with noise {rlhf.NOISE:g} less that with noise {rlhf.NOISY:g}",
          note="Each of five runs lost some, 0.10 to 0.82. DPO kept a gain of 0.6 to 1.34 over its start, where PPO against a "
               "reward model of the same noisy pairs gained nothing (-0.16 to 0.08). Smoothing the labels by 0.3 helped in "
               "none."),
    Claim(id="X11b", kind="measured", lab=LAB, measure=measure_trl, at_least=-0.3, at_most=0.3, seeds=5, unit="utility",
          statement="TRL's DPOTrainer reaches the same true utility.",
          metric="true utility of TRL's policy less that of ours, same pairs, steps and rate",
          note="Within 0.24 in each of five runs, three times below and twice above."),
]
