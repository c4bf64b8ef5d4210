"""ftlab.text.rendered: what is learned under chat templates of all kinds; equal to TRL's masks where TRL has them."""

import importlib.util
import pathlib
import re
import warnings

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ftlab.errors import UsageError
from ftlab.text import rendered
from ftlab.text.batching import IGNORE
from ftlab.text.examples import Example
from ftlab.text.rows import prompt_rows, rows
from ftlab.text.template import jinja
from ftlab.tune.bases import trained_template

_TRL = importlib.util.find_spec("trl")
TEMPLATES = pathlib.Path(_TRL.origin).parent / "chat_templates" if _TRL else pathlib.Path("no trl here")
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training"))
PARTS = ("idefics3", "llava_next", "smolvlm")  # templates of models that see: they take lists of parts only


@pytest.fixture(scope="module")
def tokenizer():
    """One byte, one token: a mask is seen to the letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")


def talk(*messages, **more):
    """An Example of messages (role, content) or (role, content, {further keys})."""
    return Example(form="messages", messages=tuple(message[:2] for message in messages),
                   extra=tuple(message[2] if message[2:] else {} for message in messages), **more)


def call(name, arguments, number=1):
    return {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def shown(row, tokenizer):
    """A row's text with what is learned in ⟦ ⟧."""
    text, seen = "", False
    for run, learned in _runs(row):
        text += "⟧" * (seen and not learned) + "⟦" * (learned and not seen) + tokenizer.decode(run)
        seen = learned
    return text + "⟧" * seen


def _runs(row):
    runs = []
    for i, label in zip(*row, strict=True):
        if not runs or runs[-1][1] != (label != IGNORE):
            runs.append(([], label != IGNORE))
        runs[-1][0].append(i)
    return runs


def made(example, tokenizer, template, **how):
    """The row of an example under a Jinja template, as `shown`."""
    tokenizer.chat_template = template
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row, = rows([example], tokenizer, "chat", **how)
    return shown(row, tokenizer)


