"""Takes the picture of Lab 01 in the README, docs/images/lab.png: `python tests/browser/picture.py`.

The whole window of JupyterLab: the cells up to the next-token explorer are run, two sliders moved.
"""

import pathlib
import sys
import tempfile

from harness import PATIENCE, ROOT, Notebook, Server, browser, without_outputs

LAB = "01_autoregression"
EXPLORER = "widgets.next_token_explorer("
SIZE = {"width": 1280, "height": 960}
TARGET = ROOT / "docs" / "images" / "lab.png"


def take(target):
    """Write the picture to `target`."""
    with tempfile.TemporaryDirectory() as folder, Server(folder) as server, browser() as chromium:
        without_outputs(ROOT / "solutions" / f"{LAB}.ipynb", server.work / f"{LAB}.ipynb")
        page = chromium.new_context(viewport=SIZE).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        notebook = Notebook(page, server, f"{LAB}.ipynb")
        explorer = notebook.index(EXPLORER)
        for cell in notebook.cells()[:explorer + 1]:
            if cell["code"]:
                notebook.run_cell(cell["index"])
        notebook.set_slider("temperature", 0.7)
        notebook.set_slider("top-p", 0.8)  # some candidates are dropped; no token is drawn, so the picture is the same again
        page.evaluate("() => document.activeElement.blur()")
        # The widget's end at the window's, its code above it.
        notebook.output(explorer).evaluate("(element) => element.scrollIntoView({block: 'end', inline: 'start'})")
        page.mouse.move(SIZE["width"] / 2, SIZE["height"] - 5)
        page.wait_for_timeout(1000)  # until nothing moves any more
        left = page.evaluate("() => [document.scrollingElement.scrollLeft, document.getElementById('main').offsetLeft,"
                             " document.querySelector('.jp-NotebookPanel-notebook').getBoundingClientRect().left]")  # fmt: skip
        assert left[:2] == [0, 0] and left[2] >= 0, f"the window is scrolled to the right: {left}"
        page.screenshot(path=target, animations="disabled")
        notebook.close()


if __name__ == "__main__":
    take(pathlib.Path(sys.argv[1]) if sys.argv[1:] else TARGET)
