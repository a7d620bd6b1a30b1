#!/usr/bin/env bash
# Plan p000000000000: setup phase7-golden
# Does what `confirm=p000000000000` would do, without the runner. It has no guard: run it once.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR
code=0 steps=
ended() { # NAME CODE: how a step went; the first failure is the script's exit code
  steps+="${steps:+, }{\"name\": \"$1\", \"exit_code\": $2, \"seconds\": $SECONDS}"
  [ "$code" != 0 ] || code=$2
  SECONDS=0
  return "$2"
}

mkdir -p /home/me/lab/.runner && cat > /home/me/lab/.runner/shim-00000000 <<'END_OF_A_FILE_OF_OURS' || exit
(the shim)
END_OF_A_FILE_OF_OURS

# setup
(
cd /home/me/lab && /bin/python .runner/shim-00000000 setup /home/me/venv --uv=/bin/uv --python=/bin/python -- /bin/uv pip install --find-links /wheels torch==2.13.0 numpy
) </dev/null; ended setup $? || exit

exit "$code"
