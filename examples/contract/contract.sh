#!/usr/bin/env bash
# The whole HTTP API of Reverie, call by call, with bash and curl alone.
#
#   REVERIE_URL           where the service is, such as http://127.0.0.1:8484
#   REVERIE_OPERATOR_KEY  rvo_…, the key of somebody who runs the service
#
# It makes two tenants, trains a tiny model for four steps, and deletes both tenants. Each section says what it does
# and why, calls, and checks the answer; the first wrong one ends the script. http.sh has the few functions
# that are used. docs/reference/http.md has the rest about each call.
set -euo pipefail
cd "$(dirname "$0")"

url=${REVERIE_URL:?where is the service? for example http://127.0.0.1:8484}
key=${REVERIE_OPERATOR_KEY:?a key of an operator (rvo_…); examples/README.md says where to get one}
source http.sh

say "1. Is it there? These addresses need no key. The OpenAPI document describes every call below."
call 200 GET /healthz
call 200 GET /readyz
call 200 GET /openapi.json

say "2. An operator makes a tenant. An Idempotency-Key lets a request be repeated: it is executed once."
name=tour-$RANDOM-$RANDOM
once=$(new_key)
call 201 POST /v1/admin/tenants --json "{\"name\": \"$name\"}" -H "Idempotency-Key: $once"
tenant=$(value id)
call 201 POST /v1/admin/tenants --json "{\"name\": \"$name\"}" -H "Idempotency-Key: $once"
has "$tenant"
has_header 'Idempotent-Replayed: true'
call 200 PATCH "/v1/admin/tenants/$tenant" --json '{"weight": 2, "quotas": {"queued_runs": 20}}'
call 200 GET "/v1/admin/tenants/$tenant"
has '"weight":2' '"limit":20'
call 200 GET '/v1/admin/tenants?limit=1'
has '"object":"list"'
call 200 GET "/v1/admin/tenants/$tenant/members"
has '"role":"owner"'

say "   The owner's first key. The secret is shown this once; the service keeps no copy."
call 201 POST "/v1/admin/tenants/$tenant/api-keys" --json '{"name": "first"}' -H "Idempotency-Key: $(new_key)"
owner=$(value secret)
call 201 POST "/v1/admin/tenants/$tenant/api-keys" --json '{"name": "spare"}' -H "Idempotency-Key: $(new_key)"
spare=$(value id)
call 200 GET "/v1/admin/tenants/$tenant/api-keys"
call 200 GET "/v1/admin/tenants/$tenant/api-keys/$spare"
call 204 DELETE "/v1/admin/tenants/$tenant/api-keys/$spare"

say "   The price of an hour of a GPU class, and the workers that are there."
call 200 PUT /v1/admin/gpu-classes/example --json '{"price_micros_per_hour": 2500000, "memory_bytes": 85899345920}'
call 200 GET /v1/admin/gpu-classes
has '"id":"example"'
call 200 GET /v1/admin/workers
has '"kind":"trainer"'

say "   A key for a rented machine, which would train with it: reverie worker --join. Here it is revoked at once."
call 201 POST /v1/admin/worker-keys --json '{"name": "box", "gpu_class": "example"}' -H "Idempotency-Key: $(new_key)"
box=$(value id)
call 200 GET /v1/admin/worker-keys
call 200 GET "/v1/admin/worker-keys/$box"
has '"gpu_class":"example"'
call 204 DELETE "/v1/admin/worker-keys/$box"

say "   A second tenant, to show below that it sees nothing of the first."
call 201 POST /v1/admin/tenants --json "{\"name\": \"$name-other\"}" -H "Idempotency-Key: $(new_key)"
other_tenant=$(value id)
call 201 POST "/v1/admin/tenants/$other_tenant/api-keys" --json '{"name": "first"}' -H "Idempotency-Key: $(new_key)"
other=$(value secret)

say "3. From here on it is the owner who calls. Keys of tenants are not for operators' addresses, nor the other way round."
key=$owner
call 403 GET /v1/admin/tenants
has '"code":"wrong_key"'
call 200 GET /v1/tenant # whose the key is, and what it may use
has "\"name\":\"$name\"" '"id":"queued_runs"'
call 200 GET /v1/gpu-types # the price list
has '"price_micros_per_hour":2500000'

say "   A colleague becomes a member, and gets a key that may read runs only."
call 201 POST /v1/members --json '{"name": "Grace", "role": "viewer"}' -H "Idempotency-Key: $(new_key)"
grace=$(value id)
call 200 GET /v1/members
call 200 GET "/v1/members/$grace"
call 200 PATCH "/v1/members/$grace" --json '{"role": "member"}'
has '"role":"member"'
call 201 POST /v1/api-keys -H "Idempotency-Key: $(new_key)" \
    --json "{\"name\": \"dashboard\", \"member_id\": \"$grace\", \"scopes\": [\"runs:read\"]}"
dashboard=$(value id)
reader=$(value secret)
call 200 GET /v1/api-keys
call 200 GET "/v1/api-keys/$dashboard"
has '"scopes":["runs:read"]'

say "   What it may not do is refused. Every error is a problem document (RFC 9457); its code is for programs."
key=$reader
call 403 POST /v1/runs --json @run.json
has '"type":"urn:reverie:problem:scope_missing"' '"title":' '"status":403' '"detail":' '"instance":"/v1/runs"' \
    '"code":"scope_missing"' '"request_id":"req_' '"retryable":false' '"errors":[]'
has_header 'Content-Type: application/problem+json'
key=$owner

say "   A new secret for that key; the old one works for an hour more. Then the key is revoked, and Grace leaves."
call 201 POST "/v1/api-keys/$dashboard:rotate" --json '{"grace_s": 3600}' -H "Idempotency-Key: $(new_key)"
call 204 DELETE "/v1/api-keys/$(value id)"
call 204 DELETE "/v1/members/$grace"

say "4. Pictures with captions become a dataset. First its files are declared, with their digests."
mkdir "$work/photos"
cp ../photos/train/espresso_cup.jpg ../photos/train/astronaut_portrait.jpg "$work/photos"
echo -n 'a cup of coffee' > "$work/photos/espresso_cup.txt"
echo -n 'an astronaut' > "$work/photos/astronaut_portrait.txt"

# declare_files FILE …: a JSON list of the files.
declare_files() {
    local file separator=
    for file in "$@"; do
        printf '%s{"path": "%s", "size_bytes": %d, "sha256": "%s"}' "$separator" "$(basename "$file")" \
            "$(wc -c < "$file")" "$(sha256sum "$file" | cut -d ' ' -f 1)"
        separator=,
    done
}
call 201 POST /v1/datasets -H "Idempotency-Key: $(new_key)" \
    --json "{\"name\": \"photos\", \"files\": [$(declare_files "$work"/photos/*)]}"
dataset=$(value id)

say "   Then each one is sent to the address that the service signs for it. A file that it has is not sent again."
call 200 POST /v1/uploads --json "{\"dataset_id\": \"$dataset\"}"
sed 's/"path":/\n&/g' "$work/body" | sed 1d > "$work/uploads" # one line a file
while read -r line; do
    echo "$line" > "$work/entry"
    send_to_store "$work/photos/$(value path "$work/entry")"
done < "$work/uploads"
call 200 POST /v1/uploads --json "{\"dataset_id\": \"$dataset\"}"
has '"present":true'

say "   Complete: the service verifies every file, and the dataset never changes again."
call 202 POST "/v1/datasets/$dataset:complete"
wait_for "/v1/datasets/$dataset" '"status":"ready"'
call 200 GET /v1/datasets
has "$dataset"

say "   A file above 32 MiB is sent in parts, which can be gone on with after an interruption."
{ cat ../photos/train/espresso_cup.jpg; head -c 34000000 /dev/zero; } > "$work/large.jpg"
split -b 16M "$work/large.jpg" "$work/part."
digests=$(sha256sum "$work"/part.* | sed 's/ .*//; s/.*/"&"/' | paste -s -d ,)
call 201 POST /v1/datasets -H "Idempotency-Key: $(new_key)" \
    --json "{\"name\": \"large\", \"files\": [$(declare_files "$work/large.jpg")]}"
large=$(value id)
parts="{\"dataset_id\": \"$large\", \"path\": \"large.jpg\", \"sha256\": [$digests]}"
call 200 POST /v1/uploads/parts --json "$parts"
call 204 POST /v1/uploads/parts:abort --json "{\"dataset_id\": \"$large\", \"path\": \"large.jpg\"}" # all anew
call 200 POST /v1/uploads/parts --json "$parts"
sed 's/"number":/\n&/g' "$work/body" | sed 1d > "$work/uploads"
for part in "$work"/part.*; do
    read -r line
    echo "$line" > "$work/entry"
    send_to_store "$part"
done < "$work/uploads"
call 200 POST /v1/uploads/parts --json "$parts" # all are there: this joins them
has '"present":true'

say "   The files of a dataset, and what another one has in place of them."
call 200 GET "/v1/datasets/$dataset/files"
has '"path":"espresso_cup.jpg"'
call 200 GET "/v1/datasets/$dataset/diff?against=$large"
has '"path":"large.jpg"'

say "   The service can fetch the files itself. Its source is a data backend of SimpleTuner's; this list leads nowhere public."
call 201 POST /v1/datasets -H "Idempotency-Key: $(new_key)" --json '{"name": "from a list", "source": {"type": "csv"},
    "csv": "url,caption\nhttp://127.0.0.1:8080/cup.jpg,a cup of coffee\n"}'
