#!/bin/bash
# Makes the Debian package of the release build: packaging/deb/build.sh BIN OUT
# The last line of its output is the package's path.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
bin=$(realpath "$1") out=$(realpath -m "$2")

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
revision=$version-1
architecture=$(dpkg --print-architecture)
libdir=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
umask 022

said=$(BIN=$bin DESTDIR=$root PREFIX=/usr LIBDIR=$libdir ZSH_FOLDER=vendor-completions "$top/packaging/install.sh" install 2>&1) ||
    { echo "$said" >&2; exit 1; }

# What Debian wants elsewhere or in another form.
doc=$root/usr/share/doc/netacc
mv "$doc/CHANGELOG.md" "$doc/changelog"
rm "$doc/LICENSE"
cp "$here/copyright" "$doc/copyright"
cp "$here/changelog" "$doc/changelog.Debian"
gzip -9n "$doc/changelog" "$doc/changelog.Debian"
grep -q "^netacc ($revision) " "$here/changelog" || {
    echo "deb: packaging/deb/changelog does not begin with netacc ($revision), the version in Cargo.toml: add an entry" >&2
    exit 1
}
mkdir -p "$root/usr/share/lintian/overrides"
cp "$here/lintian-overrides" "$root/usr/share/lintian/overrides/netacc"

control=$root/DEBIAN
mkdir "$control"
echo /etc/netacc.conf >"$control/conffiles"
# The loader's cache is made anew when the package comes and when it goes.
echo "activate-noawait ldconfig" >"$control/triggers"
# What the programs need, from what they are linked with. It wants to see a source package's control file.
needs=$(mktemp -d)
mkdir "$needs/debian"
printf 'Source: netacc\n\nPackage: netacc\nArchitecture: any\n' >"$needs/debian/control"
depends=$(cd "$needs" && dpkg-shlibdeps -O "$root/usr/bin/netacc_run" "$root/usr/bin/netacc_ss" \
    "$root$libdir/libnetacc-preload.so" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
rm -rf "$needs"
[ -n "$depends" ] || { echo "deb: dpkg-shlibdeps found no dependencies" >&2; exit 1; }
size=$(du -k --apparent-size -s "$root/usr" "$root/etc" | awk '{ n += $1 } END { print n }')
sed -e "s/@VERSION@/$revision/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@DEPENDS@/$depends/" -e "s/@SIZE@/$size/" \
    "$here/control" >"$control/control"
(cd "$root" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$control/md5sums"
sed -i '\# etc/netacc\.conf$#d' "$control/md5sums"

mkdir -p "$out"
package=$out/netacc_${revision}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
