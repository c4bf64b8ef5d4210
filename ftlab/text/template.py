"""Prompt templates: how an instruction becomes the text that a model reads and answers."""

ALPACA_END = "### End"
TEMPLATES = ("alpaca", "chat")


def alpaca(instruction, input=""):
    """The prompt in Alpaca's form (Taori et al. 2023), up to and with the line that the response follows."""
    middle = f"### Input:\n{input}\n\n" if input else ""
    return f"### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def alpaca_response(response):
    """What the model is to write after `alpaca(...)`, with the mark that ends it."""
    return f"{response}\n\n{ALPACA_END}"


def chat(messages, add_generation_prompt=True):
    """Messages [{"role", "content"}, …] as one text in the chat form <|role|>⏎content⏎, without special tokens."""
    text = "".join(f"<|{message['role']}|>\n{message['content']}\n" for message in messages)
    return text + ("<|assistant|>\n" if add_generation_prompt else "")


# The same forms for `transformers` (tokenizer.chat_template, Jinja). After each answer stands the tokenizer's end
# token, so that generation stops there. A user's message may hold an "### Input:" section of its own. Line breaks stand
# inside expressions: `transformers` drops one that follows a block.
CHAT_TEMPLATE = (
    r"{% for message in messages %}{{ '<|' + ('system' if message['role'] == 'developer' else message['role']) + '|>\n' }}"
    r"{{ message['content'] }}"
    r"{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ALPACA_TEMPLATE = (
    r"{% for message in messages %}"
    r"{% if message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + '\n\n### End' + eos_token }}"
    r"{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    r"{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    r"{% else %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)


def jinja(template, bos):
    """The chat template of a checkpoint trained on `template`; bos: whether texts begin with the start token."""
    return ("{{ bos_token }}" if bos else "") + {"alpaca": ALPACA_TEMPLATE, "chat": CHAT_TEMPLATE}[template]


def message_pieces(messages, template, eos, learn=None):
    """Messages as [(text, whether it is learned), …]; joined, just what `jinja(template)` renders.

    eos: the end token's text, which ends each answer. learn: for each message whether its text is learned; by default
    that of the assistant is. A developer's message is one of the system. Raises KeyError for an unknown template.
    """
    pieces, last = [], len(messages) - 1
    for index, message in enumerate(messages):
        role, content = message["role"], message["content"] or ""
        seen = role == "assistant" if learn is None else learn[index]
        if template == "chat":
            pieces.append((f"<|{'system' if role == 'developer' else role}|>\n", False))
            pieces += [(content + eos, seen), ("\n", False)] if role == "assistant" else [(content + "\n", seen)]
        elif role == "assistant":
            pieces += [("### Response:\n", False), (alpaca_response(content) + eos, seen)]
            pieces += [("\n\n", False)] if index < last else []
        else:
            pieces += [("### Instruction:\n", False)] if role == "user" else []
            pieces.append((content + "\n\n", seen))
    return pieces
