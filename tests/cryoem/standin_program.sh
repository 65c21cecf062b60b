#!/bin/sh
# Stands in for a program that cannot be had here: keeps what it was asked, and puts the
# files of its documentation where its command line says. $STANDIN is a folder with a
# script for each program; $FAULT is what goes wrong.
name=${0##*/}
if [ "$1" = --version ]; then
    echo "$name version 9.8.7, built today"
    exit
fi
echo "$name $*" >> "$STANDIN/asked"
cat > "$STANDIN/answers"
case $FAULT in
    fails) echo "no GPU was found" >&2; exit 3 ;;
    hangs) sleep 60 ;;
    nothing) exit ;;
esac
# The word behind a word of the command line.
behind() {
    wanted=$1
    shift
    while [ $# -gt 1 ] && [ "$1" != "$wanted" ]; do shift; done
    echo "$2"
}
put() {
    if [ "$FAULT" = half ]; then
        head -c $(($(wc -c < "$STANDIN/$1") / 2)) "$STANDIN/$1" > "$2"
    else
        cp "$STANDIN/$1" "$2"
    fi
}
. "$STANDIN/$name.sh"