has '"status":"importing"'
imported=$(value id)
wait_for "/v1/datasets/$imported" '"status":"rejected"'
call 200 GET "/v1/datasets/$imported"
has 'has no public address'

say "5. What would a run be? Nothing is stored and nothing starts."
request=$(sed "s/DATASET/$dataset/" run.json)
call 200 POST /v1/runs:validate --json "$request"
has '"is_valid":true' '"max_steps":4'

say "   A mistake is answered with its place in the request; all of them at once."
call 422 POST /v1/runs --json "${request/1e-2/-1}"
has '"code":"invalid_plan"' '"pointer":"/config/learning_rate"'

say "6. A run. The same request with the same Idempotency-Key is the same run, however often it is sent."
once=$(new_key)
call 201 POST /v1/runs --json "$request" -H "Idempotency-Key: $once"
run=$(value id)
call 201 POST /v1/runs --json "$request" -H "Idempotency-Key: $once"
has "$run"
has_header 'Idempotent-Replayed: true'

say "   Paused, it has no worker and costs nothing. If-Match changes it only as the caller knows it."
call 202 POST "/v1/runs/$run:pause"
wait_for "/v1/runs/$run" '"status":"paused"'
etag=$(header ETag)
call 200 PATCH "/v1/runs/$run" -H "If-Match: $etag" \
    --json '{"priority": "high", "max_gpu_hours": 1.5, "deadline": "2030-01-31T12:00:00Z", "metadata": {"by": "curl"}}'
