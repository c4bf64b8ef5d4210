"""Messages under a tokenizer's own chat template: the text, and which of it the assistant wrote.

Many templates render an answer differently once more follows (thinking is taken out of earlier turns, the end token
comes once, a date stands in the system prompt), so an answer's place cannot be had by rendering the messages up to it.
Instead the template's loops over the messages are made to write a mark before each message (a private-use character,
taken out again), as `{% generation %}` does for the templates that have it. Where a template has `{% generation %}`,
its blocks are what is learned.

What is learned of a message of the assistant: all that it adds after the generation prompt, its end mark included. So
that the model is asked as it was trained:

- Where an answer without reasoning begins differently in the last turn (Qwen 3 puts an empty thinking block before it),
  every answer of the assistant stands in the row as it does when it is the last. Reasoning that a template keeps for the
  last turn only (gpt-oss, GLM, Nemotron) is learned in the last turn only, as TRL does it; `left_out` tells of the rest.
- A thinking block is learned whole, also where the generation prompt opens it ("<think>\\n"): one model is asked with
  thinking and without. `prompt` ends before the block where an answer without reasoning does not begin with the tokens
  of the generation prompt (DeepSeek R1, Nemotron, Qwen 3.5): the model has learned to write the block itself.
  `template_as_asked` is the base's template with that prompt; a checkpoint is saved with it.
- The header is learned, too, where the model writes a part of it (gpt-oss: "<|start|>assistant", then a channel), and
  where the generation prompt promises a thinking block that answers do not have (DeepSeek).
- Where the last turn alone ends by the end token (Phi 3), that is learned, too; where a template has no end mark
  (GLM), the mark that opens the next turn is the end. A row whose template ends by another mark than the tokenizer's end
  token ends by that besides: generation stops there whatever the base's configuration says.

Held equal to the masks of TRL's training templates (`trl/chat_templates`) by tests/text/test_rendered.py.
"""

import dataclasses
import functools
import json
import re

from jinja2.exceptions import TemplateError

from ftlab.errors import UsageError
from ftlab.text.examples import Example

# Marks, all of plane 16 of Unicode (private use): a loop's iteration begins, a loop is over, generation begins and ends.
_LOOP, _AFTER, _GENERATION, _ENDED, _MESSAGE = 0x100000, 0x101000, 0x102000, 0x102001, 0x104000
_MARK = re.compile("[\U00100000-\U0010ffff]")
_KEY = "ftlab_mark"
_TAG = re.compile(r"\{#.*?#\}|\{\{.*?\}\}|\{%([-+]?)\s*(\w+)(.*?)([-+]?)%\}", re.DOTALL)
_OVER_MESSAGES = re.compile(r"\s*(\w+)\s+in\s.*(messages|turns|conversation|history|\bchat\b)", re.DOTALL)
_OVER_NUMBERS = re.compile(r"\s*(\w+)\s+in\s+range\s*\(.*?(\w*(?:messages|turns|conversation|history))\s*\|\s*(?:length|count)",
                           re.DOTALL)
_THINKING = re.compile(r"<[^<>\s]*think[^<>\s]*>|\[THINK\]|<\|channel\|?>(thought|analysis)", re.IGNORECASE)
_OPENING = re.compile(r"\s*(<[^<>\s]+>|\[[^\[\]\s]+\])")
# Qwen 2.5 writes the line break after the role together with what the assistant says (it has a branch for tool calls).
_ROLE_ALONE = re.compile(r"\+\s*message(?:\.role|\[['\"]role['\"]\])\s*-?\}\}(?=\s*\{[%{]-)")
_RESERVED = ("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "tokenize",
             "continue_final_message", "return_dict", "return_tensors", "padding", "truncation", "max_length",
             "return_assistant_tokens_mask", "tokenizer_kwargs", "documents")
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclasses.dataclass(frozen=True)
class Located:
    """A rendered text; for each message where it stands ([(start, end), …], empty: nowhere); the same of the blocks
    that the template itself marks as generated."""

    text: str
    parts: list
    generated: list

    def of(self, index):
        """The text of a message."""
        return "".join(self.text[a:b] for a, b in self.parts[index])

    def end(self):
        """Where the last message ends."""
        return max((part[-1][1] for part in self.parts if part), default=0)


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a template does with a plain talk. prompt: its generation prompt. header: the beginning of an answer that is
    not learned. asked: the part of the generation prompt with which every answer begins. as_last: whether earlier answers
    begin otherwise than the last. end: the mark of the user's turn, where that is what ends an answer."""

    prompt: str = ""
    header: str = ""
    asked: str = ""
    as_last: bool = False
    end: str = ""


