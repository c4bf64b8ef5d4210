# %% [markdown]
# # 10 · RLHF: learning from what people prefer
#
# **The question.** Fine-tuning on examples (Lab 04) copies answers that somebody has written. But often nobody can write down
# the best answer, nor the rule for it; what people *can* do is to look at two answers and say which one is better. How does a
# model learn from that? And once it does, has it learned what we wanted, or what we said?
#
# The chain is: comparisons of answers → a **reward model** that predicts them → a **policy** (the assistant) trained to earn
# reward. The reward model only stands for what we want; it is a *proxy*. In most places nobody can see the difference. Here we
# can: the world's oracle knows the **true utility** of a story, which is its style (0 to 1.4: direct speech, a happy ending, a
# vivid detail) less 2 for each rule that it breaks and each wish of the prompt that it ignores. No training below sees it. It
# stands beside the proxy in every picture.
#
# You will write the loss of the reward model, the reward of each token, advantage estimation, the two clipped losses of PPO,
# and an attack on the reward model; see them agree with the library and find an optimum that is known; then run all of it,
# live, and watch where it goes wrong.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import collections
import copy
import inspect
import math
import pathlib
import random
import statistics
import tempfile
import warnings

import torch
import torch.nn.functional as F

import ftlab
from ftlab import profile
from ftlab.align import annotators, judge, pairs, ppo, preferences, reward, with_trl
from ftlab.align.ratings import Ratings
from ftlab.course import checks, studies
from ftlab.show import plots, widgets
from ftlab.show.aligned import token_rewards_view
from ftlab.show.dashboard import AlignPlot
from ftlab.show.rating import rating_view
from ftlab.world import oracle, tasks

warnings.simplefilter("ignore")  # trl and transformers announce changes of their own
torch.manual_seed(0)
lab = ftlab.lab("10_rlhf")
measured = studies.load("10_rlhf")
known = checks.load("10_rlhf")
PAIRS = profile.steps(measured.PAIRS, 64)
ITERATIONS = profile.steps(measured.ITERATIONS, 2)
JUDGED = profile.steps(100, 4)
SMALL = profile.steps({}, {"answers": 4, "minibatch": 4, "max_new_tokens": 24})  # settings of PPO under FTLAB_FAST


def quiet(text):
    """Progress that nobody needs to see."""


# %% [markdown]
# ## Play: which one is better?
#
# Two answers of the assistant to one prompt, drawn at random. Rate a dozen, by buttons or keys. Each
# rating goes to a file at once, and at the end of the lab it trains a reward model.
#
# **What to look at:** how often you are sure; what decides when both stories are sound; whether you read to the end. Then press
# *Agreement so far*.

# %% ftlab="play"
ratings = Ratings("my_ratings.jsonl")
rating_view(annotators.ranked(annotators.comparisons("train"))[:40], ratings, utility="margin")

# %% [markdown]
# You are slow, so for the rest **simulated annotators** do it. They know the true utility $u$ of both texts and still err, as
# Bradley and Terry (1952) have it:
#
# $$P(a \succ b) = \sigma\!\left(\frac{u(a) - u(b)}{\text{noise}}\right), \qquad \sigma(x) = \frac{1}{1 + e^{-x}},$$
#
# surely right where the two differ much, at random where they do not. A second kind also likes *length*: ten more words are
# worth as much to them as the bias below says.

# %%
compared = annotators.comparisons("test")
better = [pair.margin > 0 for pair in annotators.ranked(compared)]
levels = [0.25, 0.5, 1, 2, 4, 8]
agreed = [statistics.fmean(pair.margin > 0 for pair in annotators.ranked(compared, noise)) for noise in levels]
plots.lines({"annotators": (levels, agreed)}, "noise", "pairs in which the truly better text is chosen",
            logx=True, percent=True, title=f"{len(better)} pairs of held-out prompts", vline=(measured.NOISE, "used below"),
            labels=False).show()
for bias in (0.0, measured.LENGTH_BIAS):
    some = annotators.ranked(compared, measured.NOISE, bias)
    longer = statistics.fmean(len(pair.chosen) > len(pair.rejected) for pair in some)
    print(f"length bias {bias:g}: the longer text is chosen in {longer:.0%} of the pairs, the better one in "
          f"{statistics.fmean(pair.margin > 0 for pair in some):.0%}")

# %% [markdown]
# ## Build
#
# ### 1. The loss of a reward model
#
# A reward model is a transformer with one number as its output: it reads prompt and answer, and a linear layer turns the last
# token's hidden state into $r(x, y)$. Bradley and Terry's model says how likely it takes the annotator's choice to be, and the
# loss is the usual one, the negative log-likelihood:
#
# $$L = -\log P(y_\text{chosen} \succ y_\text{rejected})
# = -\log \sigma\big(r(x, y_\text{chosen}) - r(x, y_\text{rejected})\big).$$
#
# Only differences count. Add 100 to all rewards, and the loss is the same: the level of $r$ is free, and means nothing.


# %% ftlab="exercise" id="preference"
def preference_loss(chosen, rejected):
    """Mean loss, a tensor with one number, of the rewards (B,) of chosen and of rejected texts."""
    ### BEGIN SOLUTION
    return -F.logsigmoid(chosen - rejected).mean()
    ### END SOLUTION


# %% ftlab="check" id="preference"
lab.check("preference", preference_loss)

# %% ftlab="probe" id="preference"
generator = torch.Generator().manual_seed(lab.probe_seed("preference"))
lab.probe("preference", preference_loss(torch.randn(7, generator=generator), torch.randn(7, generator=generator)))

