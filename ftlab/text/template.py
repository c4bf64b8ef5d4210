"""Prompt templates: how an instruction becomes the text that a model reads and answers."""

ALPACA_END = "### End"


def alpaca(instruction, input=""):
    """The prompt in Alpaca's form (Taori et al. 2023), up to and with the line that the response follows."""
    middle = f"### Input:\n{input}\n\n" if input else ""
    return f"### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def alpaca_response(response):
    """What the model is to write after `alpaca(...)`, with the mark that ends it."""
    return f"{response}\n\n{ALPACA_END}"


def chat(messages, add_generation_prompt=True):
    """Messages [{"role", "content"}, …] as one text in the chat form <|role|>⏎content⏎."""
    text = "".join(f"<|{message['role']}|>\n{message['content']}\n" for message in messages)
    return text + ("<|assistant|>\n" if add_generation_prompt else "")


# The same chat form for `transformers` (tokenizer.chat_template, Jinja).
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
