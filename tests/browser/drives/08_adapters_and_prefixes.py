"""Lab 08 as a student plays it: attention to a prefix, predictions, adapters swapped live, a button."""

ATTENTION = "widgets.prefix_attention_view("
SWAP = "widgets.swap_view("
START = 'widgets.run_live_button("Run one more random start"'


def drive(page, nb):
    attention(nb)
    predictions(nb)
    swap(nb)
    one_more_start(nb)


def attention(nb):
    before = nb.output_text(ATTENTION)
    assert "gives the prefix" in before
    nb.output(ATTENTION).locator("select").select_option(label="one token")
    nb.wait_idle()
    after = nb.output_text(ATTENTION)
    assert after != before and "‹1›" not in after
    slide(nb, "reading at", -3)
    assert nb.output_text(ATTENTION) != after
    nb.output(ATTENTION).locator("select").select_option(label="noise")
    nb.wait_idle()
    assert "‹1›" in nb.output_text(ATTENTION)
    nb.screenshot("08_attention", ATTENTION)


def slide(nb, name, steps):
    """Move the slider `name` with the arrow keys, `steps` to the right (to the left where negative)."""
    row = nb.output(ATTENTION).locator(".widget-label").get_by_text(name, exact=True).locator("xpath=..")
    row.locator(".noUi-handle").focus()
    for _ in range(abs(steps)):
        nb.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
    nb.wait_idle()


def predictions(nb):
    for cell in ('lab.predict("prefix"', 'lab.predict("adapter"'):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert "You predicted 50" in nb.output_text(cell)
    choice = nb.output('lab.predict("length"')
    choice.get_by_text("next to nothing").click()
    nb.button("Commit", within=choice).click()
    nb.wait_idle()
    assert "You predicted next to nothing" in choice.inner_text()
    cell = 'label=f"constraints met: {id}"'
    nb.run_cell(nb.index(cell))  # now with the predictions beside the results
    nb.screenshot("08_prediction", cell)


def swap(nb):
    area = nb.output(SWAP)
    assert area.inner_text().count("not asked yet") == 3
    nb.button("fox", within=area).click()
    nb.wait_idle()
    fox = area.inner_text()
    assert fox.count("not asked yet") == 2
    nb.button("all of them", within=area).click()
    area.get_by_text("not asked yet").first.wait_for(state="detached", timeout=60_000)
    nb.wait_idle()
    nb.screenshot("08_swap", SWAP)
    area.locator("select").select_option(index=3)  # another prompt: the answers go
    nb.wait_idle()
    assert area.inner_text().count("not asked yet") == 3


def one_more_start(nb):
    nb.button("Run one more random start").click()
    nb.output(START).get_by_text("with the MLP").first.wait_for(timeout=240_000)
    nb.wait_idle()
    assert "done in" in nb.output_text(START)
    nb.screenshot("08_one_more_start", START)
