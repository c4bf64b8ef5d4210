"""Lab 09 as a student plays it: the predictions, a method by its button, the table."""

BUTTON = 'widgets.run_live_button(f"Run'
TABLE = 'rows = table_of("questions")'


def drive(page, nb):
    for cell in ('lab.predict("small"', 'lab.predict("tau"'):
        nb.button("Commit", within=nb.output(cell)).click()
        nb.wait_idle()
        assert "You predicted" in nb.output_text(cell)
    nb.button("Run P-tuning v2").click()
    nb.output(BUTTON).get_by_text("done in").wait_for(timeout=180_000)
    nb.wait_idle()
    assert "in the study, seed 0" in nb.output_text(BUTTON)
    nb.screenshot("09_button", BUTTON)
    assert nb.output(TABLE).locator("tr").count() == 8
    nb.screenshot("09_table", TABLE)
