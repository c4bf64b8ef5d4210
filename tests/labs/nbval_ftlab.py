"""A pytest plugin: nbval runs a solution, and only what the course promises is compared with the stored outputs.

Probe results are compared by value, exact claims by whether they are within their bounds, other claims by presence.
"""

from ftlab.course import catalogue
from ftlab.teach.compare import difference
from ftlab.teach.display import CHECK_MIME, CLAIM_MIME, PROBE_MIME


def pytest_collection_modifyitems(items):
    from nbval.plugin import IPyNbCell

    for item in items:
        if isinstance(item, IPyNbCell):
            item.__class__ = _course_cell(type(item))


def _course_cell(base):
    class CourseCell(base):
        def compare_outputs(self, test, ref, skip_compare=None):
            problems = [*_differences(_ours(test), _ours(ref))]
            self.comparison_traceback = problems
            return not problems

    return CourseCell


def _ours(outputs):
    """[(MIME type, value)] of what is ours in a cell's outputs."""
    bundles = [output.get("data", {}) for output in outputs]
    ours = (CHECK_MIME, CLAIM_MIME, PROBE_MIME)
    return [(mime, bundle[mime]) for bundle in bundles for mime in ours if mime in bundle]


def _differences(fresh, stored):
    if [(mime, value["id"]) for mime, value in fresh] != [(mime, value["id"]) for mime, value in stored]:
        yield f"shown: {fresh}; stored: {stored}"
        return
    for (mime, got), (_, want) in zip(fresh, stored, strict=True):
        if mime == PROBE_MIME:
            problem = difference(got["value"], want["value"], 1e-3, 1e-5)
        elif mime == CHECK_MIME:
            problem = difference([got["status"], got["mistake"]], [want["status"], want["mistake"]])
        else:
            problem = _claim_problem(got, want)
        if problem:
            yield f"{got['id']}: {problem}"


def _claim_problem(got, want):
    if got["kind"] != want["kind"] or type(got["value"]) is not type(want["value"]):
        return f"shown {got['kind']} {got['value']!r}; stored {want['kind']} {want['value']!r}"
    if got["kind"] == "exact":
        claim = next(c for lab in catalogue.lab_names() for c in catalogue.claims(lab) if c.id == got["id"])
        if not claim.within(got["value"], got["value"]):
            return f"{got['value']} is not {claim.threshold_text()}"
    return None
