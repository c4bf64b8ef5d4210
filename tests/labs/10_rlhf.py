"""Wrong answers to the exercises of lab 10_rlhf: each must be named by its check, and fail its probe."""

PREFERENCE = '''
def preference_loss(chosen, rejected):
    return {loss}
'''

REWARDS = '''
def token_rewards(scores, logp, ref_logp, mask, kl_coef):
    rewards = {price}
    last = {last}
    {add}
    return rewards
'''
RIGHT_REWARDS = {"price": "-kl_coef * (logp - ref_logp) * mask", "last": "mask.shape[1] - 1 - mask.flip(1).int().argmax(1)",
                 "add": "rewards[torch.arange(len(mask)), last] += scores"}  # fmt: skip

GAE = '''
def gae(rewards, values, mask, gamma, lam):
    B, T = rewards.shape
    advantages, ahead = torch.zeros(B, T), torch.zeros(B)
    behind = torch.cat([{behind}[:, 1:], torch.zeros(B, 1)], dim=1)
    for t in {order}:
        delta = {delta}
        ahead = {ahead}
        advantages[:, t] = ahead
    advantages = advantages * mask
    return advantages, {returns}
'''
RIGHT_GAE = {"behind": "(values * mask)", "order": "reversed(range(T))",
             "delta": "rewards[:, t] + gamma * behind[:, t] - values[:, t]",
             "ahead": "(delta + gamma * lam * ahead) * mask[:, t]", "returns": "(advantages + values) * mask"}  # fmt: skip

WHITEN = '''
def whiten(x, mask):
    return {white}
'''

POLICY = '''
def policy_loss(logp, old_logp, advantages, mask, clip):
    ratio = {ratio}
    terms = {terms}
    return {loss}
'''
RIGHT_POLICY = {"ratio": "torch.exp(logp - old_logp)",
                "terms": "torch.minimum(ratio * advantages, torch.clamp(ratio, 1 - clip, 1 + clip) * advantages)",
                "loss": "-(terms * mask).sum() / mask.sum()"}  # fmt: skip

VALUE = '''
def value_loss(values, old_values, returns, mask, clip):
    near = {near}
    errors = {errors}
    return {loss}
'''
RIGHT_VALUE = {"near": "old_values + torch.clamp(values - old_values, -clip, clip)",
               "errors": "torch.maximum((values - returns) ** 2, (near - returns) ** 2)",
               "loss": "0.5 * (errors * mask).sum() / mask.sum()"}  # fmt: skip

OVERRATE = '''
def overrate(reward, text, words, steps):
    texts = {start}
    now = text
    for _ in range(steps):
        tried = [{tried} for word in words]
        best = {best}
        if {stop}:
            break
        texts.append(best)
        now = best
    return texts
'''
RIGHT_OVERRATE = {"start": "[text]", "tried": 'now + " " + word', "best": "max(tried, key=reward)",
                  "stop": "reward(best) <= reward(now)"}  # fmt: skip

