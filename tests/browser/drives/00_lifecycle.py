"""Lab 00 as a student plays it: four checkpoints side by side, bits to flip, the predictions, the calculator."""

import re

STAGES = "widgets.side_by_side("
BITS = "widgets.bit_flipper("
COSTS = "widgets.cost_calculator("


def drive(page, nb):
    stages(nb)
    bits(nb)
    predictions(nb)
    costs(nb)


def stages(nb):
    assert nb.output_text(STAGES).count("not asked yet") == 4
    nb.button("assistant", within=nb.output(STAGES)).click()
    nb.wait_idle()
    assert nb.output_text(STAGES).count("not asked yet") == 3 and "true utility" in nb.output_text(STAGES)
    nb.button("all of them", within=nb.output(STAGES)).click()
    nb.wait_idle()
    assert "not asked yet" not in nb.output_text(STAGES)
    nb.screenshot("00_stages", STAGES)


def bits(nb):
    before = nb.output_text(BITS)
    nb.output(BITS).locator("button[title='sign: flip this bit']").click()
    nb.wait_idle()
    assert nb.output_text(BITS) != before and "(−1)^" in nb.output_text(BITS)
    nb.type_in("number", "70000")
    nb.choose("format", "float16")
    assert "infinity" in nb.output_text(BITS)
    nb.screenshot("00_bits", BITS)
    nb.choose("format", "bfloat16")
    assert "70144" in nb.output_text(BITS)
    nb.button("next above", within=nb.output(BITS)).click()
    nb.wait_idle()
    assert "70656" in nb.output_text(BITS)


def predictions(nb):
    choice = nb.output('lab.predict("way"')
    choice.get_by_text("2 examples", exact=True).click()
    nb.button("Commit", within=choice).click()
    nb.wait_idle()
    assert "You predicted 2 examples" in choice.inner_text()
    nb.button("Commit", within=nb.output('lab.predict("calls"')).click()
    nb.wait_idle()
    assert "You predicted" in nb.output_text('lab.predict("calls"')


def costs(nb):
    nb.type_in("question, tokens", "100")
    nb.type_in("examples in each prompt, tokens", "1000")
    nb.type_in("a million tokens read, s", "10")
    nb.type_in("fine-tuning, s", "1")
    assert re.search(r"pays from call 10[01] on against: prompting\.", nb.output_text(COSTS))  # a rounding error apart
    nb.type_in("examples in each prompt, tokens", "0")
    assert "never pays against: prompting." in nb.output_text(COSTS)
    nb.type_in("examples in each prompt, tokens", "1000")
    nb.screenshot("00_costs", COSTS)
