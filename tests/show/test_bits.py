"""The bit flipper without a browser: each control, each format, what stands in its place."""

import pytest

from ftlab.show import widgets

FORMATS = {"<tiny>": [("sign", 1), ("exponent", 2), ("mantissa", 1)], "byte": [("two's complement", 8)],
           "code": [("code", 4)]}  # fmt: skip
WIDTH = {"<tiny>": 4, "byte": 8, "code": 4}


def look(bits, name):
    number = int(bits, 2)
    return {"value": f"{number} <ok>", "lines": [f"{name} holds {bits}"], "below": number - 1.0 if number else None,
            "above": number + 1.0 if number + 1 < 2 ** len(bits) else None}  # fmt: skip


def encode(number, name):
    if name == "code" and number > 15:
        raise ValueError("too large")
    return f"{int(number) % 2**WIDTH[name]:0{WIDTH[name]}b}"


@pytest.fixture
def view():
    made = widgets.bit_flipper(FORMATS, look, encode, start=5)
    assert made.widget is made.widget
    return made


def faces(view):
    return "".join(view.buttons[i].description for i in range(WIDTH[view.chosen]))


def test_a_click_flips_one_bit_and_redraws(view):
    assert view.bits == faces(view) == "0101" and "5 &lt;ok&gt;" in view.output.value
    view.buttons[0].click()
    assert view.bits == faces(view) == "1101" and "&lt;tiny&gt; holds 1101" in view.output.value
    view.buttons[0].click()
    assert view.bits == "0101"


def test_set_bits_are_filled_in_the_colour_of_their_field(view):
    assert [button.button_style for button in view.buttons[:4]] == ["", "info", "", "success"]
    view.buttons[0].click()
    assert view.buttons[0].button_style == "danger" and view.buttons[0].tooltip == "sign: flip this bit"
    captions = [group.children[0].value for group in view.row.children]
    assert [name in caption for name, caption in zip(("sign", "exponent", "mantissa"), captions)] == [True] * 3


def test_another_format_shows_the_number_that_was_typed(view):
    view.box.value = "6"
    view.list.value = "byte"
    assert view.bits == faces(view) == "00000110" and len(view.row.children) == 1
    view.list.value = "<tiny>"
    assert view.bits == "0110" and len(view.row.children) == 3


def test_the_neighbours_are_a_click_away_and_there_is_an_end(view):
    view.steps["next above"].click()
    assert view.bits == "0110"
    view.box.value = "0"
    view.steps["next below"].click()
    assert view.bits == "0000" and view.status.value == ""


def test_what_is_no_number_is_said_and_changes_nothing(view):
    view.box.value = "a lot"
    assert "is no number" in view.status.value and view.bits == "0101"
    view.box.value = "1,0"
    assert view.bits == "0001" and view.status.value == ""
    view.box.value = "20"
    view.list.value = "code"
    assert "too large" in view.status.value


def test_the_picture_has_every_format(view):
    picture = view.picture()
    said = [text.get_text() for text in picture.axes[0].texts]
    assert {"<tiny>", "byte", "code", "5 <ok>"} <= set(said) and len(picture.axes[0].patches) == 4 + 8 + 4
    assert len(picture.png()) > 3000
