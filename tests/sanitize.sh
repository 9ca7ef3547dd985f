#!/usr/bin/env bash
# The C twins under AddressSanitizer and UBSan, and under Valgrind where that is installed: bash tests/sanitize.sh [stories]
# Needs a C compiler, and a Python with pytest and hypothesis: $PYTHON, else python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3} stories=${1:-50000}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r websocketserver tests setup.cfg "$folder"
cd "$folder"
find . -name '*.so' -delete

sources=(websocketserver/protocol/_speedups.c websocketserver/_express.c)
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
build() {
    for source in "${sources[@]}"; do
        cc -std=c11 -Wall -Wextra -Werror -g -fPIC -shared -I"$include" "$source" -o "${source%.c}$suffix" "$@"
    done
}

export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 CI=true
unset WEBSOCKETSERVER_PURE
tests=(tests/protocol/test_{masking,utf8,frames,payload,speedups}.py tests/express tests/test_keys.py)

echo "==> AddressSanitizer, UBSan"
build -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
sanitized() {
    LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so)" \
        ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 "$python" "$@" # CPython's own leaks at exit are many
}
sanitized -m pytest -q -p no:cacheprovider --timeout 300 "${tests[@]}"
sanitized -m tests.protocol.fuzz_twins "$stories"

if command -v valgrind >/dev/null; then
    echo "==> Valgrind" # CPython reads a digit of integers that have none: what counts is what names our sources
    build -O1
    valgrind --log-file=valgrind.log --leak-check=no "$python" -m tests.protocol.fuzz_twins $((stories / 50))
    valgrind --log-file=express.log --leak-check=no "$python" -m pytest -q -p no:cacheprovider --timeout 300 \
        tests/express -k '(messages_come_and_go or TestTurnsInAPool or test_receive or test_send or test_share) and not leaks and not gil'
    cat express.log >>valgrind.log
    grep -q 'ERROR SUMMARY' valgrind.log
    if grep -E -B 12 -A 12 '\((_speedups|_express)' valgrind.log; then exit 1; fi
fi
echo "clean"
