#!/usr/bin/env bash
# Unpacks ImageNet's training images, an archive of one archive a class, into one folder a class: DEST/n01440764/*.JPEG, ...
# One pass over the archive, nothing unpacked twice: stopped, it goes on with the classes that are missing.
#
#   launch/prepare_imagenet.sh [--dry-run] ILSVRC2012_img_train.tar DEST
#
#   --dry-run    print how many classes are missing and the command, unpack nothing

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
(($# == 2)) || fail "takes the archive and a folder (-h shows the usage)"
archive=$1 dest=$2
[[ -r $archive ]] || fail "$archive can't be read"

classes=$(tar -tf "$archive" 2>/dev/null) || fail "$archive is no tar archive, or not the whole of it"
mapfile -t classes < <(grep -E '(^|/)n[0-9]+\.tar$' <<<"$classes")
((${#classes[@]})) || fail "$archive holds no archives of classes (n01440764.tar, ...)"
missing=()
for member in "${classes[@]}"; do
    class=$(basename "$member" .tar)
    [[ -d $dest/$class ]] || missing+=("$member")
done
if $dry_run; then
    echo "${#classes[@]} classes in $archive, ${#missing[@]} of them to be unpacked"
fi

# tar runs this for each class, the class's archive on its input. A folder gets its name once it is whole.
export DEST=$dest
# shellcheck disable=SC2016
unpack='set -e; class=${TAR_FILENAME##*/}; class=${class%.tar}; rm -rf "$DEST/.$class"; mkdir -p "$DEST/.$class"
tar -xf - -C "$DEST/.$class" --no-same-owner || { echo "the archive $TAR_FILENAME is damaged" >&2; exit 1; }
mv "$DEST/.$class" "$DEST/$class"'
command=(tar -xf "$archive" --to-command="$unpack" "${missing[@]}")
if $dry_run; then
    printf 'DEST=%q' "$dest"
    printf ' %q' "${command[@]}"
    echo
    exit 0
fi
if ((${#missing[@]})); then
    mkdir -p "$dest"
    "${command[@]}"
fi
images=$(find "$dest" -mindepth 2 -name '*.JPEG' -not -path '*/.*' | wc -l)
echo "$dest: ${#classes[@]} classes, $images images (the whole set has 1000 and 1281167)"
