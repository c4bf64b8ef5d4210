"""Lab 06 as a student plays it: the rank slider, the adapters that swap, the predictions, the button."""

RANK = "widgets.rank_view("
SWAP = "widgets.swap_view("
BUTTON = 'widgets.run_live_button("Tune a LoRA of rank 2"'


def drive(page, nb):
    ranks(nb)
    adapters(nb)
    predictions(nb)
    own(nb)


def ranks(nb):
    before = nb.output_text(RANK)
    assert "rank 4 takes" in before
    nb.output(RANK).locator(".noUi-handle").focus()
    nb.page.keyboard.press("ArrowRight")
    nb.wait_idle()
    assert "rank 8 takes" in nb.output_text(RANK)
    nb.screenshot("06_rank", RANK)
    nb.output(RANK).locator("select").select_option(index=1)
    nb.wait_idle()
    after = nb.output_text(RANK)
    assert "rank 8 takes" in after and after != before


def adapters(nb):
    assert nb.output_text(SWAP).count("not asked yet") == 3
    nb.button("classify", within=nb.output(SWAP)).click()
    nb.wait_idle()
    assert nb.output_text(SWAP).count("not asked yet") == 2
    nb.button("all of them", within=nb.output(SWAP)).click()
    nb.wait_idle()
    assert "not asked yet" not in nb.output_text(SWAP)
    nb.screenshot("06_swap", SWAP)


def predictions(nb):
    for cell in ('lab.predict("close"', 'lab.predict("rank"'):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert "You predicted" in nb.output_text(cell)
    choice = nb.output('lab.predict("stranger"')
    choice.get_by_text("on the relative only").click()
    nb.button("Commit", within=choice).click()
    nb.wait_idle()
    assert "You predicted on the relative only" in choice.inner_text()


def own(nb):
    nb.button("Tune a LoRA of rank 2").click()
    nb.output(BUTTON).get_by_text("done in").wait_for(timeout=120_000)
    nb.wait_idle()
    assert "nats per labelled token" in nb.output_text(BUTTON)
    nb.screenshot("06_own", BUTTON)
