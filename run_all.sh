#!/usr/bin/env bash
# ./run_all.sh          set everything up, run both tracks on the data at hand, leave validated submissions
# ./run_all.sh test     set everything up, run lint, type checks and tests
# ./run_all.sh track1 … set everything up, then: python -m track1_mdr run …
# ./run_all.sh track2 … the same for track2_mmctr
# ./run_all.sh setup    set everything up, no more; "setup cluster" adds Ray and Milvus (requirements-cluster.txt)
#
# PYTHON names the interpreter (3.11 or later); MIRC_DATA the data root (default: data/, else the shipped sample).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Install requirements.txt and the named further files.
setup() {
    local python=${PYTHON:-} file missing=() arguments=()
    if [ -z "$python" ]; then
        for candidate in python3 python3.11 python3.12 python3.13 python3.14 python; do
            if new_enough "$candidate"; then
                python=$candidate
                break
            fi
        done
    elif ! new_enough "$python"; then
        echo "error: PYTHON=$python is not Python 3.11 or later, or does not run" >&2
        exit 2
    fi
    if [ -z "$python" ]; then
        echo "error: no Python 3.11 or later found; install one, or name it: PYTHON=/path/to/python ./run_all.sh" >&2
        exit 2
    fi
    # A stamp is the file of the last finished install: the same one installs nothing again.
    for file in requirements.txt "$@"; do
        arguments+=(-r "$file")
        if [ ! -x .venv/bin/python ] || ! cmp -s "$file" ".venv/${file%.txt}.installed"; then missing+=("$file"); fi
    done
    if [ ${#missing[@]} = 0 ]; then return; fi
    echo "setting up .venv (the first time takes a few minutes and about 7 GB)"
    # Without a stamp an earlier set-up may have stopped half-way: venv completes what is there.
    [ -x .venv/bin/python ] && [ -f .venv/requirements.installed ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
    for file in "${missing[@]}"; do cp "$file" ".venv/${file%.txt}.installed"; done
}

# Whether the data root may hold one of the named folders: the default root always may.
has() {
    local part
    [ -n "${MIRC_DATA:-}" ] || return 0
    for part in "$@"; do
        if [ -d "$MIRC_DATA/$part" ]; then return 0; fi
    done
    return 1
}

# Whether Kaggle credentials are there, by the places where its client looks; nothing is read.
kaggle_login() {
    local home=${HOME:-} file
    [ -z "${KAGGLE_API_TOKEN:-}${KAGGLE_KEY:-}" ] || return 0
    for file in "$home"/.kaggle/{access_token,access_token.txt,kaggle.json,credentials.json} \
        "${KAGGLE_CONFIG_DIR:-/nowhere}/kaggle.json" "${XDG_CONFIG_HOME:-$home/.config}/kaggle/kaggle.json"; do
        if [ -s "$file" ]; then return 0; fi
    done
    return 1
}

# After a run on the shipped sample: offer the real data, or say in one line how to get it.
real_data() {
    if [ -n "${MIRC_DATA:-}" ] || [ -d data/mmdocir ] || [ -d data/m2kr ] || [ -d data/microlens ]; then return; fi
    local get=".venv/bin/python -m track1_mdr download; .venv/bin/python -m track2_mmctr download" dry track
    if ! kaggle_login; then
        echo "real data: $get (what only Kaggle has needs a token of kaggle.com/settings/api in ~/.kaggle/access_token)"
    elif [ ! -t 0 ] || [ ! -t 1 ]; then
        echo "real data: Kaggle credentials found: $get (--dry-run shows the sizes)"
    elif agreed "Kaggle credentials found. Look at what the real data would take?"; then
        for dry in --dry-run ""; do
            for track in track1_mdr track2_mmctr; do
                .venv/bin/python -m "$track" download $dry
            done
            [ -z "$dry" ] || agreed "Download it now?" || return 0
        done
    fi
}

# Whether the user answers with y; no answer is a no.
agreed() {
    local answer=""
    read -r -p "$1 [y/N] " answer || true
    [[ "$answer" == [yY]* ]]
}

verb=${1:-all}
case "$verb" in
all)
    setup
    # Of a data root that holds one track only, the other is left out; without either, Track 1 says what to do.
    if has mmdocir m2kr || ! has microlens MicroLens_1M_x1; then
        .venv/bin/python -m track1_mdr run
    else
        echo "track1: no data in $MIRC_DATA, skipped"
    fi
    if has microlens MicroLens_1M_x1; then
        .venv/bin/python -m track2_mmctr run
    else
        echo "track2: no data in $MIRC_DATA, skipped"
    fi
    real_data
    ;;
test)
    setup requirements-cluster.txt
    shift
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/basedpyright
    # Two processes of one thread each: threads of two processes on two cores spend their time waiting for each other.
    # A file's tests stay together and share fixtures. A process that dies is not replaced, so that the run ends and
    # fails: a new one can wait for ever for the rest of that file.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} .venv/bin/python -m pytest -n 2 --dist loadfile --max-worker-restart=0 "$@"
    ;;
track1)
    setup
    shift
    .venv/bin/python -m track1_mdr run "$@"
    ;;
track2)
    setup
    shift
    .venv/bin/python -m track2_mmctr run "$@"
    ;;
setup)
    case "${2:-}" in
    "") setup ;;
    cluster) setup requirements-cluster.txt ;;
    *)
        echo "error: unknown set-up '$2'; the one there is: ./run_all.sh setup cluster" >&2
        exit 2
        ;;
    esac
    ;;
-h | --help | help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    ;;
*)
    echo "error: unknown verb '$verb'; try ./run_all.sh --help" >&2
    exit 2
    ;;
esac