has '"priority":"high"' '"max_gpu_hours":1.5' '"by":"curl"' '"purpose":"tour of the API"'
call 412 POST "/v1/runs/$run:resume" -H "If-Match: $etag"
has '"code":"version_mismatch"'
call 202 POST "/v1/runs/$run:resume"

say "   The request with every default filled in. HEAD has the head of what GET answers; ETags spare what is known."
call 200 GET "/v1/runs/$run/plan"
call 200 HEAD "/v1/runs/$run/plan"
call 304 GET "/v1/runs/$run/plan" -H "If-None-Match: $(header ETag)"

say "   Prefer: wait holds the answer back until the run changes."
call 200 GET "/v1/runs/$run" -H 'Prefer: wait=1'
has_header 'Preference-Applied: wait=1'

say "   To another tenant the run does not exist."
key=$other
call 404 GET "/v1/runs/$run"
has '"code":"not_found"'
key=$owner

say "7. Watch it. Events as a list, and from the second one on as a stream, which ends with the run."
call 200 GET "/v1/runs/$run/events?limit=1"
call 200 GET "/v1/runs/$run/events" --no-buffer -H 'Accept: text/event-stream' -H 'Last-Event-ID: 1'
has 'id: 2' 'event: step' 'event: run.succeeded'
last=$(grep '^id: ' "$work/body" | tail -n 1 | sed 's/id: //')
call 204 GET "/v1/runs/$run/events" -H 'Accept: text/event-stream' -H "Last-Event-ID: $last" # nothing follows

