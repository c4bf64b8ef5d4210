"""Lab 09 as a student plays it: the predictions, a method by its button, the table."""

BUTTON = 'widgets.run_live_button(f"Run'
TABLE = "widgets.method_table("


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
    area = nb.output(TABLE)
    assert area.locator("tr").count() == 8
    nb.screenshot("09_table", TABLE)
    first = area.locator("tr").nth(1).inner_text()
    area.locator("select").select_option(label="file, KiB")
    nb.wait_idle()
    assert area.locator("tr").nth(1).inner_text() != first
    handle = area.locator(".noUi-handle").first  # the file's limit, from "any" down to all but the largest
    handle.focus()
    nb.page.keyboard.press("ArrowLeft")
    nb.page.keyboard.press("ArrowLeft")
    nb.wait_idle()
    assert area.locator("tr").count() == 7 and "filtered out" in area.inner_text()
    area.locator("input[type=checkbox]").check()
    nb.wait_idle()
    assert area.locator("tr").count() <= 7
    nb.screenshot("09_table_filtered", TABLE)
