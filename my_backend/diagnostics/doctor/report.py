"""Prints the doctor's results, for people or as JSON, and applies fixes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import typer

from my_backend.diagnostics.doctor.all_checks import check_settings_file, examine
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.problem import CODES, Problem
from my_backend.errors import LabelStudioError
from my_backend.json_output import print_json
from my_backend.settings import ignored_variables, read_settings

FIRST_STEPS = {"no-token", "no-project"}  # of every new installation


def consult(*, as_json: bool, ask: Callable[[str], bool] | None) -> int:
    """Runs the checks, prints the results, and applies the fixes that `ask` agrees to.

    Returns the exit status: 0 if there are no problems, or none after the fixes, otherwise 1.
    """
    checks = _look(quietly=as_json)
    failed: list[str] = []
    fixed: list[str] = []
    if ask is not None:
        fixed, failed = _apply_fixes(checks, ask)
        if not as_json:
            for line in (*(f"fixed   {offer}" for offer in fixed), *(f"FAILED  {why}" for why in failed)):
                typer.echo(line)
        if fixed:
            checks = list(_examined())
    problems = [problem for check in checks for problem in check.problems]
    if as_json:
        found = {"ok": not problems, "checks": [check.record() for check in checks]}
        print_json({**found, "mended": fixed, "failed": failed})
    else:
        _print_problems(checks, can_fix=ask is None)
    return 1 if problems else 0


def _look(*, quietly: bool) -> list[Check]:
    """Runs all checks, and prints each result right away, because some checks take a while."""
    checks = []
    for check in _examined():
        checks.append(check)
        if not quietly:
            typer.echo(f"{_verdict(check)} {check.name}{_said(check)}")
    return checks


def _verdict(check: Check) -> str:
    if not check.problems:
        return "ok     "
    return "to do  " if {problem.code for problem in check.problems} <= FIRST_STEPS else "PROBLEM"


def _said(check: Check) -> str:
    return f": {check.said}" if check.said and not check.problems else ""


def _examined() -> Iterator[Check]:
    try:
        settings = read_settings()
    except SystemExit as error:
        yield check_settings_file(str(error))
        return
    yield Check("settings", "; ".join(filter(None, ("valid", ignored_variables()))))
    yield from examine(settings)


def _apply_fixes(checks: list[Check], ask: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Applies fixes; returns what was done, and what failed with the reason."""
    fixed, failed = [], []
    for problem, fix, label_studio in (one for check in checks for one in check.fixes()):
        if ask(f"{problem.message} {fix.offer[0].upper()}{fix.offer[1:]}?"):
            try:
                fix.action.perform(label_studio)
                fixed.append(fix.offer)
            except LabelStudioError as error:
                failed.append(f"{fix.offer}: {error}")
    return fixed, failed


def _place(check: Check, problem: Problem) -> str:
    """The project with the problem; "" if the problem concerns no single project."""
    if check.name.startswith("project "):
        return check.name.partition(": ")[0]
    return f"project {problem.project.partition('.')[0]}" if problem.project else ""


def _print_problems(checks: list[Check], *, can_fix: bool) -> None:
    """Prints each problem once, however many projects have it, in the order in which to fix them."""
    where: dict[Problem, list[str]] = {}
    for check in checks:
        for problem in check.problems:
            where.setdefault(replace(problem, project=""), []).append(_place(check, problem))
    if not where:
        typer.echo("\nNo problems found.")
        return
    if {problem.code for problem in where} <= FIRST_STEPS:
        heading = "No problems found. Next steps:"
    else:
        heading = "1 problem:" if len(where) == 1 else f"{len(where)} problems. Fix them in this order:"
    typer.echo(f"\n{heading}")
    for number, problem in enumerate(sorted(where, key=lambda one: CODES.index(one.code)), 1):
        places = ", ".join(dict.fromkeys(filter(None, where[problem])))
        place = f"{places[:1].upper()}{places[1:]}: " if places else ""
        typer.echo(f"\n{number}. {place}{problem.message} [{problem.code}]")
        for detail in problem.details:
            typer.echo(f"   {detail}")
        if problem.hint:
            typer.echo(f"   → {problem.hint}")
    fixable = dict.fromkeys(problem.code for check in checks for problem, _, _ in check.fixes())
    if can_fix and fixable:
        codes = ", ".join(fixable)
        typer.echo(f"\n`python -m my_backend doctor --fix` can fix {codes}; it asks before each change.")
