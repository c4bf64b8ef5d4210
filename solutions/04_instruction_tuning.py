# %% [markdown]
# # 04 · Instruction tuning: from a model that writes on to one that answers
#
# **The question.** The base of Lab 03 knows its world, and when it is asked something it writes on as if nobody had
# asked. A few hundred steps on pairs of instruction and response change that. What do these steps teach that millions
# of tokens of pretraining did not? How many examples does it take, how good must they be, and what is lost on the way?
#
# You will write the template, the mask that hides the prompt from the loss, packing that does not leak, the loss of a
# step in parts, and the curve of what is forgotten; and you will judge ten answers by hand, as the oracle does.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import json
import pathlib
import random
import statistics
import tempfile

import torch
import torch.nn.functional as F

import ftlab
from ftlab import profile
from ftlab.course import checks, studies
from ftlab.measure.score import held_out_tasks, instruction_score
from ftlab.model.ask import ask
from ftlab.show import plots, widgets
from ftlab.text.batching import RowBatches, collate
from ftlab.text.examples import Example, from_tasks
from ftlab.text.rows import rows, shown
from ftlab.train import TrainConfig, train
from ftlab.tune import sft
from ftlab.tune.bases import lab_base
from ftlab.world import World, tasks

lab = ftlab.lab("04_instruction_tuning")
torch.manual_seed(0)

measured = studies.load("04_instruction_tuning")
world = World("rich")
base, tokenizer = lab_base(measured.BASE)  # pretrained only: it has never seen an instruction
samples = {family: tasks.make(world, family, 3, 0) for family in tasks.FAMILIES}

# %% [markdown]
# ## Play: what is there to learn from?
#
# Five families of tasks about stories: write one, answer a question about one, extract a fact, rewrite the ending,
# classify it. Each task knows its right response, and the oracle can score any other.

# %%
for family, (task, *_) in samples.items():
    told = f"\n   input: {task.input[:90]} …" if task.input else ""
    more = " …" * (len(task.response) > 100)
    print(f"[{family}] {task.instruction}{told}\n   response: {task.response[:100]}{more}\n")

# %% [markdown]
# This is what the base makes of them, when the instruction stands in front of it in the form of Alpaca (Taori et al.
# 2023):

# %%
for task, answer in zip([some[0] for some in samples.values()],
                        ask(base, tokenizer, [some[0] for some in samples.values()], max_new_tokens=40)):
    print(f"[{task.family}] {answer[:150]!r}")

# %% [markdown]
# Before anything is trained: **look at the data after masking.** Below is one example of each family, cut into the
# tokens that the model will read, each marked by whether the loss sees it. Choose another example from the list.
#
# - What share of the tokens carries a loss in *extract*? In *write*? What does a batch of each cost, and what does it
#   teach?
# - In the conversation, whose words carry a loss?
# - What is the last token that does, and what would happen if it did not?

# %% ftlab="play"
views = {}
for family, (task, *_) in samples.items():
    views[f"{family}, loss on the response"] = shown(rows(from_tasks([task]), tokenizer)[0], tokenizer)
first = from_tasks([samples["extract"][0]])
views["extract, loss on everything"] = shown(rows(first, tokenizer, loss="all")[0], tokenizer)
talk = Example(form="messages", messages=(
    ("user", "Who has the kite?"), ("assistant", "Mira"), ("user", "Where does she go?"), ("assistant", "The pond.")))
views["a conversation in the chat form"] = shown(rows([talk], tokenizer, template="chat")[0], tokenizer)
widgets.loss_mask_view(views)

# %% [markdown]
# ## Build
#
# ### 1. The template
#
# A model has one input: a row of tokens. Where the instruction ends and the answer begins must be *in* the row. Any
# form will do if it is always the same; this one is Alpaca's, with a mark at the end:
#
# ```
# ### Instruction:
# Extract the object.
#
# ### Input:
# Hugo had a sled. …
#
# ### Response:
# sled
#
# ### End
# ```
#
# An empty line stands between sections. Without an input, its section is left out. Everything up to and with the line
# break behind `### Response:` is the **prompt**, the rest the **completion**.


# %% ftlab="exercise" id="alpaca"
def alpaca_example(instruction, input, response):
    """(prompt, completion), two strings: what the model is given; what it is to write, the mark ### End included."""
    ### BEGIN SOLUTION
    middle = f"### Input:\n{input}\n\n" if input else ""
    prompt = f"### Instruction:\n{instruction}\n\n{middle}### Response:\n"
    return prompt, f"{response}\n\n### End"
    ### END SOLUTION


# %% ftlab="check" id="alpaca"
lab.check("alpaca", alpaca_example)

