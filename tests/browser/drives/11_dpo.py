"""Lab 11 as a student plays it: the tokens' rewards, predictions, the sliders over two frontiers, the button."""

TOKENS = "widgets.token_rewards_view("
FRONTIER = "widgets.frontier_view("
BUTTON = 'widgets.run_live_button("DPO on preferences of your own"'


def drive(page, nb):
    tokens(nb)
    predictions(nb)
    frontier(nb)
    own(nb)


def tokens(nb):
    shown = nb.output_text(TOKENS)
    assert "chosen: sum" in shown and "rejected: sum" in shown and "chosen − rejected" in shown
    assert nb.output(TOKENS).locator("span[title$='nats']").count() > 20  # each token tells its value when hovered
    nb.screenshot("11_tokens", TOKENS)


def predictions(nb):
    nb.button("Commit", within=nb.output('lab.predict("gain"')).click()
    nb.wait_idle()
    assert "You predicted" in nb.output_text('lab.predict("gain"')
    for cell, option in (('lab.predict("chosen"', "less likely than before"),
                         ('lab.predict("better"', "less than 0.2 between them")):
        choice = nb.output(cell)
        choice.get_by_text(option).click()
        nb.button("Commit", within=choice).click()
        nb.wait_idle()
        assert f"You predicted {option}" in choice.inner_text()
    cell = 'label="change of the true utility"'
    nb.run_cell(nb.index(cell))  # now with the prediction beside the result
    nb.screenshot("11_prediction", cell)


def frontier(nb):
    before = nb.output_text(FRONTIER)
    assert "PPO, kl_coef" in before and "DPO, beta" in before
    for name in ("PPO: kl_coef", "DPO: beta"):
        row = nb.output(FRONTIER).locator(".widget-label").get_by_text(name, exact=True).locator("xpath=..")
        row.locator(".noUi-handle").focus()
        nb.page.keyboard.press("ArrowRight")
        nb.wait_idle()
        after = nb.output_text(FRONTIER)
        assert after != before
        before = after
    nb.screenshot("11_frontier", FRONTIER)


def own(nb):
    nb.button("DPO on preferences of your own").click()
    nb.output(BUTTON).get_by_text("done in").wait_for(timeout=240_000)
    nb.wait_idle()
    assert "after:" in nb.output_text(BUTTON)
    nb.screenshot("11_own", BUTTON)