class Rendering:
    """The messages of one Example, in a form that the tokenizer's template renders whole.

    Raises UsageError where the template refuses them or leaves some of them out.
    """

    def __init__(self, example, tokenizer, upto=None):
        self.place, self.tokenizer = example.place(), tokenizer
        self.tools, self.options = list(example.tools) or None, dict(example.template_options)
        clash = next((name for name in self.options if name in _RESERVED), None)
        if clash:
            raise UsageError(f"{self.place}: {clash!r} is no option of a chat template: delete it")
        self.source = tokenizer.get_chat_template(None, self.tools)
        self.kept = {}
        messages = example.as_messages()[:upto]
        self.plain = not self.tools and not any(message.get("tool_calls") for message in messages)
        if not re.search(r"""['"]developer['"]""", self.source):
            messages = [message | {"role": "system"} if message["role"] == "developer" else message
                        for message in messages]
        self.messages = self._rendered_whole(messages)
        self._keep_thinking()

    # ---- rendering

    def render(self, messages, **more):
        """The text of messages; raises whatever the template raises."""
        text = self.tokenizer.apply_chat_template(messages, tools=self.tools, tokenize=False, **self.options, **more)
        for placeholder, content in self.kept.items():
            text = text.replace(placeholder, content)
        return text

    def located(self, messages):
        """The Located of messages, or None where the template does not write them by loops that can be marked."""
        text = self.render(messages)
        source = marked_source(self.source)
        if source is None or _MARK.search(text):
            return None
        marked = [message | {_KEY: chr(_MESSAGE + index)} for index, message in enumerate(messages)]
        try:
            found = _located(self.render(marked, chat_template=source), len(messages))
        except Exception:  # a template that the marks disturb
            return None
        return found if found.text == text else None

    @functools.cached_property
    def traits(self):
        """The Traits of the template with this example's options."""
        return _traits(self)

    def header(self, located, index):
        """How many characters of a message of the assistant are not learned: its header."""
        answer, traits = located.of(index), self.traits
        if answer.startswith(traits.header):
            return len(traits.header)
        if not index:  # what opens the whole text stands before it
            before = answer.partition(_text_of(self.messages[0]).strip() or "\0")[0]
            return before.rfind(traits.header) + len(traits.header) if traits.header in before else 0
        prompt = _without_thinking(self._generation_prompt(self.messages[:index]))
        return len(prompt) if answer.startswith(prompt) else 0

    def _generation_prompt(self, messages):
        """What the generation prompt adds to messages."""
        located, asked = self.located(messages), self.render(messages, add_generation_prompt=True)
        end = located.end() if located else 0
        return asked[end:] if located and asked[:end] == located.text[:end] else ""

    # ---- a form that the template takes

    def _rendered_whole(self, messages):
        """The messages in the first form in which the template renders all of them."""
        said, lacks, other = [], [], []
        for form in _forms(messages):
            try:
                lost = self._lost(form)
            except Exception as error:  # a template refuses by raising whatever Jinja raises
                (said if type(error) is TemplateError else other).append(error)
                continue
            if lost is None:
                return form
            lacks.append(lost)
        if said or not lacks:  # what the template itself says, rather than what Jinja says of a form that it does not take
            advice = "mend the messages or use --template alpaca" if self.plain else "mend the messages"
            raise UsageError(f"{self.place}: the model's chat template refuses it ({(said or other)[0]}): {advice}")
        raise UsageError(f"{self.place}: {max(lacks, key=lambda lack: lack[0])[1]}")

    def _lost(self, messages):
        """(index, line) of the first message of which the template leaves out something, or None."""
        text, located = self.render(messages), self.located(messages)
        for index, message in enumerate(messages):
            number = f"message {index + 1}"
            for which in range(len(message.get("tool_calls") or ())):
                if self._without_call(messages, index, which) == text:
                    return index, (f"the model's chat template leaves out the tool calls of {number}, so they cannot be "
                                   "learned: choose a base whose template renders tool calls, or delete the row")
            if _twice_encoded(message, text):
                return index, f"the model's chat template writes the arguments of the tool call in {number} as a quoted text"
            content = _text_of(message)
            if not content.strip() or located and content.strip() in located.of(index):
                continue
            if message.get("tool_calls"):
                continue  # some templates render the calls alone: see `left_out`
            other = messages[:index] + [_with_text(message, "zqx")] + messages[index + 1:]
            if self.render(other) == text:
                advice = "delete it or use --template alpaca" if self.plain else "delete it or choose another base"
                return index, f"the model's chat template leaves out {number} (role {message['role']!r}): {advice}"
        return None

    def _without_call(self, messages, index, which):
        """The text without one tool call; None where the template refuses that."""
        calls = messages[index]["tool_calls"]
        message = dict(messages[index], tool_calls=calls[:which] + calls[which + 1:])
        if not message["tool_calls"]:
            del message["tool_calls"]
        try:
            return self.render(messages[:index] + [message] + messages[index + 1:])
        except Exception:
            return None

    def _keep_thinking(self):
        """Keep the reasoning in an answer's text where the template takes it out even of the last turn, as templates made
        for asking do (DeepSeek R1): such a message is rendered with a placeholder."""
        for index, message in enumerate(self.messages):
            content = message["content"]
            if message["role"] != "assistant" or not isinstance(content, str) or "</think>" not in content:
                continue
            reasoning = content.split("</think>")[0].split("<think>")[-1].strip()
            try:
                lost = bool(reasoning) and reasoning not in self.render(self.messages[:index + 1])
            except Exception:
                continue
            if lost:
                placeholder = f"zq{index}kept{index}qz"
                self.kept[placeholder] = content
                self.messages[index] = message | {"content": placeholder}


