"""Exercises of lab 10_rlhf: texts, hints, mistakes and what each check knows.

Shapes are those of `ftlab.align.ppo`: B answers, T places; place t decides on the token behind it, and mask (B, T) is true
where that token belongs to the answer.
"""

import functools

from ftlab.teach import Exercise, against


def _randn(*shape, seed=0):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _mask(*rows):
    """A mask from texts such as "-xx--": x is a place of the answer."""
    import torch

    return torch.tensor([[letter == "x" for letter in row] for row in rows])


MASKS = (("-xx-",), ("--xxx-", "-xx---"), ("-xxxx---", "---xxx--", "--xxxxx-"))


def with_gradient(loss, x):
    """{"loss": loss(x), "gradient": its gradient on x, zeros where there is none}."""
    import torch

    x = x.clone().requires_grad_()
    value = loss(x)
    gradient = torch.zeros_like(x)
    if isinstance(value, torch.Tensor) and value.requires_grad:
        gradient = torch.autograd.grad(value, x, allow_unused=True)[0]
        gradient = torch.zeros_like(x) if gradient is None else gradient
    return {"loss": value.detach() if isinstance(value, torch.Tensor) else value, "gradient": gradient}


# -- the loss of Bradley and Terry


def preference_loss(chosen, rejected):
    import torch.nn.functional as F

    return -F.logsigmoid(chosen - rejected).mean()


def _each_alone(chosen, rejected):
    import torch.nn.functional as F

    return -(F.logsigmoid(chosen) + F.logsigmoid(-rejected)).mean()


def preference_cases():
    import torch

    return [(torch.tensor([1.0]), torch.tensor([0.5])), (torch.tensor([2.0, -1.0]), torch.tensor([0.0, 1.0])),
            (_randn(6, seed=1), _randn(6, seed=2))]  # fmt: skip


# -- the reward of each token


def last_places(mask):
    """The last true place of each row: (B,)."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)


def token_rewards(scores, logp, ref_logp, mask, kl_coef):
    return _rewards(scores, logp, ref_logp, mask, kl_coef)


def _rewards(scores, logp, ref_logp, mask, kl_coef, sign=-1, where=last_places, everywhere=False, masked=True, whole=False):
    """`token_rewards` with one thing changed."""
    import torch

    rewards = sign * kl_coef * (logp - ref_logp) * (mask if masked else 1)
    if everywhere:
        return rewards + scores[:, None] * mask
    rows = torch.arange(len(mask))
    if whole:
        total, rewards = rewards.sum(1), torch.zeros_like(rewards)
        rewards[rows, where(mask)] += total
    rewards[rows, where(mask)] += scores
    return rewards


def reward_cases():
    made = []
    for seed, rows in enumerate(MASKS):
        mask = _mask(*rows)
        made.append((_randn(len(mask), seed=10 * seed), _randn(*mask.shape, seed=10 * seed + 1),
                     _randn(*mask.shape, seed=10 * seed + 2), mask, 0.5))
    return made


# -- generalised advantage estimation


def gae(rewards, values, mask, gamma, lam):
    return _gae(rewards, values, mask, gamma, lam)


def _gae(rewards, values, mask, gamma, lam, forwards=False, following_masked=True, ahead_masked=True, future=True,
         discount=True, add_values=True):
    """`gae` with one thing changed."""
    import torch

    places = rewards.shape[1]
    advantages, ahead = torch.zeros_like(rewards), torch.zeros(len(rewards))
    for t in range(places) if forwards else reversed(range(places)):
        following = torch.zeros(len(rewards))
        if future and t + 1 < places:
            following = values[:, t + 1] * (mask[:, t + 1] if following_masked else 1)
        delta = rewards[:, t] + (gamma if discount else 1) * following - values[:, t]
        ahead = (delta + gamma * lam * ahead) * (mask[:, t] if ahead_masked else 1)
        advantages[:, t] = ahead
    advantages = advantages * mask
    return advantages, (advantages + values if add_values else advantages) * mask


def _without_lambda(rewards, values, mask, gamma, lam):
    return _gae(rewards, values, mask, gamma, 1.0)


def gae_cases():
    made = []
    for seed, rows in enumerate(MASKS):
        mask = _mask(*rows)
        made.append((_randn(*mask.shape, seed=20 + seed), _randn(*mask.shape, seed=30 + seed), mask, 0.9, 0.8))
    return made


# -- whitening


def whiten(x, mask):
    return (x - x[mask].mean()) / (x[mask].std() + 1e-8) * mask


def _by_answer(x, mask):
    import torch

    return torch.stack([(row - row[inside].mean()) / (row[inside].std() + 1e-8) * inside
                        for row, inside in zip(x, mask, strict=True)])


def whiten_cases():
    return [(_randn(*_mask(*rows).shape, seed=40 + seed) * 3 + 5, _mask(*rows)) for seed, rows in enumerate(MASKS)]


# -- the clipped objective


def policy_loss(logp, old_logp, advantages, mask, clip):
    return _policy(logp, old_logp, advantages, mask, clip)


def _policy(logp, old_logp, advantages, mask, clip, ratio_of=None, choose="minimum", mean=None, sign=-1):
    """`policy_loss` with one thing changed."""
    import torch

    ratio = (ratio_of or (lambda new, old: (new - old).exp()))(logp, old_logp)
    free, clipped = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    objective = {"minimum": torch.minimum, "maximum": torch.maximum, "free": lambda a, b: a,
                 "clipped": lambda a, b: b}[choose](free, clipped)
    return sign * (mean or masked_mean)(objective, mask)


def masked_mean(x, mask):
    """The mean over the true places of mask."""
    return x[mask].mean()


MEANS = {"summed": lambda x, mask: x[mask].sum(), "padding": lambda x, mask: (x * mask).mean(),
         "by_answer": lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean()}  # fmt: skip


def run_policy_loss(student, logp, old_logp, advantages, mask, clip):
    """The student's loss and its gradient on logp."""
    return with_gradient(lambda new: student(new, old_logp, advantages, mask, clip), logp)


