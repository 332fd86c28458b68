"""Break the package's mathematics in every small way, by Cosmic Ray's own commands, and see whether a test notices.

    nox --session mutants -- noise losses/denoising     some modules, or all of them (hours) where none is named
    nox --session mutants -- --share 0.1                a tenth of the changes, the same tenth every time

Cosmic Ray changes the file itself, runs the tests, and puts it back: commit first. `tests/mutants.json` keeps the changes
that no test notices, each with the reason; this fails where one is found that is not there.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from pathlib import Path

from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import WorkerOutcome, WorkResult

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests/mutants.json"
PLACE = ROOT / "_build/mutants"
TESTS = {  # the tests tried on each module
    "noise": "solvers losses", "flow_map": "mixture models", "solvers": "solvers likelihood",
    "parametrisations": "parametrisations", "mixture": "mixture worlds_moved models",
    "oracle": "mixture", "labelled": "control", "samplers": "solvers", "models": "models",
    "conditional": "control", "likelihood": "likelihood", "editing": "control", "metrics": "metrics",
    "training/state": "training models", "losses/objective": "losses training", "losses/consistency": "losses old_loop",
    "losses/trajectories": "losses", "losses/denoising": "losses", "losses/adversarial": "adversarial losses",
    "losses/laws": "family losses", "losses/semigroup": "family", "losses/eulerian": "family", "losses/lagrangian": "family",
    "losses/moments": "family", "losses/frechet": "frechet",
    "paths": "family", "closed_forms": "metrics family worlds_moved", "fidelity": "fidelity",
    "two_samples": "two_samples", "points": "points",
}  # fmt: skip
CONFIG = """
[cosmic-ray]
module-path = "ctm/{module}.py"
timeout = 300.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/(?!{operators})"]
"""
OPERATORS = (
    "Replace(BinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|FloorDiv_Mul|Mod_Mul|BitAnd_BitOr)|UnaryOperator_Delete"
    "|ComparisonOperator_(Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
    "|TrueWithFalse|FalseWithTrue|AndWithOr|OrWithAnd)|NumberReplacer|AddNot|ZeroIterationForLoop"
)
# no mathematics: what is defined, what is checked, what an error says
CHECKS = re.compile(r'^\s*(def |class |@|raise |if .*:$|check_|f?"|(\*|[*\w]+: .*)[,=]$)|strict=|check_\w+\(|, \w+: int = ')


def survivors(module: str, share: float) -> list[dict[str, str]]:
    """The changes of one module that no test notices, of a ``share`` of all."""
    config, session = PLACE / f"{module}.toml", PLACE / f"{module}.sqlite"
    config.parent.mkdir(parents=True, exist_ok=True)
    tests = " ".join(f"tests/ctm/test_{name}.py" for name in TESTS.get(module, module.split("/")[-1]).split())
    config.write_text(
        CONFIG.format(module=module, python=sys.executable, tests=tests, operators=OPERATORS), encoding="utf-8"
    )
    lines = (ROOT / f"ctm/{module}.py").read_text(encoding="utf-8").splitlines()
    for command in (["cosmic-ray", "init"], ["cr-filter-operators"], ["cosmic-ray", "exec"]):
        if command[-1] == "exec":
            with use_db(session) as work:
                for item in work.pending_work_items:
                    (change,) = item.mutations
                    chance = random.Random(f"{module} {change.operator_name} {change.occurrence}").random()
                    if CHECKS.search(lines[change.start_pos[0] - 1]) or chance >= share:
                        work.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED))
        order = (session, config) if command[0].startswith("cr-") else (config, session)
        subprocess.run([*command, *map(str, order)], cwd=ROOT, check=True)
    with use_db(session) as work:
        results = [result for _, result in work.results if result.worker_outcome == WorkerOutcome.NORMAL]
    diffs = [result.diff for result in results if not result.is_killed]
    print(f"{module}: {len(results)} changes, {len(diffs)} not noticed", flush=True)
    changed = [[line[1:].strip() for line in diff.splitlines() if re.match(r"[-+](?![-+])", line)] for diff in diffs]
    return [{"module": module, "before": before, "after": after} for before, after, *_ in changed]


def unexplained(found: list[dict[str, str]]) -> list[dict[str, str | None]]:
    """Those of the changes for which no reason is kept, with room for one."""
    stored = [{**row, "reason": None} for row in json.loads(STORED.read_text(encoding="utf-8"))]
    return [row for row in ({**change, "reason": None} for change in found) if row not in stored]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--share", type=float, default=1.0)
    choices = parser.parse_args()
    if rest := unexplained([row for module in choices.modules for row in survivors(module, choices.share)]):
        sys.exit("Write a test, or the reason into tests/mutants.json:\n" + json.dumps(rest, indent=1))
