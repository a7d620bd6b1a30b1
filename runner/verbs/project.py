"""The package that a phase's folder may be, and its requirements.txt: bash for wherever the folder is.

That is preflight's copy of it, this machine, or the rented one, where a `phase.source` is cloned only
when a plan runs.
"""

from runner.plan.settings import Phase, Settings

PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


def may_have_own(settings: Settings, phase: Phase) -> bool:
    """Whether to look for either: what is cloned may have them, a folder here shows whether it does."""
    folder = settings.paths.research_log / phase.name
    names = ("requirements.txt", *PROJECT_FILES)
    return phase.source is not None or any((folder / name).is_file() for name in names)


def looked_for(code: str) -> str:
    """Sets `files` to what uv reads requirements from, and `$project` to the file that makes a package.

    A pyproject.toml that only configures tools is no project. `code` is the folder, spelled for bash.
    """
    is_project = f"[ $file != pyproject.toml ] || grep -qE '^\\[(project|build-system)\\]' {code}/$file"
    first = f'[ -z "$project" ] && [ -f {code}/$file ] && {{ {is_project}; }}'
    listed = f"if [ -f {code}/requirements.txt ]; then files+=({code}/requirements.txt); fi"
    return (
        f"files=(); project=; {listed}; for file in {' '.join(PROJECT_FILES)}; do if {first}; "
        f'then project={code}/$file; files+=("$project"); fi; done'
    )