def learned(example: Example, tokenizer, eos: str, whole: bool = False) -> list[tuple[str, bool]]:
    """The text of an example of messages under the tokenizer's template, as [(text, whether the loss is due), …].

    The text ends with the last message that is learned, what follows teaches nothing; whole: with the last message.
    eos: the end token's text. Raises UsageError where the template refuses the example or leaves out some of it.
    """
    learn = learned_messages(example, whole)
    upto = len(learn) if whole else max(index for index, seen in enumerate(learn) if seen) + 1
    rendering = Rendering(example, tokenizer, upto)
    located = rendering.located(rendering.messages)
    if located is None or not all(part for part, seen in zip(located.parts, learn, strict=False) if seen):
        return _by_prefixes(rendering, learn[:upto], eos)
    located = _each_as_last(rendering, located)
    spans = []
    for index in range(upto):
        if learn[index]:
            spans += _learned_spans(rendering, located, index)
    text = located.text
    if rendering.messages[-1]["role"] == "assistant":
        text, spans = _with_end(rendering, located, spans, eos)
    made = _pieces(text, spans)
    rest = text[sum(len(piece) for piece, _ in made):]
    return [*made, (rest, False)] if rest and whole else made


def learned_messages(example: Example, whole: bool = False) -> list[bool]:
    """For each message whether it is learned; where the whole text is, whether it is the assistant's. Raises UsageError
    where none is learned."""
    roles = [message["role"] for message in example.as_messages()]
    learn = [role == "assistant" for role in roles] if whole or not example.learn else list(example.learn)
    if not any(learn) and not whole:
        what = "learns from none of its messages" if "assistant" in roles else "has no message of the assistant"
        raise UsageError(f"{example.place()}: {what}: delete the row, or learn from all of the text with --loss all")
    return learn


