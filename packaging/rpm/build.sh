#!/bin/bash
# Makes the RPM package of the release build: packaging/rpm/build.sh BIN OUT
# The last line of its output is the package's path. The library goes to /usr/lib64 (/lib64), where distributions
# that use RPM have theirs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
bin=$(realpath "$1") out=$(realpath -m "$2")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
mkdir -p "$out"
if ! rpmbuild -bb --define "_topdir $work" --define "_tmppath $work" --define "_rpmdir $work/RPMS" \
    --define "version $version" --define "tree $top" --define "bin $bin" --define "_libdir /usr/lib64" \
    "$here/netacc.spec" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "rpm: rpmbuild failed; its last lines are above" >&2
    exit 1
fi
package=$(find "$work/RPMS" -name '*.rpm')
mv "$package" "$out/"
echo "$out/$(basename "$package")"
