"""What a person, or a script, sees of the doctor."""

import json
from collections.abc import Callable, Iterator

import typer

from my_backend.doctor import Check, check_settings_file, examine
from my_backend.errors import LabelStudioError
from my_backend.settings import read_settings
from my_backend.troubles import Trouble


def consult(*, as_json: bool, ask: Callable[[str], bool] | None) -> int:
    """Examines, prints, and mends what `ask` says yes to; the exit status: 0 where nothing is wrong any more."""
    checks = []
    for check in _examined():
        checks.append(check)
        if not as_json:
            _print(check)
    failed: list[str] = []
    mended: list[str] = []
    if ask is not None:
        mended, failed = _mend(checks, ask)
        if not as_json:
            for line in (*(f"mended  {offer}" for offer in mended), *(f"FAILED  {why}" for why in failed)):
                typer.echo(line)
        if mended:
            checks = list(_examined())
            if not as_json:
                typer.echo("After that:")
                for check in checks:
                    if check.troubles:
                        _print(check)
    troubles = [trouble for check in checks for trouble in check.troubles]
    if as_json:
        found = {"ok": not troubles, "checks": [check.record() for check in checks]}
        typer.echo(json.dumps({**found, "mended": mended, "failed": failed}, indent=2, ensure_ascii=False))
    else:
        typer.echo(_summary(troubles, can_mend=ask is None and any(check.mends for check in checks)))
    return 1 if troubles else 0


def _examined() -> Iterator[Check]:
    try:
        settings = read_settings()
    except SystemExit as error:
        yield check_settings_file(str(error))
        return
    yield Check("settings", "can be used")
    yield from examine(settings)


def _mend(checks: list[Check], ask: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """What was done, and what could not be."""
    mended, failed = [], []
    for mend in (mend for check in checks for mend in check.mends):
        if ask(f"{mend.trouble.what} {mend.offer[0].upper()}{mend.offer[1:]}?"):
            try:
                mend.do()
                mended.append(mend.offer)
            except LabelStudioError as error:
                failed.append(f"{mend.offer}: {error}")
    return mended, failed


def _print(check: Check) -> None:
    if not check.troubles:
        typer.echo(f"ok      {check.name}: {check.said}")
    for trouble in check.troubles:
        typer.echo(f"WRONG   {check.name}: {trouble.what} [{trouble.code}]")
        for line in (*trouble.details, *([trouble.remedy] if trouble.remedy else [])):
            typer.echo(f"        {line}")


def _summary(troubles: list[Trouble], *, can_mend: bool) -> str:
    if not troubles:
        return "Nothing is wrong."
    count = "1 thing is wrong." if len(troubles) == 1 else f"{len(troubles)} things are wrong."
    return f"{count} `python -m my_backend doctor --fix` mends some of it, asking first." if can_mend else count
