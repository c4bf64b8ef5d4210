"""Several models side by side, and the machine's card: what is shown of what they are given."""

import pytest

from ftlab.show import machine, widgets

asked = []


def answer(prompt, name):
    if prompt == "broken":
        raise ValueError("no answer")
    asked.append((prompt, name))
    return f"{name} says <b>{prompt}</b>"


@pytest.fixture
def view():
    asked.clear()
    made = widgets.side_by_side({"one": "the first", "two": "the <second>"}, answer, ["Who?", "Where?"],
                                lambda prompt, text: f"{len(text)} letters")
    assert made.widget is made.widget
    return made


def test_each_model_has_a_column_with_its_caption(view):
    html = view.output.value
    assert html.index("the first") < html.index("the &lt;second&gt;") and html.count("not asked yet") == 2
    view.buttons["two"].click()
    assert asked == [("Who?", "two")] and view.output.value.count("not asked yet") == 1
    assert "two says &lt;b&gt;Who?&lt;/b&gt;" in view.output.value and "letters" in view.output.value


def test_all_answer_a_prompt_that_was_typed(view):
    view.area.value = "Why?"
    view.buttons["all of them"].click()
    assert asked == [("Why?", "one"), ("Why?", "two")] and "not asked yet" not in view.output.value
    view.list.value = 1
    assert view.prompt == "Where?" and view.output.value.count("not asked yet") == 2


def test_an_error_is_on_the_screen(view):
    view.area.value = "broken"
    view.buttons["one"].click()
    assert "no answer" in view.status.value


def test_the_picture_asks_the_first_prompt(view):
    said = [text.get_text() for text in view.picture().axes[0].texts]
    assert any("one says" in text for text in said) and any("two says" in text for text in said)


FOUND = {"profile": "cpu", "device": "CPU, x86_64 AVX2", "cores": 2, "memory_gib": 15.6, "disk_free_gib": None,
         "python": "3.12.1", "packages": {"torch": "2.13.0"}, "problems": []}  # fmt: skip


def card(**changes):
    made = machine.machine_card(FOUND | changes, {"float32": 120.0, "bfloat16": 0.7},
                                {"1B": {"full": (18.4, False), "qlora": (3.1, True)}})
    return made, [text.get_text() for axes in made.axes for text in axes.texts]


def test_the_card_says_what_was_found_and_what_fits():
    made, said = card()
    assert {"2", "15.6 GiB", "unknown", "all is well", "✗ 18.4", "✓ 3.1", "120", "0.7"} <= set(said)
    assert len(made.png()) > 8000


def test_the_card_says_what_is_to_mend_and_lives_without_numbers():
    problem = {"severity": "error", "what": "x", "remedy": "y"}
    _, said = card(problems=[problem, {**problem, "severity": "note"}], memory_gib=0.0, packages={}, disk_free_gib=12.3)
    assert "1 to mend: see ftlab doctor" in said and {"unknown", "12 GiB", "missing"} <= set(said)
