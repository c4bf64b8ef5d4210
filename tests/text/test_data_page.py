"""docs/data.md and the readers agree: each row of its tables is read, and what it calls learned is learned."""

import json
import re

import pytest

from ftlab.align.preferences import read_preferences
from ftlab.course import catalogue
from ftlab.text import forms, sources
from ftlab.text.examples import read_documents, read_examples

PAGE = (catalogue.ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def table(heading):
    """The cells of the rows of the first table below a heading."""
    section = PAGE.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.split("\n") if line.startswith("| ")]
    return rows[1:]


def learned(example):
    """The texts of an example on which the loss falls."""
    if example.form != "messages":
        return [example.response]
    marks = example.learn or [role == "assistant" for role, _ in example.messages]
    return [content for (_, content), seen in zip(example.messages, marks, strict=True) if seen and content]


EXAMPLES, PREFERENCES = table("Examples"), table("Preferences")


@pytest.mark.parametrize("cells", EXAMPLES, ids=[cells[0] for cells in EXAMPLES])
def test_each_form_of_examples_is_read(cells, tmp_path):
    _, row, says = cells
    path = tmp_path / "a.jsonl"
    path.write_text(row.strip("`") + "\n", encoding="utf-8")
    lines = []
    example, = read_examples(path, progress=lines.append)
    assert "\n".join(learned(example)) == "\n".join(re.findall("`([^`]+)`", says.split("; a row")[0]))
    assert "not used" not in lines[0]
    documents = read_documents(path)
    assert len(documents) == 1 and learned(example)[-1].strip() in documents[0] and '{"' not in documents[0]


@pytest.mark.parametrize("cells", PREFERENCES, ids=[cells[0] for cells in PREFERENCES])
def test_each_form_of_preferences_is_read(cells, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(cells[1].strip("`") + "\n", encoding="utf-8")
    lines = []
    pair, = read_preferences(path, progress=lines.append)
    assert (pair.chosen, pair.rejected) == ("Hello!", "What?") and "not used" not in lines[0]
    row = json.loads(cells[1].strip("`"))
    wanted = ["Say it.", "### Input:\nhello", "Be kind."] if "input" in row and "system" in row else ["Say hello."]
    assert all(part in pair.prompt for part in wanted)


def test_the_page_names_every_suffix_mark_and_role():
    words = set(re.findall(r"[\w.]+", PAGE.replace("`", " ")))
    assert set(sources.TABLES) | set(sources.COMPRESSED) <= {word for word in re.findall(r"`(\.\w+)`", PAGE)}
    assert set(forms.LEARNED_IF) | set(forms.NOT_LEARNED_IF) <= words


def test_its_links_and_the_pages_that_lead_to_it():
    for page, link in (("README.md", "docs/data.md"), ("docs/student.md", "data.md")):
        assert f"({link})" in (catalogue.ROOT / page).read_text(encoding="utf-8")
