"""Two copies of the package for grading: one without answers, and for each lab one in which the answers raise.

The *visible* package holds all but the answers, the solutions, the studies' data and grading itself. A lab's *hidden*
package moreover has no working copy of what its exercises ask for: each name in an `Exercise.withheld` is there and
raises `ftlab.errors.Withheld` when it is used, the lab's checks are cut down to what its probe cells call, the other labs'
are gone, and so are the bodies of the studies. Comments and docstrings of what is withheld go, too: they hold formulas.

What follows works on the source, by `ast`: nothing of the package is imported to be copied.
"""

import ast
import builtins
import os
import pathlib
import shutil

from ftlab.course import catalogue
from ftlab.course.source import read_lab, stub_of
from ftlab.errors import UsageError
from ftlab.files import atomic_folder
from ftlab.teach.names import all_bound, bound, used

# Folders and files of the package that no kernel of a submission sees.
NEVER = ("grade", "course/answers", "assets/studies", "assets/labs")
NOT_IN_HIDDEN = (*NEVER, "bench", "course/template")
RAISE = "__import__('ftlab.errors', fromlist=['withheld']).withheld({name!r})"
ABSENT = "__import__('ftlab.errors', fromlist=['Absent']).Absent({name!r})"


def packages(folder, labs=None):
    """Make the packages of `labs` (default: all) under `folder`; dict(visible=path, hidden={lab: path}).

    Each path holds an `ftlab/` to be put on PYTHONPATH. The models' files are copied once and linked into each tree.
    """
    folder = pathlib.Path(folder)
    labs = catalogue.find_labs(labs or ())
    assets = folder / "assets"
    if not assets.exists():
        with atomic_folder(assets) as temporary:
            for path in _files("assets", NEVER):
                _copy(catalogue.PACKAGE / path, temporary / path)
    visible = _made(folder / "visible", assets, NEVER, lambda path, source: source)
    hidden = {lab: _made(folder / "hidden" / lab, assets, NOT_IN_HIDDEN, _Rewriter(lab)) for lab in labs}
    return {"visible": str(visible), "hidden": {lab: str(path) for lab, path in hidden.items()}}


def withheld_names(lab):
    """What the exercises of `lab` withhold, sorted: ["ftlab.tune.lora.LoRALinear", ...]."""
    return sorted({name for exercise in catalogue.exercises(lab).values() for name in exercise.withheld})


def _made(target, assets, dropped, rewrite):
    """A package tree at `target`; the one that stands there already is kept."""
    if not target.exists():
        with atomic_folder(target) as temporary:
            for path in _files("", dropped):
                if path.parts[0] == "assets":
                    _link(assets / path, temporary / "ftlab" / path)
                elif path.suffix == ".py":
                    source = rewrite(path, (catalogue.PACKAGE / path).read_text(encoding="utf-8"))
                    if source is not None:
                        _write(temporary / "ftlab" / path, source)
                else:
                    _copy(catalogue.PACKAGE / path, temporary / "ftlab" / path)
    return target


def _files(under, dropped):
    """Paths of the package's files, relative to it, without caches and without what is `dropped`."""
    for path in sorted((catalogue.PACKAGE / under).rglob("*")):
        relative = path.relative_to(catalogue.PACKAGE)
        gone = any(relative.is_relative_to(name) for name in dropped)
        if path.is_file() and not path.is_symlink() and not gone and "__pycache__" not in relative.parts:
            yield relative


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _link(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


class _Rewriter:
    """rewrite(path in the package, source) -> the source for one lab's hidden package, or None: not there at all."""

    def __init__(self, lab):
        self.lab = lab
        self.rests = {}  # {path: list of what is withheld in it, as lists of names; [] stands for the whole module}
        for name in withheld_names(lab):
            path, rest = locate(name)
            self.rests.setdefault(path, []).append(rest)

    def __call__(self, path, source):
        if path.parts[:2] == ("course", "checks") and path.name != "__init__.py":
            return checks_source(self.lab, source) if path.stem == self.lab else None
        if path.parts[:2] == ("course", "studies") and path.name != "__init__.py":
            return constants_only(source)
        if path in self.rests:
            return without(source, self.rests[path], ".".join(("ftlab", *path.with_suffix("").parts)))
        return source


def locate(name):
    """(path in the package, names inside it) of a dotted house name. Raises UsageError when there is no such thing."""
    parts = name.split(".")[1:]
    for count in range(len(parts), 0, -1):
        stem = pathlib.Path(*parts[:count])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if (catalogue.PACKAGE / path).is_file():
                rest = parts[count:]
                tree = ast.parse((catalogue.PACKAGE / path).read_text(encoding="utf-8"))
                if not rest or nodes_of(tree, rest):
                    return path, rest
    raise UsageError(f"an exercise withholds {name}, and there is no such name in the package")


def nodes_of(tree, rest):
    """The statements that define the dotted name `rest` inside `tree`."""
    for depth, name in enumerate(rest):
        found = [node for node in tree.body if name in bound(node)]
        if not found or depth == len(rest) - 1:
            return found
        tree = found[0]


# Withheld names


def without(source, rests, module):
    """The source of `module` in which each name of `rests` raises; without its docstring and its comments."""
    tree = ast.parse(source)
    _drop_docstring(tree)
    for rest in rests:
        if rest:
            for node in nodes_of(tree, rest):
                _empty(node, f"{module}.{'.'.join(rest)}")
        else:
            for node in tree.body:
                _empty(node, module)
    return ast.unparse(tree) + "\n"


def _empty(node, name):
    """Change a definition in place so that it is there and raises when it is used."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        node.body = ast.parse(RAISE.format(name=name)).body
    elif isinstance(node, ast.ClassDef):
        _empty_class(node, name)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and not _names_only(node):
        node.value = ast.parse(ABSENT.format(name=name), mode="eval").body


def _empty_class(node, name):
    """Keep a class's bases, decorators and fields; every method raises. What cannot be a field is gone."""
    _drop_docstring(node)
    kept = []
    for item in node.body:
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            _empty(item, f"{name}.{item.name}")
            kept.append(item)
        elif isinstance(item, ast.AnnAssign) or (isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)):
            kept.append(item)
    if not any(isinstance(item, ast.FunctionDef) and item.name == "__init__" for item in kept) and not node.decorator_list:
        refuse = f"def __init__(self, *args, **kwargs):\n    {RAISE.format(name=name)}"
        kept += ast.parse(refuse).body
    node.body = kept or [ast.Pass()]