WRONG = {
    "preference": {
        "swapped": PREFERENCE.format(loss="-F.logsigmoid(rejected - chosen).mean()"),
        "summed": PREFERENCE.format(loss="-F.logsigmoid(chosen - rejected).sum()"),
        "no_log": PREFERENCE.format(loss="-torch.sigmoid(chosen - rejected).mean()"),
        "no_minus": PREFERENCE.format(loss="torch.sigmoid(chosen - rejected).log().mean()"),
        "each_alone": PREFERENCE.format(loss="-(F.logsigmoid(chosen).mean() + F.logsigmoid(-rejected).mean())"),
    },
    "token_rewards": {
        "sign": REWARDS.format(**RIGHT_REWARDS | {"price": "-kl_coef * (ref_logp - logp) * mask"}),
        "everywhere": REWARDS.format(**RIGHT_REWARDS | {"add": "rewards = rewards + scores[:, None] * mask"}),
        "padded_row": REWARDS.format(**RIGHT_REWARDS | {"add": "rewards[:, -1] += scores"}),
        "from_count": REWARDS.format(**RIGHT_REWARDS | {"last": "mask.sum(1) - 1"}),
        "behind": REWARDS.format(**RIGHT_REWARDS | {"last": "mask.shape[1] - mask.flip(1).int().argmax(1)"}),
        "no_mask": REWARDS.format(**RIGHT_REWARDS | {"price": "-kl_coef * (logp - ref_logp)"}),
        "whole": REWARDS.format(**RIGHT_REWARDS | {
            "add": "rewards = torch.zeros_like(rewards).index_put((torch.arange(len(mask)), last), rewards.sum(1) + scores)"}),
    },
    "gae": {
        "no_lambda": GAE.format(**RIGHT_GAE | {"ahead": "(delta + gamma * ahead) * mask[:, t]"}),
        "forwards": GAE.format(**RIGHT_GAE | {"order": "range(T)"}),
        "next_value": GAE.format(**RIGHT_GAE | {"behind": "values"}),
        "carried": GAE.format(**RIGHT_GAE | {"behind": "values", "ahead": "delta + gamma * lam * ahead"}),
        "no_future": GAE.format(**RIGHT_GAE | {"delta": "rewards[:, t] - values[:, t]"}),
        "no_gamma": GAE.format(**RIGHT_GAE | {"delta": "rewards[:, t] + behind[:, t] - values[:, t]"}),
        "no_values": GAE.format(**RIGHT_GAE | {"returns": "advantages"}),
    },
    "whiten": {
        "everything": WHITEN.format(white="(x - x.mean()) / (x.std() + 1e-8) * mask"),
        "not_centred": WHITEN.format(white="x / (x[mask].std() + 1e-8) * mask"),
        "variance": WHITEN.format(white="(x - x[mask].mean()) / x[mask].var() * mask"),
        "by_answer": WHITEN.format(white="torch.stack([(a - a[m].mean()) / a[m].std() * m for a, m in zip(x, mask)])"),
        "outside": WHITEN.format(white="(x - x[mask].mean()) / x[mask].std()"),
    },
    "policy_loss": {
        "no_exp": POLICY.format(**RIGHT_POLICY | {"ratio": "logp - old_logp"}),
        "inverted": POLICY.format(**RIGHT_POLICY | {"ratio": "torch.exp(old_logp - logp)"}),
        "no_minimum": POLICY.format(**RIGHT_POLICY | {"terms": "torch.clamp(ratio, 1 - clip, 1 + clip) * advantages"}),
        "maximum": POLICY.format(**RIGHT_POLICY | {"terms": RIGHT_POLICY["terms"].replace("minimum", "maximum")}),
        "no_clip": POLICY.format(**RIGHT_POLICY | {"terms": "ratio * advantages"}),
        "sign": POLICY.format(**RIGHT_POLICY | {"loss": "(terms * mask).sum() / mask.sum()"}),
        "new_as_old": POLICY.format(**RIGHT_POLICY | {"ratio": "torch.exp(logp - logp.detach())"}),
        "detached": POLICY.format(**RIGHT_POLICY | {"ratio": "torch.exp(logp.detach() - old_logp)"}),
        "summed": POLICY.format(**RIGHT_POLICY | {"loss": "-(terms * mask).sum()"}),
        "padding": POLICY.format(**RIGHT_POLICY | {"loss": "-terms.mean()"}),
        "by_answer": POLICY.format(**RIGHT_POLICY | {"loss": "-((terms * mask).sum(1) / mask.sum(1)).mean()"}),
    },
    "value_loss": {
        "minimum": VALUE.format(**RIGHT_VALUE | {"errors": RIGHT_VALUE["errors"].replace("maximum", "minimum")}),
        "no_clip": VALUE.format(**RIGHT_VALUE | {"errors": "(values - returns) ** 2"}),
        "only_clipped": VALUE.format(**RIGHT_VALUE | {"errors": "(near - returns) ** 2"}),
        "backwards": VALUE.format(**RIGHT_VALUE | {"near": "old_values + torch.clamp(old_values - values, -clip, clip)"}),
        "clamped": VALUE.format(**RIGHT_VALUE | {"near": "values.clamp(-clip, clip)"}),
        "no_half": VALUE.format(**RIGHT_VALUE | {"loss": "errors[mask].mean()"}),
        "padding": VALUE.format(**RIGHT_VALUE | {"loss": "0.5 * errors.mean()"}),
    },
    "overrate": {
        "first": OVERRATE.format(**RIGHT_OVERRATE | {
            "best": "next((t for t in tried if reward(t) > reward(now)), tried[0])"}),
        "no_stop": OVERRATE.format(**RIGHT_OVERRATE | {"stop": "False"}),
        "from_start": OVERRATE.format(**RIGHT_OVERRATE | {"tried": 'text + " " + word'}),
        "lowest": OVERRATE.format(**RIGHT_OVERRATE | {"best": "min(tried, key=reward)"}),
        "no_space": OVERRATE.format(**RIGHT_OVERRATE | {"tried": "now + word"}),
        "no_start": OVERRATE.format(**RIGHT_OVERRATE | {"start": "[]"}),
    },
}
