"""ftlab.text.rows: what the loss sees, for our tokenizer and for others."""

import pytest

from ftlab.errors import UsageError
from ftlab.text import Tokenizer
from ftlab.text.batching import IGNORE
from ftlab.text.examples import Example
from ftlab.text.rows import keep_short, prompt_rows, rows, shown, starts_with_bos
from ftlab.text.template import alpaca, alpaca_response, chat, jinja, message_pieces

EXAMPLES = [
    Example("Say it.", "It."),
    Example("Say it.", "It.", "A kite."),
    Example("2 + 2 =", " 4", form="completion"),
    Example(response="Just text.", form="text"),
    Example(form="messages", messages=(("user", "Hi"), ("assistant", "Hello"))),
    Example(form="messages", messages=(("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"),
                                       ("user", "Bye"), ("assistant", "So long"))),
]  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "line_starts"])
def ours(request):
    texts = [part for e in EXAMPLES for m in (e.as_messages() if e.form != "text" else []) for part in m.values()]
    return Tokenizer.train([*texts, alpaca("Say", "it") + alpaca_response("x")], 300, request.param)


@pytest.fixture(scope="module")
def theirs(ours):
    return ours.to_hf()


def seen(tokenizer, row):
    """The text on which the loss falls, without the space that a word behind a line break may have in its token."""
    text = tokenizer.decode([label for label in row[1] if label != IGNORE], **(
        {"skip_special": False} if isinstance(tokenizer, Tokenizer) else {"skip_special_tokens": False}))
    return text if text == " 4</s>" else text.strip().replace("</s> So", "</s>So")


SEEN = {
    "alpaca": ["It.\n\n### End</s>", "It.\n\n### End</s>", " 4</s>", "Just text.</s>", "Hello\n\n### End</s>",
               "Hello\n\n### End</s>So long\n\n### End</s>"],
    "chat": ["It.</s>", "It.</s>", " 4</s>", "Just text.</s>", "Hello</s>", "Hello</s>So long</s>"],
}  # fmt: skip


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_the_loss_sees_the_answers_and_their_ends(template, ours, theirs):
    for tokenizer in (ours, theirs):
        made = rows(EXAMPLES, tokenizer, template)
        assert [seen(tokenizer, row) for row in made] == SEEN[template]
        for ids, labels in made:
            assert len(ids) == len(labels) and all(label in (IGNORE, i) for i, label in zip(ids, labels, strict=True))


def test_ours_and_theirs_are_the_same_tokens_but_for_the_start(ours, theirs):
    assert starts_with_bos(ours) and not starts_with_bos(theirs)
    for template in ("alpaca", "chat"):
        for (a, x), (b, y) in zip(rows(EXAMPLES, ours, template), rows(EXAMPLES, theirs, template), strict=True):
            assert a == [ours.bos_id, *b] and x == [IGNORE, *y]


def test_the_whole_text(ours):
    ids, labels = rows([EXAMPLES[1]], ours)[0]
    text = alpaca("Say it.", "A kite.") + alpaca_response("It.")
    assert ids == [ours.bos_id, *ours.encode(alpaca("Say it.", "A kite.") + alpaca_response("It.")),
                   ours.eos_id]
    assert ours.decode(ids) == text
    everything = rows([EXAMPLES[1]], ours, loss="all")[0]
    assert everything == (ids, [IGNORE, *ids[1:]])
    unseen = "".join(piece for piece, loss in shown((ids, labels), ours) if not loss)
    assert unseen == "<s>" + alpaca("Say it.", "A kite.")


def test_a_prompt_is_the_row_up_to_its_answer(ours, theirs):
    for tokenizer in (ours, theirs):
        for template in ("alpaca", "chat"):
            made = rows(EXAMPLES, tokenizer, template)
            for prompt, (ids, labels) in zip(prompt_rows(EXAMPLES, tokenizer, template), made, strict=True):
                last = len(ids) - next(i for i, label in enumerate([*labels[::-1], IGNORE]) if label == IGNORE)
                assert ids[:last] == prompt


