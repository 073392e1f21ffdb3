#!/usr/bin/env bash
# Packs ImageNet's training images, an archive of one archive a class, into shards, and verifies them. Nothing is unpacked.
# Stopped, it goes on after the shards that are whole.
#
#   launch/prepare_imagenet.sh [--dry-run] ILSVRC2012_img_train.tar DEST [ARGUMENT ...]
#
#   --dry-run    print the commands, do nothing
#   ARGUMENT     more arguments of `fastgan data pack`, such as --resolution 128 (default: images stay whole)

set -euo pipefail

fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

dry_run=false
while [[ ${1-} == -* ]]; do
    case $1 in
        -h | --help)
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        --dry-run) dry_run=true ;;
        *) fail "there is no option $1 (-h shows the usage)" ;;
    esac
    shift
done
(($# >= 2)) || fail "takes the archive and a folder (-h shows the usage)"
archive=$1 dest=$2
[[ -r $archive ]] || fail "$archive can't be read"

pack=(python -m fastgan data pack "$archive" "$dest" "${@:3}")
verify=(python -m fastgan data verify "$dest")
if $dry_run; then
    printf '%q ' "${pack[@]}"
    printf '&&'
    printf ' %q' "${verify[@]}"
    echo
    exit 0
fi
"${pack[@]}"
"${verify[@]}"