def prompt(example: Example, tokenizer, eos: str) -> str:
    """The text that the model is given before it writes the answer that an example ends with, or an answer to all of it.

    It is what the template renders with a generation prompt, up to where all answers, with thinking or without, begin.
    """
    messages = example.as_messages()
    last = len(messages) - (messages[-1]["role"] == "assistant")
    if not last:
        parts = learned(example, tokenizer, eos)
        return parts[0][0] if not parts[0][1] else ""
    rendering = Rendering(example, tokenizer, last)
    try:
        text = rendering.render(rendering.messages, add_generation_prompt=True)
    except Exception as error:
        raise UsageError(f"{rendering.place}: the model's chat template refuses it ({error}): mend the messages") from None
    traits = rendering.traits
    if traits.prompt and text.endswith(traits.prompt):
        text = text.removesuffix(traits.prompt) + traits.asked
    return text


def template_as_asked(tokenizer) -> str | None:
    """The tokenizer's chat template with a generation prompt as `prompt` has it, for a checkpoint trained by `learned`;
    None where that is how it is, or where the prompt's text is not found in the template."""
    example = Example(form="messages", messages=(("user", "Xq."),))
    try:
        rendering = Rendering(example, tokenizer)
    except UsageError:
        return None
    source, traits = rendering.source, rendering.traits
    opened = traits.prompt.removeprefix(traits.asked)
    if not opened:
        return None
    talk = [*rendering.messages, {"role": "assistant", "content": "Xq."}]
    asked = prompt(example, tokenizer, tokenizer.eos_token or "")
    for written in (repr(opened)[1:-1], opened):
        for found in reversed(list(re.finditer(re.escape(written), source))):
            changed = source[:found.start()] + source[found.end():]
            try:
                same = rendering.render(talk, chat_template=changed) == rendering.render(talk)
                if same and rendering.render(talk[:1], chat_template=changed, add_generation_prompt=True) == asked:
                    return changed
            except Exception:
                continue
    return None


def left_out(example: Example, tokenizer, text: str) -> list[str]:
    """Lines that say what of an example is not in its `text`, though the rest can be learned without it."""
    lines, messages = [], example.as_messages()
    if example.tools and own_chat_template(tokenizer):
        rendering = Rendering(example, tokenizer)
        told, rendering.tools = rendering.render(rendering.messages), None
        if rendering.render(rendering.messages) == told:
            lines.append("does not tell the model of its tools")
    beside = [message["content"] for message in messages if message.get("tool_calls") and isinstance(message["content"], str)]
    if any(content.strip() not in text for content in beside):
        lines.append("leaves out what is said beside some tool calls, so it is not learned")
    reasons = [message[key] for message in messages for key in _REASONING if isinstance(message.get(key), str)]
    if any(reason.strip() not in text for reason in reasons):
        lines.append("leaves out the reasoning of some turns, so it is not learned")
    return lines


