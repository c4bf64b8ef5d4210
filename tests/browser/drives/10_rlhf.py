"""Lab 10 as a student plays it: pairs rated, predictions, answers before and after, PPO by a button, one's own reward model."""

RATING = "rating_view("
ANSWERS = "widgets.answers_view("
PAID = "token_rewards_view("
FREE = 'widgets.run_live_button("Run PPO without the penalty"'
MINE = 'widgets.run_live_button("Train a reward model on my ratings"'


def drive(page, nb):
    rate(page, nb)
    predictions(nb)
    answers(nb)
    without_penalty(nb)
    own(nb)


def rate(page, nb):
    assert "0 of 40 rated" in nb.output_text(RATING)
    for number, name in enumerate(("Left is better (q)", "Right is better (p)", "Tie (t)", "Left is better (q)"), 1):
        page.wait_for_timeout(400)  # sooner, and it counts as not read
        nb.button(name, within=nb.output(RATING)).click()
        nb.wait_idle()
        assert f"{number} of 40 rated" in nb.output_text(RATING)
    page.wait_for_timeout(400)
    nb.output(RATING).get_by_placeholder("click here").press_sequentially("p")
    nb.wait_idle()
    assert "5 of 40 rated" in nb.output_text(RATING)
    nb.button("Agreement so far", within=nb.output(RATING)).click()
    nb.wait_idle()
    assert "You agree with the known utility on" in nb.output_text(RATING)
    nb.screenshot("10_rating", RATING)


def predictions(nb):
    for cell in ('lab.predict("accuracy"', 'lab.predict("utility"', 'lab.predict("kl"', 'lab.predict("length"'):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert "You predicted" in nb.output_text(cell)
    choice = nb.output('lab.predict("no_kl"')
    choice.get_by_text("both rise to the end").click()
    nb.button("Commit", within=choice).click()
    nb.wait_idle()
    assert "You predicted both rise to the end" in choice.inner_text()
    cell = 'label="true utility gained"'
    nb.run_cell(nb.index(cell))  # now with the predictions beside the results
    nb.screenshot("10_prediction", cell)


def answers(nb):
    before = nb.output_text(ANSWERS)
    assert "true utility" in before and "SFT" in before
    nb.output(ANSWERS).locator(".noUi-handle").focus()
    nb.page.keyboard.press("ArrowRight")
    nb.wait_idle()
    after = nb.output_text(ANSWERS)
    assert "PPO" in after and after != before
    nb.screenshot("10_answers", ANSWERS)
    assert "PPO's answer: sum" in nb.output_text(PAID)
    nb.screenshot("10_paid", PAID)


def without_penalty(nb):
    nb.button("Run PPO without the penalty").click()
    nb.output(FREE).get_by_text("done in").wait_for(timeout=400_000)
    nb.wait_idle()
    assert "at its best" in nb.output_text(FREE)
    nb.screenshot("10_free", FREE)


def own(nb):
    nb.button("Train a reward model on my ratings").click()
    nb.output(MINE).get_by_text("done in").wait_for(timeout=120_000)
    nb.wait_idle()
    assert "4 pairs; loss" in nb.output_text(MINE)  # the tie decides nothing
    nb.screenshot("10_own", MINE)
