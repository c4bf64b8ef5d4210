"""Flags for pasted source: what they find, and how rarely they are wrong."""

import pytest
from grade.answers import RIGHT
from grade.submissions import solutions
from labs.test_labs import wrong_answers

from ftlab.course import catalogue
from ftlab.grade import similarity

# Our own layer of Lab 06, with other names, annotations, comments and another way to write its constants.
RENAMED = '''
def attach_lora(net: object, wanted: list, factory) -> object:
    """Mine."""
    for p in net.parameters():
        p.requires_grad_(False)  # freeze
    "the layers"
    for key, layer in list(net.named_modules()):
        if isinstance(layer, nn.Linear) and key.split(".")[-1] in wanted:
            above, _, own = key.rpartition(".")
            setattr(net.get_submodule(above), own, factory(layer))
    return net
'''
ANOTHER_WAY = """
def attach_lora(model, target_modules, make):
    model.requires_grad_(False)
    def visit(module):
        for name, child in module.named_children():
            if type(child) is nn.Linear and name in target_modules:
                module._modules[name] = make(child)
            else:
                visit(child)
    visit(model)
    return model
"""


def test_renaming_does_not_hide_a_copy():
    [(name, house, share)] = similarity.pasted("06_lora", RENAMED, "attach")
    assert (name, share) == ("attach_lora", 1.0) and "our solution of attach" in house


def test_another_way_to_write_it_is_not_flagged():
    assert similarity.pasted("06_lora", ANOTHER_WAY, "attach") == []


@pytest.mark.parametrize("id", RIGHT)
def test_right_answers_by_another_hand_are_not_flagged(id):
    assert similarity.pasted("00_lifecycle", RIGHT[id], id) == []


def test_padding_does_not_hide_a_copy():
    code = RENAMED.replace("    for p in", "    total = 0\n    for i in range(10):\n        total += i * i\n    for p in")
    assert similarity.pasted("06_lora", code, "attach")


@pytest.mark.parametrize("code", ["", "def f(:", "x = 1", "def f():\n    pass", "async def f():\n    pass"])
def test_odd_code_is_not_flagged(code):
    assert similarity.pasted("06_lora", code, "attach") == []


def test_every_long_solution_is_recognised_as_itself():
    for lab in catalogue.lab_names():
        for id, code in solutions(lab).items():
            long = [name for name, nodes in similarity.functions(code).items() if len(nodes) >= similarity.MIN_NODES]
            assert {name for name, _, share in similarity.pasted(lab, code, id) if share == 1.0} == set(long), (lab, id)


def test_short_functions_are_left_alone():
    short = [code for lab in catalogue.lab_names() for answers in wrong_answers(lab).values() for code in answers.values()
             if all(len(nodes) < similarity.MIN_NODES for nodes in similarity.functions(code).values())]  # fmt: skip
    assert len(short) > 50 and all(similarity.pasted("06_lora", code, "attach") == [] for code in short)
