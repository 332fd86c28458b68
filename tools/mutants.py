"""Break the package's mathematics in every small way, one at a time, and see whether a test notices.

The changes are Cosmic Ray's. Each is tried in a fork of this process, which has torch loaded, on the tests that reach its
line, the quick ones first. `tests/mutants.json` keeps the score of each module and every change that no test noticed, with
the reason why (written there by hand; a later run keeps it).

    python -m tools.mutants                            all changes of every module (about an hour)
    python -m tools.mutants metrics losses/denoising   of some of them
    python -m tools.mutants --sample 24                some of each, drawn with a fixed seed
    python -m tools.mutants --again                    only those that no test noticed the last time
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from itertools import islice
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # quicker; the tests use none

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests/mutants.json"
MODULES = ["noise", "flow_map", "solvers", "parametrisations", "mixture", "oracle", "labelled", "samplers", "models"]
MODULES += ["conditional", "likelihood", "editing", "metrics", "training/state"]
MODULES += [f"losses/{name}" for name in ("objective", "consistency", "trajectories", "denoising", "adversarial")]
TESTS = ["mixture", "solvers", "losses", "parametrisations", "models", "metrics", "properties", "likelihood", "training"]
TESTS += ["adversarial", "control", "diagnosis"]
OWN = {"oracle": ["mixture"], "flow_map": ["mixture", "models"], "noise": ["solvers"], "samplers": ["solvers"]}
OWN |= {"losses/adversarial": ["adversarial"], "training/state": ["training"]}
OWN |= {name: ["losses"] for name in MODULES if name.startswith("losses/") and name not in OWN}
OWN |= {name: ["control"] for name in ("labelled", "conditional", "editing")}
QUICK = 0.3
SLOW = [
    "tests/ctm/test_training.py::test_every_kind_of_training_learns_the_map",
    "tests/ctm/test_training.py::test_training_from_scratch_and_from_a_learned_teacher",
]  # too slow to be run for every change
SECONDS = 4.0  # of tests for one change, as the tests take unbroken
GOAL = 0.9

PAIRS = {
    "BinaryOperator": "Add_Sub Sub_Add Mul_Div Div_Mul Pow_Mul FloorDiv_Mul Mod_Mul BitAnd_BitOr",
    "ComparisonOperator": "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is",
    "UnaryOperator": "Delete_USub Delete_Not Delete_Invert",
}
OPERATORS = [
    *(f"core/Replace{kind}_{pair}" for kind, pairs in PAIRS.items() for pair in pairs.split()),
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/NumberReplacer",
    "core/AddNot",
    "core/ZeroIterationForLoop",
]


class Mutant(NamedTuple):
    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by in the stored list, wherever its line moves."""
        return self.module, self.before, self.after


def left_out(tree: ast.AST) -> list[tuple[int, int, int, int]]:
    """The spans that are no mathematics: annotations, defaults, decorators, checks of arguments and their messages."""
    spans = []
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            parts = [*node.decorator_list, node.returns, *arguments.defaults, *arguments.kw_defaults]
            parts += [a.annotation for a in [*arguments.args, *arguments.kwonlyargs]]
            spans.append((node.lineno, 0, node.body[0].lineno, 0))  # the stars and commas between them
            if node.name in ("__str__", "extra_repr", "__post_init__") or node.name.startswith("check_"):
                parts.append(node)
        elif isinstance(node, ast.ClassDef):
            parts = list(node.decorator_list)
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith(("Callable[", "tuple[", "float |")):
            parts = [node]
        elif isinstance(node, ast.If) and all(isinstance(inner, ast.Raise) for inner in node.body):
            parts = [node.test, *node.body]
        elif isinstance(node, ast.Raise):
            parts = [node]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("check_"):
            parts = [*node.args, *node.keywords]
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "prefix"):
            parts = [node]
        spans += [
            (p.lineno, p.col_offset, p.end_lineno or 0, p.end_col_offset or 0)  # type: ignore[attr-defined]
            for p in parts
            if p is not None
        ]
    return spans