say "   What the training process printed: the last lines, and all as it comes. A run's curves, and its attempts."
call 200 GET "/v1/runs/$run/logs?tail=5"
has '"object":"log_piece"'
call 200 GET "/v1/runs/$run/logs" --no-buffer -H 'Accept: text/event-stream'
call 200 GET "/v1/runs/$run/metrics?names=loss&points=4"
has '"last_step":['
call 200 GET "/v1/runs/$run/attempts"
has '"outcome":"finished"'

say "8. What it made: the result, the checkpoints, a sample; each file with a link that is valid for an hour."
call 200 GET "/v1/runs/$run/result"
has '"path":"pytorch_lora_weights.safetensors"'
call 200 GET "/v1/runs/$run/checkpoints"
has '"step":4'
call 200 GET "/v1/runs/$run/samples"
has '"path":"result/samples/0.png"'
call 404 GET "/v1/runs/$run/preview" # only while a picture is sampled
call 200 GET "/v1/runs/$run/artifacts?folder=result"
call 307 GET "/v1/runs/$run/artifacts/result/pytorch_lora_weights.safetensors"
link=$(header Location)

say "   Links need no key. A range of bytes goes on with a download that broke off."
fetch() { curl --silent --show-error --dump-header "$work/head" --output "$work/adapter" "$@" "$link"; }
fetch
has_header '200 OK'
etag=$(header ETag)
fetch --range 0-99
has_header '206 Partial Content' 'Content-Range: bytes 0-99/'
fetch -H "If-None-Match: $etag"
has_header '304 Not Modified'
call 307 HEAD "/v1/runs/$run/artifacts/result/pytorch_lora_weights.safetensors"
link=$(header Location)
curl --silent --show-error --head "$link" > "$work/head"
has_header 'Content-Length: '

say "9. Published: the result by itself, here to a folder of the service, and a checkpoint because we ask."
call 201 POST /v1/publications -H "Idempotency-Key: $(new_key)" \
    --json "{\"run_id\": \"$run\", \"checkpoint_step\": 2, \"target\": {\"kind\": \"folder\"}}"
wait_for "/v1/publications/$(value id)" '"status":"succeeded"'
call 200 GET "/v1/publications?run_id=$run"

say "10. The run again, with changes; what differs. It waits for the dataset that is not complete. Canceled."
call 201 POST "/v1/runs/$run:clone" -H "Idempotency-Key: $(new_key)" \
    --json "{\"changes\": {\"config\": {\"seed\": 7}, \"datasets\": {\"photos\": \"$large\"}}}"
clone=$(value id)
has "\"parent_run_id\":\"$run\"" '"option":"/config/seed"'
wait_for "/v1/runs/$clone" '"code":"waiting_for_data"'
call 200 GET "/v1/runs/$run/diff?against=$clone"
has '"before":42,"after":7'
call 202 POST "/v1/runs/$clone:cancel" --json '{"now": true}'
has '"status":"canceled"'

say "11. A sweep is one request. Rows with a mistake are refused by name; the others become runs."
call 201 POST /v1/batches -H "Idempotency-Key: $(new_key)" --json @- << END
{"name": "rates", "base": $request, "sweep": {"method": "grid", "options": {"learning_rate": [5e-3, 2e-2, -1]}}}
END
batch=$(value id)
has '"num_runs":2' '"num_refused":1' '"pointer":"/sweep/options/learning_rate/2"'
call 200 GET /v1/batches
call 200 GET "/v1/batches/$batch"
call 200 GET "/v1/batches/$batch/compare"
has '"options":["learning_rate"]'
call 202 POST "/v1/batches/$batch:cancel"