# %% [markdown]
# ### 2. What is to be earned: a reward for each token
#
# The policy $\pi$ is to earn reward, but to stay near the reference $\pi_\text{ref}$, the assistant as it was:
#
# $$\max_\pi\; \mathbb{E}_{y \sim \pi}\big[r(x, y)\big] - \beta\, \mathrm{KL}(\pi \,\|\, \pi_\text{ref}),
# \qquad \mathrm{KL}(\pi \,\|\, \pi_\text{ref}) = \mathbb{E}_{y \sim \pi}\left[\log
# \frac{\pi(y|x)}{\pi_\text{ref}(y|x)}\right].$$
#
# $\beta$ is the price of a nat of distance. Now the chain rule of Lab 01, $\log \pi(y|x) = \sum_t \log \pi(y_t | x, y_{<t})$,
# makes the penalty of an answer a **sum over its tokens**,
#
# $$\log \frac{\pi(y|x)}{\pi_\text{ref}(y|x)} = \sum_t \big(\log \pi(y_t|\cdot) - \log \pi_\text{ref}(y_t|\cdot)\big),$$
#
# so each token can pay its own part as it is written: $-\beta\,(\log \pi - \log \pi_\text{ref})$ at place $t$. The score
# $r(x, y)$ of the whole answer comes once, with its last token. Summed over an answer this *is* the objective above, for one
# sample. (A token's term may be negative, and so may an answer's; only the mean over answers drawn from $\pi$ cannot be.)
#
# Rows hold prompt, answer and padding. Place $t$ decides on token $t + 1$; `mask` is true where that token belongs to the
# answer.


# %% ftlab="exercise" id="token_rewards"
def token_rewards(scores, logp, ref_logp, mask, kl_coef):
    """Rewards (B, T), 0 where mask is false. scores: (B,), one an answer. logp, ref_logp: (B, T), log-probabilities of the
    tokens written, under the policy and the reference. mask: (B, T), bool; what stands outside of it does not count.
    """
    ### BEGIN SOLUTION
    rewards = -kl_coef * (logp - ref_logp) * mask
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)  # (B,)
    rewards[torch.arange(len(mask)), last] += scores
    return rewards
    ### END SOLUTION


# %% ftlab="check" id="token_rewards"
lab.check("token_rewards", token_rewards)

# %% ftlab="probe" id="token_rewards"
generator = torch.Generator().manual_seed(lab.probe_seed("token_rewards"))
probe_mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0]]).bool()
probe_a, probe_b = torch.randn(2, 2, 6, generator=generator)
lab.probe("token_rewards", token_rewards(torch.randn(2, generator=generator), probe_a, probe_b, probe_mask, 0.3))

# %% [markdown]
# ### 3. Did it go better than expected? Generalised advantage estimation
#
# One score comes at the end of some eighty tokens. Which of them earned it? A second head on the model, the **value** $V_t$,
# guesses at each place what the rest of the answer will earn. A token has done well if things look better after it than before:
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t .$$
#
# Trusting $V$ that far is quick but wrong wherever $V$ is; waiting for what was truly earned is right on average but noisy, for
# later tokens blur it. Schulman et al. (2016) mix both by one number $\lambda$:
#
# $$A_t = \delta_t + \gamma \lambda\, A_{t+1} = \sum_{k \ge 0} (\gamma \lambda)^k\, \delta_{t+k} .$$
#
# With $\lambda = 0$ only the next guess counts; with $\lambda = 1$ (and $\gamma = 1$) $A_t$ is all that was earned from $t$ on,
# less $V_t$. Behind the answer's last token there is nothing: $V = A = 0$. What the value should have said is $A_t + V_t$, the
# **return**.


# %% ftlab="exercise" id="gae"
def gae(rewards, values, mask, gamma, lam):
    """(advantages, returns), a tuple of two tensors (B, T), 0 where mask is false. rewards, values, mask: (B, T).

    What stands outside of the mask, before an answer or behind it, does not count.
    """
    ### BEGIN SOLUTION
    advantages = torch.zeros_like(rewards)
    following = ahead = torch.zeros(len(rewards))  # value and advantage of the place behind
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        ahead = (delta + gamma * lam * ahead) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages[:, t] = ahead
    return advantages, (advantages + values) * mask
    ### END SOLUTION


# %% ftlab="check" id="gae"
lab.check("gae", gae)

# %% ftlab="probe" id="gae"
generator = torch.Generator().manual_seed(lab.probe_seed("gae"))
probe_mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
probe_rewards, probe_values = torch.randn(2, 2, 6, generator=generator)
lab.probe("gae", list(gae(probe_rewards, probe_values, probe_mask, 0.9, 0.7)))

# %% [markdown]
# A reward of 1 at the end of twelve tokens, and a value head that knows nothing yet ($V = 0$). **What to look at:** how far
# back the praise reaches.

# %%
places = torch.ones(1, 12, dtype=torch.bool)
at_the_end = torch.zeros(1, 12)
at_the_end[0, -1] = 1.0
plots.lines({f"λ = {lam:g}": (range(1, 13), gae(at_the_end, torch.zeros(1, 12), places, 1.0, lam)[0][0].tolist())
             for lam in (0.0, 0.5, 0.8, 0.95, 1.0)}, "token", "advantage", title="one reward, spread backwards (γ = 1)")

# %% [markdown]
# ### 4. Whitening
#
# How large an advantage is depends on the scale of the reward model, which is nobody's choice. So all advantages of an
# iteration are brought to mean 0 and standard deviation 1, over the *places of answers* only: then one learning rate fits every
# reward, and a batch of which all answers are bad still tells the better tokens from the worse.


# %% ftlab="exercise" id="whiten"
def whiten(x, mask):
    """x (B, T) with mean 0 and standard deviation 1 (as `x.std()` counts it) over the true places of mask, 0 elsewhere."""
    ### BEGIN SOLUTION
    return (x - x[mask].mean()) / (x[mask].std() + 1e-8) * mask
    ### END SOLUTION


# %% ftlab="check" id="whiten"
lab.check("whiten", whiten)

# %% ftlab="probe" id="whiten"
generator = torch.Generator().manual_seed(lab.probe_seed("whiten"))
probe_mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
lab.probe("whiten", whiten(2 + 3 * torch.randn(2, 6, generator=generator), probe_mask))