def places(module: str) -> list[tuple[str, int]]:
    """Every place in one module that can be changed, as an operator and its occurrence, shuffled by a fixed seed."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    source = (ROOT / f"ctm/{module}.py").read_text(encoding="utf-8")
    spans, nodes, found = left_out(ast.parse(source)), list(ast_nodes(get_ast(source))), []
    for name in OPERATORS:
        operator = get_operator(name)()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        found += [(name, i) for i, at in enumerate(starts) if not any((a, b) <= at < (c, d) for a, b, c, d in spans)]
    random.Random(f"{module} 0").shuffle(found)
    return found


def mutants(module: str) -> Iterator[Mutant]:
    """The changes of one module in the order of :func:`places`, but those whose text is the same or does not compile."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / f"ctm/{module}.py").read_text(encoding="utf-8")
    lines, seen = source.splitlines(), {source}
    for name, occurrence in places(module):
        changed = mutate_code(source, get_operator(name)(), occurrence)
        if changed is None or changed in seen:
            continue
        seen.add(changed)
        try:
            compile(changed, module, "exec")
        except SyntaxError:  # a star that is no product
            continue
        pairs = zip(lines, changed.splitlines(), strict=True)
        line, before, after = next((i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b)
        yield Mutant(module, line, before.strip(), after.strip(), changed)


class Changed(importlib.abc.MetaPathFinder):
    """Imports one module of the package from changed source."""

    def __init__(self, module: str, source: str) -> None:
        self.path, self.source = str(ROOT / f"ctm/{module}.py"), source
        self.name = f"ctm.{module.replace('/', '.')}"

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        finder = self

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str):
                return compile(finder.source, finder.path, "exec")

        return importlib.util.spec_from_file_location(name, self.path, loader=Loader(name, self.path))


def in_fork(work, seconds: float) -> int:
    """Run ``work`` in a child with this much processor time, and ten times as much by the clock on the wall; its exit
    code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_DATA, (8 * 2**30, 8 * 2**30))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10 * int(seconds) + 10)
            silent = os.open(os.devnull, os.O_WRONLY)
            if not os.environ.get("LOUD"):
                os.dup2(silent, 1)
                os.dup2(silent, 2)
            code = int(work())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_tests(*arguments: str, plugins: tuple[object, ...] = ()) -> int:
    import pytest

    lean = ["--assert=plain", *(f"-pno:{name}" for name in ("cacheprovider", "unraisableexception", "threadexception"))]
    return pytest.main(["-x", "-q", "-W", "ignore", *lean, *arguments], plugins=list(plugins))


def reach() -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """Which tests reach each line, and how long each test takes; kept for as long as no file changes."""
    files = sorted([*ROOT.glob("ctm/**/*.py"), *ROOT.glob("tests/**/*.py")])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    found = ROOT / f"_build/reach-{digest}.json"
    found.parent.mkdir(exist_ok=True)

    def measure() -> int:
        import coverage
        import pytest

        watch = coverage.Coverage(data_file=None, include=[str(ROOT / "ctm/*")])
        seconds = {}

        class Watch:
            @pytest.hookimpl(hookwrapper=True)
            def pytest_runtest_protocol(self, item):
                watch.switch_context(item.nodeid)
                started = time.process_time()
                yield
                seconds[item.nodeid] = time.process_time() - started

        watch.start()
        files = [str(path) for name in TESTS if (path := ROOT / f"tests/ctm/test_{name}.py").exists()]
        code = run_tests(*files, *(f"--deselect={name}" for name in SLOW), plugins=(Watch(),))
        watch.stop()
        data, lines = watch.get_data(), []
        for path in data.measured_files():
            module = Path(path).relative_to(ROOT / "ctm").with_suffix("").as_posix()
            lines += [(module, n, [t for t in tests if t]) for n, tests in data.contexts_by_lineno(path).items()]
        found.write_text(json.dumps({"lines": lines, "seconds": seconds}), encoding="utf-8")
        return code

    code = 0 if found.exists() else in_fork(measure, 3600)
    if code:
        sys.exit(f"the tests fail without any change (pytest's code {code})")
    stored = json.loads(found.read_text(encoding="utf-8"))
    return {(module, line): set(tests) for module, line, tests in stored["lines"]}, stored["seconds"]


def statement(tree: ast.AST, line: int) -> range:
    """The lines of the innermost statement that holds ``line``: what is recorded as run is a statement's line."""
    spans = [
        (n.lineno, n.end_lineno) for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= n.end_lineno
    ]
    first, last = min(spans, key=lambda span: span[1] - span[0])
    return range(first, last + 1)


def preload() -> None:
    """Load for the forks what they would load each: all that tests import but the package itself."""
    import _pytest.assertion
    import hypothesis.strategies
    import matplotlib
    import numpy
    import ot
    import pytest
    import safetensors.torch
    import scipy.integrate
    import scipy.stats
    import sklearn
    import torch
    import torch.func
    import tqdm

    del _pytest, hypothesis, matplotlib, numpy, ot, pytest, safetensors, scipy, sklearn, tqdm
    weight = torch.nn.Parameter(torch.zeros(1))  # what an optimiser loads at its first step; a backward pass would
    weight.grad = torch.zeros(1)  # start threads, and autograd does not run in a fork made after that
    torch.optim.Adam([weight], fused=True).step()
    gc.freeze()  # or each collection in a fork copies all of this


