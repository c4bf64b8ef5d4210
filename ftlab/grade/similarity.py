"""How much of a student's function is the house's, by the shape of its syntax tree. Only to flag: a person judges.

A function becomes the list of its tree's nodes in order, without names of arguments and locals, docstrings, annotations and
the form of constants; what it calls and reads from outside, operators and constants' values stay. Two functions are compared
by the runs of GRAM nodes that they share (as winnowing does: Schleimer et al. 2003). Short functions can hardly be written in
two ways: below MIN_NODES nothing is said.
"""

import ast
import collections
import functools

from ftlab.course import catalogue
from ftlab.course.source import read_lab, solution_of
from ftlab.grade.withheld import locate, nodes_of

# The threshold was set before anything was measured, and kept. MIN_NODES was 70, which left only 10 of our 80 solution
# functions in reach; 50 reaches 35. Of 4,962 pairs of functions of different exercises (50 nodes or more) none reaches 0.8,
# the highest having 0.78; right answers by another hand score 0 to 0.2. The wrong answers of tests/labs, which were made from
# our solutions by one change each, are recognised as such: 86 of 147 reach 0.8.
GRAM, MIN_NODES, THRESHOLD = 6, 50, 0.8


def share(one, other):
    """The share of the runs of nodes of the shorter of two functions (lists of nodes) that the other has, too: in [0, 1]."""
    a, b = _grams(one), _grams(other)
    return sum((a & b).values()) / max(min(sum(a.values()), sum(b.values())), 1)


def functions(source):
    """{name: list of nodes} of the functions and classes at the top of `source`; {} where it is no (sensible) Python."""
    try:
        tree = ast.parse(source)
        return {node.name: shape(node) for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def shape(function):
    """The nodes of a definition in order, as words."""
    local = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    local |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    local |= {getattr(function, "name", "")}
    words = []
    for item in function.body:
        _walk(item, local, words)
    return words


def pasted(lab, code, id):
    """[(student's name, house name, share), ...] of functions in `code` that are the house's, for exercise `id` of `lab`."""
    found = []
    for name, nodes in functions(code).items():
        known = [(share(nodes, ours), house) for house, ours in house_source(lab)[id].items() if len(ours) >= MIN_NODES]
        if len(nodes) >= MIN_NODES and known and max(known)[0] >= THRESHOLD:
            found.append((name, max(known)[1], round(max(known)[0], 2)))
    return found


@functools.lru_cache(maxsize=4)
def house_source(lab):
    """{exercise id: {house name: list of nodes}}: what the exercise withholds, and our solution of it."""
    found = {}
    for cell in read_lab(lab):
        if cell.kind == "exercise":
            ours = {f"our solution of {cell.id} ({name})": nodes for name, nodes in functions(solution_of(cell)).items()}
            for name in catalogue.exercises(lab)[cell.id].withheld:
                ours |= _withheld(name)
            found[cell.id] = ours
    return found


def _withheld(name):
    path, rest = locate(name)
    tree = ast.parse((catalogue.PACKAGE / path).read_text(encoding="utf-8"))
    if not rest:
        return {f"{name}.{inner}": nodes for inner, nodes in functions(ast.unparse(tree)).items()}
    definitions = [node for node in nodes_of(tree, rest) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    found = {}
    for node in definitions:
        found[name] = shape(node)
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
        found |= {f"{name}.{item.name}": shape(item) for item in methods}
    return found


def _walk(node, local, words):
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring, or a string that stands for a comment
    if isinstance(node, ast.Name):
        words.append("local" if node.id in local else f"name {node.id}")
        return
    if isinstance(node, ast.Constant):
        number = isinstance(node.value, (int, float))
        words.append(f"number {float(node.value):g}" if number else f"constant {node.value!r}")
        return
    words.append(type(node).__name__ + (f" {node.attr}" if isinstance(node, ast.Attribute) else ""))
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx", "type_comment", "type_params"):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                _walk(item, local, words)


def _grams(words):
    return collections.Counter(tuple(words[i:i + GRAM]) for i in range(len(words) - GRAM + 1))