def _names_only(node):
    """Whether an assignment holds nothing but a list of words, numbers or paths: what other modules read when imported."""
    targets = bound(node)
    return bool(targets & {"__all__", "ASSETS", "SHIPPED", "TEMPLATES", "LOSSES"})


def _drop_docstring(node):
    if node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
        if isinstance(node.body[0].value.value, str):
            node.body = node.body[1:] or [ast.Pass()]


# Studies


def constants_only(source):
    """A study's source with its imports and its constants; its functions raise, and it has no claims.

    A constant is what is made of literals, builtins and other constants: SETTINGS, sizes, rates.
    """
    tree, known, kept = ast.parse(source), set(vars(builtins)), []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.decorator_list = []
            _empty(node, node.name)
            kept.append(node)
        elif isinstance(node, ast.ClassDef):
            kept += ast.parse(f"{node.name} = {ABSENT.format(name=node.name)}").body
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            kept.append(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and used(node) - all_bound(node) <= known:
            known |= bound(node)
            kept.append(node)
    kept += ast.parse("CLAIMS = []").body
    return ast.unparse(ast.Module(kept, [])) + "\n"


# Checks


def checks_source(lab, source):
    """The source of a lab's checks module with what its graded cells call, and exercises that cannot judge."""
    tree = ast.parse(source)
    kept = [node for node in closure(tree, called(lab)) if not isinstance(node, ast.Expr)]
    for node in kept:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            _drop_docstring(node)
    lines = ["from ftlab.teach import Exercise as _Exercise", "EXERCISES = []"]
    lines += [
        f"EXERCISES.append(_Exercise(id={item.id!r}, title={item.title!r}, points={item.points!r}, minutes={item.minutes!r}, "
        f"difficulty={item.difficulty!r}, hints=('', ''), mistakes={{'a': '', 'b': ''}}, check=lambda *objects: "
        f"{RAISE.format(name=f'the check of {item.id}')}))"
        for item in catalogue.exercises(lab).values()
    ]
    return ast.unparse(ast.Module(kept, [])) + "\n" + "\n".join(lines) + "\n"


def closure(tree, names):
    """The statements of a module that define `names` and all that those use, with its imports, in their order."""
    makers = {}
    for node in tree.body:
        for name in bound(node):
            makers.setdefault(name, []).append(node)
    reached, queue = set(), list(names)
    while queue:
        for node in makers.get(queue.pop(), ()):
            if id(node) not in reached:
                reached.add(id(node))
                queue += used(node)
    return [node for node in tree.body if id(node) in reached or isinstance(node, (ast.Import, ast.ImportFrom))]


def called(lab):
    """The names of the lab's checks module that its setup, exercise and probe cells use: {"run_swap", "T"}."""
    cells = [cell for cell in read_lab(lab) if cell.kind in ("setup", "exercise", "probe")]
    trees = [ast.parse(stub_of(cell) if cell.kind == "exercise" else cell.source) for cell in cells]
    holders = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                holders |= _holders(node, lab)
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (_loads(node.value, lab) or getattr(node.value, "id", None) in holders):
                found.add(node.attr)
    return found


def _holders(node, lab):
    """The names to which an assignment gives the checks module: `known = checks.load("06_lora")`, alone or in a tuple."""
    found = set()
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts)
        found |= {name.id for name, value in pairs if isinstance(name, ast.Name) and _loads(value, lab)}
    return found


def _loads(node, lab):
    return isinstance(node, ast.Call) and ast.unparse(node) == f"checks.load({lab!r})"


