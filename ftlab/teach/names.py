"""Names that an exercise's cell reads from other cells: which definitions go with it when it is graded, and what is missing.

Grading runs the lab's setup and the exercises' cells, nothing else. Students put imports and helpers into cells of their
own. `taken_along` decides, from the syntax trees alone, what of those cells is put before the exercise's code: imports of
installed packages, definitions of functions and classes, and assignments of constants, where the exercise reads their
names (or a definition that is taken does). Nothing is taken that computes, draws, reads a file or changes an object.
The grader and `lab.check` both call it, so that they say the same.
"""

import ast
import builtins
import dataclasses
import functools
import importlib.machinery
import importlib.util
import pathlib
import site
import symtable
import sys
import sysconfig
from collections.abc import Iterable, Sequence

MAX_CELL, MAX_CELLS, MAX_TAKEN, MAX_PIECES = 100_000, 400_000, 20_000, 200  # characters of a cell, of all, that are taken
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
# What IPython gives to every cell.
_SHELL = {"display", "get_ipython", "In", "Out", "exit", "quit", "__name__", "__doc__", "__builtins__"}
_BUILTIN = set(vars(builtins)) | _SHELL
_TIMED = ("time", "capture", "prun")  # magics that run the rest in the notebook's namespace
_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")
_IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
# Calls without effects, whose result depends on their arguments only.
_CALLS = set("bool int float complex str bytes list tuple dict set frozenset range len min max sum sorted reversed abs round "
             "zip enumerate divmod pow ord chr slice type property staticmethod classmethod".split()) | {
    f"{module}.{name}" for module, names in {
        "functools": "partial partialmethod lru_cache wraps total_ordering", "dataclasses": "dataclass field",
        "collections": "namedtuple defaultdict OrderedDict Counter deque", "re": "compile", "enum": "auto",
        "operator": "itemgetter attrgetter methodcaller", "fractions": "Fraction", "decimal": "Decimal",
        "pathlib": "Path PurePath", "types": "MappingProxyType SimpleNamespace", "string": "Template",
        "typing": "TypeVar NewType NamedTuple TypedDict ParamSpec",
        "numpy": "array asarray arange linspace zeros ones eye full log sqrt exp finfo iinfo dtype "
                 "float16 float32 float64 int8 int32 int64",
        "torch": "tensor arange linspace zeros ones eye full finfo iinfo device",
    }.items() for name in names.split()
}  # fmt: skip
_CALL_MODULES = ("math.", "cmath.")
_CHANGES = set("append extend insert add update setdefault pop popitem remove discard clear sort reverse appendleft "
               "extendleft register load_state_dict".split())  # fmt: skip

COMPUTED = "a variable computed there"
CHANGED = "changed there after its definition"
SHADOWS = "the lab's setup has this name too, and its own is used: give yours another name"
RUNS_CODE = "its definition runs other code"
TOO_LARGE = f"too large: at most {MAX_TAKEN:,} characters are taken along"
NO_CELL = "no cell that ran defines it"


@dataclasses.dataclass(frozen=True)
class Taken:
    """lines: the statements that go before the exercise's code, in order; missing: {name: why it will not be there}."""

    lines: tuple[str, ...] = ()
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def warning(self) -> str:
        """A line for each missing name; "" when there is none."""
        return "\n".join(f"`{name}` comes from another cell ({why})" for name, why in self.missing.items())


def taken_along(code: str, setup: Sequence[str] = (), earlier: Sequence[str] = (), above: Sequence[str] = (),
                below: Sequence[str] = (), live: Iterable[str] = ()) -> Taken:  # fmt: skip
    """What of the cells `above` and `below` goes with the exercise's `code` when it is graded, and what will be missing.

    setup: sources of the lab's own setup cells; earlier: of the exercises before this one. Both are there when graded.
    above, below: sources of all other cells, in the notebook's order; of two definitions the last one above counts, and
    one below only where none above has the name.
    live: names that the running kernel has: one that no cell defines is then missing, too.
    """
    free = free_names(code)
    if not free:
        return Taken()
    search = _Search(setup, earlier, above, below, set(live))
    try:
        for name in sorted(free):
            search.need(name)
        search.submodules(code)
        search.patches(code)
        return Taken(search.lines(), dict(sorted(search.missing.items())))
    except RecursionError:
        return Taken()


