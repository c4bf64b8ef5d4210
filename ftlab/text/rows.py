"""Examples -> rows of token ids and labels, for our `Tokenizer` and for those of `transformers` alike.

A row is (ids, labels): labels are the ids where the loss looks, −100 elsewhere. By default the loss sees what the
assistant wrote, its end mark included, and nothing else.
"""

import warnings

from ftlab.errors import UsageError
from ftlab.text import rendered
from ftlab.text import template as templates
from ftlab.text.batching import IGNORE
from ftlab.text.rendered import own_chat_template
from ftlab.text.tokenizer import BOS, EOS, Tokenizer

LOSSES = ("response", "all")


def rows(examples, tokenizer, template="alpaca", loss="response", max_length=None, say=warnings.warn):
    """[(ids, labels), …] of a list of `Example`.

    template: "alpaca" or "chat" (a tokenizer of `transformers` that has a chat template of its own uses that one);
    prompt–completion and text examples stand as they are, without a template. loss: "response" or "all".
    "all" learns the whole text, whatever the messages' `learn` says. say: called with a line where that overrules a `learn`,
    and where a template leaves out something that the rest can be learned without (reasoning). Raises UsageError where a
    row has more than `max_length` tokens, or where its template refuses it or leaves out a message or a tool call; it
    names the example.
    """
    _check(template, loss)
    texts = [pieces(example, tokenizer, template, whole=loss == "all") for example in examples]
    _tell_left_out(examples, texts, tokenizer, template, say)
    made = _encode(tokenizer, texts)
    if max_length is not None:
        for example, (ids, _) in zip(examples, made, strict=True):
            if len(ids) > max_length:
                raise UsageError(
                    f"{example.place()}: {len(ids):,} tokens with its template, more than {max_length:,}: shorten "
                    f"the column \"{example.longest_column()}\", or leave such rows out with --max-length {max_length}"
                )
    if loss == "all":
        _tell_overruled(examples, say)
        start = starts_with_bos(tokenizer)
        made = [(ids, [IGNORE] * start + ids[start:]) for ids, _ in made]
    return made


def prompt_rows(examples, tokenizer, template="alpaca"):
    """The ids that a model reads before it answers: of each example all that stands before its (last) response."""
    _check(template, "response")
    return [ids for ids, _ in _encode(tokenizer, [pieces(e, tokenizer, template, answered=False) for e in examples])]


def pieces(example, tokenizer, template="alpaca", answered=True, whole=False):
    """An example as [(text, whether the loss is due on it), …], up to the last message that is learned.

    answered=False: up to where the last answer begins. whole: to the end, whatever is learned.
    """
    bos = [(_bos(tokenizer), False)] if starts_with_bos(tokenizer) else []
    eos = _eos(tokenizer)
    if example.form in ("completion", "text"):
        parts = bos + [(example.instruction, False)] + [(example.response + eos, True)] * answered
    elif example.form == "instruction" and template == "alpaca":
        prompt = templates.alpaca(example.instruction, example.input)
        parts = bos + [(prompt, False)] + [(templates.alpaca_response(example.response) + eos, True)] * answered
    elif template == "chat" and own_chat_template(tokenizer):
        if not answered:
            return [(rendered.prompt(example, tokenizer, eos), False)]
        parts = rendered.learned(example, tokenizer, eos, whole)
    else:
        parts = bos + _in_our_form(example, template, eos, answered, whole)
    goes_on = whole and example.form == "messages" and example.messages[-1][0] != "assistant"
    while answered and len(parts) > 1 and not parts[-1][1] and not goes_on:
        parts.pop()  # what follows the last answer teaches nothing
    return [(text, seen) for text, seen in parts if text]


def starts_with_bos(tokenizer):
    """Whether texts for this tokenizer begin with a start token: ours always, others where they add it themselves."""
    if isinstance(tokenizer, Tokenizer):
        return True
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def _check(template, loss):
    if template not in templates.TEMPLATES:
        raise UsageError(f"no template is called {template!r}; choose one of {', '.join(templates.TEMPLATES)}")
    if loss not in LOSSES:
        raise UsageError(f"the loss cannot be on {loss!r}; choose one of {', '.join(LOSSES)}")


def _bos(tokenizer):
    return BOS if isinstance(tokenizer, Tokenizer) else tokenizer.bos_token


def _eos(tokenizer):
    if isinstance(tokenizer, Tokenizer):
        return EOS
    if tokenizer.eos_token is None:
        raise UsageError("the tokenizer has no end token (eos_token), so nothing would tell the model to stop: set one")
    return tokenizer.eos_token


