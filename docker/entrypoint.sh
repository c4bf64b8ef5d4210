#!/bin/sh
# The image's commands.
#
#   lab [OPTIONS]        JupyterLab on the student's own copies of the labs (the default); behind a JupyterHub, its server
#   test [LAB ...]       nbval over the solutions in the image
#   grade SUBMISSIONS --out DIR ...     as `ftlab grade`
#   anything else        is executed
#
# Started as root it becomes NB_UID:NB_GID first (NB_UID=0: stays root). Exit status 2: what was asked cannot be done here.
set -eu

COURSE=${FTLAB_COURSE:-/opt/ftlab}

fail() {
    echo "ftlab: $*" >&2
    exit 2
}

# Give the container's root up. Of a fresh volume, which is root's, the top folder is handed to the student; what lies in
# a home belongs to someone already and is left alone.
become_student() {
    case "${NB_UID:=1000}:${NB_GID:=$NB_UID}" in
    *[!0-9:]* | :* | *:) fail "NB_UID=$NB_UID and NB_GID=$NB_GID must be numbers" ;;
    esac
    [ "$NB_UID" != 0 ] || return 0
    [ "${1:-}" != grade ] || echo "ftlab: started as root, grading as user $NB_UID: its folders have to belong to" \
        "this user (-e NB_UID=0: stays root)" >&2
    mkdir -p "$HOME"
    [ "$(stat -c %u "$HOME")" != 0 ] || chown "$NB_UID:$NB_GID" "$HOME" 2>/dev/null || true
    exec setpriv --reuid "$NB_UID" --regid "$NB_GID" --clear-groups sh "$0" "$@"
}

# A server without a home would lose the student's work.
need_home() {
    [ -d "$HOME" ] && [ -w "$HOME" ] || fail "$HOME cannot be written to by user $(id -u): mount a folder of this user's" \
        "there, or set the container's user to its owner, $(stat -c %u "$HOME" 2>/dev/null || echo none)"
}

# Commands that keep nothing at home get one for their caches.
any_home() {
    if ! { [ -d "$HOME" ] && [ -w "$HOME" ]; }; then
        HOME=$(mktemp -d)
        export HOME
    fi
}

# The labs, into the student's folder; nothing of the student's is overwritten. A disk that is full keeps nobody from
# starting: the server is what one makes room with.
copy_labs() {
    export FTLAB_WORK="${FTLAB_WORK:-$HOME/ftlab-work}"
    ftlab lab --copy-only || echo "ftlab: the labs were not copied; the server starts all the same" >&2
    cd "$HOME"
}

lab() {
    need_home
    copy_labs
    [ -z "${JUPYTERHUB_API_TOKEN:-}" ] || exec jupyterhub-singleuser "$@"
    folder=$FTLAB_WORK
    [ -d "$folder" ] || folder=$HOME
    [ "$(id -u)" != 0 ] || set -- --allow-root "$@"
    exec python -m jupyterlab --no-browser --ip=0.0.0.0 --ServerApp.root_dir="$folder" "$@"
}

hub_server() {
    need_home
    copy_labs
    exec jupyterhub-singleuser "$@"
}

# On the CPU what the solutions show is compared with what is stored; on a GPU, whose model is another, they have to run.
run_solutions() {
    [ -d "$COURSE/solutions" ] || fail "this image holds no solutions to test: build the target 'course'"
    [ $# -gt 0 ] || set -- ""
    for lab in "$@"; do
        found=$(find "$COURSE/solutions" -name "$lab*.ipynb" | sort)
        [ -n "$found" ] || fail "no lab $lab; the labs are: $(cd "$COURSE/solutions" && echo *.ipynb)"
        notebooks="${notebooks:-} $found"
    done
    compare="-p nbval_ftlab --nbval"
    [ "${FTLAB_PROFILE:-}" != gpu ] || compare=--nbval-lax
    export FTLAB_HEADLESS=1 PYTHONPATH="$COURSE/tests/labs${PYTHONPATH:+:$PYTHONPATH}"
    cd "$COURSE"
    # shellcheck disable=SC2086 # several words each; the course's own names hold no spaces
    exec python -m pytest -v -c /dev/null --rootdir "$COURSE" -p no:cacheprovider $compare --nbval-kernel-name=python3 $notebooks
}

[ "$(id -u)" != 0 ] || become_student "$@"
command=${1:-lab}
[ $# -eq 0 ] || shift
case $command in
lab) lab "$@" ;;
jupyterhub-singleuser) hub_server "$@" ;;
test) any_home; run_solutions "$@" ;;
grade) any_home; exec ftlab grade "$@" ;;
*) any_home; exec "$command" "$@" ;;
esac