def with_taken(lines: Sequence[str], code: str) -> str:
    """`code` with the statements `lines` put before it; after a cell magic and after imports from `__future__`."""
    if not lines:
        return code
    own = code.split("\n")
    at = 1 if own[0].startswith("%%") else 0
    try:
        futures = [node.end_lineno for node in ast.parse(python_of(code)).body if _is_future(node)]
    except UNREADABLE:
        futures = []
    if futures and not at:
        at = max(futures)
    return "\n".join([*own[:at], *lines, *own[at:]])


def free_names(code: str) -> set[str]:
    """The names that a cell reads before it binds them, and those that its functions read and it binds nowhere.

    The empty set for a cell that is no valid Python.
    """
    try:
        tree = ast.parse(text := python_of(code))
        bound_names, free, later = set(), set(), set()
        for node in tree.body:
            eager, lazy = reads(_segment(text.split("\n"), node), node)
            free |= eager - bound_names
            later |= lazy
            bound_names |= bound(node)
        return free | (later - bound_names)
    except UNREADABLE:
        return set()


def top_names(code: str) -> set[str]:
    """The names that a cell defines at its top level, imports left out; the empty set for a cell that is no valid Python."""
    try:
        nodes = [node for node in ast.parse(python_of(code)).body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        return set().union(*map(bound, nodes))
    except UNREADABLE:
        return set()


# Syntax trees


def bound(node: ast.AST) -> set[str]:
    """The names that a statement binds in its own scope."""
    names, todo = set(), [node]
    while todo:
        item = todo.pop()
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(item.name)
        elif isinstance(item, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in item.names}
        elif isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
            names.add(item.id)
        elif not isinstance(item, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            todo += ast.iter_child_nodes(item)
    return names


def all_bound(tree: ast.AST) -> set[str]:
    """All names that a tree binds anywhere, in inner scopes too: arguments, variables of comprehensions."""
    names = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names.union(*(bound(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)))


def used(node: ast.AST) -> set[str]:
    """The names that a statement reads, anywhere inside it."""
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Load)}


def reads(text: str, node: ast.stmt) -> tuple[set[str], set[str]]:
    """(names of the notebook that the statement `text` reads when it runs, names that its functions read when called)."""
    table = symtable.symtable(text, "<cell>", "exec")
    eager, lazy = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}, set()
    if isinstance(node, ast.AugAssign):
        eager |= bound(node)
    todo = [(child, False) for child in table.get_children()]
    while todo:
        table, deferred = todo.pop()
        deferred = deferred or (str(table.get_type()) == "function" and table.get_name() not in _COMPREHENSIONS)
        names = {symbol.get_name() for symbol in table.get_symbols()
                 if symbol.is_global() and (symbol.is_referenced() or symbol.is_declared_global())}  # fmt: skip
        (lazy if deferred else eager).update(names)
        todo += [(child, deferred) for child in table.get_children()]
    return eager, lazy


def python_of(source: str) -> str:
    """A cell's source with IPython's magics replaced, line by line, by Python; "" for a cell of another language.

    `%time x = f()` becomes `x = f()`, a magic whose result is assigned becomes a call, any other `pass`.
    Raises SyntaxError where the cell is no valid Python all the same.
    """
    if source.lstrip().startswith("%%"):
        magic, _, rest = source.lstrip().partition("\n")
        source = "\n" + rest if magic[2:].split()[:1] in ([name] for name in _TIMED) else ""
    for _ in range(50):
        try:
            ast.parse(source)
            return source
        except SyntaxError as error:
            lines = source.split("\n")
            number = (error.lineno or 0) - 1
            plain = _without_magic(lines[number]) if 0 <= number < len(lines) else None
            if plain is None:
                raise
            lines[number] = plain
            source = "\n".join(lines)
    raise SyntaxError("too many magics")


def _without_magic(line):
    """A line of IPython's own syntax as Python; None for any other line."""
    text = line.lstrip()
    indent = line[:len(line) - len(text)]
    if text.startswith("%") and text[1:].split()[:1] in ([name] for name in _TIMED):
        return indent + text[1:].split(maxsplit=1)[1] if len(text.split()) > 1 else indent + "pass"
    if text.startswith(("%", "!", "?")) or text.rstrip().endswith("?"):
        return indent + "pass"
    target, sign, value = text.partition("=")
    if sign and value.lstrip().startswith(("%", "!")):
        return f"{indent}{target}= get_ipython()"
    return None