say "    Lists come in pages, newest first; the Link header leads to the next one."
call 200 GET "/v1/runs?batch_id=$batch&limit=1"
has '"has_more":true'
has_header 'rel="next"'
call 200 GET "$(header Link | sed 's/.*<\([^>]*\)>; rel="next".*/\1/')"
has '"has_more":false'
call 200 GET '/v1/runs?status=succeeded&metadata[by]=curl&created_after=2026-01-01T00:00:00Z' --globoff
has "$run"
call 422 GET '/v1/runs?limt=1' # a mistyped parameter is not passed over
has '"code":"unknown_parameter"' 'the nearest is limit'

say "12. Secrets go in and never come out; a publication to the Hub would name this one."
call 201 PUT /v1/secrets/my-hub --json '{"kind": "hub", "value": "hf_0123456789abcdef"}'
call 200 GET /v1/secrets
call 200 GET /v1/secrets/my-hub
has '"kind":"hub"' '"version":1'
call 204 DELETE /v1/secrets/my-hub

say "    A webhook is told of events. This address is nobody's (RFC 2606), so what is sent to it stays pending."
call 201 POST /v1/webhooks -H "Idempotency-Key: $(new_key)" \
    --json '{"url": "https://hooks.example.invalid/reverie", "events": ["run.failed"]}'
webhook=$(value id)
has '"secret":"whsec_'
call 200 GET /v1/webhooks
call 200 GET "/v1/webhooks/$webhook"
call 200 PATCH "/v1/webhooks/$webhook" -H "If-Match: $(header ETag)" --json '{"events": ["run.failed", "run.succeeded"]}'
call 201 POST "/v1/webhooks/$webhook:test"
delivery=$(value id)
has '"type":"webhook.test"'
call 200 GET "/v1/webhooks/$webhook/deliveries"
call 200 GET "/v1/webhooks/$webhook/deliveries/$delivery"
has '"status":"pending"'
call 202 POST "/v1/webhooks/$webhook/deliveries/$delivery:replay"
call 201 POST "/v1/webhooks/$webhook:rotate-secret" --json '{"grace_s": 3600}' -H "Idempotency-Key: $(new_key)"
call 204 DELETE "/v1/webhooks/$webhook"

say "13. What was used, what may be used, and who did what. The audit log is a chain of hashes, which can be verified."
call 200 GET /v1/usage
has '"charged_s":'
call 200 GET /v1/quotas
has '"id":"queued_runs"'
call 200 GET '/v1/audit-events?action=run.created&limit=1'
has '"action":"run.created"'
call 200 GET /v1/audit-events:verify
has '"is_whole":true'
key=$REVERIE_OPERATOR_KEY
call 200 GET "/v1/admin/tenants/$tenant/audit-events:verify"
has '"is_whole":true'
key=$owner

say "14. Deleted. A run goes with all that it made, and the report says what went."
call 202 DELETE "/v1/runs/$clone"
deletion=$(value id)
call 404 GET "/v1/runs/$clone"
wait_for "/v1/deletions/$deletion" '"status":"succeeded"'
has '"rows":{' '"checked":{'

say "    Files go once nobody can write them any more: no worker (20 minutes), no signed address (an hour or two)."
call 202 DELETE "/v1/runs/$run"
call 202 DELETE "/v1/datasets/$large"
deletion=$(value id)
call 404 GET "/v1/datasets/$large"
wait_for "/v1/deletions/$deletion" '"waits_for":"addresses and workers that may still write to expire"'

say "    And the tenant, with all that is left. Its name confirms it; its keys stop with the answer."
call 202 DELETE "/v1/tenant?name=$name"
deletion=$(value id)
call 401 GET /v1/runs
key=$REVERIE_OPERATOR_KEY
call 200 GET "/v1/admin/deletions/$deletion"
has "\"target\":\"$tenant\""
call 202 DELETE "/v1/admin/tenants/$other_tenant?name=$name-other"

say "Done: every call of the API was answered as it should be."