def own_chat_template(tokenizer) -> bool:
    """Whether this is a tokenizer of `transformers` with a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


# ---- marks


@functools.lru_cache(maxsize=32)
def marked_source(source: str) -> str | None:
    """A chat template whose loops over messages, and {% generation %} blocks, write marks; None where it has no loops.

    After a tag stands a comment with the tag's own sign, so that white space is cut as it was.
    """
    made, at, loops, count = [], 0, [], 0
    for tag in _TAG.finditer(source):
        name, rest, sign = tag[2], tag[3], tag[4] or ""
        mark = None
        if name == "for":
            item = _message_of_loop(rest)
            loops.append(count if item else None)
            if item:
                mark = (f"{{{{ '{chr(_LOOP + count)}' + {item}.{_KEY} "
                        f"if {item} is mapping and {item}.{_KEY} is defined else '' }}}}")
                count += 1
        elif name == "endfor" and loops:
            number = loops.pop()
            mark = None if number is None else f"{{{{ '{chr(_AFTER + number)}' }}}}"
        elif name in ("generation", "endgeneration"):
            mark = f"{{{{ '{chr(_GENERATION if name == 'generation' else _ENDED)}' }}}}"
        if mark:
            made += [source[at:tag.end()], mark, f"{{# {sign}#}}"]
            at = tag.end()
    return "".join([*made, source[at:]]) if count else None


def _message_of_loop(head):
    """The expression for the message in a loop (what stands after "for"), or None if it does not loop over messages."""
    by_number = _OVER_NUMBERS.match(head)
    if by_number:
        return f"{by_number[2]}[{by_number[1]}]"
    over = _OVER_MESSAGES.match(head)
    return over[1] if over else None


def _located(marked, count):
    """The Located of a text with marks."""
    text, at, length, stack, since = [], 0, 0, [], None
    parts, generated = [[] for _ in range(count)], []
    for mark in [*_MARK.finditer(marked), None]:
        piece = marked[at:mark.start() if mark else len(marked)]
        if piece and stack and piece.strip():
            segments = parts[stack[-1][1]]
            segments.append((length, length + len(piece)))
        elif piece and stack and parts[stack[-1][1]] and parts[stack[-1][1]][-1][1] == length:
            parts[stack[-1][1]].append((length, length + len(piece)))
        text.append(piece)
        length += len(piece)
        if mark is None:
            break
        at, code = mark.end(), ord(mark[0])
        if code >= _MESSAGE:
            stack[-1] = (stack[-1][0], code - _MESSAGE)
        elif code == _GENERATION:
            since = length
        elif code == _ENDED:
            generated += [(since, length)] if since is not None and length > since else []
            since = None
        else:
            loop = code - (_AFTER if code >= _AFTER else _LOOP)
            while loop in [number for number, _ in stack]:
                stack.pop()
            if code < _AFTER:
                stack.append((loop, None))
    return Located("".join(text), [_joined(segments) for segments in parts], generated)


def _joined(segments):
    """Segments that touch as one."""
    made = []
    for start, end in segments:
        if made and made[-1][1] == start:
            made[-1] = (made[-1][0], end)
        else:
            made.append((start, end))
    return made


# ---- what a template does


_known_traits = {}


def _traits(rendering):
    key = (rendering.source, repr(rendering.options), isinstance(rendering.messages[0]["content"], list),
           rendering.tokenizer.bos_token, rendering.tokenizer.eos_token)
    if key not in _known_traits:
        try:
            _known_traits[key] = _probed(rendering, key[2])
        except Exception:  # it refuses a plain talk
            _known_traits[key] = Traits()
    return _known_traits[key]


def _probed(rendering, as_parts):
    """The Traits, from how the template renders two turns of plain text."""
    said = "Xq."
    talk = [{"role": role, "content": [{"type": "text", "text": said}] if as_parts else said}
            for role in ("user", "assistant", "user", "assistant")]
    one, two = rendering.located(talk[:2]), rendering.located(talk)
    if one is None or two is None:
        return Traits()
    last, earlier = one.of(1), two.of(1)
    (before, found, rest), (after, _, _) = last.partition(said), earlier.partition(said)
    prompt = rendering._generation_prompt(talk[:1])
    header = _without_thinking(prompt)
    asked = prompt if last.startswith(prompt) else header
    if asked != header and not _begins_with_tokens(rendering.tokenizer, last, asked):
        asked = header
    if rendering.options:  # with thinking switched off, some templates open and close it in the generation prompt
        options, rendering.options = rendering.options, {}
        plain = _without_thinking(rendering._generation_prompt(talk[:1]))
        header, rendering.options = plain if header.startswith(plain) else header, options
    if _without_thinking(prompt) != prompt and last.startswith(header) and not _THINKING.match(last[len(header):].lstrip()):
        header = ""
    elif header[-1:].isalnum():
        header = ""
    elif header.endswith("\n") and _ROLE_ALONE.search(rendering.source):
        header = header[:-1]
    opening = _OPENING.match(two.of(2))
    end = opening[1] if opening and found and not rest.strip() and not two.text[two.end():].strip() else ""
    return Traits(prompt, header if last.startswith(header) else "", asked if last.startswith(asked) else "",
                  bool(found) and before != after, end)


def _begins_with_tokens(tokenizer, text, beginning):
    """Whether the tokens of a text begin with those of its beginning."""
    ids, first = (tokenizer(some, add_special_tokens=False).input_ids for some in (text, beginning))
    return ids[:len(first)] == first


def _without_thinking(prompt):
    """A generation prompt up to the thinking block that it opens."""
    thinking = _THINKING.search(prompt)
    return prompt[:thinking.start()] if thinking else prompt


# ---- what is learned


def _each_as_last(rendering, located):
    """The Located with each answer of the assistant as it is rendered in the last turn, where the template's traits say
    so."""
    if not rendering.traits.as_last or located.generated:
        return located
    text, parts, shift = located.text, [], 0
    for index, part in enumerate(located.parts):
        part = [(a + shift, b + shift) for a, b in part]
        answer = _as_last(rendering, index) if len(part) == 1 else None
        if answer is not None:
            (start, end), = part
            text = text[:start] + answer + text[end:]
            part = [(start, start + len(answer))]
            shift += part[0][1] - end
        parts.append(part)
    return Located(text, parts, [])


def _as_last(rendering, index):
    """A message of the assistant as it is rendered where nothing follows; None if that is as it stands or refused."""
    messages, number = rendering.messages[:index + 1], index
    if messages[-1]["role"] != "assistant":
        return None
    if all(message["role"] != "user" for message in messages):  # which turn is the last is told by the user's messages
        messages, number = [*messages[:-1], _with_text(messages[-1] | {"role": "user"}, "Xq."), messages[-1]], index + 1
        messages[-2].pop("tool_calls", None)
    elif index == len(rendering.messages) - 1:
        return None
    try:
        located = rendering.located(messages)
    except Exception:  # a template that wants something more to follow
        return None
    return located.of(number) if located and len(located.parts[number]) == 1 else None


def _learned_spans(rendering, located, index):
    """[(start, end), …] of the text that is learned of one message."""
    message, parts = rendering.messages[index], list(located.parts[index])
    if message["role"] != "assistant":  # its text and what ends it; a header is none of its writing
        start = located.text.find(_text_of(message).strip(), *parts[0])
        return [(max(start, parts[0][0]), parts[0][1]), *parts[1:]]
    inside = [(max(a, c), min(b, d)) for a, b in parts for c, d in located.generated if max(a, c) < min(b, d)]
    if inside:
        return inside
    parts[0] = (parts[0][0] + rendering.header(located, index), parts[0][1])
    start, end = parts[-1]
    written = located.text[start:end]
    if re.search(r"[>\]] +$", written):  # a space that parts the turns
        end = start + len(written.rstrip(" "))
    if rendering.traits.end and located.text[:end].rstrip() == located.text[:end]:
        opening = _OPENING.match(located.text, end)
        end = opening.end() if opening else end
    parts[-1] = (start, end)
    return [(a, b) for a, b in parts if a < b]


def _with_end(rendering, located, spans, eos):
    """(text, spans) with the end of the last answer: what the template writes after it, and the end token."""
    text, end = located.text, spans[-1][1]
    tail = text[located.end():]
    if tail.strip() and not located.generated:
        spans, end = [*spans, (located.end(), len(text))], len(text)
    text = text[:end]
    mark = rendering.traits.end
    if mark and not located.generated:
        if rendering.messages[-1].get("tool_calls"):
            mark = _opening_of_tool(rendering) or mark
        text += mark
    if not text.rstrip().endswith(eos):
        text += eos
    return text, [*spans, (end, len(text))]


def _opening_of_tool(rendering):
    """The mark that opens a tool's turn after the last message, or None."""
    messages = [*rendering.messages, {"role": "tool", "content": "Xq."}]
    try:
        located = rendering.located(messages)
    except Exception:
        return None
    opening = _OPENING.match(located.of(len(messages) - 1)) if located else None
    return opening[1] if opening else None