def _segment(lines, node):
    """The source of a statement, decorators included; its comments stay when it has its lines for itself."""
    first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))])
    text = "\n".join(lines[first - 1:node.end_lineno])
    try:
        if len(ast.parse(text).body) == 1:
            return text
    except SyntaxError:
        pass
    return ast.unparse(node)


def _is_future(node):
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _dotted(node):
    """["torch", "nn", "Linear"] of an attribute of a name, [] of any other expression."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


# Packages


def installed(module: str) -> bool:
    """Whether the import of `module` finds an installed package: not a file in the work folder, not one under development."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "ftlab":
        return True
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())]
    return any(pathlib.Path(place).is_relative_to(folder) for place in places if place for folder in _site_folders())


@functools.cache
def _site_folders():
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()]
    return [*folders, *(path for path in sys.path if pathlib.Path(path).name in ("site-packages", "dist-packages"))]


@functools.cache
def exports(module: str) -> frozenset[str] | None:
    """The names that `from module import *` binds, as far as its source tells; None where it does not. Nothing is run of it.

    Only modules of the standard library that are written in C are imported to be asked.
    """
    top, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        if spec and not parts and top in sys.stdlib_module_names and (
                spec.origin == "built-in" or isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)):
            return frozenset(name for name in vars(importlib.import_module(top)) if not name.startswith("_"))
        path = pathlib.Path(spec.origin).parent.joinpath(*parts) if parts else pathlib.Path(spec.origin)
        path = next(one for one in (path, path.with_suffix(".py"), path / "__init__.py") if one.is_file())
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text) if len(text) < 10 * MAX_CELL else None
    except (*UNREADABLE, ImportError, OSError, AttributeError, TypeError, StopIteration):
        return None
    return _exported(tree)


def _exported(tree):
    names = set()
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return None
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and "__all__" in bound(node):
            try:
                return frozenset(map(str, ast.literal_eval(node.value))) if isinstance(node, ast.Assign) else None
            except (ValueError, TypeError):
                return None
        names |= bound(node)
    return frozenset(name for name in names if not name.startswith("_")) if tree else None


# The pieces of cells


@dataclasses.dataclass(eq=False)
class _Piece:
    """A statement, or one name of an import.

    place: its lines in the cell; names: what it binds; target: what an import gives its name, with its dots.

    kind: import, star, definition, constant (if its value proves to be one), fallback (a try around imports), computed.
    """

    kind: str
    place: tuple
    names: frozenset
    node: ast.stmt
    text: str
    target: str = ""

    @functools.cached_property
    def reads(self):
        """(eager, lazy) names without its own; see `reads`."""
        try:
            eager, lazy = reads(self.text, self.node)
        except UNREADABLE:
            return set(), set()
        return eager - (self.names if self.kind in ("definition", "fallback") else set()), lazy - self.names

    @functools.cached_property
    def changes(self):
        """The names of objects that it changes."""
        try:
            return _changed(self.node)
        except RecursionError:
            return set()

    def same(self, other):
        """Whether both bind the same thing: the same import, or the same statement."""
        if self.target or other.target:
            return self.target == other.target
        return self.names == other.names and ast.dump(self.node) == ast.dump(other.node)


def _pieces(sources):
    """The _Pieces of cells, in order; none of cells that are no valid Python or too long."""
    found, left = [], MAX_CELLS
    for source in sources:
        left -= len(source)
        if len(source) <= MAX_CELL and left >= 0:
            found += _pieces_in(source)
    return found


@functools.lru_cache(maxsize=512)
def _pieces_in(source):
    try:
        lines = (text := python_of(source)).split("\n")
        return tuple(piece for node in ast.parse(text).body for piece in _pieces_of(node, lines, (node.lineno,)))
    except UNREADABLE:
        return ()


def _pieces_of(node, lines, place):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [_import_piece(node, alias, place) for alias in node.names]
    names = frozenset(bound(node))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or type(node).__name__ == "TypeAlias":
        return [_Piece("definition", place, names, node, _segment(lines, node))]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        if node.value is None:
            return []
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        parts = [item for target in targets for item in ast.walk(target)]
        plain = all(isinstance(item, (ast.Name, ast.Tuple, ast.List, ast.Store)) for item in parts)
        return [_Piece("constant" if plain else "computed", place, names, node, _segment(lines, node))]
    if _is_main(node):
        return [piece for inner in node.body for piece in _pieces_of(inner, lines, (*place, inner.lineno))]
    if isinstance(node, ast.Try) and _is_fallback(node):
        return [_Piece("fallback", place, names, node, _segment(lines, node))]
    inner = [_import_piece(item, alias, place) for item in _inner_imports(node) for alias in item.names]
    computed = names - set().union(*(piece.names for piece in inner))
    return [*inner, _Piece("computed", place, computed, node, _segment(lines, node))]


