#!/usr/bin/env bash
# Packs ImageNet's training images, an archive of one archive a class, into shards, and verifies them. Nothing is unpacked.
# Stopped, it goes on after the shards that are whole.
#
#   launch/prepare_imagenet.sh [--dry-run] [--partial] ILSVRC2012_img_train.tar DEST [ARGUMENT ...]
#
#   --dry-run    print the commands, do nothing
#   --partial    accept other than 1,000 classes and 1,281,167 images (default: packed, but exit 2)
#   ARGUMENT     more arguments of `fastgan data pack`, such as --resolution 128 (default: images stay whole)

set -euo pipefail

fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

dry_run=false partial=false
while [[ ${1-} == -* ]]; do
    case $1 in
        -h | --help)
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        --dry-run) dry_run=true ;;
        --partial) partial=true ;;
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

read -r images classes < <(python - "$dest/manifest.json" <<'END'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    said = json.load(file)
print(said["images"], sum(1 for one in said["classes"] if one["images"]))
END
)
if [[ $images != 1281167 || $classes != 1000 ]] && ! $partial; then
    fail "$dest holds $images images of $classes classes, and ImageNet's training set 1281167 of 1000 ($dest/report.json lists" \
        "what was left out; --partial accepts that)"
fi
