#!/usr/bin/env bash
# Plan p000000000000: setup phase7-golden
# Does what `confirm=p000000000000` would do, without the runner. It has no guard: run it once.
code=0 steps=
ended() { # NAME CODE: how a step went; the first failure is the script's exit code
  steps+="${steps:+, }{\"name\": \"$1\", \"exit_code\": $2, \"seconds\": $SECONDS}"
  [ "$code" != 0 ] || code=$2
  SECONDS=0
  return "$2"
}


# setup
(
cd /home/me/lab && { test -x /home/me/venv/bin/python || /bin/uv venv --quiet --python /bin/python /home/me/venv; } || exit
source /home/me/venv/bin/activate || exit
install() { /bin/uv pip install --find-links /wheels torch==2.13.0 numpy "$@"; }
case "$(install --dry-run 2>&1)" in
  *"Would make no changes"*) echo "nothing to do: all packages are there";;
  *) install || exit;;
esac
/bin/uv pip freeze 2>/dev/null | { openssl dgst -sha256 -r || sha256sum || shasum -a 256; } 2>/dev/null | cut -c1-64 > /home/me/venv/installed.sha256
) </dev/null; ended setup $? || exit

exit "$code"
