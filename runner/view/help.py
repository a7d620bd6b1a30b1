"""`--help`: the verbs with a line each, the phases, the instances, examples; imports nothing heavy."""

from pathlib import Path

from runner.verbs.verb import VERBS

USAGE = """\
Plans, runs and guards training and sampling, here or on rented GPUs.

  python -m runner [key=value | group=choice]... [-m]

Without confirm= a verb that changes, pays or destroys prints its plan and does nothing.

Verbs (action=…)
{verbs}

Phases (phase=…)
  {phases}

Instances (instance=…)
  {instances}

Examples
  python -m runner                                             which phase is current
  python -m runner phase=phase11 action=train                  show the plan
  python -m runner phase=phase11 action=train confirm=true     run it
  python -m runner -m phase=phase12 action=generate generation.n=1,8   a sweep

Keys
  batch_size=8 · generation=greedy · machine=NAME · output=text|json|script
  confirm=false|true|<digest of a plan>
  every other key: python -m runner --cfg job

Hydra's own flags
  --multirun, -m · --cfg job · --info · --config-dir DIR · --hydra-help · --version
"""


def help_text(folders: tuple[Path, ...]) -> str:
    """The page, with the choices that the folders of configuration hold now."""
    rows = [(verb.name, verb.summary, verb.effect.value) for verb in VERBS]
    rows.insert(1, ("<job>", "a job of the phase: train, generate, …", "change"))
    name, summary = (max(len(row[column]) for row in rows) for column in (0, 1))
    verbs = "\n".join(f"  {row[0]:<{name}}  {row[1]:<{summary}}  {row[2]}" for row in rows)
    return USAGE.format(
        verbs=verbs,
        phases=" · ".join(stems(folders, "phase")) or "none yet",
        instances=" · ".join(stems(folders, "instance")),
    )


def stems(folders: tuple[Path, ...], group: str) -> list[str]:
    """The choices of a group."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