# %% ftlab="probe" id="alpaca"
random.seed(lab.probe_seed("alpaca"))
probe_words = random.sample(["fox", "kite", "pond", "red", "owl", "sled", "brave"], 4)
lab.probe("alpaca", [*alpaca_example(f"Say {probe_words[0]}.", "", probe_words[1]),
                     *alpaca_example(f"Find {probe_words[2]}.", f"A {probe_words[2]}.\nIt was {probe_words[3]}.",
                                     probe_words[3])])

# %% [markdown]
# ### 2. The label mask
#
# The model is to learn to *write* the response, not the prompt: at use, the prompt is there already. So the loss looks
# at the response only,
#
# $$L(\theta) = -\frac{1}{|R|} \sum_{t \in R} \log p_\theta(x_t \mid x_1, \dots, x_{t-1}), \qquad
# R = \text{places of the response and of the end token},$$
#
# which is the loss of Lab 03 with fewer labels. Labels stand beside their own tokens; −100 says that no loss is due.


# %% ftlab="exercise" id="label_mask"
def masked_row(prompt_ids, response_ids, eos_id):
    """(ids, labels), two lists of equal length: prompt, response and end token; the loss sees the last two."""
    ### BEGIN SOLUTION
    ids = list(prompt_ids) + list(response_ids) + [eos_id]
    labels = [-100] * len(prompt_ids) + list(response_ids) + [eos_id]
    return ids, labels
    ### END SOLUTION


# %% ftlab="check" id="label_mask"
lab.check("label_mask", masked_row)

# %% ftlab="probe" id="label_mask"
random.seed(lab.probe_seed("label_mask"))
probe_ids = [random.randint(4, 900) for _ in range(11)]
lab.probe("label_mask", [list(part) for part in masked_row([1, *probe_ids[:6]], probe_ids[6:], 2)])

# %% [markdown]
# Your two functions, one after the other, on a real example. Do you see what you expect? (`behind`: to this tokenizer a
# word that begins a line is the same token as behind a space, and the completion alone does not know where it stands.
# With a tokenizer that spells such words letter by letter, a base that was trained alike got 4 % of its answers right,
# not 50 %.)

# %%
def encoded(task):
    """(ids of the prompt, ids of the completion) of a task."""
    prompt, completion = alpaca_example(task.instruction, task.input, task.response)
    return tokenizer.encode(prompt, bos=True), tokenizer.encode(tokenizer.behind(prompt, completion))


my_row = masked_row(*encoded(samples["answer"][1]), tokenizer.eos_id)
plots.loss_mask(shown(my_row, tokenizer), "my row")

# %% [markdown]
# ### 3. Packing without leaking
#
# Rows of one batch must have one length. With short answers under long stories, and short instructions without any,
# much of a batch can be padding: computed, and thrown away. **Packing** puts several examples into one row. Then three
# things must be right, and none of them raises an error when it is wrong:
#
# - a token may see the tokens of *its own* example only (its **segment**);
# - **positions** begin again at 0 in each example, as they will when the model is used;
# - the first token of an example has **no label**: it would be predicted from the last token of a stranger.
#
# Padding, if some is left, has segment −1, position 0 and no label.


# %% ftlab="exercise" id="packing"
def pack(rows, length, pad_id):
    """Rows [(ids, labels), ...] as one row of `length` tokens: (ids, labels, positions, segments), four lists.

    Segments count the rows: 0, 1, ...; what is left is padding. The rows fit.
    """
    ### BEGIN SOLUTION
    ids, labels, positions, segments = [], [], [], []
    for number, (row_ids, row_labels) in enumerate(rows):
        ids += row_ids
        labels += [-100] + row_labels[1:]
        positions += range(len(row_ids))
        segments += [number] * len(row_ids)
    room = length - len(ids)
    return ids + [pad_id] * room, labels + [-100] * room, positions + [0] * room, segments + [-1] * room
    ### END SOLUTION


def may_see(segments):
    """A tensor (T, T) of booleans: entry (i, j) says whether token i may look at token j. segments: a list of T."""
    ### BEGIN SOLUTION
    segments = torch.tensor(segments)
    return (segments[:, None] == segments[None, :]).tril()
    ### END SOLUTION


# %% ftlab="check" id="packing"
lab.check("packing", pack, may_see)

# %% ftlab="probe" id="packing"
random.seed(lab.probe_seed("packing"))
probe_rows = [([1] + [random.randint(4, 90) for _ in range(n)], [random.randint(4, 90) for _ in range(n + 1)])
              for n in random.sample(range(2, 7), 3)]
probe_packed = pack(probe_rows, 20, 0)
lab.probe("packing", [*map(list, probe_packed), may_see(probe_packed[3]).long()])

# %% [markdown]
# Does it leak? Two examples in one row; then the *first* is replaced by another of the same length. What the model says
# in the second must not move. Below with your mask, and with the causal mask that a model uses when nobody says
# anything:

# %%
made = rows(from_tasks(samples["extract"][:2]), tokenizer)
other = [(made[0][0][::-1], made[0][1]), made[1]]
length = sum(len(ids) for ids, _ in made)
second = slice(len(made[0][0]), length)


