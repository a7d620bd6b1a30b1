#!/usr/bin/env bash
# Plan p000000000000: train phase7-golden 0001-train
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
mkdir -p /home/me/lab/research-log/phase7-golden/runs || exit
mkdir /home/me/lab/research-log/phase7-golden/runs/0001-train 2>/dev/null || { # else another run of this script, or of this plan, has it
  [ -d /home/me/lab/research-log/phase7-golden/runs/0001-train ] || { mkdir /home/me/lab/research-log/phase7-golden/runs/0001-train; exit 1; }
  echo '0001-train was started before, and a script is good once: nothing has run. For the next run print a new script: the same command line with output=script' >&2; exit 77
}
printf '%s\n' '{"format": "runner.plan/1", "digest": "p000000000000", "action": "train", "phase": "phase7-golden", "effect": "change", "instance": {"name": "local", "provider": "local", "type": null, "usd_per_hour": 0.0}, "run": "0001-train", "reason": null, "refused": false, "notes": ["research-log/phase7-golden/run.log is a file from before; it is kept as research-log/phase7-golden/runs/0001-train/run.log.before"], "monitor": "tail -f research-log/phase7-golden/runs/0001-train/log", "values": {"batch_size": 4, "lr": 0.001, "text": "it'"'"'s \u674e\u660e; $(id)", "layers": [1, 2], "none": null, "flag": true}, "code": …, "details": {"values": "batch_size 4 \u00b7 lr 0.001 \u00b7 text it'"'"'s \u674e\u660e; $(id) \u00b7 layers [1, 2] \u00b7 flag true", "code": …, "calls": "shim-00000000 (N lines), in .runner/"}, "steps": [{"name": "setup", "effect": "change", "on": "here", "command": "cd /home/me/lab && /bin/python .runner/shim-00000000 setup /home/me/venv --uv=/bin/uv --python=/bin/python -- /bin/uv pip install --find-links /wheels torch==2.13.0 numpy", "timeout_s": null}, {"name": "start", "effect": "change", "on": "here", "command": "cd /home/me/lab && /bin/python .runner/shim-00000000 run research-log/phase7-golden/runs/0001-train --token 19524864b980 --venv /home/me/venv -- env '"'"'MODE=a b'"'"' python research-log/phase7-golden/train.py --batch_size=4 --lr=0.001 '"'"'--text=it'"'"'\"'"'"'\"'"'"'s \u674e\u660e; $(id)'"'"' --layers 1 2 --flag=true", "timeout_s": null}], "arguments": ["phase=phase7", "action=train", "paths.research_log=/home/me/lab/research-log", "paths.state=/home/me/lab/.runner", "paths.venv=/home/me/venv", "--config-dir=/home/me/lab/conf"], "token": "19524864b980"}' > /home/me/lab/research-log/phase7-golden/runs/0001-train/plan.json || exit
result() {
  local ok=false log=null artifacts=
  [ "$code" != 0 ] || ok=true
  [ ! -e /home/me/lab/research-log/phase7-golden/runs/0001-train/log ] || log='"/home/me/lab/research-log/phase7-golden/runs/0001-train/log"'
  [ ! -e /home/me/lab/research-log/phase7-golden/checkpoints ] || artifacts+=${artifacts:+, }'"/home/me/lab/research-log/phase7-golden/checkpoints"'
  [ ! -e /home/me/lab/research-log/phase7-golden/metrics.jsonl ] || artifacts+=${artifacts:+, }'"/home/me/lab/research-log/phase7-golden/metrics.jsonl"'
  printf '{"format": "runner.result/1", "digest": "%s", "run": %s, "ok": %s, "exit_code": %s, "steps": [%s], "log": %s, "artifacts": [%s]}\n' p000000000000 '"0001-train"' $ok $code "$steps" "$log" "$artifacts" \
    > /home/me/lab/research-log/phase7-golden/runs/0001-train/result.json
}
trap result EXIT

# setup
(
cd /home/me/lab && /bin/python .runner/shim-00000000 setup /home/me/venv --uv=/bin/uv --python=/bin/python -- /bin/uv pip install --find-links /wheels torch==2.13.0 numpy
) </dev/null; ended setup $? || exit

# start
(
cd /home/me/lab && /bin/python .runner/shim-00000000 run research-log/phase7-golden/runs/0001-train --token 19524864b980 --venv /home/me/venv -- env 'MODE=a b' python research-log/phase7-golden/train.py --batch_size=4 --lr=0.001 '--text=it'"'"'s 李明; $(id)' --layers 1 2 --flag=true
) </dev/null; ended start $?

exit "$code"
