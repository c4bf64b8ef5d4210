"""Lab 03 as a student plays it: the box of surprise, predictions, the live plot, the buttons that run more."""

BOX = "widgets.tokenizer_box("
PLOT = "plot = widgets.LivePlot(\n"
POINT = 'widgets.run_live_button("Run one more point"'


def drive(page, nb):
    surprise(nb)
    predictions(nb)
    live_plot(nb)
    one_more_point(nb)


def surprise(nb):
    area = nb.output(BOX).locator("textarea")
    area.fill("Vera met Selma the rabbit.")
    nb.wait_idle()
    before = nb.output_text(BOX)
    area.fill("Vera met Selma the table of of")
    nb.wait_idle()
    after = nb.output_text(BOX)
    assert "26 characters" in before and "30 characters" in after
    assert highest(after) > highest(before)  # what is no story of this world surprises more
    nb.screenshot("03_surprise", BOX)


def highest(text):
    """The largest of the numbers that stand under the tokens."""
    return max(float(line) for line in text.split("\n") if line.replace(".", "", 1).isdigit())


def predictions(nb):
    cell = 'lab.predict("kept"'
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted 50" in nb.output_text(cell)
    cell = 'lab.predict("half"'
    nb.button("Commit", within=nb.output(cell)).click()
    nb.wait_idle()
    assert "You predicted 400" in nb.output_text(cell)
    nb.screenshot("03_prediction", cell)


def live_plot(nb):
    assert nb.output(PLOT).locator("img").count() == 1  # the run is over: the picture stands in the drawing's place
    nb.run_cell(nb.index('label="stories that keep hero and object"'))  # now with the prediction beside the result
    nb.screenshot("03_plot", PLOT)


def one_more_point(nb):
    nb.button("Run one more point").click()
    nb.output(POINT).get_by_text("the law says").wait_for(timeout=120_000)
    nb.wait_idle()
    nb.screenshot("03_one_more_point", POINT)
