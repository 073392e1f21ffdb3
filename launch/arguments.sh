# shellcheck shell=bash
# Sourced by the scripts that start training.
# read_arguments   makes `train`, the words after `fastgan`, of their arguments
# start            runs a command, or prints it where --dry-run was given

fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# read_arguments [OPTION ...] -- "$@": an option's value goes into the variable of its name.
read_arguments() {
    local options=" "
    while [[ $1 != -- ]]; do
        options+="$1 "
        shift
    done
    shift
    dry_run=false
    while [[ ${1-} == -* ]]; do
        case $1 in
            -h | --help)
                sed -n '2,/^$/s/^# \{0,1\}//p' "$0" # the comment at its top
                exit 0
                ;;
            --dry-run) dry_run=true ;;
            --*)
                [[ $options == *" ${1#--} "* ]] || fail "there is no option $1 (-h shows the usage)"
                (($# > 1)) || fail "$1 takes a value"
                printf -v "${1#--}" %s "$2"
                shift
                ;;
            *) fail "there is no option $1 (-h shows the usage)" ;;
        esac
        shift
    done
    (($# > 1)) || fail "PRESET and RUN_DIR are needed (-h shows the usage)"
    run_dir=$2
    train=(train "$1" --run-dir "$run_dir")
    shift 2
    if [[ -e $run_dir/config.yaml ]]; then # a run was begun there
        train+=(--resume)
    fi
    train+=(--set engine.kind=deepspeed "$@")
}

start() {
    if $dry_run; then
        printf '%q' "$1"
        printf ' %q' "${@:2}"
        echo
        exit 0
    fi
    exec "$@"
}