def logits_of(pair, own_segment_only):
    """Logits of the two packed rows, under your mask or the plain causal one."""
    ids, _, positions, segments = pack(pair, length, tokenizer.pad_id)
    mask = may_see(segments) if own_segment_only else torch.ones(length, length, dtype=torch.bool).tril()
    with torch.no_grad():
        return base(torch.tensor([ids]), positions=torch.tensor([positions]), mask=mask[None, None])[0]


with torch.no_grad():
    alone = base(torch.tensor([made[1][0]]))[0]
for name, own in (("your mask", True), ("causal mask", False)):
    moved = (logits_of(made, own) - logits_of(other, own))[second].abs().max()
    off = (logits_of(made, own)[second] - alone).abs().max()
    print(f"{name:12}: the other example moves the logits by {moved:.1e}; packed and alone differ by {off:.1e}")

# %% [markdown]
# ### 4. The loss of a step in parts
#
# A batch that does not fit into memory is cut into parts, and the gradients of the parts are added (*gradient
# accumulation*). Until 2024 popular libraries took the mean within each part and then the mean of the parts, which is
# right only if all parts have equally many labels. In pretraining they nearly have. Under a label mask a part of
# one-word answers may have thirty labels and a part of stories a thousand, and each word of the thirty would weigh
# thirty times as much. The loss of the *step* is the mean over all of its labels; so each part contributes
#
# $$L_\text{part} = -\frac{1}{N} \sum_{t \in R_\text{part}} \log p_\theta(x_t \mid x_{<t}), \qquad
# N = \text{labels in the whole step}.$$


# %% ftlab="exercise" id="sft_loss"
def sft_loss(logits, labels, total):
    """This part's share of the step's loss, in nats (a tensor without axes).

    logits (B, T, V); labels (B, T), −100 where no loss is due, each beside its own token; total: the number of labels
    in all parts of the step together.
    """
    ### BEGIN SOLUTION
    logits, targets = logits[:, :-1], labels[:, 1:]  # row t faces label t + 1
    wanted = targets != -100
    return F.cross_entropy(logits[wanted], targets[wanted], reduction="sum") / total
    ### END SOLUTION


# %% ftlab="check" id="sft_loss"
lab.check("sft_loss", sft_loss)

# %% ftlab="probe" id="sft_loss"
generator = torch.Generator().manual_seed(lab.probe_seed("sft_loss"))
probe_labels = torch.randint(0, 7, (3, 8), generator=generator)
probe_labels[:, :3], probe_labels[1, 6:] = -100, -100
lab.probe("sft_loss", sft_loss(2 * torch.randn(3, 8, 7, generator=generator), probe_labels, 31))

# %% [markdown]
# ### 5. Ten answers, scored by hand
#
# Before you believe a number, make it yourself. Ten answers follow. Score each from 0 to 1 by the rules of the oracle:
#
# - **answer, extract, classify**: 1 if the output is the answer, else 0. Case, white space around it and *one* full
#   stop at its end do not count.
# - **write**: the share of the constraints that hold in the story that can be read (a word that occurs is not a fact
#   that holds); a tenth of that is taken off if any rule of the world is broken: a sentence told twice, a hero renamed.
# - **rewrite**: 0 unless the ending is the wanted one. Then 0.25, plus 0.25 if every rule holds, plus 0.5 times the
#   share of sentences before the resolution that are as they were.

# %% ftlab="setup"
ten = checks.load("04_instruction_tuning").ten_answers()

# %%
for number, (task, text) in enumerate(ten, 1):
    print(f"{number:2}. [{task.family}] {task.instruction}")
    if task.input:
        print(f"    input:  {task.input}")
    print(f"    output: {text}\n")

# %% ftlab="exercise" id="by_hand"
# Ten numbers, in the order above.
### BEGIN SOLUTION
### STUB: my_scores = None  # [1, 0, ...]
my_scores = [1.0, 1.0, 0.0, 0.0, 1.0, 0.9, 0.0, 1.0, 0.0, 0.0]
### END SOLUTION

# %% ftlab="check" id="by_hand"
lab.check("by_hand", [float(score) for score in my_scores] if my_scores else None)

# %% ftlab="probe" id="by_hand"
lab.probe("by_hand", [float(score) for score in my_scores])

# %% [markdown]
# What the oracle has to say of each. Number 3 is an answer that most people would accept, and a program that reads it
# would not: with exact scores the *form* is part of the task. That is a choice, and it is the same for every model
# below.

# %%
for number, (task, text) in enumerate(ten, 1):
    print(f"{number:2}. {tasks.score(task, text):.2f}  {'; '.join(tasks.explain(task, text)[:2])}")

# %% [markdown]
# ### 6. The forgetting curve
#
# Later we shall take the tuned model to a second domain, ships' logs, and watch two losses: on instructions about
# stories (*first*) and about logs (*second*). From such evaluations, compute how much was forgotten at each, and where
# you would have stopped if only so much forgetting is allowed.