def policy_cases():
    made = []
    for seed, rows in enumerate(MASKS):
        mask = _mask(*rows)
        made.append((0.5 * _randn(*mask.shape, seed=50 + seed) * mask - 1.0 * mask,
                     0.5 * _randn(*mask.shape, seed=60 + seed) * mask - 1.0 * mask,
                     _randn(*mask.shape, seed=70 + seed) * mask, mask, 0.2))
    return made


def _policy_mistakes():
    changes = {
        "no_exp": {"ratio_of": lambda new, old: new - old}, "inverted": {"ratio_of": lambda new, old: (old - new).exp()},
        "no_minimum": {"choose": "clipped"}, "maximum": {"choose": "maximum"}, "no_clip": {"choose": "free"},
        "sign": {"sign": 1},
        "new_as_old": {"ratio_of": lambda new, old: (new - new.detach()).exp()},
        "detached": {"ratio_of": lambda new, old: (new.detach() - old).exp()},
        **{name: {"mean": mean} for name, mean in MEANS.items()}}  # fmt: skip
    return {name: functools.partial(run_policy_loss, functools.partial(_policy, **change)) for name, change in changes.items()}


# -- the loss of the values


def value_loss(values, old_values, returns, mask, clip):
    return _value(values, old_values, returns, mask, clip)


def _value(values, old_values, returns, mask, clip, choose="maximum", near=None, half=0.5, mean=masked_mean):
    """`value_loss` with one thing changed."""
    import torch

    close = near(values, old_values, clip) if near else old_values + (values - old_values).clamp(-clip, clip)
    free, clipped = (values - returns) ** 2, (close - returns) ** 2
    error = {"maximum": torch.maximum, "minimum": torch.minimum, "free": lambda a, b: a,
             "clipped": lambda a, b: b}[choose](free, clipped)
    return half * mean(error, mask)


def run_value_loss(student, values, old_values, returns, mask, clip):
    """The student's loss and its gradient on the values."""
    return with_gradient(lambda new: student(new, old_values, returns, mask, clip), values)


def value_cases():
    made = []
    for seed, rows in enumerate(MASKS):
        mask = _mask(*rows)
        old = _randn(*mask.shape, seed=80 + seed) * mask
        made.append((old + 0.6 * _randn(*mask.shape, seed=90 + seed) * mask, old, _randn(*mask.shape, seed=100 + seed) * mask,
                     mask, 0.2))
    return made


def _value_mistakes():
    changes = {"minimum": {"choose": "minimum"}, "no_clip": {"choose": "free"}, "only_clipped": {"choose": "clipped"},
               "backwards": {"near": lambda new, old, clip: old + (old - new).clamp(-clip, clip)},
               "clamped": {"near": lambda new, old, clip: new.clamp(-clip, clip)},
               "no_half": {"half": 1.0}, "padding": {"mean": MEANS["padding"]}}  # fmt: skip
    return {name: functools.partial(run_value_loss, functools.partial(_value, **change)) for name, change in changes.items()}


# -- break the reward model


