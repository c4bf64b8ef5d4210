"""Lab 07 as a student plays it: the quantiser's controls, the predictions, the memory of models, a button."""

QUANTISER = "widgets.quantiser("
MEMORY = "widgets.memory_explorer("


def drive(page, nb):
    quantiser(nb)
    predictions(nb)
    memory(nb)


def quantiser(nb):
    before = nb.output_text(QUANTISER)
    assert "16 levels" in before and "4.50 bits a weight" in before
    slide(nb, QUANTISER, "bits", -1)
    fewer = nb.output_text(QUANTISER)
    assert "8 levels" in fewer and "3.50 bits a weight" in fewer
    slide(nb, QUANTISER, "block size", -3)  # to the left end: one scale for all
    assert "a scale for all weights" in nb.output_text(QUANTISER)
    choose(nb, QUANTISER, "codebook", "int, with outliers")
    assert "7 levels" in nb.output_text(QUANTISER)
    nb.screenshot("07_quantiser", QUANTISER)


def memory(nb):
    before = nb.output_text(MEMORY)
    assert "smallest card" in before
    choose(nb, MEMORY, "size", "70B (Llama 3.1)")
    large = nb.output_text(MEMORY)
    assert large != before and "no card" in large
    box = nb.output(MEMORY).locator("input[type=checkbox]")
    box.click()
    nb.wait_idle()
    assert nb.output_text(MEMORY) != large
    nb.screenshot("07_memory", MEMORY)


def row(nb, cell, name):
    """The control called `name` of a cell's widget."""
    return nb.output(cell).locator(".widget-label").get_by_text(name, exact=True).locator("xpath=..")


def slide(nb, cell, name, steps):
    """Move a slider with the arrow keys, `steps` to the right (to the left where negative)."""
    row(nb, cell, name).locator(".noUi-handle").focus()
    for _ in range(abs(steps)):
        nb.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
    nb.wait_idle()


def choose(nb, cell, name, option):
    """Choose an option of a list."""
    row(nb, cell, name).locator("select").select_option(label=option)
    nb.wait_idle()


def predictions(nb):
    for cell, said in (('lab.predict("outliers"', "You predicted 10.5"), ('lab.predict("loss"', "You predicted 10")):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert said in nb.output_text(cell)
    nb.run_cell(nb.index('label="error with outliers over error without"'))  # now with the prediction beside the result
    nb.screenshot("07_prediction", 'label="error with outliers over error without"')
