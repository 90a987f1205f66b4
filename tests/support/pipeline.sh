#!/bin/sh
# A child that is a shell pipeline, as test_kinds_of_children.py has it: numbers | sed | cat, each a
# process that the witness knows.
#
#   sh pipeline.sh GATE CODE STUBBORN WITNESSED...
#
# WITNESSED are the words that make a command known to the witness. Asked to stop, the shell stops the
# source; what is on its way comes out at the other end, the last line when the file GATE exists;
# then it exits with CODE. With STUBBORN 1 nothing but SIGKILL ends any of them.
set -u
gate=$1 code=$2 stubborn=$3
shift 3
if [ "$stubborn" = 1 ]; then
    trap '' TERM # and so for all that is started
else
    trap 'echo draining; kill -TERM "$source"' TERM
fi

# A fifo, so that the first process of the pipeline is one that can be told to stop.
directory=$(mktemp -d "$gate.XXXXXX") || exit 1
mkfifo "$directory/fifo" || exit 1
"$@" --main $$ --role source -- sh -c '
    stopped=
    trap "stopped=1" TERM
    number=0
    while [ -z "$stopped" ]; do
        number=$((number + 1))
        echo "$number"
        sleep 0.05
    done
    while [ ! -e "$0" ]; do
        sleep 0.05
    done
    echo "and that was $number"
' "$gate" >"$directory/fifo" &
source=$!
"$@" --main $$ --role filter -- sed -u 's/^/answer /' <"$directory/fifo" |
    "$@" --main $$ --role sink -- cat &
sink=$!
# A wait that a signal has interrupted is no end.
while kill -0 "$sink" 2>/dev/null; do
    wait "$sink"
done
wait
rm -r "$directory"
exit "$code"