# %% [markdown]
# ### 5. The clipped objective
#
# Writing answers is the dear part, so each batch of answers serves for several steps. After the first step the policy is not
# the one that wrote them any more. The **ratio** $\rho_t = \pi(y_t|\cdot) / \pi_\text{old}(y_t|\cdot)$ mends that: the mean of
# $\rho_t A_t$ has the gradient that fresh answers would give, as long as $\rho$ stays near 1. PPO (Schulman et al. 2017) sees
# to it that nothing is gained by leaving that range:
#
# $$L = -\,\mathbb{E}_t\Big[\min\big(\rho_t A_t,\; \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)\, A_t\big)\Big].$$
#
# Go through the four cases. $A > 0$ and $\rho > 1 + \epsilon$: the good token is likely enough, the clipped term is the
# smaller one, and it has no gradient. $A > 0$ and $\rho < 1 - \epsilon$: the good token has become *less* likely; the minimum
# keeps $\rho A$, and the gradient pulls it back. For $A < 0$ the same, mirrored. So the minimum forgives nothing.
#
# $\pi_\text{old}$ and the advantages are constants, computed before the first step; the gradient goes through $\log \pi$ alone.


# %% ftlab="exercise" id="policy_loss"
def policy_loss(logp, old_logp, advantages, mask, clip):
    """The loss, a tensor with one number: the mean over all true places of mask. All inputs (B, T), 0 where mask is false.

    logp: log-probabilities under the policy as it is; old_logp: under the one that wrote the answers.
    """
    ### BEGIN SOLUTION
    ratio = (logp - old_logp).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -objective[mask].mean()
    ### END SOLUTION


# %% ftlab="check" id="policy_loss"
lab.check("policy_loss", policy_loss)

# %% ftlab="probe" id="policy_loss"
generator = torch.Generator().manual_seed(lab.probe_seed("policy_loss"))
probe_mask = (torch.arange(12) >= 1) & (torch.arange(12) < torch.tensor([[4], [9], [12]]))
probe_new, probe_old, probe_advantages = torch.randn(3, 3, 12, generator=generator) * probe_mask
lab.probe("policy_loss", known.run_policy_loss(policy_loss, probe_new / 2, probe_old / 2, probe_advantages, probe_mask, 0.2))

# %%
ratios = torch.linspace(0.4, 1.6, 61)
one = torch.ones(1, 1, dtype=torch.bool)
plots.lines({f"A = {a:+g}": (ratios.tolist(), [-policy_loss(r.log().view(1, 1), torch.zeros(1, 1), torch.full((1, 1), a), one,
                                                            0.2).item() for r in ratios]) for a in (1.0, -1.0)},
            "ratio of the new probability to the old one", "objective of one token", title="clip = 0.2: where is it flat?",
            vline=(1.0, "the start"))

# %% [markdown]
# ### 6. The loss of the values
#
# The value head learns the returns by squared error. It, too, is kept near its old self, so that one batch does not tear it
# away:
#
# $$L_V = \tfrac12\, \mathbb{E}_t\Big[\max\big((V_t - R_t)^2,\; (V_t^\text{near} - R_t)^2\big)\Big],
# \qquad V^\text{near} = V^\text{old} + \mathrm{clip}(V - V^\text{old}, -\epsilon, \epsilon).$$
#
# An error is to be small where an objective is to be large, so the cautious choice is the *maximum*.


# %% ftlab="exercise" id="value_loss"
def value_loss(values, old_values, returns, mask, clip):
    """The loss, a tensor with one number: half the mean over all true places of mask. All inputs (B, T)."""
    ### BEGIN SOLUTION
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)[mask].mean()
    ### END SOLUTION


# %% ftlab="check" id="value_loss"
lab.check("value_loss", value_loss)

# %% ftlab="probe" id="value_loss"
generator = torch.Generator().manual_seed(lab.probe_seed("value_loss"))
probe_mask = (torch.arange(12) >= 1) & (torch.arange(12) < torch.tensor([[4], [9], [12]]))
probe_new, probe_old, probe_returns = torch.randn(3, 3, 12, generator=generator) * probe_mask
lab.probe("value_loss", known.run_value_loss(value_loss, probe_new, probe_old, probe_returns, probe_mask, 0.2))

# %% [markdown]
# ### 7. Break the reward model
#
# A reward model is right about texts like those that it was trained on. An optimiser does not stay there. The plainest attack
# needs no gradient: try every word of a list behind the text, keep the one that raises the reward most, and go on.


# %% ftlab="exercise" id="overrate"
def overrate(reward, text, words, steps):
    """The list of texts that a greedy attack goes through, `text` first.

    At each of at most `steps` steps: of the present text with a space and one of `words` behind it, take the one with the
    highest reward; stop when none has more than the present text. reward(text) -> number.
    """
    ### BEGIN SOLUTION
    texts = [text]
    for _ in range(steps):
        best = max((f"{texts[-1]} {word}" for word in words), key=reward)
        if reward(best) <= reward(texts[-1]):
            break
        texts.append(best)
    return texts
    ### END SOLUTION


# %% ftlab="check" id="overrate"
lab.check("overrate", overrate)

# %% ftlab="probe" id="overrate"
random.seed(lab.probe_seed("overrate"))
probe_words = ["red", "happy", "kite", "so", "very", "and"]
probe_worth = {"a": 1.0} | {word: random.uniform(-0.5, 1.5) for word in probe_words} | {random.choice(probe_words[3:]): 2.0}
probe_pairs = {f"{random.choice(probe_words)} {random.choice(probe_words)}": random.uniform(0, 1) for _ in range(6)}
lab.probe("overrate", [known.run_overrate(overrate, probe_worth, probe_pairs, "a", probe_words, steps) for steps in (3, 30)])