S, U, A = ("system", "You are a pirate."), ("user", "Say hi."), ("assistant", "Arr, matey!")
U2, A2 = ("user", "Again"), ("assistant", "Arr again!\n\nYo ho.")
LAMP, ON = {"tool_calls": (call("lamp", {"on": True}),)}, ("tool", "on", {"tool_call_id": "c1", "name": "lamp"})
TOOLS = ({"type": "function", "function": {"name": "lamp", "description": "switch", "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}}}},)
TALKS = {
    "one turn": talk(U, A),
    "several turns": talk(U, A, U2, A2),
    "with system": talk(S, U, A, U2, A2),
    "spaces": talk(("user", " a "), ("assistant", " b  "), ("user", "c"), ("assistant", "\nd\n")),
    "the same text": talk(("user", "Hi"), ("assistant", "Hi"), ("user", "Hi"), ("assistant", "Hi")),
    "marks inside": talk(U, ("assistant", "<|im_end|> [x] ok"), U2, ("assistant", "  ```py\nx = 1\n```\n")),
    "reasoning": talk(U, (*A, {"reasoning_content": "R1"}), U2, (*A2, {"reasoning_content": "R2"})),
    "thinking in the text": talk(U, ("assistant", "<think>\nR1\n</think>\n\nArr!"), U2,
                                 ("assistant", "<think>\nR2\n</think>\n\nYo.")),
    "no thinking": talk(U, A, U2, A2, template_options={"enable_thinking": False}),
    "two answers": talk(U, A, A2),
    "two questions": talk(U, U2, A),
    "no user": talk(S, A),
    "the answer first": talk(S, A, U, A2),
    "a call": talk(U, ("assistant", "", LAMP), ON, A2, tools=TOOLS),
    "a call with words": talk(U, ("assistant", "Let me see.", LAMP), ON, A2, U2, A),
    "a call last": talk(U, ("assistant", "", LAMP), tools=TOOLS),
    "two calls": talk(U, ("assistant", "", {"tool_calls": (call("lamp", {"on": True}), call("fan", {"speed": 3}, 2))}), ON,
                      ("tool", "3", {"tool_call_id": "c2", "name": "fan"}), A2),
    "calls in a chain": talk(S, U, ("assistant", "", LAMP | {"reasoning_content": "R1"}), ON,
                             ("assistant", "", LAMP | {"reasoning_content": "R2"}), ON,
                             (*A2, {"reasoning_content": "R3"}), U2, A, tools=TOOLS),
}  # fmt: skip

# Where ours are not TRL's masks, and why.
APART = {
    ("deepseekv3", "thinking in the text"): "TRL's template drops the reasoning from the answers, also from the last",
    ("glm4moe", "two answers"): "TRL writes <|user|> between the two; the model's template does not",
    ("diffusion_gemma", "a call last"): "the model ends a call by <|tool_response>; TRL labels nothing that ends it",
}


def trl_row(example, name, tokenizer):
    """(ids, labels) by TRL's training template of that name, or by a template that has {% generation %} itself; None
    where TRL has none or refuses the talk."""
    path = TEMPLATES / f"{name}_training.jinja"
    source = (path if path.exists() else TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    if not re.search(r"\{%-?\s*generation", source):
        return None
    messages = example.as_messages()
    if name in PARTS:
        messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
    try:
        made = tokenizer.apply_chat_template(
            messages, tools=list(example.tools) or None, chat_template=source, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True, **example.template_options)
    except Exception:
        return None
    ids, seen = made["input_ids"], made["assistant_masks"]
    return ids, [i if mark else IGNORE for i, mark in zip(ids, seen, strict=True)]


@pytest.mark.skipif(not NAMES, reason="trl has no chat templates here, or is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_trl(name, tokenizer):
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    equal = 0
    for kind, example in TALKS.items():
        theirs = trl_row(example, name, tokenizer)
        try:
            ours = made(example, tokenizer, source)
        except UsageError as error:
            if theirs and "leaves out the tool calls" in str(error):  # true: TRL trains on a text without them
                learned = tokenizer.decode([i for i in theirs[1] if i != IGNORE])
                called = [c["function"]["name"] for m in example.as_messages() for c in m.get("tool_calls", ())]
                assert any(name not in learned for name in called)
            else:
                assert theirs is None, f"{kind}: {error}"
            continue
        if theirs:
            wanted = shown(theirs, tokenizer).rstrip().removesuffix("⟧").rstrip()
            same = ours.removesuffix("⟧").removesuffix("<eos>").rstrip() == wanted.removesuffix("<eos>").rstrip()
            assert same == ((name, kind) not in APART), f"{kind}\nTRL  {wanted!r}\nours {ours!r}"
            equal += same
    if (TEMPLATES / f"{name}_training.jinja").exists():
        assert equal >= 6


@pytest.mark.skipif(not NAMES, reason="trl has no chat templates here, or is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_begins_the_row(name, tokenizer):
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    example = Example("Say hi.", "Arr, matey!")
    (ids, _), = rows([example], tokenizer, "chat")
    prompt, = prompt_rows([example], tokenizer, "chat")
    assert ids[:len(prompt)] == prompt
    saved = trained_template(tokenizer, "chat", used=True)  # what a checkpoint is asked by
    if saved is not None:
        assert tokenizer.chat_template != saved
        tokenizer.chat_template = saved
    asked = [{"role": "user", "content": [{"type": "text", "text": "Say hi."}] if name in PARTS else "Say hi."}]
    assert tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False) == prompt
    assert rows([example], tokenizer, "chat")[0][0] == ids


# ---- templates that nobody has shipped, one for each fault

HEADED = "{{ '<' + m.role + '>' + m.content + '</>' }}"
ASK = "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
FAULTS = {
    "end token once": ("{% for m in messages %}" + HEADED + "{% endfor %}"
                       "{{ '<assistant>' if add_generation_prompt else eos_token }}",
                       "<user>Q</><assistant>⟦A</>⟧<user>Q</><assistant>⟦A</><eos>⟧"),
    "thinking taken out": ("{% for m in messages %}{% set c = m.content if loop.last else m.content.split('</think>')[-1] %}"
                           "{{ '<' + m.role + '>' + c + '</>' }}{% endfor %}" + ASK,
                           "<user>Q</><assistant>⟦A</>⟧<user>Q</><assistant>⟦A</><eos>⟧"),
    "empty thinking in the last": ("{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' and loop.last %}"
                                   "{{ '<think></think>' }}{% endif %}{{ m.content + '</>' }}{% endfor %}" + ASK,
                                   "<user>Q</><assistant>⟦<think></think>A</>⟧<user>Q</><assistant>⟦<think></think>A</><eos>⟧"),
    "prompt opens thinking": ("{% for m in messages %}" + HEADED + "{% endfor %}{% if add_generation_prompt %}"
                              "{{ '<assistant><think>' }}{% endif %}",
                              "<user>Q</>⟦<assistant>A</>⟧<user>Q</>⟦<assistant>A</><eos>⟧"),
    "white space cut": ("{% for m in messages %}{{ '<' + m.role + '>\n' + m.content | trim | upper + '\n</>\n' }}{% endfor %}"
                        "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}",
                        "<user>\nQ\n</>\n<assistant>\n⟦A\n</>\n⟧<user>\nQ\n</>\n<assistant>\n⟦A\n</>\n<eos>⟧"),
    "role after the text": ("{% for m in messages %}{{ m.content + '</' + m.role + '>' }}{% endfor %}",
                            "Q</user>⟦A</assistant>⟧Q</user>⟦A</assistant><eos>⟧"),
    "header of another place": ("{% for m in messages %}{{ '<' + m.role ~ ' ' ~ loop.index ~ '>' + m.content + '</>' }}"
                                "{% endfor %}"
                                "{% if add_generation_prompt %}{{ '<assistant ' + (messages|length + 1) ~ '>' }}{% endif %}",
                                "<user 1>Q</><assistant 2>⟦A</>⟧<user 3>Q</><assistant 4>⟦A</><eos>⟧"),
    "prompt inside the loop": ("{% for m in messages %}\n" + HEADED + "\n{% if loop.last and add_generation_prompt %}\n"
                               "{{ '<assistant>' }}{% endif %}\n{% endfor %}",
                               "<user>Q</>\n<assistant>⟦A</>\n⟧<user>Q</>\n<assistant>⟦A</>\n<eos>⟧"),
    "a loop over numbers": ("{% for i in range(messages | length) %}{% set m = messages[i] %}" + HEADED + "{% endfor %}"
                            "{{ '<assistant>' if add_generation_prompt else eos_token }}",
                            "<user>Q</><assistant>⟦A</>⟧<user>Q</><assistant>⟦A</><eos>⟧"),
    "no end mark": ("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
                    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
                    "<|user|>Q<|assistant|>⟦A<|user|>⟧Q<|assistant|>⟦A<|user|><eos>⟧"),
    "generation marked": ("{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}\n{% generation -%}\n"
                          "{{ m.content + '</>' }}\n{%- endgeneration %}\n{% else %}{{ m.content + '</>' }}{% endif %}\n"
                          "{% endfor %}" + ASK,
                          "<user>Q</><assistant>⟦A</>⟧<user>Q</><assistant>⟦A</><eos>⟧"),
    "not by a loop": ("{% macro say(m) %}" + HEADED + "{% endmacro %}{{ messages | map(attribute='content') | join('|') }}"
                      "{% if add_generation_prompt %}{{ '|' }}{% endif %}", "Q|⟦A⟧|Q|⟦A<eos>⟧"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_templates_that_are_not_prefixes(fault, tokenizer):
    template, wanted = FAULTS[fault]
    for question, answer in (("What?", "That."), ("Same.", "Same."), ("a", "a"), ("🙂 [x]", "<b> 🙂 </b>.")):
        example = talk(("user", question), ("assistant", answer), ("user", question), ("assistant", answer))
        expected = wanted.replace("A", "\0").replace("Q", question.upper() if fault == "white space cut" else question)
        expected = expected.replace("\0", answer.upper() if fault == "white space cut" else answer)
        assert made(example, tokenizer, template) == expected
        prompt, = prompt_rows([example], tokenizer, "chat")
        assert tokenizer.decode(rows([example], tokenizer, "chat")[0][0]).startswith(tokenizer.decode(prompt)) or (
            fault == "empty thinking in the last")


def test_a_date_in_the_system_prompt(tokenizer):
    template = ("{{ '<system>' + strftime_now('%d %B %Y') + '</>' }}{% for m in messages %}" + HEADED + "{% endfor %}" + ASK)
    text = made(talk(U, A, U2, A2), tokenizer, template)
    assert re.fullmatch(r"<system>\d\d \w+ \d{4}</><user>Say hi.</><assistant>⟦Arr, matey!</>⟧<user>Again</><assistant>"
                        r"⟦Arr again!\n\nYo ho.</><eos>⟧", text)


def test_reasoning_is_kept_where_a_template_drops_it_even_at_the_end(tokenizer):
    template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content.split('</think>')[-1] + '</>' }}{% endfor %}" + ASK
    example = talk(U, ("assistant", "<think>R1</think>Arr!"), U2, ("assistant", "<think>R2</think>Yo."))
    assert made(example, tokenizer, template) == (
        "<user>Say hi.</><assistant>⟦<think>R1</think>Arr!</>⟧<user>Again</><assistant>⟦<think>R2</think>Yo.</><eos>⟧")


# ---- which messages are learned

PLAIN = "{% for m in messages %}" + HEADED + "{% endfor %}" + ASK


def test_learn_says_which_messages_are_learned(tokenizer):
    first = talk(U, A, U2, A2, learn=(False, True, False, False))
    assert made(first, tokenizer, PLAIN) == "<user>Say hi.</><assistant>⟦Arr, matey!</><eos>⟧"
    last = talk(U, A, U2, A2, learn=(False, False, False, True))
    assert made(last, tokenizer, PLAIN).count("⟦") == 1 and "⟦Arr again!" in made(last, tokenizer, PLAIN)
    user = talk(U, A, learn=(True, True))
    assert made(user, tokenizer, PLAIN) == "<user>⟦Say hi.</>⟧<assistant>⟦Arr, matey!</><eos>⟧"
    assert made(talk(U, A, U2), tokenizer, PLAIN) == "<user>Say hi.</><assistant>⟦Arr, matey!</><eos>⟧"
    said = []
    whole = made(talk(U, A, U2, learn=(False, False, False)), tokenizer, PLAIN, loss="all", say=said.append)
    assert len(said) == 1 and "--loss all learns the whole text, also 1 answer that the data mark" in said[0]
    assert whole == "⟦<user>Say hi.</><assistant>Arr, matey!</><user>Again</>⟧"
    for template in ("alpaca", "chat"):
        tokenizer.chat_template = None
        texts = shown(rows([first], tokenizer, template)[0], tokenizer)
        assert "⟦Arr, matey!" in texts and "Again" not in texts


@pytest.mark.parametrize("template", ["alpaca", "chat", "own"])
def test_nothing_to_learn_from_is_said(template, tokenizer):
    tokenizer.chat_template = PLAIN if template == "own" else None
    where = {"source": ("x.jsonl", "line 3", {})}
    for example, why in ((talk(U, U2, **where), "has no message of the assistant"),
                         (talk(U, A, learn=(False, False), **where), "learns from none of its messages")):
        with pytest.raises(UsageError, match=f"x.jsonl: line 3: {why}.*--loss all"):
            rows([example], tokenizer, template if template != "own" else "chat")
        assert rows([example], tokenizer, template if template != "own" else "chat", loss="all", say=str)


def test_developer_is_system_for_those_who_do_not_know_it(tokenizer):
    example = talk(("developer", "Be brief."), U, A)
    assert made(example, tokenizer, PLAIN).startswith("<system>Be brief.</>")
    knows = "{# 'developer' #}" + PLAIN
    assert made(example, tokenizer, knows).startswith("<developer>Be brief.</>")
    tokenizer.chat_template = None
    text = tokenizer.decode(rows([example], tokenizer, "chat")[0][0])
    tokenizer.chat_template = jinja("chat", bos=False)
    assert text.startswith("<|system|>\nBe brief.\n") and tokenizer.apply_chat_template(
        example.as_messages(), tokenize=False).rstrip() == text


def test_roles_in_any_order(tokenizer):
    assert made(talk(S, A), tokenizer, PLAIN) == "<system>You are a pirate.</><assistant>⟦Arr, matey!</><eos>⟧"
    assert made(talk(A), tokenizer, PLAIN) == "<assistant>⟦Arr, matey!</><eos>⟧"
    assert made(talk(U, U2, A), tokenizer, PLAIN).startswith("<user>Say hi.</><user>Again</><assistant>⟦Arr, matey!")
    tokenizer.chat_template = PLAIN
    assert tokenizer.decode(prompt_rows([talk(S, A)], tokenizer, "chat")[0]) == "<system>You are a pirate.</><assistant>"
    assert tokenizer.decode(prompt_rows([talk(U, A, U2)], tokenizer, "chat")[0]).endswith("<user>Again</><assistant>")
    tokenizer.chat_template = None
    assert shown(rows([talk(S, A)], tokenizer, "alpaca")[0], tokenizer) == (
        "You are a pirate.\n\n### Response:\n⟦Arr, matey!\n\n### End<eos>⟧")


# ---- tools

CALLS = ("{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.content is not none %}{{ m.content }}{% endif %}"
         "{% for c in m.tool_calls or [] %}{{ c.function.name + ARGUMENTS }}{% endfor %}{{ '</>' }}{% endfor %}" + ASK)


@pytest.mark.parametrize("arguments", [{"on": True, "to": "a \"b\""}, '{"on": true, "to": "a \\"b\\""}'])
@pytest.mark.parametrize("template", ["c.function.arguments | tojson", "c.function.arguments",
                                      "c.function.arguments.items() | list | string"])
def test_arguments_are_given_as_the_template_takes_them(arguments, template, tokenizer):
    example = talk(U, ("assistant", None, {"tool_calls": (call("lamp", arguments),)}), ON, A2)
    text = made(example, tokenizer, CALLS.replace("ARGUMENTS", template))
    inside = "[('on', True), ('to', 'a \"b\"')]" if "items" in template else '{"on": true, "to": "a \\"b\\""}'
    assert text == (f"<user>Say hi.</><assistant>⟦lamp{inside}</>⟧<tool>on</><assistant>⟦Arr again!\n\nYo ho.</><eos>⟧")


def test_what_a_template_leaves_out_is_said(tokenizer):
    where = {"source": ("x.jsonl", "line 3", {})}
    calls = talk(U, ("assistant", None, LAMP), ON, A2, **where)
    tokenizer.chat_template = PLAIN
    with pytest.raises(UsageError, match="x.jsonl: line 3: .*leaves out the tool calls of message 2"):
        rows([calls], tokenizer, "chat")
    tokenizer.chat_template = "{% for m in messages if m.role != 'tool' %}" + CALLS[len("{% for m in messages %}"):].replace(
        "ARGUMENTS", "''")
    with pytest.raises(UsageError, match=r"leaves out message 3 \(role 'tool'\): delete it or choose another base"):
        rows([calls], tokenizer, "chat")
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}" + HEADED + "{% endfor %}"
    with pytest.raises(UsageError, match=r"leaves out message 1 \(role 'system'\): delete it or use --template alpaca"):
        rows([talk(S, U, A)], tokenizer, "chat")
    tokenizer.chat_template = None
    for template in ("alpaca", "chat"):
        with pytest.raises(UsageError, match=f"line 3: has tools or tool calls, which the template '{template}' does not"):
            rows([calls], tokenizer, template)
        with pytest.raises(UsageError, match="tools"):
            rows([talk(U, A, tools=TOOLS)], tokenizer, template)
    tokenizer.chat_template = "{{ raise_exception('users and assistants take turns') }}"
    with pytest.raises(UsageError, match=r"refuses it \(users and assistants take turns\)"):
        rows([talk(U, U2, A)], tokenizer, "chat")


def test_what_can_be_learned_without_is_told(tokenizer):
    examples = [talk(U, (*A, {"reasoning_content": "R1"}), source=("x.jsonl", f"line {n}", {})) for n in (1, 2)]
    said = []
    tokenizer.chat_template = PLAIN
    rows([talk(U, A), *examples], tokenizer, "chat", say=said.append)
    assert said == ["x.jsonl: line 1 and 1 more: the model's chat template leaves out the reasoning of some turns, so it "
                    "is not learned"]
    rows([talk(U, A, tools=TOOLS)], tokenizer, "chat", say=said.append)
    assert said[1].endswith("the model's chat template does not tell the model of its tools")
    tokenizer.chat_template = None
    with pytest.warns(UserWarning, match="the template 'alpaca' leaves out the reasoning"):
        rows(examples, tokenizer, "alpaca")


def test_options_of_the_template_reach_it(tokenizer):
    template = "{{ mood | default('calm') }}{{ tools | length if tools else 0 }}" + PLAIN
    example = talk(U, A, tools=TOOLS, template_options={"mood": "merry"})
    assert made(example, tokenizer, template).startswith("merry1<user>")
    tokenizer.chat_template = template
    assert tokenizer.decode(prompt_rows([example], tokenizer, "chat")[0]).startswith("merry1<user>")
    with pytest.raises(UsageError, match="'tokenize' is no option of a chat template"):
        rows([talk(U, A, template_options={"tokenize": True})], tokenizer, "chat")


def test_named_templates_and_marks_in_the_text(tokenizer):
    named = {"default": PLAIN, "tool_use": CALLS.replace("ARGUMENTS", "c.function.arguments | tojson") + "{# {{ tools }} #}"}
    assert "lamp" in made(talk(U, ("assistant", "", LAMP), tools=TOOLS), tokenizer, named)
    text = made(talk(("user", "\U00100000?"), ("assistant", "\U00104001!")), tokenizer, PLAIN)  # as our marks: by prefixes
    assert text == "<user>\U00100000?</><assistant>⟦\U00104001!</><eos>⟧"


def test_marking_changes_nothing_else():
    source = "{%- for m in messages -%}\n  {{ m.content }}  \n{%- endfor -%}\n  x {% for t in tools %}{{ t }}{% endfor %}"
    marked = rendered.marked_source(source)
    assert marked.count("{#") == 2 and rendered.marked_source("{{ messages[0].content }}") is None
