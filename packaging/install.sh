#!/bin/bash
# Puts NetACC where the system looks for it, and takes it away again.
#
#   packaging/install.sh install|uninstall|list
#
# One table says what goes where; `list` prints it for package builders. The environment may set:
#   BIN          where the release build is                    target/release
#   DESTDIR      a root to put it all under                    (empty: this system; then ldconfig runs)
#   PREFIX       of programs, manual pages, documents          /usr
#   LIBDIR       of the library                                PREFIX=/usr: the system's own library folder
#                                                              (/usr/lib64, /usr/lib/x86_64-linux-gnu, ...);
#                                                              any other PREFIX: PREFIX/lib
#   SYSCONFDIR   of netacc.conf; the programs look in /etc     /etc
#   ZSH_FOLDER   of zsh's completions, in PREFIX/share/zsh     site-functions; on Debian, for /usr: vendor-completions
#   STRIP        a program that takes debug information away   strip, if it is there
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=${BIN:-target/release}
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}
SYSCONFDIR=${SYSCONFDIR:-/etc}
LIBRARY=libnetacc-preload.so

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 1; }

# The folder where this system has the C library is the one that its loader searches without being told.
system_libdir() {
    local libc
    libc=$({ ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | awk -v arch="$(uname -m)" '
        $1 == "libc.so.6" && (arch != "x86_64" || /x86-64/) { print $NF; exit }')
    case $libc in
        /usr/*) dirname "$libc" ;;
        /lib*) echo "/usr$(dirname "$libc")" ;;
        *) echo /usr/lib ;;
    esac
}
if [ -z "${LIBDIR:-}" ]; then
    if [ "$PREFIX" = /usr ]; then LIBDIR=$(system_libdir); else LIBDIR=$PREFIX/lib; fi
fi
for folder in "$PREFIX" "$LIBDIR" "$SYSCONFDIR" "${DESTDIR:-/}"; do
    case $folder in /*) ;; *) fail "\"$folder\" is no absolute path: PREFIX, LIBDIR, SYSCONFDIR and DESTDIR begin with a slash." ;; esac
done

if [ -z "${ZSH_FOLDER:-}" ]; then
    if [ "$PREFIX" = /usr ] && [ -e /etc/debian_version ]; then ZSH_FOLDER=vendor-completions; else ZSH_FOLDER=site-functions; fi
fi
share=$PREFIX/share
doc=$share/doc/netacc

# how, from, to. How: program and library are stripped, manual is compressed, data is copied as it is.
table() {
    echo "program $BIN/netacc_run $PREFIX/bin/netacc_run"
    echo "program $BIN/netacc_ss $PREFIX/bin/netacc_ss"
    echo "library $BIN/$LIBRARY $LIBDIR/$LIBRARY"
    echo "config netacc.conf.example $SYSCONFDIR/netacc.conf"
    local page name
    for page in docs/man/*.[1-8]; do
        echo "manual $page $share/man/man${page##*.}/$(basename "$page").gz"
    done
    for name in netacc_run netacc_ss; do
        echo "data packaging/completions/$name.bash $share/bash-completion/completions/$name"
        echo "data packaging/completions/_$name $share/zsh/$ZSH_FOLDER/_$name"
        echo "data packaging/completions/$name.fish $share/fish/vendor_completions.d/$name.fish"
    done
    for name in README.md CHANGELOG.md LICENSE netacc.conf.example; do
        echo "data $name $doc/$name"
    done
    for name in docs/*.md docs/*.svg docs/*.json; do
        if [ -e "$name" ]; then echo "data $name $doc/$name"; fi
    done
    # Where they are in the source tree, too: the documents point there.
    find packaging/examples -type f | LC_ALL=C sort | while read -r name; do
        echo "data $name $doc/$name"
    done
}

put() { # mode from to
    mkdir -p "$(dirname "$3")"
    # Never into the file that is there: programs have it mapped.
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}

strip_it() { # file kind
    if [ -z "${STRIP-strip}" ] || ! command -v "${STRIP:-strip}" >/dev/null; then return; fi
    "${STRIP:-strip}" --strip-unneeded --remove-section=.comment "$1"
}

install_all() {
    local how from to mode scratch
    table | while read -r how from to; do
        [ -e "$from" ] || fail "$from is not there: run 'make build' first."
    done
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$scratch'" EXIT
    table | while read -r how from to; do
        to=$DESTDIR$to
        case $how in
            program | library)
                cp "$from" "$scratch/binary"
                strip_it "$scratch/binary"
                mode=644
                if [ "$how" = program ]; then mode=755; fi
                put $mode "$scratch/binary" "$to" ;;
            manual)
                # -n: the same input gives the same file, whenever it is made.
                gzip -9n <"$from" >"$scratch/page"
                put 644 "$scratch/page" "$to" ;;
            config)
                if [ -e "$to" ] || [ -L "$to" ]; then
                    cmp -s "$from" "$to" || say "$to is kept as it is; what is new is in $doc/netacc.conf.example"
                else
                    put 644 "$from" "$to"
                fi ;;
            data) put 644 "$from" "$to" ;;
        esac
    done
    refresh_loader
    say "NetACC is installed: ${DESTDIR}$PREFIX/bin/netacc_run, ${DESTDIR}$LIBDIR/$LIBRARY"
}

uninstall_all() {
    local how from to folder kept=
    while read -r how from to; do
        to=$DESTDIR$to
        if [ "$how" = config ] && [ -e "$to" ] && ! cmp -s "$from" "$to"; then
            kept=$to
        else
            rm -f "$to"
        fi
        # Folders that may be ours alone; those of programs, libraries and manuals are the system's.
        folder=$(dirname "$to")
        while [ "$how" = data ] && [ "$folder" != "$DESTDIR$share" ] && rmdir "$folder" 2>/dev/null; do
            folder=$(dirname "$folder")
        done
    done < <(table)
    refresh_loader
    say "NetACC is removed${kept:+; $kept was changed and stays: delete it yourself}"
}

# The loader finds the library by its name alone in the system's folder anyhow; in others by its cache.
refresh_loader() {
    if [ -z "$DESTDIR" ] && [ "$(id -u)" -eq 0 ]; then
        ldconfig || /sbin/ldconfig
    fi
}

case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    list) table ;;
    *) fail "usage: packaging/install.sh install|uninstall|list" ;;
esac