# %% ftlab="exercise" id="forgetting"
def forgetting(evals, allowed):
    """(rises, step). evals: [{"step", "first", "second"}, ...], losses in nats; evals[0] stands before the training.

    rises: for each evaluation, how far the loss on the first domain stands above where it began (a list of floats).
    step: the step of the evaluation with the lowest loss on the second domain, among those whose rise is at most
    `allowed`.
    """
    ### BEGIN SOLUTION
    rises = [e["first"] - evals[0]["first"] for e in evals]
    within = [e for e, rise in zip(evals, rises) if rise <= allowed]
    return rises, min(within, key=lambda e: e["second"])["step"]
    ### END SOLUTION


# %% ftlab="check" id="forgetting"
lab.check("forgetting", forgetting)

# %% ftlab="probe" id="forgetting"
random.seed(lab.probe_seed("forgetting"))
probe_runs = [[{"step": 5 * i, "first": 0.5 + 0.1 * i * random.random(), "second": 2 - 0.2 * i + 0.3 * random.random()}
               for i in range(8)] for _ in range(6)]
probe_rises = [sorted(e["first"] - evals[0]["first"] + 1e-9 for e in evals) for evals in probe_runs]
lab.probe("forgetting", [[list(forgetting(evals, rises[4])[0]), *[forgetting(evals, rise)[1] for rise in rises[2:]]]
                         for evals, rises in zip(probe_runs, probe_rises)])

# %% [markdown]
# ## The library does it too, and agrees
#
# From here on `ftlab.text.rows` makes the rows and `ftlab.tune.sft` trains. First see that they are yours: the same ids
# and labels; the same loss, whole, in two unequal parts, and packed.

# %%
some = [samples["extract"][0], samples["classify"][0], samples["write"][0]]
mine = [masked_row(*encoded(task), tokenizer.eos_id) for task in some]
theirs = rows(from_tasks(some), tokenizer)
print("rows equal:", mine == theirs)

whole = collate([ids for ids, _ in theirs], tokenizer.pad_id, [labels for _, labels in theirs])
packed_ids, packed_labels, positions, segments = pack(theirs, sum(len(ids) for ids, _ in theirs), tokenizer.pad_id)
with torch.no_grad():
    logits, total = base(whole.input_ids), whole.num_tokens()
    parts = [sft_loss(logits[part], whole.labels[part], total) for part in (slice(0, 2), slice(2, 3))]
    packed_logits = base(torch.tensor([packed_ids]), positions=torch.tensor([positions]),
                         mask=may_see(segments)[None, None])
    losses = {"the library, whole": base.loss(whole), "yours, in two parts": sum(parts),
              "yours, packed": sft_loss(packed_logits, torch.tensor([packed_labels]), total)}
for name, loss in losses.items():
    print(f"{name:20} {loss.item():.5f} nats per label")
print(f"labels of the parts: {[int((whole.labels[part] != -100).sum()) for part in (slice(0, 2), slice(2, 3))]}")

# %% [markdown]
# And outside of this course? TRL's `SFTTrainer` takes the same pairs as columns `prompt` and `completion`, cuts them
# into tokens, masks the prompt and appends the end token by itself. Its defaults are meant for GPUs: on a processor
# like most laptops' its bfloat16 and its gradient checkpointing must be turned off. The button below makes one and
# compares its rows with yours; further down it trains.

# %% ftlab="play"
def rows_of_trl():
    from ftlab.tune import with_trl

    with with_trl.quiet(), tempfile.TemporaryDirectory() as folder:
        data = with_trl.sft_trainer(base, tokenizer, some, steps=1, folder=folder).train_dataset
        same = [(list(item["input_ids"]), list(item["labels"])) == row for item, row in zip(data, mine)]
    return f"SFTTrainer's rows equal yours, ids and labels: {sum(same)} of {len(same)}"


widgets.run_live_button("Make an SFTTrainer and compare its rows", rows_of_trl, note="some seconds, mostly imports")

# %% [markdown]
# ## Predict, then fine-tune
#
# Every weight of the small base (0.72 million parameters) is tuned on instructions of all five families; no story of
# the evaluation occurs in training, nor does its combination of facts. Greedy answers are scored along the way.

# %% ftlab="play"
lab.predict("score", "After a minute of fine-tuning: what is the mean score on instructions about held-out stories?",
            percent=True)

# %% ftlab="play"
lab.predict("first", "Which family will be learnt first?", kind="choice", options=list(tasks.FAMILIES))

# %% [markdown]
# **What to look at.** Does the score rise when the loss falls, or later? An answer has a *form* (one word or a story,
# the end mark) and a *content*, which must be looked up in the input: which of the two comes first? The widget below
# the run keeps the answers of each moment.

