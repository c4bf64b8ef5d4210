"""The cells that ran in this kernel, for `lab.check` to say what an exercise reads of them and grading will not have."""

import functools
import json
import re
import weakref

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.teach.names import Taken, taken_along, top_names

_LOGS = weakref.WeakKeyDictionary()  # {IPython's shell: [(cell's id or None, source), ...] in the order in which they ran}


def watch(shell) -> None:
    """Write down from now on which cells run in `shell`; what ran before is taken from its history, without ids."""
    history, events = getattr(shell, "history_manager", None), getattr(shell, "events", None)
    if history is None or events is None or shell in _LOGS:
        return
    log = _LOGS[shell] = [(None, source) for source in history.input_hist_raw[1:]]

    def starts(info):
        if info.store_history and not info.silent:
            log.append((getattr(info, "cell_id", None), info.raw_cell))

    events.register("pre_run_cell", starts)


def ran(shell) -> list[tuple[str | None, str]]:
    """(id, source) of the cells that ran, each as it ran last; an id is None where the notebook's program sends none."""
    latest = {}
    for id, source in _LOGS.get(shell, ()):
        key = id or source
        latest.pop(key, None)
        latest[key] = (id, source)
    return list(latest.values())


def graded_with(lab, id, shell) -> Taken:
    """What grading takes along with the code of exercise `id`, and what it will miss; nothing where the code is not known."""
    release, cells = _release(lab), ran(shell)
    if not release or id not in release["stubs"]:
        return Taken()
    code, own = _code_of(id, release["stubs"][id], cells)
    if code is None:
        return Taken()
    ids = list(release["stubs"])
    earlier = [_code_of(one, release["stubs"][one], cells)[0] or release["stubs"][one] for one in ids[:ids.index(id)]]
    others = [source for number, (_, source) in enumerate(cells) if number not in own]
    above, released = ([source for source in others if (source in release["code"]) == side] for side in (False, True))
    live = set(shell.user_ns) - set(getattr(shell, "user_ns_hidden", ()))
    return taken_along(code, release["setup"], earlier, above, released, live)


@functools.cache
def _release(lab):
    """The sources of a lab's cells as students get it; None where they are not there.

    {"setup": [source, ...], "stubs": {exercise id: source}, "code": the sources of all code cells}.
    """
    try:
        notebook = json.loads((catalogue.labs_folder() / f"{lab}.ipynb").read_text(encoding="utf-8"))
        found = {"setup": [], "stubs": {}, "code": set()}
        for cell in notebook["cells"]:
            ours, source = cell["metadata"].get("ftlab", {}), "".join(cell["source"])
            found["code"] |= {source} if cell["cell_type"] == "code" else set()
            if ours.get("kind") == "setup":
                found["setup"].append(source)
            elif ours.get("kind") == "exercise":
                found["stubs"][ours["id"]] = source
        return found
    except (UsageError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _code_of(id, stub, cells):
    """(code of exercise `id`, numbers of its cells) as grading puts it together; (None, set()) before it was written.

    Its cells have its id or its heading; where they lack a name that the gap asks for, the last cell that has it counts, too.
    """
    wanted = top_names(stub)
    carriers = {number for number, (name, source) in enumerate(cells)
                if name == id or f'lab.hint("{id}")' in source.split("\n", 1)[0]}  # fmt: skip
    written = [number for number in sorted(carriers) if _plain(cells[number][1]) != _plain(stub)]
    whole = [number for number in written if wanted <= top_names(cells[number][1])]
    if whole:
        return cells[whole[-1]][1], carriers
    missing = wanted - (top_names(cells[written[-1]][1]) if written else set())
    others = [number for number, (_, source) in enumerate(cells) if number not in carriers and missing & top_names(source)]
    parts = [*written[-1:], *others[-1:]]
    return ("\n".join(cells[number][1] for number in parts), carriers | set(parts)) if parts else (None, set())


def _plain(source):
    """A source without comments and empty lines, to tell whether a gap is untouched."""
    return [line.rstrip() for line in source.split("\n") if line.strip() and not re.match(r"\s*#", line)]
