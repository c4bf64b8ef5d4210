"""Lab 12 as a student plays it: the sparsity slider, the predictions, the button."""

VIEW = "widgets.sparsity_view("
BUTTON = 'widgets.run_live_button("Tune entries chosen at random"'


def drive(page, nb):
    slider(nb)
    predictions(nb)
    random_entries(nb)


def slider(nb):
    before = nb.output_text(VIEW)
    assert "8,192 of 16,384 weights go" in before and "held-out loss is" in before
    nb.output(VIEW).locator(".noUi-handle").focus()
    nb.page.keyboard.press("ArrowRight")
    nb.wait_idle()
    after = nb.output_text(VIEW)
    assert "8,192 of 16,384" not in after and "of 16,384 weights go" in after
    nb.screenshot("12_slider", VIEW)
    nb.output(VIEW).locator("select").nth(1).select_option(label="wanda")
    nb.wait_idle()
    nb.output(VIEW).locator("select").first.select_option(index=4)
    nb.wait_idle()
    assert "of 44,032 weights go" in nb.output_text(VIEW)
    nb.screenshot("12_wanda", VIEW)


def predictions(nb):
    for cell in ('lab.predict("half"', 'lab.predict("cliff"', 'lab.predict("recovered"', 'lab.predict("zeros"'):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert "You predicted" in nb.output_text(cell)
    choice = nb.output('lab.predict("update"')
    choice.get_by_text("within 2 points").click()
    nb.button("Commit", within=choice).click()
    nb.wait_idle()
    assert "You predicted within 2 points" in choice.inner_text()


def random_entries(nb):
    nb.button("Tune entries chosen at random").click()
    nb.output(BUTTON).get_by_text("done in").wait_for(timeout=120_000)
    nb.wait_idle()
    assert "those that moved most gave" in nb.output_text(BUTTON)
    nb.screenshot("12_random", BUTTON)
