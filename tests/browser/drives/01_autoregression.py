"""Lab 01 as a student plays it: the explorer, predictions, the live button, the box of surprisals."""

EXPLORER = "widgets.next_token_explorer("
BOX = "widgets.tokenizer_box("
BUTTON = "widgets.run_live_button("


def drive(page, nb):
    explorer(page, nb)
    predictions(page, nb)
    surprisals(page, nb)
    third_model(nb)


def count(nb):
    """Number of tokens that the explorer says it holds."""
    return int(nb.output_text(EXPLORER).split(" tokens so far")[0].split()[-1])


def explorer(page, nb):
    start = count(nb)
    nb.click("Greedy")
    assert count(nb) == start + 1
    nb.click("Sample 10")
    assert start + 1 < count(nb) <= start + 11
    nb.click("Undo")
    nb.click("Restart")
    assert count(nb) == start
    before = nb.output_text(EXPLORER)
    nb.set_slider("temperature", 0.3)
    cold = nb.output_text(EXPLORER)
    assert cold != before
    nb.set_slider("top-p", 0.5)
    assert nb.output_text(EXPLORER).count("dropped") > cold.count("dropped")
    nb.set_slider("top-k", 1)
    assert nb.output_text(EXPLORER).count("→ 100") == 1  # one token is left, and it is certain
    candidate = nb.output(EXPLORER).get_by_role("button").nth(5)  # the first after the five actions
    candidate.click()
    nb.wait_idle()
    assert count(nb) == start + 1
    nb.screenshot("01_explorer", EXPLORER)


def predictions(page, nb):
    cell = 'lab.predict("notices"'
    nb.output(cell).get_by_text("in the bidirectional model only").click()
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted in the bidirectional model only" in nb.output_text(cell)
    cell = 'lab.predict("masked"'
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted 50" in nb.output_text(cell)
    nb.screenshot("01_prediction", cell)


def surprisals(page, nb):
    area = nb.output(BOX).locator("textarea")
    area.fill("Sami was a shy goat. Sami was a shy goat.")
    nb.wait_idle()
    first = nb.output_text(BOX)
    assert "41 characters" in first
    area.fill("Sami was a shy goat. Sami was a shy goat. Tilda")
    nb.wait_idle()
    assert nb.output_text(BOX) != first
    nb.screenshot("01_surprisals", BOX)


def third_model(nb):
    shown = nb.output(BUTTON)
    shown.locator("button").filter(has_text="Train the model").click()
    nb.wait_idle(600)
    assert "done in" in nb.output_text(BUTTON)
    assert shown.locator("img").count() == 2  # the loss, and the bars
    nb.screenshot("01_third_model", BUTTON)
