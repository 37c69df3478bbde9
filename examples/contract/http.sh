# How contract.sh asks and checks. Sourced by it; needs $url, and $key, which goes with every request.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# say TEXT: what comes next, and why.
say() { printf '\n%s\n' "$*"; }

fail() {
    echo "contract.sh: $*" >&2
    exit 1
}

# call STATUS METHOD PATH [option of curl …]: send a request. The head of its answer is in $work/head then and the
# body in $work/body. Another status than the one that is expected ends the script.
call() {
    local expected=$1 method=$2 path=$3 status
    shift 3
    if [[ $method == HEAD ]]; then set -- --head "$@"; else set -- --request "$method" "$@"; fi
    : > "$work/body"
    status=$(curl --silent --show-error --max-time 600 --dump-header "$work/head" --output "$work/body" \
        --write-out '%{http_code}' --header "Authorization: Bearer $key" "$@" "$url$path")
    echo >> "$work/body" # a last line that is whole, for those who read lines
    echo "  $status $method $path"
    [[ $status == "$expected" ]] || fail "$method $path should have answered $expected: $(cat "$work/body")"
}

# value NAME [FILE]: the first text or number of that name in the answer. The first "s" of sed breaks the line before
# the value; the second drops what stands before the break, and all from the next quote, comma or bracket on.
value() { sed -n "s/\"$1\": *\"\{0,1\}/\n/; s/^[^\n]*\n\([^],\"}]*\).*/\1/p" "${2:-$work/body}" | head -n 1; }

# header NAME: its value in the answer.
header() { sed -n "s/^$1: *\(.*\)\r$/\1/Ip" "$work/head"; }

# has TEXT …: stop unless all of them stand in the answer's body.
has() {
    local text
    for text in "$@"; do
        grep -qF -- "$text" "$work/body" || fail "the answer should have had $text: $(cat "$work/body")"
    done
}

# has_header TEXT …: the same for its head; case does not count.
has_header() {
    local text
    for text in "$@"; do
        grep -qiF -- "$text" "$work/head" || fail "the answer should have had $text: $(cat "$work/head")"
    done
}

# wait_for PATH TEXT: ask until the answer has the text, for at most five minutes.
wait_for() {
    local path=$1 text=$2 end=$((SECONDS + 300))
    until call 200 GET "$path" > "$work/said" && grep -qF -- "$text" "$work/body"; do
        ((SECONDS < end)) || fail "$path never had $text: $(cat "$work/body")"
        sleep 0.2
    done
    echo "  200 GET $path, until it has $text"
}

# new_key: an Idempotency-Key. Any text will do that is used for one request only.
new_key() { echo "$SECONDS-$RANDOM-$RANDOM-$RANDOM"; }

# send_to_store FILE: as the answer in $work/entry says: a signed PUT, which carries its own right instead of a key.
# Its headers are sent as they are; sed makes one line of each.
send_to_store() {
    sed 's/.*"headers":{\([^}]*\)}.*/\1/; s/":"/: /g; s/","/\n/g; s/"//g' "$work/entry" > "$work/signed"
    curl --silent --show-error --fail --output "$work/stored" --header "@$work/signed" --upload-file "$1" \
        "$(value url "$work/entry")"
}
