"""Lab 04 as a student plays it: the mask's list, predictions, the live plot, answers along the run, a button."""

MASK = "widgets.loss_mask_view(views)"
PLOT = 'title="full fine-tuning"'
ANSWERS = "widgets.answers_view("
OWN = 'widgets.run_live_button("Tune on these examples"'


def drive(page, nb):
    mask(nb)
    predictions(nb)
    live_plot(nb)
    answers(nb)
    own_data(nb)


def mask(nb):
    before = labels(nb)
    nb.output(MASK).locator("select").select_option(label="extract, loss on everything")
    nb.wait_idle()
    after = labels(nb)
    assert before != after and after[0] == after[1] - 1  # every token but the first
    nb.screenshot("04_mask", MASK)


def labels(nb):
    """(tokens with a loss, tokens) as the widget says."""
    words = nb.output_text(MASK).split(" tokens carry a loss")[0].split()
    return int(words[-3]), int(words[-1])


def predictions(nb):
    cell = 'lab.predict("score"'
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted 50" in nb.output_text(cell)
    cell = 'lab.predict("first"'
    nb.output(cell).get_by_text("classify", exact=True).click()
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted" in nb.output_text(cell)
    nb.screenshot("04_prediction", cell)


def live_plot(nb):
    assert nb.output(PLOT).locator("img").count() == 1  # the run is over: the picture stands in the drawing's place
    nb.run_cell(nb.index('label="mean score after fine-tuning"'))  # now with the predictions beside the results
    nb.screenshot("04_plot", PLOT)


def answers(nb):
    area = nb.output(ANSWERS)
    assert "(before)" in area.inner_text()
    area.locator("select").select_option(index=2)
    nb.wait_idle()
    handle = area.locator(".noUi-handle, .ui-slider-handle, [role=slider]").first
    handle.focus()
    handle.press("ArrowRight")
    nb.wait_idle()
    assert "(before)" not in area.inner_text() and "score" in area.inner_text()
    nb.screenshot("04_answers", ANSWERS)


def own_data(nb):
    nb.button("Tune on these examples").click()
    nb.output(OWN).get_by_text("held-out loss").first.wait_for(timeout=240_000)
    nb.wait_idle()
    nb.screenshot("04_own_data", OWN)