# %% [markdown]
# ## The library does it too, and agrees
#
# TRL trains reward models: its `RewardTrainer` on the same pairs and the same weights gives this loss.

# %%
model, tokenizer = measured.start()
some = measured.annotated(0, 40)[:8]
folder = tempfile.mkdtemp()
body = reward.RewardModel(model)
torch.nn.init.normal_(body.score.weight, std=0.1)
chosen, rejected = (torch.tensor(reward.rewards_of(body, rows, tokenizer)) for rows in pairs.pair_rows(some, tokenizer))
with with_trl.quiet():
    trainer = with_trl.reward_trainer(model, tokenizer, some, 1, folder, pairs_per_batch=8)
    with torch.no_grad():
        trainer.model.score.weight.copy_(body.score.weight)
        theirs = trainer.compute_loss(trainer.model.eval(), next(iter(trainer.get_train_dataloader()))).item()
print(f"loss of 8 pairs by your function {preference_loss(chosen, rejected):.6f}, by TRL's RewardTrainer {theirs:.6f}")

# %% [markdown]
# That is one batch. What the two make of all comparisons, with the same optimizer and with the trainer's own, AdamW, claim X10b
# tells below.
#
# PPO, TRL has dropped (we come to what it has instead). So the judge is another: a problem whose best policy is *known*. The
# objective of exercise 2 has its optimum in closed form,
#
# $$\pi^*(y|x) \propto \pi_\text{ref}(y|x)\, e^{r(x, y) / \beta}$$
#
# (Lab 11 is built on it). With eight answers of one token each it can be written down. Below, your functions make up the whole
# of PPO, on a table of eight logits. **What to look at:** the distance to $\pi^*$, with and without whitening. Near the optimum
# all advantages are noise, and whitening makes that noise as large as any signal: one more thing that is paid for.

# %%
generator = torch.Generator().manual_seed(1)
worth, reference = torch.randn(8, generator=generator), torch.randn(8, generator=generator).log_softmax(-1)
BETA, DRAWN = 0.5, 256
best = (reference + worth / BETA).softmax(-1)
all_places = torch.ones(DRAWN, 1, dtype=torch.bool)


