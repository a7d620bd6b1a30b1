#!/usr/bin/env bash
# Plan p000000000000: train phase7-golden 0001-train
# Does what `confirm=p000000000000` would do, without the runner. It has no guard: run it once.
code=0 steps=
ended() { # NAME CODE: how a step went; the first failure is the script's exit code
  steps+="${steps:+, }{\"name\": \"$1\", \"exit_code\": $2, \"seconds\": $SECONDS}"
  [ "$code" != 0 ] || code=$2
  SECONDS=0
  return "$2"
}

mkdir -p /home/me/lab/research-log/phase7-golden/runs || exit
mkdir /home/me/lab/research-log/phase7-golden/runs/0001-train 2>/dev/null || { # else another run of this script, or of this plan, has it
  [ -d /home/me/lab/research-log/phase7-golden/runs/0001-train ] || { mkdir /home/me/lab/research-log/phase7-golden/runs/0001-train; exit 1; }
  echo '0001-train was started before, and a script is good once: nothing has run. For the next run print a new script: the same command line with output=script' >&2; exit 77
}
printf '%s\n' '{"format": "runner.plan/1", "digest": "p000000000000", "action": "train", "phase": "phase7-golden", "effect": "change", "instance": {"name": "local", "provider": "local", "type": null, "usd_per_hour": 0.0}, "run": "0001-train", "reason": null, "refused": false, "notes": ["research-log/phase7-golden/run.log is a file from before; it is kept as research-log/phase7-golden/runs/0001-train/run.log.before"], "monitor": "tail -f research-log/phase7-golden/runs/0001-train/log", "values": {"batch_size": 4, "lr": 0.001, "text": "it'"'"'s \u674e\u660e; $(id)", "layers": [1, 2], "none": null, "flag": true}, "code": …, "details": {"values": "batch_size 4 \u00b7 lr 0.001 \u00b7 text it'"'"'s \u674e\u660e; $(id) \u00b7 layers [1, 2] \u00b7 flag true", "code": …}, "steps": [{"name": "setup", "effect": "change", "on": "here", "command": "cd /home/me/lab && { test -x /home/me/venv/bin/python || /bin/uv venv --quiet --python /bin/python /home/me/venv; } || exit\nsource /home/me/venv/bin/activate || exit\ninstall() { /bin/uv pip install --find-links /wheels torch==2.13.0 numpy \"$@\"; }\ncase \"$(install --dry-run 2>&1)\" in\n  *\"Would make no changes\"*) echo \"nothing to do: all packages are there\";;\n  *) install || exit;;\nesac\n/bin/uv pip freeze 2>/dev/null | { openssl dgst -sha256 -r || sha256sum || shasum -a 256; } 2>/dev/null | cut -c1-64 > /home/me/venv/installed.sha256", "timeout_s": null}, {"name": "start", "effect": "change", "on": "here", "command": "cd /home/me/lab && run=research-log/phase7-golden/runs/0001-train && mkdir -p \"$run\" && mv research-log/phase7-golden/run.log \"$run\"/run.log.before && ln -sfn runs/0001-train/log research-log/phase7-golden/run.log && (trap : INT TERM HUP\nexec 9>>\"$run\"/lock\nflock -w 5 9 2>/dev/null || perl -e '"'"'open(F, \">&=9\"); alarm 5; flock(F, 2)'"'"' 2>/dev/null\nhead -c 16384 /dev/zero > \"$run\"/reserved\nexec 7> >(trap '"'"''"'"' INT TERM HUP; exec 2>/dev/null 6>&1 9>&-\n  said=$(tee -a \"$run\"/log 2>&1 >&6) || {\n    : >\"$run\"/reserved; printf '"'"'%s\\n'"'"' \"$said\" '"'"'[runner] the log stops here: it could not be written any further'"'"' | tee -a \"$run\"/log; }\n  rm -f \"$run\"/reserved); tee=$!\nsh -c '"'"'echo $PPID $0 $1'"'"' $$ $tee >&9\n{ (sh -c '"'"'echo $PPID'"'"' >\"$run\"/pid; source /home/me/venv/bin/activate && exec env PYTHONUNBUFFERED=1 '"'"'MODE=a b'"'"' python research-log/phase7-golden/train.py --batch_size=4 --lr=0.001 '"'"'--text=it'"'"'\"'"'"'\"'"'"'s \u674e\u660e; $(id)'"'"' --layers 1 2 --flag=true) >&7 2>&1 7>&-; code=$?; } 2>/dev/null; exec 7>&-\nfor _ in $(seq 250); do [ -e \"$run\"/reserved ] || break; sleep 0.02; done\nrm -f \"$run\"/reserved; echo $code >\"$run\"/exit_code.new\nmv \"$run\"/exit_code.new \"$run\"/exit_code && rm -f \"$run\"/lock\nexit $code)", "timeout_s": null}], "arguments": ["phase=phase7", "action=train", "paths.research_log=/home/me/lab/research-log", "paths.state=/home/me/lab/.runner", "paths.venv=/home/me/venv", "--config-dir=/home/me/lab/conf"]}' > /home/me/lab/research-log/phase7-golden/runs/0001-train/plan.json || exit
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
cd /home/me/lab && { test -x /home/me/venv/bin/python || /bin/uv venv --quiet --python /bin/python /home/me/venv; } || exit
source /home/me/venv/bin/activate || exit
install() { /bin/uv pip install --find-links /wheels torch==2.13.0 numpy "$@"; }
case "$(install --dry-run 2>&1)" in
  *"Would make no changes"*) echo "nothing to do: all packages are there";;
  *) install || exit;;
esac
/bin/uv pip freeze 2>/dev/null | { openssl dgst -sha256 -r || sha256sum || shasum -a 256; } 2>/dev/null | cut -c1-64 > /home/me/venv/installed.sha256
) </dev/null; ended setup $? || exit

# start
(
cd /home/me/lab && run=research-log/phase7-golden/runs/0001-train && mkdir -p "$run" && mv research-log/phase7-golden/run.log "$run"/run.log.before && ln -sfn runs/0001-train/log research-log/phase7-golden/run.log && (trap : INT TERM HUP
exec 9>>"$run"/lock
flock -w 5 9 2>/dev/null || perl -e 'open(F, ">&=9"); alarm 5; flock(F, 2)' 2>/dev/null
head -c 16384 /dev/zero > "$run"/reserved
exec 7> >(trap '' INT TERM HUP; exec 2>/dev/null 6>&1 9>&-
  said=$(tee -a "$run"/log 2>&1 >&6) || {
    : >"$run"/reserved; printf '%s\n' "$said" '[runner] the log stops here: it could not be written any further' | tee -a "$run"/log; }
  rm -f "$run"/reserved); tee=$!
sh -c 'echo $PPID $0 $1' $$ $tee >&9
{ (sh -c 'echo $PPID' >"$run"/pid; source /home/me/venv/bin/activate && exec env PYTHONUNBUFFERED=1 'MODE=a b' python research-log/phase7-golden/train.py --batch_size=4 --lr=0.001 '--text=it'"'"'s 李明; $(id)' --layers 1 2 --flag=true) >&7 2>&1 7>&-; code=$?; } 2>/dev/null; exec 7>&-
for _ in $(seq 250); do [ -e "$run"/reserved ] || break; sleep 0.02; done
rm -f "$run"/reserved; echo $code >"$run"/exit_code.new
mv "$run"/exit_code.new "$run"/exit_code && rm -f "$run"/lock
exit $code)
) </dev/null; ended start $?

exit "$code"