class Judge:
    """Which tests a change is tried on, and what they say."""

    def __init__(self) -> None:
        self.reached, self.seconds = reach()
        print(f"{len(self.seconds)} tests, {sum(self.seconds.values()):.0f} s", flush=True)
        self.by_module: dict[str, set[str]] = defaultdict(set)
        for (module, _), tests in self.reached.items():
            self.by_module[module] |= tests

    def tests(self, mutant: Mutant) -> tuple[list[str], float]:
        """The tests that reach the change, the module's own quick ones first, and their seconds in all."""
        own = {f"tests/ctm/test_{name}.py" for name in OWN.get(mutant.module, [mutant.module])}

        def order(test: str) -> tuple[bool, bool, float]:
            return self.seconds[test] > QUICK, test.partition("::")[0] not in own, self.seconds[test]

        tree = ast.parse((ROOT / f"ctm/{mutant.module}.py").read_text(encoding="utf-8"))
        reaching = (self.reached.get((mutant.module, n), set()) for n in statement(tree, mutant.line))
        chosen, total = [], 0.0
        for test in sorted(set().union(*reaching) or self.by_module[mutant.module], key=order):
            if chosen and total + self.seconds[test] > SECONDS:
                break
            total += self.seconds[test]
            chosen.append(test)
        return chosen, total

    def __call__(self, mutant: Mutant) -> str:
        """``"noticed"`` (a test fails, or its file cannot be loaded), ``"hung"`` (ended by a signal) or ``"survived"``."""
        chosen, total = self.tests(mutant)
        own = chosen[0].partition("::")[0]
        first = [test for test in chosen if test.startswith(f"{own}::") and self.seconds[test] <= QUICK][:20]
        for tests in (first, [test for test in chosen if test not in first]):  # most changes need but one file of tests

            def work(tests=tests) -> int:
                sys.meta_path.insert(0, Changed(mutant.module, mutant.source))
                return run_tests(*tests)

            code = in_fork(work, 10 + 3 * total) if tests else 0
            if code:
                return "noticed" if code > 0 else "hung"
        return "survived"


def main(arguments: argparse.Namespace) -> None:
    preload()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {"modules": {}, "survivors": []}
    reasons = {(s["module"], s["before"], s["after"]): s["reason"] for s in stored["survivors"]}
    judge = Judge()
    for module in arguments.modules:
        started, counts, survivors = time.time(), {"noticed": 0, "hung": 0, "survived": 0}, []
        changes = islice(mutants(module), arguments.sample)
        if arguments.again:
            counts = stored["modules"][module] | {"survived": 0}
            changes = (m for m in changes if m.key in reasons)
        else:
            source = (ROOT / f"ctm/{module}.py").read_text(encoding="utf-8")
            if judge(Mutant(module, 1, "", "", source)) != "survived":
                sys.exit(f"the tests of {module} fail without any change")
        for mutant in changes:
            verdict = judge(mutant)
            counts[verdict] += 1
            if verdict == "survived":
                survivors.append(mutant)
                print(f"  {module}:{mutant.line}  {mutant.before}  ->  {mutant.after}", flush=True)
        stored["modules"][module] = {"places": len(places(module))} | counts
        stored["survivors"] = [s for s in stored["survivors"] if s["module"] != module]
        stored["survivors"] += [
            {"module": m.module, "line": m.line, "before": m.before, "after": m.after, "reason": reasons.get(m.key, "")}
            for m in survivors
        ]
        text = " ".join(f"{count} {verdict}" for verdict, count in counts.items())
        print(f"{module}: {text}; {time.time() - started:.0f} s", flush=True)
        report(stored)
    unexplained = sum(not s["reason"] for s in stored["survivors"])
    print(f"{stored['score']}; {unexplained} of the survivors lack a reason")
    if stored["score"]["of all"] < GOAL or unexplained:
        sys.exit(1)


def report(stored: dict) -> None:
    """Add the sums and store all of it; the second score leaves out the changes whose reason says ``equivalent``."""
    sums = {key: sum(counts[key] for counts in stored["modules"].values()) for key in ("noticed", "hung", "survived")}
    tried, equivalent = sum(sums.values()), sum(s["reason"].startswith("equivalent") for s in stored["survivors"])
    found = sums["noticed"] + sums["hung"]
    stored["all"] = {"tried": tried} | sums | {"equivalent": equivalent}
    stored["score"] = {"of all": round(found / tried, 3), "of those not equivalent": round(found / (tried - equivalent), 3)}
    STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--again", action="store_true")
    main(parser.parse_args())