def bandit(white, iterations):
    """The policy, probabilities (8,), that PPO finds; made of your functions."""
    torch.manual_seed(0)
    logits, value = reference.clone().requires_grad_(), torch.zeros(1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=0.03)
    for _ in range(iterations):
        with torch.no_grad():
            old = logits.log_softmax(-1)
            arms = torch.multinomial(old.exp(), DRAWN, replacement=True)
            old_logp, old_values = old[arms][:, None], value.expand(DRAWN, 1).clone()
            rewards = token_rewards(worth[arms], old_logp, reference[arms][:, None], all_places, BETA)
            advantages, returns = gae(rewards, old_values, all_places, 1.0, 0.95)
            advantages = whiten(advantages, all_places) if white else advantages
        for _ in range(2):
            logp = logits.log_softmax(-1)[arms][:, None]
            loss = policy_loss(logp, old_logp, advantages, all_places, 0.2)
            loss = loss + 0.5 * value_loss(value.expand(DRAWN, 1), old_values, returns, all_places, 0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return logits.detach().softmax(-1)


found = {"the start": reference.exp(), "PPO, whitened": bandit(True, 150), "PPO, not whitened": bandit(False, 150),
         "the optimum": best}
for name, policy in found.items():
    print(f"{name:18}", " ".join(f"{p:.3f}" for p in policy.tolist()),
          f"  distance to the optimum {(policy - best).abs().sum() / 2:.3f}")

# %% [markdown]
# And on real answers: one small batch of the assistant's stories, a policy that has moved a little, and each of your functions
# beside the one in `ftlab.align.ppo`.

# %%
asked = measured.write_tasks("rollout", 8)
rollout = ppo.collect(model, tokenizer, asked, judge.asked(asked, tokenizer), ppo.PPOConfig(), seed=0)
actor = ppo.ActorCritic(copy.deepcopy(model))
torch.manual_seed(0)
with torch.no_grad():
    old_logp = pairs.token_logprobs(model, rollout.ids, rollout.mask)
    for p in actor.parameters():
        p.add_(torch.randn_like(p), alpha=0.01)
    logp, values, _ = actor(rollout.ids, rollout.mask)
scores, mask = judge.true_reward(rollout), rollout.mask
mine, theirs = [], []
for found, (spread, estimate, white, of_policy, of_value) in (
        (mine, (token_rewards, gae, whiten, policy_loss, value_loss)),
        (theirs, (ppo.token_rewards, ppo.gae, ppo.whitened, ppo.policy_loss, ppo.value_loss))):
    rewards = spread(scores, logp, old_logp, mask, 0.1)
    advantages, returns = estimate(rewards, values, mask, 1.0, 0.95)
    losses = [of_policy(logp, old_logp, white(advantages, mask), mask, 0.2), of_value(values, 0 * values, returns, mask, 0.2)]
    losses = [loss[0] if isinstance(loss, tuple) else loss for loss in losses]
    found.extend([rewards, advantages, returns, white(advantages, mask), *losses])
for name, a, b in zip(("rewards", "advantages", "returns", "whitened", "policy loss", "value loss"), mine, theirs, strict=True):
    print(f"{name:12} largest difference {(a - b).abs().max():.0e}")

# %% [markdown]
# What is left of PPO is a loop around these. Read it: two screens, and nothing in it is new to you.

# %%
print(inspect.getsource(ppo.update))

# %% [markdown]
# ## Predict, then run
#
# ### The reward model
#
# It starts as a copy of the assistant, with a new last layer, and reads the annotators' pairs once.

# %% ftlab="play"
lab.predict("accuracy", "Annotators who err rank the pairs. On held-out pairs, ranked without noise, how often will the "
            "reward model prefer the better text?", low=0.5, percent=True)

# %% ftlab="experiment"
chances = [tasks.preference_probability(pair.margin, measured.NOISE) for pair in measured.annotated(0, PAIRS)]
floor = statistics.fmean(-sum(p * math.log(p) for p in (chance, 1 - chance) if p > 0) for chance in chances)
plot = widgets.LivePlot(title="reward model: loss of a batch of pairs", floor=floor, floor_label="the annotators' own noise",
                        unit="nats per pair")
made = measured.reward_model(0, quiet, count=PAIRS, callbacks=[plot])
held_out = measured.test_pairs()[:profile.steps(300, 8)]
accuracy = reward.accuracy(made, tokenizer, held_out)
print(f"{PAIRS} pairs; accuracy on {len(held_out)} held-out pairs without noise: {accuracy:.3f}")
plots.prediction_vs_result(lab.prediction("accuracy"), accuracy, label="pairs ranked rightly", percent=True)

# %% [markdown]
# **What to look at:** the dashed line. Annotators who choose by chance where texts are alike cannot be predicted better than
# that. And below: does one truth have one reward?

# %% ftlab="experiment"
read = compared[:profile.steps(200, 4)]
rows = pairs.response_rows([one.prompt for one in read], [one.a for one in read], tokenizer)
rewards = reward.rewards_of(made, rows, tokenizer)
plots.scatter({"answers of the assistant": ([one.utility_a for one in read], rewards)}, "true utility", "reward",
              title="what the reward model makes of the truth").show()
print(f"correlation of reward and true utility: {statistics.correlation(rewards, [one.utility_a for one in read]):.2f}")

# %% [markdown]
# ### Break it
#
# Now your attack, on this model. It starts from an answer of the assistant and may append words that stories of this world are
# full of. **What to look at:** the reward beside the true utility, step by step, and the words.

# %% ftlab="experiment"
common = collections.Counter(word for one in annotators.comparisons("train")[:400] for word in one.a.split())
words = [word for word, _ in common.most_common(profile.steps(60, 5))]
prompted = measured.write_tasks("break", 1, "test")[0]
start_text = judge.answer_of(ppo.collect(model, tokenizer, [prompted], judge.asked([prompted], tokenizer),
                                         ppo.PPOConfig(**SMALL), seed=3).texts[0])


def reward_of(text):
    """What the reward model gives to this text as the answer to the prompt."""
    return reward.rewards_of(made, pairs.response_rows([prompted.instruction], [text], tokenizer), tokenizer)[0]


attack = overrate(reward_of, start_text, words, profile.steps(8, 2))
print(f"{prompted.instruction}\n{attack[0]}\n")
for text in attack:
    tail = text.removeprefix(attack[0])
    print(f"reward {reward_of(text):6.2f}   true utility {judge.utility(prompted, text):6.2f}   …{tail}")

# %% [markdown]
# Did the two part, and at which word? If the attack got nowhere, that is a finding as well, about these words, one at a time,
# behind this text. Try others (a "word" may be a whole sentence), or another start. PPO searches over *all* texts.
#
# ### PPO
#
# Now optimise. The prompts ask for stories. Policy and reference start as the assistant at the temperature at which its answers
# were compared, so the reward model knows texts of this kind. The settings were fixed beforehand, on other seeds:

# %%
print(f"start: {annotators.MODEL} at temperature {annotators.TEMPERATURE}; {measured.PPO}")

# %% ftlab="play"
lab.predict("utility", "By how much will PPO against the reward model raise the true utility of the assistant's answers?",
            low=-5, high=5, unit="points")

# %% ftlab="play"
lab.predict("kl", "How far from the reference will the policy be at the end, in nats per story?", low=0, high=60, unit="nats")

# %% ftlab="experiment"
before = measured.judged(model, 0, made, count=JUDGED)
marks = {"utility": (before["utility"], "SFT"), "valid": (before["valid"], "SFT"), "reward": (before["reward"], "SFT")}
plot = AlignPlot(title="PPO against the reward model", marks=marks)
policy, history = measured.run_ppo(0, made, quiet, callbacks=[plot], iterations=ITERATIONS, **SMALL)
after = measured.judged(policy, 0, made, count=JUDGED)
print(f"on {JUDGED} held-out prompts     SFT      PPO")
for name in ("reward", "utility", "valid", "kl", "length"):
    print(f"{name:24} {before[name]:8.2f} {after[name]:8.2f}")

# %% ftlab="experiment"
plots.prediction_vs_result(lab.prediction("utility"), after["utility"] - before["utility"], label="true utility gained",
                           unit="points").show()
plots.prediction_vs_result(lab.prediction("kl"), after["kl"], label="KL", unit="nats per story").show()

# %% [markdown]
# **What to look at:** do reward and truth rise together? Which of the two parts of the truth has changed, style or broken
# rules? Read the answers, before and after, with what the oracle says.

# %% ftlab="play"
shown = measured.write_tasks("shown", profile.steps(4, 2), "test")
told = {}
for name, writer in (("SFT", model), ("PPO", policy)):
    rollout = ppo.collect(writer, tokenizer, shown, judge.asked(shown, tokenizer), ppo.PPOConfig(**SMALL), seed=1)
    told[name] = [(judge.answer_of(text), score) for text, score in
                  zip(rollout.texts, judge.by_model(made)(rollout).tolist(), strict=True)]


def verdict(task, text, score):
    """Reward, true utility, and which rules are broken, in a line."""
    judgement = oracle.judge(text, task.world)
    broken = [rule for rule, holds in judgement.rules.items() if not holds]
    missed = [role for role, holds in tasks.met(task.constraints, judgement).items() if not holds]
    return (f"reward {score:.2f}, true utility {judge.utility(task, text):.2f}; broken: {', '.join(broken) or 'nothing'}; "
            f"wishes ignored: {', '.join(missed) or 'none'}")


widgets.answers_view([task.instruction for task in shown], list(told),
                     [[told[name][i][0] for name in told] for i in range(len(shown))],
                     [[verdict(task, *told[name][i]) for name in told] for i, task in enumerate(shown)])

# %% [markdown]
# Token by token, $\log \pi - \log \pi_\text{ref}$; times $\beta$ it is what a token has paid, and the sum is one sample of the
# KL. **What to look at:** *where* the policy has changed its mind. Most tokens of a story follow from the others; which do not?

# %% ftlab="play"
rollout = ppo.collect(policy, tokenizer, shown[:1], judge.asked(shown[:1], tokenizer), ppo.PPOConfig(**SMALL), seed=1)
with torch.no_grad():
    log_ratio = pairs.token_logprobs(policy, rollout.ids, rollout.mask) - pairs.token_logprobs(model, rollout.ids, rollout.mask)
written = rollout.ids[0, 1:][rollout.mask[0]].tolist()
token_rewards_view({"PPO's answer": tokenizer.pieces(written)}, {"PPO's answer": log_ratio[rollout.mask].tolist()},
                   title="log π − log π_ref of each token", unit="nats")

# %% [markdown]
# ### Without the penalty
#
# Why pay for distance at all, if reward is what we want? Below, the same with $\beta = 0$, and more iterations.

# %% ftlab="play"
lab.predict("no_kl", "β = 0, and the run goes on. What becomes of the reward and of the true utility?", kind="choice",
            options=["both rise to the end", "the reward rises, the truth rises and then falls",
                     "the reward rises, the truth stays", "both fall"])

# %% ftlab="experiment"
def compare(runs, names=("reward", "utility"), title=None):
    """Curves of committed runs {name: curve} side by side."""
    words = {"reward": "reward (the proxy)", "utility": "true utility", "kl": "KL (nats per story)", "length": "tokens",
             "valid": "valid stories"}
    panels = {run: {words[name]: (range(1, len(curve[name]) + 1), curve[name]) for name in names}
              for run, curve in runs.items()}
    return plots.small_multiples(panels, "iteration", " / ".join(words[name] for name in names), title)


kept, free = (lab.study(id)[0]["data"]["curve"] for id in ("C51", "C52"))
runs = {f"β = {measured.KL_COEF:g}": kept, "β = 0": free}
compare(runs, title="proxy and truth, seed 0").show()
compare(runs, ("kl",), title="distance from the reference").show()
print(f"You predicted: {lab.prediction('no_kl') or 'nothing'}.")

# %% [markdown]
# **What to look at:** the iteration at which the two curves part, and what the stories looked like then. If you only had the
# left curve of the two (and that is all one has outside of this room), when would you have stopped?

# %% ftlab="experiment"
for iteration, text in lab.study("C52")[0]["data"]["samples"]:
    print(f"iteration {iteration}: {text}\n")

# %% ftlab="play"
def ppo_live(made, title, **changes):
    """A run of PPO here and now, and how it ended, in a sentence."""
    def run(report):
        trained = made() if callable(made) and not isinstance(made, torch.nn.Module) else made
        plot = AlignPlot(title=title, marks=marks)
        _, found = measured.run_ppo(0, trained, report, callbacks=[plot], **SMALL | changes)
        best = max(found, key=lambda one: one["utility"])
        return (f"reward {found[0]['reward']:.2f} -> {found[-1]['reward']:.2f}; true utility {found[0]['utility']:.2f} -> "
                f"{found[-1]['utility']:.2f}, at its best {best['utility']:.2f} in iteration {best['step']}")

    return run


LONGER = profile.steps(measured.LONGER, 2)
widgets.run_live_button("Run PPO without the penalty", ppo_live(made, "β = 0", kl_coef=0.0, iterations=LONGER),
                        note=f"{LONGER} iterations, about two minutes")

# %% [markdown]
# ### Annotators who like it long
#
# The second kind of annotators gives points for mere words. Nobody told the policy; it only meets their reward model.

# %% ftlab="play"
lab.predict("length", "PPO against the reward model of annotators who like length: how many tokens longer will the stories "
            "be than with unbiased annotators?", low=-20, high=60, unit="tokens")

# %% ftlab="experiment"
biased = lab.study("C53")[0]["data"]["curve"]
runs = {"unbiased annotators": kept, "annotators who like length": biased}
compare(runs, title="proxy and truth, seed 0").show()
compare(runs, ("length",), title="length").show()
plots.prediction_vs_result(lab.prediction("length"), statistics.fmean(entry["value"] for entry in lab.study("C53b")),
                           label="longer stories", unit="tokens").show()
for iteration, text in lab.study("C53")[0]["data"]["samples"]:
    print(f"iteration {iteration}: {text}\n")

# %% ftlab="play"
def reward_model_that_likes_length():
    return measured.reward_model(0, quiet, count=PAIRS, length_bias=measured.LENGTH_BIAS,
                                 callbacks=[widgets.LivePlot(title="reward model of annotators who like length",
                                                            unit="nats per pair")])


widgets.run_live_button("Train both against length", ppo_live(reward_model_that_likes_length, "annotators who like length",
                                                              iterations=ITERATIONS), note="about a minute and a half")

# %% [markdown]
# ### RLOO: without a value model
#
# Is the value head worth its trouble? RLOO (Ahmadian et al. 2024) writes several answers to *each* prompt and takes the mean
# reward of the others as the expectation: $A_i = r_i - \frac{1}{k-1} \sum_{j \ne i} r_j$, one number for the whole answer, no
# head, no GAE. GRPO (Shao et al. 2024) is a near relative: $A_i$ is $r_i$ less the mean of all $k$, divided by their standard
# deviation. TRL has both; this is its `RLOOTrainer`, on the same prompts and against the same reward model.

# %% ftlab="play"
def score_of(task, text):
    """The same reward model on one answer, as TRL asks for it."""
    return reward.rewards_of(made, pairs.response_rows([task], [judge.answer_of(text)], tokenizer), tokenizer)[0]


def rloo_live(report):
    """RLOO by TRL here and now."""
    from transformers import TrainerCallback

    steps = profile.steps(ITERATIONS, 1)

    class Tell(TrainerCallback):
        """Says where the run is."""

        def on_step_end(self, args, state, control, **rest):
            report(f"RLOO: step {state.global_step} of {steps}")

    trained, happened = with_trl.rloo_with_trl(
        model, tokenizer, measured.write_tasks(0, profile.steps(measured.PROMPTS, 8)), score_of, steps,
        answers=profile.steps(measured.PPO["answers"], 4), max_new_tokens=profile.steps(140, 16), beta=measured.KL_COEF,
        lr=measured.PPO["lr"], callbacks=[Tell()])
    ends = measured.judged(trained, 0, made, count=JUDGED)
    return (f"{steps} steps in {happened['seconds']:.0f} s; reward {before['reward']:.2f} -> {ends['reward']:.2f}, "
            f"true utility {before['utility']:.2f} -> {ends['utility']:.2f}, KL {ends['kl']:.1f} nats per story")


widgets.run_live_button("Run RLOO by TRL", rloo_live, note="about two minutes")

# %% [markdown]
# ## What we measured
#
# ### The reward model learns from more, and from cleaner
#
# **What to look at:** what ten times as many pairs bring, and what noise takes away. Then the calibration: of the pairs in
# which the model says 80 %, should the annotators not have agreed in 80 %?

# %% ftlab="result" claim="C50"
def accuracies(id, key):
    """Settings, and the mean, lowest and highest accuracy of the seeds at each."""
    runs = [entry["data"][key] for entry in lab.study(id)]
    settings = sorted(runs[0], key=float)
    found = [[run[setting] for run in runs] for setting in settings]
    return [float(s) for s in settings], [statistics.fmean(f) for f in found], [min(f) for f in found], [max(f) for f in found]


plots.lines({"held-out pairs, no noise": accuracies("C50", "by_pairs")}, "pairs to learn from", "accuracy", logx=True,
            percent=True, labels=False, title=f"more pairs (noise {measured.NOISE:g})").show()
lab.claim("C50", lab.study("C50")[0]["value"])

# %% ftlab="result" claim="C50b"
plots.lines({"held-out pairs, no noise": accuracies("C50b", "by_noise")}, "noise of the annotators", "accuracy", logx=True,
            percent=True, labels=False, title=f"noisier annotators ({measured.PAIRS} pairs)").show()
said, was, _ = zip(*lab.study("C50")[0]["data"]["calibration"], strict=True)
plots.lines({"reward model": (said, was), "calibrated": ([0, 1], [0, 1])}, "what the model says", "what was chosen",
            percent=True, title="calibration").show()
lab.claim("C50b", lab.study("C50b")[0]["value"])

# %% [markdown]
# ### PPO against it

# %% ftlab="result" claim="C51"
lab.claim("C51", after["utility"] - before["utility"], before=before["utility"], after=after["utility"])

# %% ftlab="result" claim="C51b"
lab.claim("C51b", after["valid"] - before["valid"])

# %% ftlab="result" claim="C51c"
lab.claim("C51c", after["kl"])

# %% [markdown]
# ### Reward hacking

# %% ftlab="result" claim="C52"
lab.claim("C52", lab.study("C52")[0]["value"])

# %% ftlab="result" claim="C52b"
lab.claim("C52b", lab.study("C52b")[0]["value"])

# %% [markdown]
# Goodhart's law in two curves: when a measure becomes a target, it ceases to be a good measure. Gao et al. (2023) found the
# same bend in large models, with a large reward model in the role of the truth: truth against $\sqrt{\mathrm{KL}}$ rises,
# turns, and falls.

# %% ftlab="result" claim="C53"
lab.claim("C53", lab.study("C53")[0]["value"])

# %% ftlab="result" claim="C53b"
lab.claim("C53b", lab.study("C53b")[0]["value"])

# %% [markdown]
# ### The library beside ours
#
# The reward model by TRL's `RewardTrainer`, on the same comparisons, as many batches: with Muon, which ours learned by, and
# with AdamW at three rates. **What to look at:** how far two programs with one recipe lie apart when each draws its own
# batches, and what a rate ten times too low costs.

# %% ftlab="result" claim="X10b"
for entry in lab.study("X10b"):
    data = entry["data"]
    print(f"seed {entry['seed']}: ours {data['ours']:.3f}; RewardTrainer with Muon {data['same']:.3f}, with AdamW at "
          + ", ".join(f"{float(lr):g} {value:.3f}" for lr, value in data["by_lr"].items()))
lab.claim("X10b", lab.study("X10b")[0]["value"])

# %% [markdown]
# And RLOO beside PPO, on the same reward:

# %% ftlab="result" claim="X10"
columns = ("reward", "utility", "valid", "kl", "length")
print(" " * 14 + "".join(f"{name:>10}" for name in columns))
by_ppo = {entry["seed"]: entry["data"] for entry in lab.study("C51")}
for entry in lab.study("X10"):
    rloo, same = entry["data"], by_ppo[entry["seed"]]
    for name, row in (("PPO", same["after"]), ("RLOO", rloo["after"])):
        print(f"{name + ', seed ' + str(entry['seed']):14}" + "".join(f"{row[column]:10.2f}" for column in columns))
lab.claim("X10", lab.study("X10")[0]["value"])

# %% [markdown]
# ## What people get wrong
#
# **"A higher reward is a better text."** On texts like those that it was trained on, mostly. How is it at the end of an
# optimisation? Over the run without the penalty, first third against last third:

# %% ftlab="experiment"
for entry in lab.study("C52"):
    curve, third = entry["data"]["curve"], len(entry["data"]["curve"]["reward"]) // 3
    ends = {name: statistics.correlation(curve["reward"][part], curve["utility"][part])
            for name, part in (("first", slice(None, third)), ("last", slice(-third, None)))}
    print(f"seed {entry['seed']}: correlation of mean reward and mean true utility over the iterations: "
          + ", ".join(f"{name} third {value:+.2f}" for name, value in ends.items()))

# %% [markdown]
# **"RLHF teaches the model something new."** PPO makes likelier what the assistant already writes now and then; a token that
# it never draws is never praised. How much of the gain was there already? Ask the *untouched* assistant $n$ times and keep the
# answer that the reward model likes best. The policy that this amounts to is at most $\log n - \frac{n - 1}{n}$ nats from the
# assistant. **What to look at:** the $n$ from which on best-of-$n$ is as good as PPO, and the nats beside it.

# %% ftlab="experiment"
MOST, PROMPTS = profile.steps(16, 2), profile.steps(16, 2)
many = [task for task in measured.write_tasks("best of n", PROMPTS, "test") for _ in range(MOST)]
rollout = ppo.collect(model, tokenizer, many, judge.asked(many, tokenizer), ppo.PPOConfig(**SMALL), seed=7)
rewards = judge.by_model(made)(rollout).view(PROMPTS, MOST)
truths = judge.true_reward(rollout).view(PROMPTS, MOST)
for n in (n for n in (1, 2, 4, 8, 16) if n <= MOST):
    # Each group of n of the answers to a prompt makes one choice: as many choices as there are groups.
    groups = rewards.view(PROMPTS, -1, n).argmax(-1, keepdim=True)
    chosen = truths.view(PROMPTS, -1, n).gather(-1, groups)
    print(f"best of {n:2}: true utility {chosen.mean():6.2f}, at most {math.log(n) - (n - 1) / n:.2f} nats")
print(f"PPO       : true utility {after['utility']:6.2f}, {after['kl']:.2f} nats (on other prompts)")

# %% [markdown]
# Best-of-$n$ pays at every use, $n$ answers for one; PPO pays once.
#
# **"The KL penalty is only there for stability."** Then the run without it should stumble. How large was the largest fall of
# the *reward* from one iteration to the next, with and without?

# %% ftlab="experiment"
for id, name in (("C51", f"β = {measured.KL_COEF:g}"), ("C52", "β = 0")):
    for entry in lab.study(id):
        climbed = entry["data"]["curve"]["reward"]
        falls = [a - b for a, b in zip(climbed, climbed[1:])]
        print(f"{name:8} seed {entry['seed']}: reward {climbed[0]:.2f} -> {climbed[-1]:.2f}, largest fall {max(falls):.2f}")

# %% [markdown]
# The optimiser is content either way. What the penalty guards is the *reward model*: it keeps the texts where the comparisons
# came from, so that its word still counts.
#
# ## Go further
#
# **Your own ratings.** Those that you gave above, or a file of your own with `prompt, chosen, rejected` in it (JSON lines, CSV,
# Parquet): the same reader, the same training. With a dozen pairs, what can a reward model have learned? Rate fifty and see.

# %% ftlab="play"
MY_PREFERENCES = ratings.path  # or "my_preferences.jsonl"


def my_reward_model(report):
    """A reward model of your own preferences, judged on held-out pairs."""
    if not pathlib.Path(MY_PREFERENCES).exists():
        return "No ratings yet: rate some pairs in the first widget of this lab, or name a file of your own in MY_PREFERENCES."
    mine = preferences.read_preferences(MY_PREFERENCES, progress=report)
    trained, history = reward.train_reward_model(model, tokenizer, mine, steps=profile.steps(max(10, len(mine) // 4), 2),
                                                 pairs_per_batch=min(16, len(mine)),
                                                 callbacks=[widgets.LivePlot(title="a reward model of your taste")])
    return (f"{len(mine)} pairs; loss {history.losses[0]:.2f} -> {history.losses[-1]:.2f} nats; on held-out pairs it prefers "
            f"the truly better text in {reward.accuracy(trained, tokenizer, held_out):.0%}")


widgets.run_live_button("Train a reward model on my ratings", my_reward_model, note="some seconds")

# %% [markdown]
# **Discuss.**
#
# 1. You cannot see the true utility. What *can* you watch during PPO to know when to stop: KL, length, entropy, another reward
#    model, a few people? What does each cost, and how does each fail?
# 2. The annotators err, and more so where two texts differ little: a broken rule costs 2, a vivid detail earns 0.2. Which
#    faults of a text will a reward model hardly learn to price, however many pairs it sees? Which would more pairs mend?
# 3. The score stands on the last token, and $V$ must find out what led to it. What if the reward model scored every sentence
#    instead? What new hack would that open?
# 4. The penalty is a mean over answers drawn from the *policy*. What would it punish differently with
#    $\mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$?
# 5. Whose preferences were they? Take two groups of annotators who disagree on half of the pairs. What does a reward model of
#    both learn, and what does PPO make of that?
#
# **Read.**
#
# - Christiano et al. (2017), *Deep Reinforcement Learning from Human Preferences*: where comparisons came in.
# - Schulman et al. (2016), *High-Dimensional Continuous Control Using Generalized Advantage Estimation*; (2017), *Proximal
#   Policy Optimization Algorithms*.
# - Ziegler et al. (2019), *Fine-Tuning Language Models from Human Preferences*: PPO with the penalty, and the tale of a sign
#   that was flipped overnight (section 4.4).
# - Stiennon et al. (2020), *Learning to Summarize from Human Feedback*: overoptimisation shown with people as the judges.
# - Ouyang et al. (2022), *Training Language Models to Follow Instructions with Human Feedback*.
# - Gao, Schulman, Hilton (2023), *Scaling Laws for Reward Model Overoptimization*.
# - Skalse et al. (2022), *Defining and Characterizing Reward Hacking*: over all policies, only a constant cannot be.
# - Ahmadian et al. (2024), *Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in LLMs*
#   (RLOO); Shao et al. (2024), *DeepSeekMath* (GRPO).

# %%
lab.progress()
