"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys
import threading

import ftlab
from ftlab.errors import NotHeld, UsageError
from ftlab.lines import PlainLines
from ftlab.tune.methods import METHODS


def main(arguments=None):
    """Run one command; return the exit status: 0, 1 (what was asked did not hold), 2 (usage), 130 (interrupted)."""
    options = argparse.Namespace(debug=False)
    try:
        parser = build_parser()
        options = parser.parse_args(arguments, options)
        if options.run is None:
            parser.print_help()
            _flush()
            return 2
        with _lines(options), _no_interrupt_lost():
            status = options.run(options) or 0
        _flush()
        return status
    except SystemExit:  # --help and --version, which are printed already
        _flush()
        raise
    except (UsageError, NotHeld) as error:
        if options.debug:
            raise
        print(f"ftlab: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt as stopped:
        if options.debug:
            raise
        print("; ".join(["ftlab: interrupted", *map(str, stopped.args[:1])]), file=sys.stderr)
        return 130
    except BrokenPipeError:
        _flush()
        return 0
    except Exception as error:
        if options.debug:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("ftlab"):
            print(f"ftlab: this needs {error.name}: pip install 'ftlab[lab]'", file=sys.stderr)
            return 2
        if isinstance(error, ImportError) and (error.name or "").startswith("ftlab"):
            print("ftlab: this command is not part of this release of the course (--debug shows what is missing)",
                  file=sys.stderr)  # fmt: skip
            return 2
        print(f"ftlab: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1


def _flush():
    """Write out what was printed. When the reader (head, less) is gone, no complaint at the end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser():
    """The parser of all commands."""
    parser = _Parser(prog="ftlab", description="A Jupyter lab course on fine-tuning language models.")
    parser.add_argument("--version", action="version", version=f"ftlab {ftlab.__version__}")
    parser.set_defaults(run=None, debug=False)
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(run, name, text, example, json_output=False):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".",
                                  epilog=f"example: {example}")  # fmt: skip
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if json_output:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = command(doctor, "doctor", "device, profile, versions, what is missing and how to mend it", "ftlab doctor", True)
    sub.add_argument("--network", action="store_true", help="also try the Hugging Face Hub (at most 2 s)")

    sub = command(lab, "lab", "open JupyterLab on your own copy of the labs", "ftlab lab 01_autoregression")
    sub.add_argument("name", nargs="?", metavar="NAME", help="one lab; all when left out")
    sub.add_argument("--dir", metavar="DIR", help="your work folder (default: $FTLAB_WORK, else ./ftlab-work)")
    sub.add_argument("--copy-only", action="store_true", help="copy the labs, start nothing")
    sub.add_argument("--no-browser", action="store_true", help="start JupyterLab without opening a browser")
    sub.add_argument("--port", type=int, help="JupyterLab's port")

    sub = command(run, "run", "run the solutions headless", "ftlab run 01 --out out")
    sub.add_argument("labs", nargs="*", metavar="LAB", help="name or number; all when left out")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for the executed notebooks and run.json")

    sub = command(claims, "claims", "the ledger: what the course claims and what was measured", "ftlab claims", True)
    sub.add_argument("--lab", metavar="LAB", help="only this lab's")

    sub = command(exercises, "exercises", "all exercises", "ftlab exercises --json", True)
    sub.add_argument("--lab", metavar="LAB", help="only this lab's")

    sub = command(build, "build", "build solutions and labs from their sources", "ftlab build --execute 01")
    sub.add_argument("labs", nargs="*", metavar="LAB", help="name or number; all when left out")
    sub.add_argument("--check", action="store_true", help="write nothing; fail when a built file is not up to date")
    sub.add_argument("--execute", action="store_true", help="run the solutions anew")
    sub.add_argument("--repo", metavar="OWNER/NAME", help="where the course lies on GitHub from now on: badges and links are "
                                                          "made anew")  # fmt: skip

    sub = command(release, "release", "make the folder that students get: labs and package, no solutions",
                  "ftlab release --out course --labs 01,04 --zip")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the release; an older release there is replaced")
    sub.add_argument("--labs", default="", metavar="LABS", help="names or numbers, such as 01,04 (default: all)")
    sub.add_argument("--zip", action="store_true", help="write DIR.zip, too")
    sub.add_argument("--repository", metavar="OWNER/NAME",
                     help="where on GitHub the release will lie, for the labs' Colab badges (default: no badges)")  # fmt: skip

    sub = command(pretrain, "pretrain", "pretrain a model on your own text", "ftlab pretrain --text notes/ --out model",
                  True)  # fmt: skip
    sub.add_argument("--text", required=True, metavar="PATH",
                     help="file, folder, glob, or a dataset on the Hub; of tables (.jsonl, .csv and others) the text is read")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for the checkpoint")
    sub.add_argument("--steps", type=int, help="training steps (default: as the text needs)")
    sub.add_argument("--size", default="small", metavar="SIZE", help="size of the model (default: small)")
    sub.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    sub.add_argument("--range-test", action="store_true", help="choose the learning rate by a range test first")

    sub = command(tune, "tune", "fine-tune a base on your own examples",
                  "ftlab tune lora --rank 8 --data examples.jsonl --out assistant", True)  # fmt: skip
    sub.add_argument("method", metavar="METHOD", help=", ".join(METHODS))
    sub.add_argument("--data", required=True, metavar="FILE",
                     help=".jsonl, .json, .csv, .tsv, .parquet or .arrow, a folder of them, or a dataset on the Hub "
                          "(owner/name); columns instruction, response (and input), or prompt, completion, or text, or "
                          "messages, or another published form: docs/data.md has a row of each")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for the checkpoint, or the adapter (PEFT's format)")
    sub.add_argument("--base", default="base-small", metavar="BASE",
                     help="base-small, base, a folder or a Hub id of a causal model (default: base-small)")  # fmt: skip
    sub.add_argument("--steps", type=int, help="training steps (default: three times through the examples, fewer when "
                                               "the held-out loss rises)")  # fmt: skip
    sub.add_argument("--lr", type=float, help="peak learning rate (default: as the base needs)")
    sub.add_argument("--range-test", action="store_true", help="choose the learning rate by a range test first")
    sub.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    sub.add_argument("--template", metavar="NAME", help="alpaca or chat (default: chat for messages, else alpaca)")
    sub.add_argument("--loss", default="response", metavar="ON", help="response or all (default: response)")
    sub.add_argument("--max-length", type=int, metavar="N", help="leave out examples of more than N tokens")
    sub.add_argument("--merge", action="store_true", help="lora: add it to the base's weights and write the whole model")
    _method_options(sub)

    sub = command(new, "new", "write a new lab from a template", "ftlab new 13_mixtures")
    sub.add_argument("name", metavar="NAME", help="such as 13_mixtures, or mixtures for the next free number")

    sub = command(study, "study", "measure claims over seeds; goes on where it stopped", "ftlab study C05 --seeds 5")
    sub.add_argument("claims", nargs="*", metavar="CLAIM", help="ids of claims; all when left out")
    sub.add_argument("--lab", metavar="LAB", help="only this lab's")
    sub.add_argument("--seeds", type=int, metavar="N", help="how many seeds (default: each claim's own number)")
    sub.add_argument("--list", action="store_true", help="list the claims and the runs they have; run nothing")

    sub = command(grade, "grade", "grade a class", "ftlab grade submissions/ --out grades --jobs 4 --deadline 2026-12-01T23:59 "
                                                   "--late-penalty 10%%/day", True)  # fmt: skip
    sub.add_argument("submissions", metavar="SUBMISSIONS",
                     help="folder or zip: <student>/<lab>.ipynb, nbgrader's, or a download of Canvas, Moodle, Blackboard "
                          "or Brightspace")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for grades, feedback and report.html; the same folder "
                                                                 "again grades only what changed")  # fmt: skip
    sub.add_argument("--labs", metavar="LAB,...", help="only these labs, such as 01,04 (default: all that were handed in)")
    sub.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes on this machine (default: 1)")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="grade on the workers of a Dask scheduler, such as tcp://head:8786")
    sub.add_argument("--cold", action="store_true", help="start each kernel anew in the sandbox: slower, fewer parts of ours")
    sub.add_argument("--unsafe", action="store_true", help="no sandbox: the submissions' code runs as you do")
    sub.add_argument("--secret", metavar="FILE", help="file with the secret that hidden inputs are drawn from, one an "
                                                      "assignment (default: $FTLAB_GRADE_SECRET or DIR/.secret)")  # fmt: skip
    sub.add_argument("--deadline", metavar="TIME", help="such as 2026-12-01T23:59; by the files' times")
    sub.add_argument("--late-penalty", metavar="P", help="such as 10%%/day: of a lab's full points, for each day begun")
    sub.add_argument("--keep-best", action="store_true", help="of what a student handed in over several runs, the best counts")
    sub.add_argument("--overrides", metavar="FILE", help="your own points: student,lab,exercise,points,reason (default: "
                                                         "DIR/overrides.csv, where there is one)")  # fmt: skip

    sub = command(bench, "bench", "measure against peers in the same run", "ftlab bench generate", True)
    sub.add_argument("name", choices=("train", "generate", "tune", "align", "widgets", "import", "grade"),
                     metavar="NAME", help="train, generate, tune, align, widgets, import or grade")  # fmt: skip
    return parser


class _Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere else here."""

    def error(self, message):
        self.exit(2, f"ftlab: {message}; see {self.prog} --help\n")


def doctor(options):
    from ftlab.doctor import healthy, render, report

    found = report(network=options.network)
    _print_json(found) if options.json else print(render(found))
    return 0 if healthy(found) else 1


def lab(options):
    from ftlab.course.workfolder import copy_labs, open_jupyter

    folder, lines = copy_labs(options.name, options.dir)
    for line in lines:
        print(line)
    if not options.copy_only:
        return open_jupyter(folder, options.name, browser=not options.no_browser, port=options.port)


def run(options):
    from ftlab.course.catalogue import find_labs
    from ftlab.course.runner import run_labs

    run_labs(find_labs(options.labs), options.out, _progress)


def claims(options):
    from ftlab.course import catalogue
    from ftlab.measure.claims import ledger_row, study_text

    rows = [ledger_row(claim, catalogue.STUDIES) for claim in _claims(options.lab)]
    if options.json:
        return _print_json(rows)
    marks = {None: " ", True: "✔", False: "✘"}
    for row in rows:
        print(f"{marks[row['holds']]} {row['id']} ({row['kind']}, {row['lab']}) {row['statement']}")
        print(f"    {study_text(row)}")
    if not rows:
        print("(none yet)")


def exercises(options):
    from ftlab.course import catalogue

    rows = [
        {"id": item.id, "lab": name, "title": item.title, "points": item.points, "minutes": item.minutes,
         "difficulty": item.difficulty, "hints": len(item.hints), "mistakes": list(item.mistakes)}
        for name in catalogue.find_labs([options.lab] if options.lab else ())
        for item in catalogue.exercises(name).values()
    ]  # fmt: skip
    if options.json:
        return _print_json(rows)
    keys = ["lab", "id", "title", "points", "minutes", "difficulty", "hints"]
    _print_table(keys, [[f"{row[key]:g}" if key == "points" else str(row[key]) for key in keys] for row in rows])


def build(options):
    from ftlab.course import notebooks, repository
    from ftlab.course.catalogue import find_labs

    if options.repo is not None:
        if options.check or options.labs:
            raise UsageError("--repo concerns every lab: give it without --check and without names")
        for name in repository.change(options.repo):
            print(f"{name}: links to {options.repo}")
    problems = []
    for name in find_labs(options.labs):
        if options.check:
            problems += notebooks.drift(name)
            continue
        changed = notebooks.build(name, options.execute, lambda text, name=name: _progress(f"{name}: {text}"))
        print(f"{name}: {'wrote ' + ', '.join(changed) if changed else 'up to date'}")
    if problems:
        raise NotHeld("\n       ".join(problems))


def release(options):
    from ftlab.course.catalogue import find_labs
    from ftlab.course.release import release as make

    labs = sorted(set(find_labs(options.labs.replace(",", " ").split())))
    for line in make(labs, options.out, options.zip, options.repository, _progress):
        print(line)


def pretrain(options):
    from ftlab.text.corpus import read_texts
    from ftlab.train.pretrain import pretrain_from_text

    texts = read_texts(options.text, progress=_progress, warn=_notice)
    callbacks = (*_noted(), *(() if options.json else _training_progress()))
    result = pretrain_from_text(
        texts, options.out, steps=options.steps, size=options.size, seed=options.seed, callbacks=callbacks,
        find_rate=options.range_test,
    )
    if options.json:
        return _print_json(result)
    for name, value in result.items():
        print(f"{name}: {_number(value)}")


def tune(options):
    from ftlab.tune.run import Wish, tune_from_data

    config = {name: getattr(options, name) for name in _METHOD_OPTIONS if getattr(options, name) is not None}
    if "target_modules" in config:
        names = [name for given in config["target_modules"] for name in given.split(",") if name]
        config["target_modules"] = names[0] if names == ["all-linear"] else names
    wish = Wish(options.steps, options.lr, options.seed, options.template, options.loss, options.max_length, config,
                options.merge, options.range_test)
    callbacks = _training_progress() if _watched() else _noted()
    try:
        result = tune_from_data(options.method, options.data, options.out, options.base, wish, callbacks, _progress, _notice)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from where this one stopped") from None
    if options.json:
        return _print_json(result)
    for name, value in result.items():
        print(f"{name}: {_number(value)}")


_METHOD_OPTIONS = {  # PEFT's name: (flags, type, help)
    "r": (("--rank", "--r"), int, "lora: rank (default: 8)"),
    "lora_alpha": (("--alpha", "--lora-alpha"), float, "lora: the update is scaled by alpha / rank (default: 16)"),
    "lora_dropout": (("--dropout", "--lora-dropout"), float, "lora: dropout before the update (default: 0)"),
    "target_modules": (("--target-modules",), str, "lora: names of linear layers, such as q_proj v_proj (default: "
                                                   "all-linear)"),
    "num_virtual_tokens": (("--num-virtual-tokens",), int, "prefix, ptuning, prompt: length (default: 16)"),
    "encoder_hidden_size": (("--encoder-hidden-size",), int, "prefix: width of its MLP"),
    "bottleneck_size": (("--bottleneck-size",), int, "adapter: width (default: 16)"),
    "placement": (("--placement",), str, "adapter: houlsby or pfeiffer (default: houlsby)"),
}  # fmt: skip


def _method_options(sub):
    group = sub.add_argument_group("options of single methods")
    for name, (flags, kind, text) in _METHOD_OPTIONS.items():
        several = {"nargs": "+"} if name == "target_modules" else {}
        group.add_argument(*flags, dest=name, type=kind, metavar="NAME" if kind is str else "N", help=text, **several)


def new(options):
    from ftlab.course import catalogue, notebooks
    from ftlab.course.new import new_lab
    from ftlab.measure.claims import run_study
    from ftlab.profile import machine

    name, written = new_lab(options.name)
    run_study(catalogue.claims(name), None, catalogue.STUDIES, _progress, lambda: machine(measure=False))
    written += notebooks.build(name, execute=True, on_cell=lambda text: _progress(f"{name}: {text}"))
    print("wrote " + "\n      ".join(written))
    print(f"next: edit them (docs/authoring.md), then ftlab study --lab {name} and ftlab build --execute {name}")


def study(options):
    from ftlab.course import catalogue
    from ftlab.measure.claims import load_study, run_study
    from ftlab.profile import base, fast, machine

    known = {claim.id: claim for claim in _claims(options.lab)}
    unknown = [id for id in options.claims if id not in known]
    if unknown:
        raise UsageError(f"no claim {', '.join(unknown)}; the claims are: {', '.join(known) or '(none yet)'}")
    if options.seeds is not None and options.seeds < 1:
        raise UsageError("--seeds must be at least 1")
    chosen = [known[id] for id in options.claims] or list(known.values())
    if options.list:
        rows = [(claim, load_study(claim, catalogue.STUDIES)["runs"]) for claim in chosen]
        return _print_table(
            ["id", "lab", "kind", "runs", "seeds", "seconds"],
            [[claim.id, claim.lab, claim.kind, str(len(runs)), str(claim.seeds),
              f"{sum(r['seconds'] for r in runs):.0f}"] for claim, runs in rows],
        )  # fmt: skip
    if fast():
        raise UsageError("FTLAB_FAST=1 makes runs too short to judge: unset it for a study")
    if base():
        raise UsageError(f"a study measures the shipped bases, not {base()}: set FTLAB_PROFILE=cpu and unset FTLAB_BASE")
    run_study(chosen, options.seeds, catalogue.STUDIES, _progress, machine)


def grade(options):
    from ftlab.grade.batch import check_places, grade_class
    from ftlab.grade.cache import open_secret
    from ftlab.grade.gradebook import Rules, parse_deadline, parse_penalty

    if options.cold and options.unsafe:
        raise UsageError("--cold and --unsafe: give one of them")
    if options.scheduler and options.jobs != 1:
        raise UsageError("--jobs and --scheduler: give one of them")
    if options.late_penalty and not options.deadline:
        raise UsageError("--late-penalty needs a --deadline")
    penalty, per = parse_penalty(options.late_penalty) if options.late_penalty else (0.0, "day")
    rules = Rules(parse_deadline(options.deadline) if options.deadline else None, penalty, per, options.keep_best)
    _, out = check_places(options.submissions, options.out)
    secret = options.secret or os.environ.get("FTLAB_GRADE_SECRET") or out / ".secret"
    labs = [name for name in (options.labs or "").split(",") if name.strip()]
    mode = "cold" if options.cold else "unsafe" if options.unsafe else "auto"
    try:
        run = grade_class(options.submissions, out, labs, options.jobs, options.scheduler, open_secret(secret), mode, _progress,
                          rules, options.overrides)  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what was graded is written; the same command goes on from there") from None
    if options.json:
        return _print_json(run)
    counts = run["counts"]
    print(f"{counts['submissions']} submissions: {counts['graded']} graded, {counts['reused']} known from before, "
          f"{counts['identical']} the same as another")  # fmt: skip
    for line in run["submissions"]:
        if line["status"] != "graded":
            print(f"to look at by hand: {line['student']}, {line['lab'] or line['file']}: {line['message']}")
    if run["late_unknown"]:
        print(f"late: the LMS's download does not say when {run['late_unknown']} of its files were handed in; for lateness "
              "nothing was taken off them (overrides.csv can)")  # fmt: skip
    for line in run["notices"]:
        print(f"note: {line}")
    people = run["people"]
    print(f"{people['all']} {'person' if people['all'] == 1 else 'people'}: {people['graded']} graded, "
          f"{people['malformed']} malformed")  # fmt: skip
    print(f"secret: {secret} (keep it to yourself, and for regrades)")
    moodle = sorted(path.name for path in pathlib.Path(options.out).glob("moodle*.csv"))
    print(f"wrote {options.out}/grades.csv, gradebook.csv, canvas.csv, {', '.join(moodle)}, feedback/, report.html, run.json")


def bench(options):
    import importlib

    result = importlib.import_module(f"ftlab.bench.{_BENCHES.get(options.name, options.name)}").run(report=_progress)
    if options.json:
        return _print_json(result)
    print("machine: " + ", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    rows = [
        [row["name"], row["ours"], row.get("peer", row.get("limit")), row.get("ratio"), row["unit"]]
        for row in result["rows"]
    ]
    _print_table(["name", "ours", "peer or limit", "ratio", "unit"], [list(map(_number, row)) for row in rows])


_BENCHES = {"import": "import_"}


def _claims(name):
    from ftlab.course import catalogue

    return [claim for lab_name in catalogue.find_labs([name] if name else ()) for claim in catalogue.claims(lab_name)]


def _training_progress():
    from ftlab.show.terminal import TextProgress

    return (TextProgress(),)


@contextlib.contextmanager
def _no_interrupt_lost():
    """While the block runs: a Ctrl-C that arrives in a callback or a destructor, where Python drops it, is raised again.

    What else is dropped there after it is a consequence of it, and is not printed.
    """
    before, lost = sys.unraisablehook, []

    def again(dropped):
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            lost.append(dropped.exc_type)
            later = threading.Timer(0.05, signal.raise_signal if os.name == "nt" else _signal_main, [signal.SIGINT])
            later.daemon = True
            later.start()  # by another thread: here it would be dropped once more
        elif not lost:
            before(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _signal_main(number):
    signal.pthread_kill(threading.main_thread().ident, number)


def _noted():
    """Callbacks that tell the plain lines of a command nobody watches how far a training is."""
    return (_LINES[-1].event,) if _LINES else ()


_LONG = ("run", "build", "release", "pretrain", "tune", "new", "study", "grade", "bench")
_LINES = []  # the PlainLines of the command that runs, where nobody watches


@contextlib.contextmanager
def _lines(options):
    """While the block runs: a line every half minute where the output is no terminal."""
    name = options.run.__name__
    if _watched() or name not in _LONG or os.environ.get("FTLAB_PROGRESS") == "0":
        yield
        return
    with PlainLines(f"ftlab {name}") as lines:
        _LINES.append(lines)
        try:
            yield
        finally:
            _LINES.remove(lines)


def _progress(text):
    """Progress goes to stderr, so that stdout holds results only; where nobody watches, a line every half minute."""
    if _watched():
        print(text, file=sys.stderr, flush=True)
    elif _LINES:
        _LINES[-1].note(text)


def _notice(text):
    """What was given and not used is always said, on stderr."""
    print(f"ftlab: {text}", file=sys.stderr, flush=True)


def _watched():
    from ftlab import profile

    return sys.stderr.isatty() or profile.switched_on("FTLAB_PROGRESS", "progress in a file or pipe, too")


def _number(value):
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_json(value):
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def _print_table(header, rows):
    from ftlab.teach.display import table

    print(table(header, rows)[0] if rows else "(none yet)")
