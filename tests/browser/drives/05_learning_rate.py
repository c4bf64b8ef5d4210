"""Lab 05 as a student plays it: the explorer's sliders, the predictions, the button that runs one more U."""

EXPLORER = "widgets.sweep_explorer("
BUTTON = 'widgets.run_live_button("Run the U of 128 tokens"'


def drive(page, nb):
    explorer(nb)
    predictions(nb)
    one_more_u(nb)


def explorer(nb):
    before = nb.output_text(EXPLORER)
    assert "above the floor after" in before
    slide(nb, "rate", 8)  # to the right end
    hot = nb.output_text(EXPLORER)
    assert "Rate 0.256" in hot and hot != before
    slide(nb, "optimizer", -1)
    assert "AdamW" in nb.output_text(EXPLORER)
    nb.screenshot("05_explorer", EXPLORER)
    slide(nb, "schedule", -2)  # a second factor: the first goes back
    text = nb.output_text(EXPLORER)
    assert "constant" in text and "Muon" in text
    slide(nb, "rate", -8)
    assert "Rate 0.001" in nb.output_text(EXPLORER)


def slide(nb, name, steps):
    """Move the explorer's slider `name` with the arrow keys, `steps` to the right (to the left where negative)."""
    row = nb.output(EXPLORER).locator(".widget-label").get_by_text(name, exact=True).locator("xpath=..")
    row.locator(".noUi-handle").focus()
    for _ in range(abs(steps)):
        nb.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
    nb.wait_idle()


def predictions(nb):
    for cell, said in (('lab.predict("eight"', "You predicted 1.5"), ('lab.predict("warmup"', "You predicted 5.5")):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert said in nb.output_text(cell)
    choice = nb.output('lab.predict("stuck"')
    choice.get_by_text("about as low as").click()
    nb.button("Commit", within=choice).click()
    nb.wait_idle()
    assert "You predicted about as low" in choice.inner_text()
    nb.run_cell(nb.index('label="end of the run at 0.128"'))  # now with the prediction beside the result
    nb.screenshot("05_prediction", 'label="end of the run at 0.128"')


def one_more_u(nb):
    nb.button("Run the U of 128 tokens").click()
    nb.output(BUTTON).locator("img").last.wait_for(timeout=120_000)
    nb.wait_idle()
    assert "done in" in nb.output_text(BUTTON)
    nb.screenshot("05_one_more_u", BUTTON)