def _pieces(text, spans):
    made, at = [], 0
    for start, end in sorted(spans):
        start = max(start, at)
        made += [(text[at:start], False), (text[start:end], True)]
        at = max(end, at)
    return [(piece, seen) for piece, seen in made if piece]


def _by_prefixes(rendering, learn, eos):
    """Pieces where the template cannot be marked: what each answer adds to the text before it, if that stays."""
    messages = rendering.messages
    if any(seen and message["role"] != "assistant" for seen, message in zip(learn, messages, strict=True)):
        raise UsageError(f"{rendering.place}: under the model's chat template only messages of the assistant can be learned")
    parts, done, whole = [], "", rendering.render(messages)
    for index in [i for i, seen in enumerate(learn) if seen]:
        try:
            before = rendering.render(messages[:index], add_generation_prompt=True) if index else ""
            after = rendering.render(messages[:index + 1])
        except Exception as error:
            raise UsageError(f"{rendering.place}: the model's chat template refuses its first {index + 1} messages "
                             f"({error}): mend them") from None
        if not (before.startswith(done) and after.startswith(before) and whole.startswith(after)):
            raise UsageError(f"{rendering.place}: the model's chat template renders an answer differently once more "
                             "follows, and does not write the messages in a loop over them, so its tokens cannot be told "
                             "apart: use --template alpaca")
        parts += [(before[len(done):], False), (after[len(before):], True)]
        done = after
    if not parts:
        return [(whole, False)]
    if not done.rstrip().endswith(eos):
        parts[-1] = (parts[-1][0] + eos, True)
    return parts


