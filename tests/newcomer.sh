#!/usr/bin/env bash
# A newcomer's first minutes, for real: clone, `make up`, ask, open the citation, thumb down, read it back, Ctrl-C.
# LLMOPS_NEWCOMER_PORT picks the port.
set -euo pipefail
set -m # background jobs get their own process group, so that Ctrl-C can be sent as a terminal sends it

repository=$(git rev-parse --show-toplevel)
port=${LLMOPS_NEWCOMER_PORT:-8123}
if curl --silent "http://localhost:$port/" >/dev/null; then
    echo "newcomer: somebody else serves at port $port"
    exit 1
fi
folder=$(mktemp -d)
log=$folder/up.log
up=
finish() {
    status=$?
    [ -n "$up" ] && kill -KILL -- "-$up" 2>/dev/null
    [ "$status" -eq 0 ] || { echo "newcomer: failed; the end of its log:"; tail -40 "$log"; }
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

git clone --quiet "$repository" "$folder/llmops"
cd "$folder/llmops"
started=$SECONDS
LLMOPS_PORT=$port make up >"$log" 2>&1 &
up=$!
until curl --silent --fail "http://localhost:$port/readyz" >/dev/null 2>&1; do
    kill -0 "$up" 2>/dev/null || { echo "newcomer: make up ended early"; exit 1; }
    [ $((SECONDS - started)) -lt 600 ] || { echo "newcomer: not ready after 600 s"; exit 1; }
    sleep 1
done
echo "newcomer: make up was ready after $((SECONDS - started)) s"

curl --silent --fail "http://localhost:$port/" >"$folder/page.html" # whole: grep leaves a pipe at its first find
grep --quiet '<title>' "$folder/page.html"
curl --silent --fail "http://localhost:$port/v1/chat/completions" --header 'content-type: application/json' \
    --data '{"model": "chat", "messages": [{"role": "user", "content": "What does an unchanged refresh embed?"}]}' >"$folder/answer.json"
.venv/bin/python - "$folder/answer.json" "$port" <<'PYTHON'
import json
import sys
import urllib.parse
import urllib.request
import uuid

answer = json.load(open(sys.argv[1]))
base = f"http://localhost:{sys.argv[2]}"
request_id = answer["llmops"]["request_id"]
citation = answer["choices"][0]["message"]["citations"][0]
assert citation["uri"].startswith("docs/"), citation
query = urllib.parse.urlencode({"model": "chat", **{key: citation[key] for key in ("uri", "start", "end")}})
passage = json.load(urllib.request.urlopen(f"{base}/v1/passages?{query}"))
assert passage["text"][passage["highlight_start"] : passage["highlight_end"]] == citation["text"], passage
thumb = {"feedback_id": str(uuid.uuid4()), "request_id": request_id, "value": "down", "reason": "incomplete"}
thumb["comment"] = "newcomer"
request = urllib.request.Request(f"{base}/v1/feedback", json.dumps(thumb).encode(), {"content-type": "application/json"})
assert urllib.request.urlopen(request).status == 200
print("newcomer: answered from", citation["uri"], "-", citation["text"][:80])
PYTHON
.venv/bin/llmops feedback list --json >"$folder/feedback.json"
grep --quiet newcomer "$folder/feedback.json"
kill -INT -- "-$up"
wait "$up" || true
up=
if curl --silent "http://localhost:$port/healthz" >/dev/null 2>&1; then
    echo "newcomer: still serving after Ctrl-C"
    exit 1
fi
echo "newcomer: the thumb is in the feedback table, and Ctrl-C stopped all"