@pytest.mark.parametrize("template", ["alpaca", "chat"])
@pytest.mark.parametrize("bos", [False, True])
def test_the_jinja_template_renders_what_was_trained(theirs, template, bos):
    theirs.chat_template = jinja(template, bos)
    try:
        for example in (EXAMPLES[1], *EXAMPLES[4:]):
            messages = example.as_messages()
            pieces = "".join(text for text, _ in message_pieces(messages, template, "</s>"))
            start = "<s>" if bos else ""
            assert theirs.apply_chat_template(messages, tokenize=False) == start + pieces
            asked = theirs.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            assert asked == start + "".join(t for t, _ in message_pieces(messages[:-1], template, "</s>")) + (
                "### Response:\n" if template == "alpaca" else "<|assistant|>\n")
    finally:
        theirs.chat_template = None
    messages = EXAMPLES[4].as_messages()
    assert chat(messages).removesuffix("<|assistant|>\n") == "".join(
        text for text, _ in message_pieces(messages, "chat", ""))


OWN = ("{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '[/]\n' }}{% endfor %}"
       "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}")


def test_a_chat_template_of_its_own(ours):
    tokenizer = ours.to_hf()
    tokenizer.chat_template = OWN
    made = rows(EXAMPLES, tokenizer, "chat")
    assert [seen(tokenizer, row) for row in made] == [
        "It.[/]\n</s>", "It.[/]\n</s>", " 4</s>", "Just text.</s>", "Hello[/]\n</s>", "Hello[/]\nSo long[/]\n</s>"]
    assert rows(EXAMPLES, tokenizer, "alpaca") == rows(EXAMPLES, ours.to_hf(), "alpaca")
    prompt, = prompt_rows(EXAMPLES[:1], tokenizer, "chat")
    assert tokenizer.decode(prompt) == "[user]Say it.[/]\n[assistant]"


def test_a_chat_template_that_rewrites_or_refuses_is_named(ours):
    tokenizer = ours.to_hf()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] if loop.last else 'x' }}{% endfor %}"
    with pytest.raises(UsageError, match=r"leaves out message 1 \(role 'system'\)"):
        rows(EXAMPLES[5:], tokenizer, "chat")
    tokenizer.chat_template = "{{ messages | map(attribute='content') | join }}{{ messages | length }}"  # in no loop
    with pytest.raises(UsageError, match="renders an answer differently"):
        rows(EXAMPLES[5:], tokenizer, "chat")
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(UsageError, match=r"refuses it \(no system here\)"):
        rows(EXAMPLES[5:], tokenizer, "chat")


def test_a_tokenizer_that_adds_its_own_start(ours):
    from tokenizers.processors import TemplateProcessing

    tokenizer = ours.to_hf()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert starts_with_bos(tokenizer)
    assert rows(EXAMPLES, tokenizer) == rows(EXAMPLES, ours)


def test_too_long_examples(ours):
    example = Example("Say it.", "It. " * 50, source=("a.csv", "line 7", {"response": "output"}))
    with pytest.raises(UsageError) as caught:
        rows([EXAMPLES[0], example], ours, max_length=60)
    line = str(caught.value)
    assert line.startswith("a.csv: line 7: ") and "more than 60" in line and 'column "output"' in line
    both = [EXAMPLES[0], example]
    kept, made = keep_short(both, rows(both, ours), 60)
    assert kept == [EXAMPLES[0]] and made == rows(kept, ours)


def test_unknown_names_are_refused(ours):
    with pytest.raises(UsageError, match="no template is called 'vicuna'; choose one of alpaca, chat"):
        rows(EXAMPLES, ours, "vicuna")
    with pytest.raises(UsageError, match="choose one of response, all"):
        rows(EXAMPLES, ours, loss="prompt")


def test_a_tokenizer_without_an_end_is_refused(ours):
    tokenizer = ours.to_hf()
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match="no end token"):
        rows(EXAMPLES, tokenizer)
