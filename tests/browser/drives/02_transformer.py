"""Lab 02 as a student plays it: the tokenizer box, the attention maps, predictions, the button with real text."""

BOX = "widgets.tokenizer_box("
MAPS = "widgets.attention_view("
BUTTON = "Train on the docstrings of your Python (about 20 s)"


def drive(page, nb):
    tokenizer(nb)
    attention(page, nb)
    prediction(nb)
    docstrings(nb)


def tokenizer(nb):
    area = nb.output(BOX).locator("textarea")
    area.fill("the fox")
    nb.wait_idle()
    first = nb.output_text(BOX)
    assert "7 characters" in first and "7 bytes" in first
    area.fill("the fox 🦊")
    nb.wait_idle()
    assert "9 characters" in nb.output_text(BOX) and "12 bytes" in nb.output_text(BOX)
    nb.screenshot("02_tokenizer", BOX)


def attention(page, nb):
    head = nb.slider_value("head")
    nb.set_slider("layer", 1)
    nb.set_slider("head", 1 if head != "1" else 2)
    shown = nb.output_text(MAPS)
    assert "layer 1, head" in shown and f"layer 1, head {head}:" not in shown
    nb.set_slider("reading at", 2)
    assert nb.output_text(MAPS) != shown
    # The second token reads the first: hovering over their cell finds the pair and its weight in the title.
    cell = nb.output(MAPS).locator(".ftatt .r").nth(1).locator("i").first
    cell.hover()
    title = cell.get_attribute("title")
    assert " reads <s>: " in title and 0 <= float(title.rsplit(": ", 1)[1]) <= 1
    nb.screenshot("02_attention", MAPS)


def prediction(nb):
    cell = 'lab.predict("silenced"'
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted 50" in nb.output_text(cell)
    nb.run_cell(nb.index('lab.prediction("silenced")'))
    assert nb.output('lab.prediction("silenced")').locator("img").count() == 1
    nb.screenshot("02_prediction", 'lab.prediction("silenced")')


def docstrings(nb):
    nb.click(BUTTON, timeout=300)
    shown = nb.output("widgets.run_live_button(")
    shown.locator("img").first.wait_for(timeout=60_000)
    assert "done in" in nb.output_text("widgets.run_live_button(")
    nb.screenshot("02_docstrings", "widgets.run_live_button(")