def overrate(reward, text, words, steps):
    texts = [text]
    for _ in range(steps):
        best = max((f"{texts[-1]} {word}" for word in words), key=reward)
        if reward(best) <= reward(texts[-1]):
            break
        texts.append(best)
    return texts


def _overrate(reward, text, words, steps, take=max, stop=True, from_start=False, space=" ", first=False, with_start=True):
    """`overrate` with one thing changed."""
    texts = [text]
    for _ in range(steps):
        tried = [f"{text if from_start else texts[-1]}{space}{word}" for word in words]
        best = take(tried, key=reward)
        if first:
            best = next((one for one in tried if reward(one) > reward(texts[-1])), best)
        if stop and reward(best) <= reward(texts[-1]):
            break
        texts.append(best)
    return texts if with_start else texts[1:]


def made_up_reward(worth, pairs, text):
    """A reward for tests: what each word is worth, less with each time it has stood there, and what pairs of neighbours add."""
    total, seen, words = 0.0, {}, text.split()
    for word in words:
        total += worth.get(word, -3.0) * 0.6 ** seen.get(word, 0)
        seen[word] = seen.get(word, 0) + 1
    total += sum(pairs.get(f"{a} {b}", 0.0) for a, b in zip(words, words[1:]))
    return total - 0.02 * len(words) ** 2


def run_overrate(student, worth, pairs, text, words, steps):
    """What the student's `overrate` gives for a made-up reward."""
    return student(functools.partial(made_up_reward, worth, pairs), text, words, steps)


def overrate_cases():
    return [({"a": 1.0, "kite": 0.5, "red": 2.0}, {}, "a kite", ["kite", "red"], 1),
            ({"a": 1.0, "kite": 0.4, "red": 1.5, "mud": -1.0}, {"red kite": 2.0}, "a", ["mud", "kite", "red"], 4),
            ({"so": 0.5, "very": 1.0, "mud": -1.0, "happy": 0.9}, {"very happy": 1.0, "so very": 0.2}, "mud",
             ["so", "very", "happy"], 12)]  # fmt: skip


def _break_mistakes():
    changes = {"first": {"first": True}, "no_stop": {"stop": False}, "from_start": {"from_start": True},
               "lowest": {"take": min}, "no_space": {"space": ""}, "no_start": {"with_start": False}}  # fmt: skip
    return {name: functools.partial(run_overrate, functools.partial(_overrate, **change)) for name, change in changes.items()}


