"""A plan as a bash script that does the same without the runner."""

import json
from pathlib import PurePath

from runner.errors import Refused, UsageError
from runner.plan.command import SHA256, quote
from runner.plan.plan import Effect, Plan, Step, WriteFile, run_document, to_json

_HEAD = """\
#!/usr/bin/env bash
# Plan {digest}: {title}
# Does what `confirm={digest}` would do, without the runner. It has no guard: run it once.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR
code=0 steps=
ended() { # NAME CODE: how a step went; the first failure is the script's exit code
  steps+="${steps:+, }{\\"name\\": \\"$1\\", \\"exit_code\\": $2, \\"seconds\\": $SECONDS}"
  [ "$code" != 0 ] || code=$2
  SECONDS=0
  return "$2"
}
"""

_STARTED = (
    "{run} was started before, and a script is good once: nothing has run. "
    "For the next run print a new script: the same command line with output=script"
)

# The document that `confirm=` leaves as result.json. `run` and `log` are JSON already.
_RESULT = (
    '{"format": "runner.result/1", "digest": "%s", "run": %s, "ok": %s, "exit_code": %s, '
    '"steps": [%s], "log": %s, "artifacts": [%s]}\\n'
)


_END = "END_OF_A_FILE_OF_OURS"


def plan_script(plan: Plan) -> str:
    """The script. Refused (77) for what pays or destroys, because a script has no guard."""
    if plan.effect in (Effect.PAY, Effect.DESTROY):
        raise Refused(
            f"{plan.action} is not given as a script: a script has no guard against paying or losing twice",
            "Run it with confirm=<digest>.",
        )
    title = " ".join(part for part in (plan.action, plan.phase, plan.run) if part)
    head = _HEAD.replace("{digest}", plan.digest).replace("{title}", " ".join(title.split()))
    lines = [
        head,
        *_tool_lines(plan),
        *(_claim_lines(plan, plan.run_folder) if plan.run_folder and plan.starts_run else ()),
    ]
    lines += [f"trap -- {quote(step.command)} EXIT # {step.name}" for step in plan.steps if step.always]
    for step in (step for step in plan.steps if not step.always):
        lines += ["", f"# {step.name}", *_step_lines(step)]
    return "\n".join([*lines, "", 'exit "$code"', ""])


def _tool_lines(plan: Plan) -> list[str]:
    """The files of ours that the steps call, whole: the script needs nothing but what is in it."""
    lines = []
    for tool in plan.tools:
        lines.append(
            f"mkdir -p {quote(str(tool.path.parent))} && cat > {quote(str(tool.path))} <<'{_END}' || exit"
        )
        lines += [tool.text.rstrip("\n"), _END]
    return lines


def _claim_lines(plan: Plan, folder: str) -> list[str]:
    """Take the run's number, or stop when somebody has it; leave the plan and at the end the result."""
    document = quote(to_json(run_document(plan)))
    return [
        f"mkdir -p {quote(folder.rpartition('/')[0])} || exit",
        f"mkdir {quote(folder)} 2>/dev/null || {{ # else another run of this script, or of this plan, has it",
        f"  [ -d {quote(folder)} ] || {{ mkdir {quote(folder)}; exit 1; }}",
        f"  echo {quote(_STARTED.format(run=plan.run))} >&2; exit 77",
        "}",
        f"printf '%s\\n' {document} > {quote(folder + '/plan.json')} || exit",
        "result() {",
        *(f"  {line}" for line in _result_lines(plan, folder)),
        "}",
        "trap result EXIT",
    ]


def _result_lines(plan: Plan, folder: str) -> list[str]:
    """The body of the function that writes result.json."""
    log, phase = f"{folder}/log", PurePath(folder).parent.parent
    paths = [str(phase / name) for name in plan.artifacts]
    found = [f"[ ! -e {quote(p)} ] || artifacts+=${{artifacts:+, }}{quote(json.dumps(p))}" for p in paths]
    words = f"{plan.digest} {quote(json.dumps(plan.run))} $ok $code"
    return [
        "local ok=false log=null artifacts=",
        '[ "$code" != 0 ] || ok=true',
        f"[ ! -e {quote(log)} ] || log={quote(json.dumps(log))}",
        *found,
        f'printf {quote(_RESULT)} {words} "$steps" "$log" "$artifacts" \\',
        f"  > {quote(f'{folder}/result.json')}",
    ]


def _step_lines(step: Step) -> list[str]:
    """The step's very command in a shell of its own and without input, as `confirm=` runs it."""
    go_on = "" if step.carries_on else " || exit"
    command = _writing(step.action) if isinstance(step.action, WriteFile) else step.command
    if step.repeats:
        body = ["(", command, ") </dev/null; is=$?; [ $is = 255 ] && sleep $pause || break; done"]
        return ["for pause in 1 2 4 8 15 0; do", *body, f"ended {quote(step.name)} $is{go_on}"]
    return ["(", command, f") </dev/null; ended {quote(step.name)} $?{go_on}"]


def _writing(file: WriteFile) -> str:
    """The file as a heredoc, written whole or not at all, and only while what is there is as it was seen."""
    if "\0" in file.text:
        raise UsageError(f"{file.path} holds a NUL character, which no script can")
    path, new, folder = (quote(p) for p in (file.path, f"{file.path}.new", str(PurePath(file.path).parent)))
    private = "" if file.mode is None or file.mode & 0o077 else "-m 700 "
    is_seen = (
        f'[ "$({SHA256} <{path} | cut -c1-64)" = {file.expects} ]' if file.expects else f"[ ! -e {path} ]"
    )
    chmod = "" if file.mode is None else f"chmod {file.mode:o} {new} && "
    refused = f"{file.path} is not as it was when the plan was made, or cannot be written; it stays as it is"
    failed = f"echo {quote(file.otherwise)}" if file.otherwise else f"echo {quote(refused)} >&2; exit 77"
    return "\n".join(
        [
            f"mkdir -p {private}{folder} && ({'' if file.mode is None else 'umask 077; '}"
            + _heredoc(file.text, new),
            f"{is_seen} && {chmod}mv -f {new} {path} ||",
            f"{{ rm -f {new}; {failed}; }}",
        ]
    )


def _heredoc(text: str, path: str) -> str:
    """Write the text, and go on. A heredoc ends its last line; of a text that does not, the end is cut."""
    end = "END"
    while end in text.split("\n"):
        end += "_"
    is_whole = not text or text.endswith("\n")
    write = "cat" if is_whole else 'printf %s "$(cat)"'
    return f"{write} >{path}) <<'{end}' &&\n{text if is_whole else text + chr(10)}{end}"