def _import_piece(node, alias, place):
    if isinstance(node, ast.Import):
        one = ast.Import([alias])
        target = alias.name if alias.asname else alias.name.partition(".")[0]
    else:
        one = ast.ImportFrom(node.module, [alias], node.level)
        target = f"{'.' * node.level}{node.module or ''}.{alias.name}"
    name = (alias.asname or alias.name).partition(".")[0]
    kind = "star" if alias.name == "*" else "import"
    return _Piece(kind, place, frozenset() if kind == "star" else frozenset([name]), one, ast.unparse(one), target)


def _is_main(node):
    """Whether a statement is `if __name__ == "__main__":` or `if True:`, whose body runs in a notebook."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "True", "1") and not node.orelse


def _is_fallback(node):
    """Whether a `try` holds nothing but imports and what there is instead of them."""
    caught = {name for handler in node.handlers for name in (used(handler.type) if handler.type else {"Exception"})}
    body = [*node.body, *(item for handler in node.handlers for item in handler.body), *node.orelse, *node.finalbody]
    plain = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef, ast.Pass)
    return bool(caught & _IMPORT_ERRORS) and all(isinstance(item, plain) for item in body) and any(
        isinstance(item, (ast.Import, ast.ImportFrom)) for item in node.body)


def _inner_imports(node):
    """The imports inside a compound statement (`with`, `if`, `try`), which bind names of the notebook."""
    found, todo = [], [node]
    while todo:
        item = todo.pop()
        if isinstance(item, (ast.Import, ast.ImportFrom)):
            found.append(item)
        elif not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo += reversed(list(ast.iter_child_nodes(item)))
    return found


def _changed(node):
    """The names of objects that a statement changes: `a[0] = 1`, `a.b = 1`, `a += 1`, `del a[0]`, `a.append(1)`."""
    found = set()
    for item in ast.walk(node) if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else ():
        if isinstance(item, (ast.Attribute, ast.Subscript)) and isinstance(item.ctx, (ast.Store, ast.Del)):
            found.add(_root(item))
        elif isinstance(item, ast.AugAssign):
            found.add(_root(item.target))
        elif isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute) and item.func.attr in _CHANGES:
            found.add(_root(item.func))
        elif isinstance(item, ast.Call) and getattr(item.func, "id", "") in ("setattr", "delattr") and item.args:
            found.add(_root(item.args[0]))
    return found - {None}


def _root(node):
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return getattr(node, "id", None)


# The search


class _Search:
    """Finds the pieces that a set of names needs. missing: {name: why}; call `need` for each name, then `lines`."""

    def __init__(self, setup, earlier, above, below, live):
        self.above, self.below = _pieces(above), _pieces(below)
        self.setup, self.live, self.missing = _pieces(setup), live, {}
        self.given = set().union(*(piece.names for piece in self.setup))
        self.earlier = {name for piece in _pieces(earlier) for name in piece.names} - self.given
        self.known, self.opened = set(self.earlier), set()
        self.taken, self.stars = [], [piece for piece in [*self.below, *self.above] if piece.kind == "star"]
        self.size, self.changes = 0, {}
        self.rank = {piece: number for number, piece in enumerate([*self.above, *self.below])}
        for piece in self.above + self.below:
            if piece.changes and not any(piece.same(one) for one in self.setup):
                for name in piece.changes:
                    self.changes.setdefault(name, []).append(piece)

    def need(self, name):
        """Have `name` there when graded; False, with the reason in `missing`, where it cannot be."""
        if name in self.known:
            return True
        if name in self.missing:
            return False
        if name in self.given:
            return self._given(name)
        piece = self._find(name)
        if piece is None:
            return name in _BUILTIN or self._nowhere(name)
        problem = self._problem(piece, name)
        if problem is None:
            problem = self._open(piece)
        if problem is not None:
            self.missing[name] = problem
            return False
        self.taken.append(piece)
        for one in sorted(piece.reads[1]):
            self.need(one)
        return True

    def _open(self, piece):
        """Have what a piece reads when it runs; why it is not taken, or None."""
        eager = sorted(piece.reads[0])
        if set(eager) & (self.opened | piece.names):
            return CHANGED  # it is made of an earlier value of its own
        self.opened |= piece.names
        self.known |= piece.names
        lacking = [name for name in eager if not self.need(name)]
        self.opened -= piece.names
        problem = f"its definition needs `{lacking[0]}`, which is missing" if lacking else self._too_much(piece)
        if problem is not None:
            self.known -= piece.names
        return problem

    def submodules(self, code):
        """Take `import a.b` where a.b is read and only `a` is there by another import."""
        read = self._dotted_reads(code)
        there = {piece.text for piece in [*self.setup, *self.taken]}
        for piece in [*self.above, *self.below]:
            if piece.kind == "import" and isinstance(piece.node, ast.Import) and piece.text not in there:
                path, own_name = piece.node.names[0].name, piece.node.names[0].asname
                dotted = "." in path and not own_name
                if dotted and any(f"{one}.".startswith(f"{path}.") for one in read) and installed(path):
                    self.taken.append(piece)
                    there.add(piece.text)

    def patches(self, code):
        """Note attributes of imported things that a cell replaces, where the code reads what they are attributes of."""
        read = {name for one in self._dotted_reads(code) for name in one.split(".")}
        changed = [(name, piece.node) for name, pieces in self.changes.items() for piece in pieces]
        for name, node in changed:
            for item in ast.walk(node):
                path = _dotted(item) if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store) else []
                if path and path[0] == name and self._target(name) and {name, path[-2]} <= read:
                    self.missing.setdefault(".".join(path), "replaced there")

    def lines(self):
        """The texts of what was taken, each after what it needs, else in the notebook's order."""
        left, texts = sorted(self.taken, key=self.rank.get), []
        needs = {piece: self._before(piece) for piece in left}
        while left:
            waiting = {name for piece in left for name in piece.names}
            ready = [piece for piece in left if not (needs[piece] & (waiting - piece.names))]
            piece = (ready or left)[0]
            left.remove(piece)
            texts.append(piece.text)
        return tuple(dict.fromkeys(texts))

    def _before(self, piece):
        """The names that must be there before a piece runs: a decorator is called then, so what its body reads, too."""
        makers, found, todo = {name: one for one in self.taken for name in one.names}, set(), set(piece.reads[0])
        while todo:
            name = todo.pop()
            found.add(name)
            if name in makers and makers[name] is not piece:
                todo |= set().union(*makers[name].reads) - found
        return found

    def _given(self, name):
        """A name of the setup: it is there, unless another cell gives it another meaning or changes its object."""
        ours = [piece for piece in self.setup if name in piece.names]
        theirs = next((piece for piece in reversed(self.above) if name in piece.names), None)
        if theirs is not None and not any(theirs.same(piece) for piece in ours):
            self.missing[name] = SHADOWS
        elif name in self.changes and not any(piece.target for piece in ours):
            self.missing[name] = "the lab's setup makes it, and another cell changes it"
        return True

    def _find(self, name):
        for pieces in (self.above, self.below):
            for piece in reversed(pieces):
                if name in piece.names:
                    return piece
        for star in reversed(self.stars):
            known = exports(star.target[:-2]) if installed(star.target) else None
            if name in (known or ()) or (known is None and name not in _BUILTIN and installed(star.target)):
                return self._from_star(star, name, known)
        return None

    def _from_star(self, star, name, known):
        if known is None:
            found = dataclasses.replace(star, names=frozenset([name]))
        else:
            found = _import_piece(ast.ImportFrom(star.node.module, [ast.alias(name)], 0), ast.alias(name), star.place)
        self.rank[found] = self.rank[star]
        return found

    def _nowhere(self, name):
        """No cell defines the name. It is noted where the kernel has it all the same."""
        stars = [star.target[:-2] for star in self.stars if not installed(star.target)]
        if stars:
            self.missing[name] = _not_installed(stars[-1])
        elif name in self.live and not name.startswith("_"):
            self.missing[name] = NO_CELL
        return False

    def _problem(self, piece, name):
        """Why a piece is not taken, or None."""
        if piece.names & (self.given | self.earlier):
            return SHADOWS
        if piece.kind == "computed":
            return COMPUTED
        if piece.kind in ("import", "star"):
            return None if installed(piece.target) else _not_installed(piece.target)
        if piece.kind == "fallback":
            return None if all(self._plain_statement(item) for item in ast.walk(piece.node)) else RUNS_CODE
        if piece.kind == "constant" and not self._plain(piece.node.value, constant=True):
            return COMPUTED
        if piece.kind == "definition" and not self._plain_definition(piece.node):
            return RUNS_CODE
        if name in self.changes:
            if piece.kind == "constant":
                return CHANGED
            for change in self.changes[name]:
                self.missing[_first_line(change.text)] = f"it changes `{name}`, whose definition is taken along"
        return None

    def _too_much(self, piece):
        self.size += len(piece.text)
        return TOO_LARGE if self.size > MAX_TAKEN or len(self.taken) >= MAX_PIECES else None

    def _target(self, name):
        """What an import gives `name`: "torch.nn.functional"; "" for a name that is not imported."""
        for pieces in (self.above, self.below, self.setup):
            for piece in reversed(pieces):
                if name in piece.names:
                    return piece.target
        return ""

    def _dotted_reads(self, code):
        found = set()
        for text in [code, *(piece.text for piece in self.taken)]:
            try:
                nodes = ast.walk(ast.parse(python_of(text)))
            except UNREADABLE:
                continue
            found |= {".".join(_dotted(node)) for node in nodes if isinstance(node, (ast.Attribute, ast.Name))}
        return found - {""}

    # What runs no code of its own

    def _plain_statement(self, node):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            return self._plain(node.value)
        return not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or self._plain_definition(node)

    def _plain_definition(self, node):
        """Whether a definition runs nothing but decorators and plain expressions."""
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return True  # a type alias
        wrapped = [item for decorator in node.decorator_list for item in _decorating(decorator)]
        if isinstance(node, ast.ClassDef):
            values = [*node.bases, *(word.value for word in node.keywords)]
            body = all(self._plain_in_class(item) for item in node.body)
        else:
            values, body = [*node.args.defaults, *(item for item in node.args.kw_defaults if item)], True
        return body and all(map(self._plain, [*wrapped, *values]))

    def _plain_in_class(self, node):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return self._plain_definition(node)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            return node.value is None or self._plain(node.value)
        return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))

    def _plain(self, node, constant=False):
        """Whether an expression has no effect and depends on nothing that was computed.

        constant: names must be definitions, imports or constants themselves; variables of the lab's setup are none.
        """
        for item in _evaluated(node):
            if isinstance(item, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
                return False
            if isinstance(item, ast.Call) and not self._plain_call(item):
                return False
            if constant and isinstance(item, ast.Name) and isinstance(item.ctx, ast.Load) and item.id in self.given:
                made = [piece for piece in self.setup if item.id in piece.names]
                if not all(piece.kind in ("import", "definition") or self._plain_constant(piece) for piece in made):
                    return False
        return True

    def _plain_constant(self, piece):
        return piece.kind == "constant" and not (piece.reads[0] & self.given) and self._plain(piece.node.value)

    def _plain_call(self, call):
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, (ast.Constant, ast.JoinedStr)):
            return True  # a method of a text: "a b c".split()
        first, *rest = _dotted(call.func) or [""]
        target = self._target(first)
        if not target and first in ("dict", "str", "int", "float", "bytes") and rest:
            return True  # dict.fromkeys
        path = ".".join([target or first, *rest])
        stars = [] if target else [star.target[:-1] + path for star in self.stars if first in (exports(star.target[:-2]) or ())]
        return any(one in _CALLS or one.startswith(_CALL_MODULES) for one in [path, *stars])


def _decorating(node):
    """What of a decorator must be plain: the arguments of a call, whatever is called."""
    return [*node.args, *(word.value for word in node.keywords)] if isinstance(node, ast.Call) else [node]


def _evaluated(node):
    """The expressions inside `node` that run when it does: not those in the body of a lambda."""
    todo = [node]
    while todo:
        item = todo.pop()
        yield item
        if isinstance(item, ast.Lambda):
            todo += [*item.args.defaults, *(one for one in item.args.kw_defaults if one)]
        else:
            todo += ast.iter_child_nodes(item)


def _not_installed(target):
    top = target.partition(".")[0]
    return f"imported from {f'`{top}`' if top else 'a file of yours'}, which is not an installed package"


def _first_line(text):
    line = text.strip().split("\n")[0]
    return line if len(line) <= 60 else line[:57] + "..."