EXERCISES = [
    Exercise(
        id="preference", title="The loss of Bradley and Terry", points=3, minutes=8, difficulty=1,
        hints=(
            "Only the difference of two rewards counts. How likely is what the annotator did?",
            "P = σ(r_chosen − r_rejected). The loss of a pair is −log P; `F.logsigmoid` keeps it exact where P is tiny.",
            "The margin is chosen - rejected, the log-probability of a pair F.logsigmoid of it, the loss its mean with a "
            "minus: return -F.logsigmoid(chosen - rejected).mean()",
        ),
        mistakes={
            "swapped": "Chosen and rejected are swapped: your loss falls when the rejected text gets more.",
            "summed": "You summed over the pairs; take the mean, or the loss grows with the batch.",
            "no_log": "You took the probability itself; the loss is its negative logarithm.",
            "no_minus": "The minus is missing: a log-probability is to go up, a loss is to go down.",
            "each_alone": "You scored each text by itself. Bradley and Terry's model knows only the difference of the two.",
        },
        check=against(preference_loss, preference_cases, mistakes={
            "swapped": lambda chosen, rejected: preference_loss(rejected, chosen),
            "summed": lambda chosen, rejected: preference_loss(chosen, rejected) * len(chosen),
            "no_log": lambda chosen, rejected: -(chosen - rejected).sigmoid().mean(),
            "no_minus": lambda chosen, rejected: -preference_loss(chosen, rejected),
            "each_alone": _each_alone}),
        withheld=("ftlab.align.reward.bradley_terry_loss",),
    ),
    Exercise(
        id="token_rewards", title="A reward for each token", points=4, minutes=12, difficulty=2,
        hints=(
            "Two parts: a price for each token of the answer, and the score, which comes once, when the answer is over.",
            "The price at place t is −kl_coef · (logp − ref_logp), and 0 outside of the mask. The score belongs on the last "
            "true place of each row. Flip the mask, and that is the first true one.",
            "Prices first, then the place, then the score: rewards = -kl_coef * (logp - ref_logp) * mask; last = "
            "mask.shape[1] - 1 - mask.flip(1).int().argmax(1); rewards[torch.arange(len(mask)), last] += scores; return "
            "rewards",
        ),
        mistakes={
            "sign": "You pay the policy for leaving the reference: each step away costs. Either the sign is wrong, or policy "
                    "and reference are swapped.",
            "everywhere": "You gave the score to every token; it comes once, on the last token, or long answers earn it more "
                          "often.",
            "padded_row": "You put the score on the last column of the row, which may be padding; it belongs on the last "
                          "place of the answer.",
            "from_count": "You counted the answer's places and forgot that the prompt stands before them.",
            "behind": "Your score stands one place too far: place t decides on token t + 1, so the last place is the last "
                      "true one of the mask.",
            "no_mask": "Prompt and padding pay, too: only places of the answer have a price.",
            "whole": "You put the whole price on the last token. It sums to the same, but no token learns which step cost it.",
        },
        check=against(token_rewards, reward_cases, mistakes={
            "sign": functools.partial(_rewards, sign=1),
            "everywhere": functools.partial(_rewards, everywhere=True),
            "padded_row": functools.partial(_rewards, where=lambda mask: mask.shape[1] - 1),
            "from_count": functools.partial(_rewards, where=lambda mask: mask.sum(1) - 1),
            "behind": functools.partial(_rewards, where=lambda mask: last_places(mask) + 1),
            "no_mask": functools.partial(_rewards, masked=False),
            "whole": functools.partial(_rewards, whole=True)}),
        withheld=("ftlab.align.ppo.token_rewards",),
    ),
    Exercise(
        id="gae", title="Generalised advantage estimation", points=6, minutes=20, difficulty=3,
        hints=(
            "A_t needs A_{t+1}: begin at the last place and walk back, keeping what you found one place further on.",
            "At each place: delta = rewards[:, t] + gamma * following - values[:, t], with `following` the value of the next "
            "place. Behind the last place of an answer, value and advantage are 0: multiply by the mask what you carry back.",
            "ahead = following = torch.zeros(B); for t in reversed(range(T)): delta = ...; ahead = (delta + gamma * lam * "
            "ahead) * mask[:, t]; following = values[:, t] * mask[:, t]; advantages[:, t] = ahead. Return advantages, "
            "(advantages + values) * mask.",
        ),
        mistakes={
            "no_lambda": "λ is missing: A_t = δ_t + γ λ A_{t+1}.",
            "forwards": "You walk forwards: A_t looks at what comes after it, so begin at the last place and go back.",
            "next_value": "You use a value behind the end of the answer: where the next place is outside of the mask its value "
                          "is 0.",
            "carried": "What stands in the padding behind an answer is carried into it: multiply by the mask before you carry "
                       "it back.",
            "no_future": "δ_t lacks the value of the next place: r_t + γ V_{t+1} − V_t. That V stands for all that is still to "
                         "come.",
            "no_gamma": "γ is missing in δ_t = r_t + γ V_{t+1} − V_t.",
            "no_values": "Your returns are the advantages again; the return of a place is A_t + V_t.",
        },
        check=against(gae, gae_cases, mistakes={
            "no_lambda": _without_lambda, "forwards": functools.partial(_gae, forwards=True),
            "next_value": functools.partial(_gae, following_masked=False),
            "carried": functools.partial(_gae, following_masked=False, ahead_masked=False),
            "no_future": functools.partial(_gae, future=False), "no_gamma": functools.partial(_gae, discount=False),
            "no_values": functools.partial(_gae, add_values=False)}),
        withheld=("ftlab.align.ppo.gae",),
    ),
    Exercise(
        id="whiten", title="Whitening", points=2, minutes=6, difficulty=1,
        hints=(
            "Mean and standard deviation are those of the answers' places alone: x[mask] has just these.",
            "Take the mean away, divide, and multiply by the mask: return (x - x[mask].mean()) / (x[mask].std() + 1e-8) * mask",
        ),
        mistakes={
            "everything": "Mean and spread are over all places, prompt and padding included; take them over the mask alone.",
            "not_centred": "You divide, but do not take the mean away.",
            "variance": "You divide by the variance; it is the standard deviation, its root.",
            "by_answer": "You whiten each answer by itself, and so take away what makes one answer better than another.",
            "outside": "Outside of the mask there must be 0.",
        },
        check=against(whiten, whiten_cases, mistakes={
            "everything": lambda x, mask: (x - x.mean()) / (x.std() + 1e-8) * mask,
            "not_centred": lambda x, mask: x / (x[mask].std() + 1e-8) * mask,
            "variance": lambda x, mask: (x - x[mask].mean()) / (x[mask].var() + 1e-8) * mask,
            "by_answer": _by_answer,
            "outside": lambda x, mask: (x - x[mask].mean()) / (x[mask].std() + 1e-8)}),
        withheld=("ftlab.align.ppo.whitened",),
    ),
    Exercise(
        id="policy_loss", title="The clipped objective", points=5, minutes=15, difficulty=3,
        hints=(
            "You have logarithms of probabilities. The ratio π / π_old is the exponential of their difference.",
            "Two candidates: ratio · A, and the clamped ratio · A. Take the smaller of the two, place by place, and "
            "of that the mean over the mask.",
            "The minus makes a loss of it: ratio = (logp - old_logp).exp()[mask]; A = advantages[mask]; return "
            "-torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A).mean()",
        ),
        mistakes={
            "no_exp": "Your ratio is a difference of logarithms: take its exponential.",
            "inverted": "Your ratio is upside down: it is π / π_old, the new policy over the old one.",
            "no_minimum": "You keep the clipped term alone. Without the minimum a policy that has moved the wrong way gets no "
                          "gradient back.",
            "maximum": "You take the larger of the two terms; the minimum is the cautious one.",
            "no_clip": "Nothing is clipped: the policy may run away from the one that wrote the answers.",
            "sign": "The minus is missing: an objective is made large, a loss small.",
            "new_as_old": "You took the new log-probabilities as the old ones: the ratio is 1 always, so nothing is ever "
                          "clipped.",
            "detached": "No gradient reaches logp: only the old log-probabilities are constants.",
            "summed": "You summed over the tokens; take the mean, or long answers get a higher learning rate.",
            "padding": "Your mean counts prompt and padding: divide by the number of true places only.",
            "by_answer": "You took the mean of each answer first, so that a token of a long answer counts for less; take one "
                         "mean over all tokens.",
        },
        check=against(functools.partial(run_policy_loss, policy_loss), policy_cases, using=run_policy_loss,
                      mistakes=_policy_mistakes()),
        withheld=("ftlab.align.ppo.policy_loss",),
    ),
    Exercise(
        id="value_loss", title="The loss of the values", points=3, minutes=10, difficulty=2,
        hints=(
            "The same caution as for the policy, but this is an error: which of two errors would a cautious judge count?",
            "near = old_values + (values − old_values) held between −clip and clip. Of both squared errors the larger one, "
            "place by place.",
            "Then half of the mean: near = old_values + (values - old_values).clamp(-clip, clip); return 0.5 * "
            "torch.maximum((values - returns) ** 2, (near - returns) ** 2)[mask].mean()",
        ),
        mistakes={
            "minimum": "You take the smaller error, which lets a value off as soon as either looks good; the larger one "
                       "counts.",
            "no_clip": "You left the clipped values out: both errors are computed, and the larger one counts.",
            "only_clipped": "You keep the clipped error alone: beyond the clip no gradient is left to bring a value back.",
            "backwards": "Your clipped step goes the wrong way; it leads from the old value to the new: values − old_values.",
            "clamped": "You clamp the value itself; what is clamped is its step away from the old value.",
            "no_half": "The half is missing.",
            "padding": "Your mean counts prompt and padding: divide by the number of true places only.",
        },
        check=against(functools.partial(run_value_loss, value_loss), value_cases, using=run_value_loss,
                      mistakes=_value_mistakes()),
        withheld=("ftlab.align.ppo.value_loss",),
    ),
    Exercise(
        id="overrate", title="Break the reward model", points=4, minutes=12, difficulty=2,
        hints=(
            "One step: try every word behind the text as it is now, and keep the text with the highest reward.",
            "`max(candidates, key=reward)` finds it. Stop as soon as the best candidate does not earn more than the text you "
            "have.",
            "texts = [text]; for _ in range(steps): best = max((f\"{texts[-1]} {word}\" for word in words), key=reward); if "
            "reward(best) <= reward(texts[-1]): break; texts.append(best). Return texts.",
        ),
        mistakes={
            "first": "You take the first word that raises the reward; try all of them and take the best.",
            "no_stop": "You go on although no word raises the reward any more: stop there.",
            "from_start": "Each step begins at the first text again; append to the text that the last step gave.",
            "lowest": "You take the word with the lowest reward.",
            "no_space": "A space is missing between the text and the new word.",
            "no_start": "The list must begin with the text that you were given.",
        },
        check=against(functools.partial(run_overrate, overrate), overrate_cases, using=run_overrate,
                      mistakes=_break_mistakes()),
    ),
]