# %% ftlab="experiment"
STEPS = profile.steps(measured.STEPS, 6)
train_tasks = measured.examples(0, profile.steps(measured.EXAMPLES, 8))
per_family = profile.steps(10, 1)
asked = held_out_tasks(world, per_family, seed=11)
held_out_rows = sft.make_rows(asked, tokenizer)
diary = {}  # step -> the Score of that moment, with its answers


def look(model, step):
    """The held-out loss, and the score of greedy answers."""
    diary[step] = instruction_score(model, tokenizer, asked)
    return {"loss": sft.rows_loss(model, held_out_rows, tokenizer), "score": diary[step].mean}


model, _ = lab_base(measured.BASE)
look(model, 0)
plot = widgets.LivePlot(metric="loss", title="full fine-tuning", share=("score", "mean score on held-out instructions"))
history = sft.tune_full(model, tokenizer, train_tasks, steps=STEPS, tokens_per_batch=measured.TOKENS_PER_BATCH, seed=0,
                        eval_every=profile.steps(STEPS // 8, 3), evaluate=look, callbacks=[plot])
print(f"{len(train_tasks):,} examples, {history.tokens:,} labels, {history.seconds:.0f} s of training")

# %% [markdown]
# One prompt answered before, during and after. Choose a prompt; slide along the run.

# %% ftlab="play"
moments, places = sorted(diary), range(0, len(asked), per_family)  # the first task of each family
answers = [[diary[step].answers[i] for step in moments] for i in places]
notes = [[f"score {tasks.score(asked[i], text):.2f}. {'; '.join(tasks.explain(asked[i], text)[:2])}" for text in row]
         for i, row in zip(places, answers)]
widgets.answers_view([f"{asked[i].instruction}\n{asked[i].input}".strip() for i in places],
                     ["before" if step == 0 else f"step {step}" for step in moments], answers, notes)

# %% [markdown]
# ## What we measured
#
# ### Does it follow?

# %% ftlab="experiment"
judged = held_out_tasks(world, profile.steps(measured.JUDGED, 1), seed=13)
final = instruction_score(model, tokenizer, judged)
plots.prediction_vs_result(lab.prediction("score"), final.mean, percent=True,
                           label="mean score after fine-tuning").show()
earliest = {family: next((step for step in moments if diary[step].by_family[family] >= 0.5), STEPS)
            for family in tasks.FAMILIES}
plots.prediction_vs_result(lab.prediction("first"), earliest, label="step of the first evaluation with a score of half").show()
plots.bars(final.by_family | {"all": final.mean}, percent=True, threshold=0.9, xlabel="mean score of greedy answers",
           title=f"after {STEPS} steps, {len(judged)} held-out instructions")

# %% ftlab="result" claim="C15"
lab.claim("C15", final.mean, by_family=final.by_family, seconds=history.seconds)

# %% [markdown]
# The same data through TRL's `SFTTrainer`, with AdamW, as committed by the study (ours is the study's too, so that the
# two stand on the same machine). The button trains it here; it takes a few minutes in full length.

# %% ftlab="experiment"
trl_run, our_run = lab.study("C15b")[0]["data"], lab.study("C15")[0]["data"]
plots.lines({"our loop (Muon)": ([e["step"] for e in our_run["evals"]], [e["score"] for e in our_run["evals"]]),
             "SFTTrainer (AdamW)": ([e["step"] for e in trl_run["evals"]], [e["score"] for e in trl_run["evals"]])},
            "step", "mean score", percent=True, title="the same examples").show()
plots.loss_curve({"our loop": (our_run["curve"]["steps"], our_run["curve"]["losses"]),
                  "SFTTrainer": (trl_run["curve"]["steps"], trl_run["curve"]["losses"])}, smooth=1,
                 ylabel="loss on responses (nats per label)", title="and their losses")

# %% ftlab="result" claim="C15b"
lab.claim("C15b", trl_run["theirs"] - trl_run["ours"], seconds=trl_run["seconds"])


# %% ftlab="play"
def train_with_trl(report):
    from ftlab.tune.with_trl import tune_with_trl

    theirs, happened = tune_with_trl(base, tokenizer, train_tasks, profile.steps(measured.TRL_STEPS, 4),
                                     measured.TRL_LR, measured.TRL_BATCH_SIZE, report=report)
    report("answering")
    found = instruction_score(theirs, tokenizer, asked)
    return f"SFTTrainer: {happened['seconds']:.0f} s of training, score {found.mean:.2f} on {len(asked)} instructions"


widgets.run_live_button("Train with SFTTrainer here", train_with_trl, note="a few minutes")

# %% [markdown]
# ### The rival: show examples, train nothing
#
# Brown et al. (2020): put a few answered examples in front of the question, and the model may go on in kind
# (*in-context learning*). Nothing is stored, each call pays for the examples again, and the window sets the limit: two
# stories with their questions fill it here. The rival is the *larger* base, with about twice the parameters, in two
# forms, and it may take the better.

# %% ftlab="experiment"
larger, larger_tokenizer = lab_base(measured.LARGER)
short = held_out_tasks(world, profile.steps(12, 1), seed=14, families=measured.SHORT)
pool = measured.examples(14, 20, measured.SHORT)
print(measured.few_shot_prompt(short[0], pool[:1], "plain"), "\n")
found = {}
for form in ("alpaca", "plain"):
    for shots in (0, 1, measured.SHOTS):
        scores = measured.few_shot_scores(larger, larger_tokenizer, short, pool, shots, form)
        found[f"{shots} examples, {form}"] = statistics.fmean(scores)
found["small model, fine-tuned"] = instruction_score(model, tokenizer, short, max_new_tokens=16).mean
plots.bars(found, percent=True, xlabel="mean score, one-word families",
           title="examples in the prompt, and in the weights")

# %% ftlab="result" claim="C16"
zero, *few = [max(found[f"{shots} examples, {form}"] for form in ("alpaca", "plain"))
              for shots in (0, 1, measured.SHOTS)]
lab.claim("C16", min(found["small model, fine-tuned"] - max(few), max(few) - zero), zero_shot=zero, few_shot=max(few))

# %% [markdown]
# ### A head instead of words
#
# Must a classifier *say* its class? The older way (Devlin et al. 2019) puts a matrix of two rows on the last hidden
# state and trains on class numbers. It answers in one pass, gives a probability, and cannot say anything but *happy* or
# *sad*.


# %% ftlab="experiment"
class EndingClassifier(torch.nn.Module):
    """The base's body with a head of two classes, read at the last token."""

    def __init__(self):
        super().__init__()
        self.body = lab_base(measured.BASE)[0]
        self.head = torch.nn.Linear(self.body.config.hidden_size, 2).to(DEVICE)

    def logits(self, batch):
        return self.head(self.body.hidden(batch.input_ids)[batch.labels != -100])  # (B, 2)

    def loss(self, batch):
        return F.cross_entropy(self.logits(batch), batch.labels[batch.labels != -100])


def classified(stories):
    """Rows of stories with the class beside the last token: 0 sad, 1 happy."""
    encoded = tokenizer.encode_batch([story.text for story in stories], bos=True)
    return [(ids, [-100] * (len(ids) - 1) + [int(story.facts.ending == "happy")])
            for ids, story in zip(encoded, stories)]


torch.manual_seed(0)
DEVICE = next(base.parameters()).device
classifier = EndingClassifier()
train(classifier, RowBatches(classified(world.sample(profile.steps(1000, 40), 21)), 2048, 0, tokenizer.pad_id),
      TrainConfig(profile.steps(60, 3), lr=sft.rate(base, 1e-3)))
tested = classified(world.sample(profile.steps(200, 20), 22, "test"))
batch = collate([ids for ids, _ in tested], tokenizer.pad_id, [labels for _, labels in tested]).to(DEVICE)
with torch.no_grad():
    right = (classifier.logits(batch).argmax(-1) == batch.labels[batch.labels != -100]).float().mean().item()
plots.bars({"a head on the body": right, "the assistant says it": final.by_family["classify"]}, percent=True,
           xlabel="endings classified rightly", title="a head, and words")

# %% [markdown]
# ### Does the mask matter?
#
# With short answers under long stories, "loss on everything" spends most of its labels on stories that the base can
# tell already. The claim only asks that hiding the prompt does no harm. Both runs, and the next three, stand in the
# study; the button makes one of them here.

# %% ftlab="experiment"
runs = lab.study("C18")
response, everything = ([run["data"][key]["score"] for run in runs] for key in ("response", "all"))
print(f"mean over {len(runs)} seeds: {statistics.fmean(response):.3f} with the loss on the response, "
      f"{statistics.fmean(everything):.3f} with the loss on the whole row")
plots.bars({f"seed {run['seed']}": run["value"] for run in runs}, xlabel="score, response minus whole row",
           title=f"{runs[0]['data']['response']['examples']} examples, one-word families")

# %% ftlab="result" claim="C18"
lab.claim("C18", runs[0]["value"], **{name: runs[0]["data"][name]["score"] for name in ("response", "all")})

# %% [markdown]
# ### What pretraining was good for
#
# The same architecture with new weights gets four times as many labelled examples and three times as many steps.

# %% ftlab="experiment"
runs = lab.study("C17")
plots.bars({f"{name}, {run['data'][key]['examples']} examples, seed {run['seed']}": run["data"][key]["score"]
            for run in runs for name, key in (("pretrained", "pretrained"), ("from nothing", "scratch"))}, percent=True,
           xlabel="mean score, one-word families", title="with and without pretraining")

# %% ftlab="result" claim="C17"
lab.claim("C17", runs[0]["value"], **{name: runs[0]["data"][name]["score"] for name in ("pretrained", "scratch")})

# %% [markdown]
# ### Few clean examples, or many sloppy ones?
#
# A careless annotator names the hero where the helper was asked for, or gets the ending wrong: half of the noisy
# answers are such. There are three times as many of them, so the noisy set holds *more right answers* than the clean
# one has examples. Does that help? (Zhou et al. 2023 tuned a large model on a thousand chosen examples.)

# %% ftlab="experiment"
for clean, noisy in list(zip(pool, measured.spoiled(pool, 1.0, 0)))[::20]:
    print(f"{clean.instruction}  right: {clean.response!r}  sloppy: {noisy.response!r}")
runs = lab.study("C21")
plots.bars({f"{run['data'][key]['examples']} {key} examples, seed {run['seed']}": run["data"][key]["score"]
            for run in runs for key in ("clean", "noisy")}, percent=True, xlabel="mean score, one-word families",
           title="quality against quantity")

# %% ftlab="result" claim="C21"
lab.claim("C21", runs[0]["value"], **{name: runs[0]["data"][name]["score"] for name in ("clean", "noisy")})


# %% ftlab="play"
WRONG = 0.0  # share of wrong answers: try 0.5


def one_short_run(report):
    quick = measured.spoiled(measured.examples(31, profile.steps(measured.SHORT_EXAMPLES, 4), measured.SHORT), WRONG, 0)
    plot = widgets.LivePlot(title=f"{len(quick)} examples, {WRONG:.0%} of them wrong")
    tuned, _, _ = measured.tuned(31, quick, profile.steps(measured.SHORT_STEPS, 4), report, callbacks=[plot])
    got = instruction_score(tuned, tokenizer, short, max_new_tokens=16).mean
    return f"score {got:.2f} on {len(short)} instructions"


widgets.run_live_button("Make one such run here", one_short_run, note="about half a minute")

# %% [markdown]
# ### Fifty examples
#
# Ten of each family, over and over. **What to look at:** where do the two held-out curves turn, and what does the
# training loss do there? The *validation* examples choose where to stop; the *held-out* ones, which had no say in it,
# tell what that was worth.

# %% ftlab="experiment"
plot = widgets.LivePlot(metric="held_out", title="fifty examples")
evals = measured.overfitting(0, lambda text: None, steps=profile.steps(measured.FEW_STEPS, 4),
                             every=profile.steps(measured.FEW_EVERY, 2), callbacks=[plot],
                             sizes={name: profile.steps(n, 2) for name, n in measured.FEW_SIZES.items()})
numbers = measured.overfit_numbers(evals)
steps = [e["step"] for e in evals]
curves = {name: (steps, [e[name] for e in evals]) for name in ("training", "validation", "held_out")}
plots.lines({"held out" if name == "held_out" else name: curve for name, curve in curves.items()}, "step",
            "loss on responses (nats per label)", title="fifty examples, every weight",
            vline=(numbers["stop"], "stop here"))

# %% ftlab="result" claim="C19"
lab.claim("C19", min(numbers["rise"], numbers["fall"]), rise=numbers["rise"], fall=numbers["fall"])

# %% ftlab="result" claim="C19b"
lab.claim("C19b", numbers["recovered"], stop=numbers["stop"])

# %% [markdown]
# ### A second domain
#
# The tuned model goes to sea: instructions about ships' logs, in other words and another form. Nothing protects what it
# knew of stories.

# %% ftlab="play"
lab.predict("forgotten", "By how much will the loss on instructions about stories rise?", low=0.0, high=4.0,
            unit="nats per label")

# %% ftlab="experiment"
allowed = 0.25
plot = widgets.LivePlot(metric="second", title="ships' logs")
sailor, sea = measured.second_domain(
    0, model, tokenizer, lambda text: None, steps=profile.steps(measured.SECOND_STEPS, 4),
    every=profile.steps(measured.SECOND_EVERY, 2), per_family=profile.steps(measured.SECOND_EXAMPLES, 4),
    judged=profile.steps(20, 1), callbacks=[plot])
rises, stop = forgetting(sea, allowed)
steps = [e["step"] for e in sea]
plots.lines({"forgotten: stories": (steps, rises),
             "learned: logs": (steps, [sea[0]["second"] - e["second"] for e in sea])}, "step", "nats per label",
            title="what the second domain gives and takes", vline=(stop, f"stop here, if {allowed} is allowed")).show()
plots.prediction_vs_result(lab.prediction("forgotten"), rises[-1], label="rise of the loss on stories",
                           unit="nats per label")

# %% ftlab="result" claim="C20"
lab.claim("C20", rises[-1], learned=sea[0]["second"] - sea[-1]["second"])

# %% [markdown]
# The same prompt, before and after the voyage:

# %% ftlab="experiment"
story_task = asked[0]
for name, one in (("before", model), ("after", sailor)):
    text = ask(one, tokenizer, [story_task], max_new_tokens=80)[0]
    print(f"{name}: {story_task.instruction}\n   {text[:300]}\n")

# %% [markdown]
# ## What people get wrong
#
# > **"Pretraining has no labels, fine-tuning has."**
#
# It is said as if one were *unsupervised* and the other *supervised* in the sense of two kinds of learning. Look at the
# labels: in both cases each is the next token of a text, and in both cases one function, yours, turns logits and labels
# into a loss. Below it is called on one text with three masks.

# %%
task = samples["answer"][1]
(ids, response), = rows(from_tasks([task]), tokenizer)
everything = [-100] + ids[1:]  # pretraining: each token but the first, which nothing predicts
prompt_only = [y if r == -100 else -100 for y, r in zip(everything, response)]
with torch.no_grad():
    logits = base(torch.tensor([ids]))
    table = {}
    for name, labels in (("pretraining: every token", everything), ("the prompt's tokens", prompt_only),
                         ("fine-tuning: the response's", response)):
        count = sum(label != -100 for label in labels)
        table[name] = (sft_loss(logits, torch.tensor([labels]), 1).item(), count)
        print(f"{name:28} {count:4} labels, {table[name][0]:8.3f} nats together, {table[name][0] / count:.3f} each")
(all_nats, count), (prompt_nats, _), (response_nats, _) = table.values()
print(f"the first line is the sum of the other two: {all_nats:.4f} = {prompt_nats + response_nats:.4f}")

# %% ftlab="result" claim="M03"
lab.claim("M03", abs(all_nats - prompt_nats - response_nats) / count)

# %% [markdown]
# What differs is the *data* (pairs that somebody made for a purpose) and the *mask* (which labels count). There is no
# other difference, which is why one loop serves both.
#
# ## Go further
#
# **Examples of your own.** Name a JSONL, CSV or Parquet file with columns `instruction` and `response` (and `input`, if
# you like), or `prompt` and `completion`, or `messages`. Without one, the cell makes a tiny file. The button does what
# `ftlab tune full --data FILE --out FOLDER` does on the command line: it holds some examples out, stops when their loss
# keeps rising, and saves what `transformers` loads. Our bases know the words of the micro-world only; for your own
# words, name another base there (`--base HuggingFaceTB/SmolLM2-135M`, on a GPU).

# %% ftlab="play"
DATA = None  # or "my_examples.jsonl"


def tune_on_my_data(report):
    from ftlab.tune.bases import load_base
    from ftlab.tune.run import Wish, tune_from_data

    with tempfile.TemporaryDirectory() as folder:
        data = DATA
        if data is None:
            lines = [{"instruction": f"Name the {kind}.", "response": f"{name} the {kind}."}
                     for kind, name in zip(world.classes["kind"] * 2, world.classes["name"][:40])]
            data = pathlib.Path(folder) / "examples.jsonl"
            data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        plot = widgets.LivePlot(metric="held_out_loss", title="my examples")
        result = tune_from_data("full", data, pathlib.Path(folder) / "tuned", base=profile.base() or measured.BASE,
                                wish=Wish(steps=profile.steps(60, 4)), callbacks=[plot], progress=report)
        mine, its_tokenizer = load_base(pathlib.Path(folder) / "tuned")
    said = ask(mine, its_tokenizer, ["Name the fox."], max_new_tokens=20)[0] if DATA is None else ""
    return (f"{result['examples']} examples, {result['steps']} steps, held-out loss "
            f"{result['held_out_loss_before'] or 0:.2f} before, {result['held_out_loss'] or 0:.2f} after\n{said}")


widgets.run_live_button("Tune on these examples", tune_on_my_data, note="some seconds")

# %% [markdown]
# **Discuss.**
#
# 1. The oracle scores what is *asked*. An assistant that people use is judged by what they *meant*. Which of the ten
#    answers would you have scored otherwise for a friend, and what would an evaluation that agrees with you look like?
# 2. Your company has a model that was tuned on its support mails and is now to learn a second product. Read the
#    forgetting curve again: what would you mix into the new data, and how would you know how much?
# 3. When is a prompt with examples the better choice, although it scores lower? Count tokens per call, calls per day,
#    and what happens when the task changes next week.
#
# **Read.**
#
# - Wei et al. (2022), *Finetuned Language Models Are Zero-Shot Learners* (FLAN): many tasks as instructions.
# - Ouyang et al. (2022), *Training language models to follow instructions with human feedback*: this lab is their first
#   stage; Labs 10 and 11 are the others.
# - Wang et al. (2023), *Self-Instruct*; Taori et al. (2023), *Alpaca*: instructions written by a model, and the
#   template.
# - Zhou et al. (2023), *LIMA: Less Is More for Alignment*: a thousand examples, well chosen.
# - Brown et al. (2020), *Language Models are Few-Shot Learners*: the rival.
# - McCloskey and Cohen (1989), *Catastrophic Interference in Connectionist Networks*: forgetting is older than this
#   field.

# %%
lab.progress()
