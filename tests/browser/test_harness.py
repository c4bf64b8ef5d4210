"""The harness itself, on a small notebook: it sees what a person sees, and notices what is wrong."""

import json

import pytest
from browser.harness import SCREENSHOTS, noise

WIDGETS = """
import ipywidgets
slider = ipywidgets.IntSlider(value=3, min=0, max=10, description="Factor")
field = ipywidgets.Text(value="ab", description="Word", continuous_update=False)
choice = ipywidgets.Dropdown(options=["lower", "upper"], description="Case")
button = ipywidgets.Button(description="Add one")
result = ipywidgets.HTML()

def show(_=None):
    word = getattr(field.value, choice.value)()
    result.value = f"<b>Result: {word * slider.value}</b>"

def add(_):
    slider.value += 1

for widget in (slider, field, choice):
    widget.observe(show, "value")
button.on_click(add)
show()
ipywidgets.VBox([slider, field, choice, button, result])
"""


def write(path, *sources):
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for i, source in enumerate(sources)
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))


@pytest.mark.browser
def test_widgets_are_driven(server, open_notebook):
    write(server.work / "widgets.ipynb", "1 + 1", WIDGETS, "print('end')")
    notebook = open_notebook("widgets.ipynb")
    notebook.run_all()
    notebook.assert_clean()
    assert notebook.assert_widgets_drawn() == 1
    assert notebook.cells()[0]["outputs"][0]["data"]["text/plain"] == "2"
    assert notebook.output_text("print('end')").strip() == "end"

    assert "Result: ababab" in notebook.output_text(1)
    notebook.click("Add one")
    assert notebook.slider_value("Factor") == "4"
    assert "Result: abababab" in notebook.output_text(1)
    notebook.set_slider("Factor", 2)
    assert notebook.widget("Result", ".widget-html").inner_text() == "Result: abab"
    notebook.move_slider("Factor", -1)
    notebook.type_in("Word", "xyz")
    notebook.choose("Case", "upper")
    assert notebook.widget("Result", ".widget-html").inner_text() == "Result: XYZ"

    light, dark = notebook.screenshot("harness", which=1)
    assert light.parent == SCREENSHOTS and light.read_bytes() != dark.read_bytes()
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in notebook.screenshot("harness-whole"))


@pytest.mark.browser
def test_a_failing_cell_and_a_warning_are_noticed(server, open_notebook):
    write(server.work / "error.ipynb", "import warnings; warnings.warn('old')", "1 / 0", "2")
    notebook = open_notebook("error.ipynb")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        notebook.run_all()
    with pytest.raises(AssertionError, match="UserWarning: old"):
        notebook.assert_clean()


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ({"output_type": "stream", "name": "stderr", "text": "careful"}, "stderr: careful"),
        ({"output_type": "stream", "name": "stdout", "text": ["a ", "FutureWarning: b"]}, "stdout: a FutureWarning: b"),
        ({"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}, "KeyError: 'x'"),
        ({"output_type": "stream", "name": "stdout", "text": "fine"}, None),
        ({"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}}, None),
    ],
)
def test_noise(output, what):
    assert noise([output]) == what
