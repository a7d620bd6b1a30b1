"""Whatever is typed gets a plan or one message: never a traceback, never an effect."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner.config.mistakes import flat_keys
from runner.config.schema import RunnerConf
from tests.conftest import Runner
from tests.support import Lab, is_soak, soak_size

NUMBERS = ("", "0", "-1", "1", "1.5", "1e400", "nan", "9999999999999999999999", "0x10", "range(1,3)")
WORDS = ("null", "true", "None", "'x'", '"x"', "x y", "李明", "it's", "a" * 300, "\n", "a\nb", "\udcff")
PATHS = ("~", "~root", "~nobody-at-all/x", "/", ".", "..", "../..", "/dev/null", "/nonexistent", "-", "--")
NESTED = ("[]", "{}", "[1,2]", "{a: 1}", "a,b", "[[]]", "[null]", "{a: {b: c}}", "[torch>=2.5]", "glob(*)")
SPECIAL = ("${phase}", "${nope}", "${oc.env:NOPE}", "???", "!!python/none", "\x1b[31m", "a=b", "$(touch x)")
VALUES = (*NUMBERS, *WORDS, *PATHS, *NESTED, *SPECIAL)
PREFIXES = ("", "", "", "+", "++", "~")
ACTIONS = ("train", "train", "setup", "discover", "doctor", "preflight", "stop", "backup", "report", "none")


def known_keys() -> list[str]:
    # the endpoint, and what decides that a plan is carried out, are not for a test to play with
    keys = flat_keys(OmegaConf.structured(RunnerConf))
    ours = [key for key in keys if not key.startswith(("cloud", "confirm"))]
    return [*ours, "generation", "phase.jobs.train.args.x", "phase.jobs.train.env.X", "nope"]


@pytest.mark.soak
def test_whatever_is_typed_gets_a_plan_or_a_message(research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase(args={"x": 1}, batch_size=2)
    words = st.builds(
        lambda prefix, key, value: f"{prefix}{key}={value}",
        st.sampled_from(PREFIXES),
        st.sampled_from(known_keys()),
        st.sampled_from(VALUES),
    )
    flags = st.sampled_from([(), (), (), (), ("-m",), ("--nonsense",)])
    before = sorted(research_log.root.rglob("*"))
    seen = {}

    @settings(
        max_examples=soak_size(3000, 150),
        derandomize=not is_soak(),  # what one campaign finds is not to stop somebody else's merge
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(words, min_size=1, max_size=3), st.sampled_from(ACTIONS), flags)
    def answered(typed: list[str], action: str, flags: tuple[str, ...]) -> None:
        done = runner_here(*research_log.args, "phase=phase1", f"action={action}", *typed, *flags)
        seen[done.exit_code] = seen.get(done.exit_code, 0) + 1
        assert done.exit_code in (0, 64, 69, 77), (typed, done)
        assert "Traceback" not in done.stderr
        if done.exit_code:
            assert done.stderr.startswith("error: ")

    answered()
    assert sorted(research_log.root.rglob("*")) == before
    print(f"exit codes: {dict(sorted(seen.items()))}")