def _tell_left_out(examples, texts, tokenizer, template, say):
    """Say once for all examples what their template leaves out of the text."""
    found = {}
    for example, parts in zip(examples, texts, strict=True):
        if example.tools or any(example.extra):
            for line in rendered.left_out(example, tokenizer, "".join(text for text, _ in parts)):
                found.setdefault(line, []).append(example)
    whose = "the model's chat template" if template == "chat" and own_chat_template(tokenizer) else f"the template {template!r}"
    for line, some in found.items():
        say(f"{some[0].place()}{f' and {len(some) - 1:,} more' if some[1:] else ''}: {whose} {line}")


def _tell_overruled(examples, say):
    """Say how many answers are marked as not to be learned, and are learned all the same."""
    marked = [(example, sum(role == "assistant" and not seen for (role, _), seen in zip(example.messages, example.learn)))
              for example in examples]
    marked = [(example, count) for example, count in marked if count]
    if marked:
        count = sum(count for _, count in marked)
        more = f" and {len(marked) - 1:,} more" if marked[1:] else ""
        say(f"{marked[0][0].place()}{more}: --loss all learns the whole text, "
            f"also {count:,} answer{'s' * (count > 1)} that the data mark as not to be learned: --loss response does not")


def _in_our_form(example, template, eos, answered, whole):
    """Messages under the course's own templates. Raises UsageError for tools, which these do not render."""
    messages, learn = example.as_messages(), rendered.learned_messages(example, whole or not answered)
    if example.tools or any(message["role"] in ("tool", "function") or message.get("tool_calls") for message in messages):
        raise UsageError(f"{example.place()}: has tools or tool calls, which the template {template!r} does not render: choose "
                         "a base whose own chat template does, with --template chat, or delete the row")
    if not answered:
        messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        opening = {"alpaca": "### Response:\n", "chat": "<|assistant|>\n"}[template]
        return [*templates.message_pieces(messages, template, eos), (opening, False)]
    return templates.message_pieces(messages, template, eos, None if whole else learn)


def _encode(tokenizer, examples):
    """Examples as pieces -> rows."""
    if isinstance(tokenizer, Tokenizer):
        return _encode_pieces(tokenizer, examples)
    return _encode_whole(tokenizer, examples)


def _encode_pieces(tokenizer, examples):
    """Piece by piece: a prompt has the same ids here as when it stands alone, waiting for its answer."""
    examples = [_behind_each_other(tokenizer, parts) for parts in examples]
    texts = list(dict.fromkeys(text for parts in examples for text, _ in parts))
    ids_of = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
    made = []
    for parts in examples:
        ids, labels = [], []
        for text, seen in parts:
            ids += ids_of[text]
            labels += ids_of[text] if seen else [IGNORE] * len(ids_of[text])
        made.append((ids, labels))
    return made


def _behind_each_other(tokenizer, parts):
    before = [""] + [text for text, _ in parts[:-1]]
    return [(tokenizer.behind(last, text), seen) for last, (text, seen) in zip(before, parts, strict=True)]


def _encode_whole(tokenizer, examples):
    """The whole text at once, since some tokenizers put a space before whatever they are given."""
    if not tokenizer.is_fast:
        raise UsageError("this needs a fast tokenizer (one with tokenizer.json): convert it with AutoTokenizer first")
    made = []
    texts = ["".join(text for text, _ in parts) for parts in examples]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    for parts, whole, ids, offsets in zip(examples, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        spans, at = [], 0
        offsets = [_place(tokenizer, whole, i, *place) for i, place in zip(ids, offsets, strict=True)]
        for text, seen in parts:
            spans += [(at, at + len(text))] if seen else []
            at += len(text)
        made.append((list(ids), [i if any(a < end and start < b for a, b in spans) else IGNORE
                                 for i, (start, end) in zip(ids, offsets, strict=True)]))
    return made


def _place(tokenizer, text, i, start, end):
    """Where token i stands in the text. A space that the tokenizer puts behind a line break (`Tokenizer.train`,
    line_starts) is told to stand at the break; it belongs to the word that follows."""
    inserted = text[start:end].endswith("\n") and tokenizer.decode([i]) == " "
    return (end, end + 1) if inserted else (start, end)


def keep_short(examples, made, max_length):
    """(examples, rows) without those of more than `max_length` tokens."""
    kept = [(example, row) for example, row in zip(examples, made, strict=True) if len(row[0]) <= max_length]
    return [example for example, _ in kept], [row for _, row in kept]


def shown(row, tokenizer):
    """[(piece of text, whether the loss sees it), …] of a row, to show a student what is learnt from."""
    ids, labels = row
    texts = tokenizer.pieces(ids) if hasattr(tokenizer, "pieces") else [tokenizer.decode([i]) for i in ids]
    return [(text, label != IGNORE) for text, label in zip(texts, labels, strict=True)]