# ---- forms of messages


def _forms(messages):
    """The messages as templates want them, the commonest form first: a content of null as an empty text or as it is;
    the arguments of a tool call as given, as an object, as JSON text; texts as lists of parts (models that see)."""
    calls = any(message.get("tool_calls") for message in messages)
    made = []
    for empty in ("", None) if calls else ("",):
        some = [message | {"content": empty if message.get("tool_calls") or not calls else ""}
                if message.get("content") in ("", None) else dict(message) for message in messages]
        made += [some] + [[_with_arguments(message, how) for message in some] for how in (_parsed, _dumped)] * calls
    made += [[_with_text(message, _text_of(message), parts=True) for message in form] for form in made]
    return made


def _with_arguments(message, how):
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        changed = function | {"arguments": how(function["arguments"])} if "arguments" in function else function
        calls.append(call | {"function": changed} if "function" in call else changed)
    return message | {"tool_calls": calls}


def _parsed(arguments):
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _dumped(arguments):
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _twice_encoded(message, text):
    """Whether arguments given as JSON text stand in the text as a quoted string: JSON within JSON."""
    for call in message.get("tool_calls") or ():
        arguments = call.get("function", call).get("arguments")
        if isinstance(arguments, str) and isinstance(_parsed(arguments), dict) and arguments not in text and any(
                json.dumps(arguments, ensure_ascii=ascii) in text for ascii in (False, True)):
            return True
    return False


def _text_of(message):
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _with_text(message, text, parts=False):
    parts = parts or isinstance(message.get("content"), list)
    return message | {"content": [{"type": "text", "text": text}] if parts else text}
